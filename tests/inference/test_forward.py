"""Rows side by side equal the model's own forward pass, in every family that is served."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from burnish.errors import ModelError
from burnish.inference.forward import ModelRunner, NewTokens
from burnish.inference.kv_cache import KVRow
from burnish.inference.lora import AdapterPool
from burnish.models.branches import Network
from tests.refused import refused

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
WINDOW = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "qwen3": ("qwen3", SMALL),
    "mistral with a window": ("mistral", SMALL | {"sliding_window": 12}),
    "gemma3 with windows": ("gemma3_text", SMALL | WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma2 with soft caps": (
        "gemma2",
        SMALL | WINDOW | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    ),
    "gpt-oss with sinks": (
        "gpt_oss",
        SMALL | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek with latent attention": (
        "deepseek_v3",
        SMALL
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 24,
        },
    ),
    "opt": ("opt", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt2": ("gpt2", {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4}),
}


def tiny(kind: str, options: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = AutoConfig.for_model(kind, **options, **tokens)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # weights of a fresh model hardly tell tokens apart
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_the_plain_pass(family: str) -> None:
    model = tiny(*FAMILIES[family])
    generator = torch.Generator().manual_seed(1)
    root = torch.randint(3, 120, (50,), generator=generator).tolist()
    ends = [torch.randint(3, 120, (n,), generator=generator).tolist() for n in (20, 3, 11, 20)]
    with torch.inference_mode():
        plain = [model(torch.tensor([root + end])).logits[0, len(root) :] for end in ends]
        runner = ModelRunner(Network(model), AdapterPool(model, 1))
        trunk = KVRow(0)
        for piece in (root[:7], root[7:40], root[40:]):
            runner.run([NewTokens(trunk, piece)])
        # The first goes on from the trunk itself, the others look at most of it, or copied some.
        rows = [trunk.branch(length, 90) for length in (50, 41, 50, 20)]
        missing = [root[len(row.tokens) :] for row in rows]
        runner.run([NewTokens(r, m) for r, m in zip(rows, missing, strict=True) if m])
        found: list[list[Any]] = [[] for _ in rows]
        for step in range(20):
            alive = [i for i, end in enumerate(ends) if step < len(end)]
            states = runner.run([NewTokens(rows[i], [ends[i][step]]) for i in alive])
            for index, state in zip(alive, states, strict=True):
                found[index].append(runner.logits(state, [0])[0])
        for expected, rowwise in zip(plain, found, strict=True):
            torch.testing.assert_close(torch.stack(rowwise), expected, atol=2e-5, rtol=1e-4)
        runner.close()
        again = model(torch.tensor([root + ends[0]])).logits[0, len(root) :]
    assert torch.equal(again, plain[0]), "closing leaves the model as it was"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba", {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2}),
        ("bloom", {"vocab_size": 120, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
        # Its layers do not ask for attention by name, so only the numbers tell.
        ("falcon", {"vocab_size": 120, "hidden_size": 32, "num_attention_heads": 4}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_would_not_be_exact_is_refused(kind: str, options: dict[str, Any]) -> None:
    model = tiny(kind, options)
    with refused("not_batchable", ModelError, model=type(model).__name__):
        ModelRunner(Network(model), AdapterPool(model, 1))


def test_the_mask_says_which_window_a_layer_has() -> None:
    """The window that a layer names to other kernels may be another, or not be named at all."""

    class Silent:
        sliding_window = None

        def __getattr__(self, name: str) -> Any:
            return getattr(model.config, name)

    model = tiny("mistral", SMALL | {"sliding_window": 12})
    for layer in model.model.layers:
        layer.self_attn.config = Silent()
    ModelRunner(Network(model), AdapterPool(model, 1)).close()


def test_a_pass_that_fails_can_be_tried_again(model: Any) -> None:
    with torch.inference_mode():
        runner = ModelRunner(model.network, AdapterPool(model.module, 1))
        row = KVRow(0)
        first = runner.run([NewTokens(row, [5, 6, 7])])[0]
        with pytest.raises(IndexError):
            runner.run([NewTokens(row, [8, 10_000])])
        assert row.tokens == [5, 6, 7]
        second = runner.run([NewTokens(row, [8, 9])])[0]
        whole = runner.run([NewTokens(KVRow(0), [5, 6, 7, 8, 9])])[0]
        torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-5, rtol=1e-5)
        runner.close()
