"""Small random models, one of each family of decoders that transformers can make small.

`FAMILIES` names what is special about a family. Its sizes come from SMALL, as far as the family's
configuration has such a field, and from the entry. Most have four layers, so that each kind of
layer occurs; windows are 32 tokens wide, so that ordinary rows are longer than they are.

Left out: decoders that continue another model's output and cannot write alone (bart, bert, blt,
fuyu, git, marian, mbart, mllama, moshi, musicgen, pegasus, trocr, whisper and their kin), families
that are another one under a new name (internlm3, iquestcoder, gpt-sw3), xlnet and xlm (they permute
or mask instead of predicting the next token), reformer (fixed lengths), cpmant (its own tokens in
its own order), emu3, aria, gemma4_assistant and the speech models (parts of larger ones), and
deepseek_v4, dots3_note, hrm_text and inkling (sizes that are tied to each other in many ways).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WINDOW = 32
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 64),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp"), 96
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 512),
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "initializer_range": 0.1,
    "query_pre_attn_scalar": 16,
    # mixtures of experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"), 1),
    # multi-head latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    # linear attention and state spaces
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "mamba_d_ssm": 128,
    "n_groups": 1,
}


@dataclass(frozen=True)
class Family:
    """What is special about a family of models.

    Attributes:
        kind: what sets its layers apart, in a word or two.
        sizes: values of its configuration; `VOCABULARY` is the number of tokens.
    """

    kind: str
    sizes: Mapping[str, Any] = field(default_factory=dict)


VOCABULARY = "the number of tokens"
WINDOWED = {"sliding_window": WINDOW}
HALF = {"layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
CONV = {"layer_types": ["conv", "full_attention"] * 2}
MHA = {"num_key_value_heads": 4}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}

FAMILIES: dict[str, Family] = {
    "afmoe": Family("experts, window", {**WINDOWED, **HALF, "num_shared_experts": 1}),
    "apertus": Family("dense"),
    "arcee": Family("dense"),
    "axk1": Family("experts, latent attention", {**MHA, **SPARSE}),
    "bailing_hybrid": Family("experts, linear attention", {**MHA, **LINEAR, **SPARSE}),
    "bamba": Family("hybrid, state space", {"attn_layer_indices": [1, 3]}),
    "beam": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "biogpt": Family("learned positions, dropout"),
    "bitnet": Family("dense"),
    "bloom": Family("alibi positions", {"n_layer": 4, "n_head": 4}),
    "codegen": Family("dense, parallel"),
    "cohere": Family("dense, logit scale"),
    "cohere2": Family("window, logit scale", {**WINDOWED, **HALF}),
    "cohere2_moe": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "ctrl": Family("sinusoidal positions, dropout", {"dff": 96}),
    "cwm": Family("window", {**WINDOWED, **HALF}),
    "dbrx": Family(
        "experts",
        {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "deepseek_v2": Family("experts, latent attention", MHA),
    "deepseek_v3": Family("experts, latent attention", MHA),
    "deepseek_v32": Family(
        "experts, sparse latent attention",
        {**MHA, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16, **SPARSE},
    ),
    "diffllama": Family("dense, differential attention"),
    "doge": Family("dense, dynamic mask"),
    "dots1": Family("experts", {"n_shared_experts": 1}),
    "ernie4_5": Family("dense"),
    "ernie4_5_moe": Family("experts", {"moe_num_shared_experts": 1}),
    "exaone4": Family("window", {**WINDOWED, **HALF}),
    "exaone_moe": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "falcon": Family(
        "dense, one key head", {"multi_query": True, "new_decoder_architecture": False}
    ),
    "falcon_h1": Family("hybrid, state space"),
    "falcon_mamba": Family("state space"),
    "flex_olmo": Family("experts"),
    "flint": Family("experts, window", {**WINDOWED, **HALF}),
    "gemma": Family("dense"),
    "gemma2": Family("window, softcap", {**WINDOWED, **HALF}),
    "gemma3_text": Family("window", {**WINDOWED, **HALF}),
    "gemma3n_text": Family(
        "window, shared keys",
        {
            **WINDOWED,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 6,
        },
    ),
    "gemma4_text": Family(
        "window, shared keys",
        {
            **WINDOWED,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "global_head_dim": 16,
            "num_experts": None,
        },
    ),
    "glm": Family("dense"),
    "glm4": Family("dense"),
    "glm4_moe": Family("experts", {"n_shared_experts": 1}),
    "glm4_moe_lite": Family("experts, latent attention", {**MHA, **SPARSE}),
    "glm_moe_dsa": Family(
        "experts, sparse latent attention",
        {**MHA, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16, **SPARSE},
    ),
    "gpt2": Family("learned positions, dropout, fused maps"),
    "gpt_bigcode": Family("learned positions, dropout, one key head"),
    "gpt_neo": Family(
        "learned positions, window",
        {"num_heads": 4, "window_size": WINDOW, "attention_types": [[["global", "local"], 2]]},
    ),
    "gpt_neox": Family("dense, fused maps"),
    "gpt_neox_japanese": Family("dense, fused maps"),
    "gpt_oss": Family("experts, window, sinks", {**WINDOWED, **HALF}),
    "gptj": Family("dense, parallel"),
    "granite": Family("dense, logit scale", {"logits_scaling": 2.0}),
    "granite_swa": Family("window", {**WINDOWED, **HALF}),
    "granitemoe": Family("experts"),
    "granitemoehybrid": Family(
        "hybrid, state space, experts", {"layer_types": ["mamba", "attention"] * 2}
    ),
    "granitemoeshared": Family("experts"),
    "helium": Family("dense"),
    "hunyuan_v1_dense": Family("dense"),
    "hunyuan_v1_moe": Family("experts"),
    "hy_v3": Family("experts", SPARSE),
    "hyperclovax": Family("dense"),
    "jais2": Family("dense"),
    "jamba": Family(
        "hybrid, state space, experts",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_conv": 4},
    ),
    "jetmoe": Family("experts", {"kv_channels": 16}),
    "kimi_linear": Family("experts, linear attention", {**MHA, **LINEAR, **SPARSE}),
    "kolibri1": Family("experts, window", {**WINDOWED, **HALF}),
    "laguna": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "lfm2": Family("hybrid, convolution", {**CONV, "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": Family("hybrid, convolution, experts", CONV),
    "lfm3": Family("hybrid, convolution, window", {**WINDOWED, **CONV}),
    "llama": Family("dense"),
    "llama4_text": Family(
        "experts, chunked attention",
        {"attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2, "num_experts_per_tok": 1},
    ),
    "longcat_flash": Family(
        "experts, latent attention, two attentions a layer",
        {
            **MHA,
            "num_layers": 2,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "zero_expert_num": 2,
            "expert_ffn_hidden_size": 32,
        },
    ),
    "mamba": Family("state space"),
    "mamba2": Family("state space", {"num_heads": 8}),
    "mellum": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "mimo_v2_flash": Family("experts, window", {**WINDOWED, **HALF, **SPARSE}),
    "minicpm3": Family("latent attention", MHA),
    "minimax": Family("hybrid, linear attention, experts", LINEAR),
    "minimax_m2": Family("experts"),
    "ministral": Family("window", {**WINDOWED, **HALF}),
    "ministral3": Family("dense"),
    "mistral": Family("window", WINDOWED),
    "mixtral": Family("experts"),
    "modernbert-decoder": Family("window", {"local_attention": WINDOW}),
    "mpt": Family("alibi positions"),
    "nanochat": Family("dense, softcap"),
    "nemotron": Family("dense"),
    "nemotron_h": Family(
        "hybrid, state space, experts",
        {"layers_block_type": ["mamba", "moe", "attention", "mamba", "mlp"]},
    ),
    "olmo": Family("dense"),
    "olmo2": Family("dense"),
    "olmo3": Family("window", {**WINDOWED, **HALF}),
    "olmo_hybrid": Family("hybrid, linear attention", LINEAR),
    "olmoe": Family("experts"),
    "openai-gpt": Family("learned positions, dropout, no cache"),
    "opt": Family("learned positions, dropout"),
    "persimmon": Family("dense, fused maps"),
    "phi": Family("dense, parallel"),
    "phi3": Family("dense, fused maps", {"pad_token_id": 0}),
    "phimoe": Family("experts"),
    "qwen2": Family("dense"),
    "qwen2_moe": Family("experts"),
    "qwen3": Family("dense"),
    "qwen3_5_moe_text": Family("hybrid, linear attention, experts", LINEAR),
    "qwen3_5_text": Family("hybrid, linear attention", LINEAR),
    "qwen3_moe": Family("experts"),
    "qwen3_next": Family("hybrid, linear attention, experts", LINEAR),
    "qwen4_exp_text": Family(
        "hybrid, linear attention, experts, sparse attention",
        {
            **LINEAR,
            "hc_lowrank": 8,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 16,
            "indexer_compress_ratio": 4,
        },
    ),
    "recurrent_gemma": Family(
        "hybrid, recurrent", {"attention_window_size": WINDOW, "num_hidden_layers": 3}
    ),
    "rwkv": Family("recurrent", {"context_length": 512}),
    "seed_oss": Family("dense, dropout"),
    "smollm3": Family("dense, layers without positions"),
    "solar_open": Family("experts"),
    "stablelm": Family("dense"),
    "starcoder2": Family("window", WINDOWED),
    "vaultgemma": Family("window, softcap", {**WINDOWED, **HALF}),
    "xglm": Family("sinusoidal positions, dropout"),
    "xlstm": Family(
        "recurrent",
        {"num_heads": 4, "qk_dim_factor": 1.0, "ffn_round_up_to_multiple_of": 8},
    ),
    "youtu": Family("latent attention", MHA),
    "zamba": Family(
        "hybrid, state space, shared layers",
        {**MHA, "layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2},
    ),
    "zamba2": Family(
        "hybrid, state space, shared layers",
        {**MHA, "layers_block_type": ["mamba", "hybrid"] * 2, "adapter_rank": 8},
    ),
    "zaya": Family("experts, convolution", {"router_hidden_size": 16, "num_experts_per_tok": 1}),
}


def configuration(name: str, vocabulary: int, **more: Any) -> Any:
    """The small configuration of a family, for that many tokens."""
    kind = CONFIG_MAPPING[name]
    known = {one.name for one in dataclasses.fields(kind)}
    values = {key: value for key, value in SMALL.items() if key in known}
    values |= dict(FAMILIES[name].sizes)
    values = {key: vocabulary if v == VOCABULARY else v for key, v in values.items()}
    tokens = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return AutoConfig.for_model(name, **values | tokens | more)


def tiny_model(name: str, vocabulary: int, seed: int = 0, **more: Any) -> Any:
    """A random model of the family in float32, the same for the same seed."""
    torch.manual_seed(seed)
    config = configuration(name, vocabulary, **more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_family(name: str, tokenizer: Any, folder: Path, seed: int = 0) -> Path:
    """Saves a random model of the family with its tokenizer, as any model folder is."""
    tokens = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id")}
    tokens["pad_token_id"] = tokenizer.pad_token_id
    tiny_model(name, len(tokenizer), seed, **tokens).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
