"""Every kind of cache: trunks, scores, answers and text losses equal plain passes of transformers.

The models are small and random; what is special about each is its layers. All rows are longer
than their windows and chunks of 6 or 8 tokens.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from burnish.conversation import Message
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.models.adapt import add_prefix
from burnish.models.branches import Network, Row, TargetStates, branch_states, tree_states
from burnish.models.cache_kinds import Continues, continues, packs
from burnish.models.interface import Choice, Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.packing import packed_states
from burnish.models.stop_tokens import stop_tokens
from burnish.models.tokenize import token_windows, tokenize_choice
from tests.refused import refused

VOCABULARY = 400
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ATTENTION = SMALL | {
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
WINDOW = ATTENTION | {"head_dim": 8, "sliding_window": 6}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = ATTENTION | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
ROUTED = EXPERTS | {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LINEAR = ATTENTION | {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
STATE_SPACE: dict[str, Any] = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
TOKENS, ONE_TOKEN, NOTHING = Continues.TOKENS, Continues.ONE_TOKEN, Continues.NOTHING
# Type of model, its sizes, and how its cache can be continued.
KINDS: dict[str, tuple[str, dict[str, Any], Continues]] = {
    "all windows": ("mistral", WINDOW, TOKENS),
    "windows and a softcap": ("gemma2", WINDOW, TOKENS),
    "windows, experts, sinks": ("gpt_oss", WINDOW | {"num_local_experts": 4}, TOKENS),
    "windows, shared layers": (
        "gemma4_text",
        MIXED | {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY}
        | {"hidden_size_per_layer_input": 8, "global_head_dim": 8},
        TOKENS,
    ),
    "chunks": (
        "llama4_text",
        ATTENTION | {"head_dim": 8, "attention_chunk_size": 8, "num_local_experts": 4}
        | {"num_experts_per_tok": 1, "intermediate_size_mlp": 48},
        TOKENS,
    ),
    "latent attention": ("deepseek_v3", LATENT | ROUTED, TOKENS),
    "indexed attention": (
        "deepseek_v32",
        LATENT | ROUTED | {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 16},
        TOKENS,
    ),
    "learned positions": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        TOKENS,
    ),
    "no positions": (
        "bloom",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        TOKENS,
    ),
    "linear attention": ("qwen3_5_text", LINEAR, TOKENS),
    "linear attention, experts": (
        "qwen3_next",
        LINEAR | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
        TOKENS,
    ),
    "convolutions": ("lfm2", ATTENTION | {"layer_types": ["conv", "full_attention"] * 2}, TOKENS),
    "state spaces and attention": (
        "bamba", ATTENTION | STATE_SPACE | {"attn_layer_indices": [1, 3]}, TOKENS,
    ),
    "both in one layer": (
        "falcon_h1",
        ATTENTION | STATE_SPACE | {"head_dim": 8, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
        TOKENS,
    ),
    "state spaces alone": (
        "mamba2",
        SMALL | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
        TOKENS,
    ),
    "states by single tokens": ("mamba", SMALL | {"state_size": 8}, ONE_TOKEN),
    "single tokens, experts": (
        "jamba",
        ATTENTION | {"mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 4}
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
        ONE_TOKEN,
    ),
    "a cache of its own": (
        "minimax",
        ATTENTION | {"head_dim": 8, "num_local_experts": 4, "block_size": 8}
        | {"layer_types": ["linear_attention", "full_attention"] * 2},
        NOTHING,
    ),
    "states in modules": (
        "recurrent_gemma",
        ATTENTION | {"num_hidden_layers": 3, "attention_window_size": 6, "lru_width": 32},
        NOTHING,
    ),
    "no cache": ("rwkv", SMALL | {"context_length": 128}, NOTHING),
}  # fmt: skip


@functools.cache
def made(kind: str) -> Any:
    """The model of a kind, with weights large enough that every layer matters."""
    name, sizes, _ = KINDS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.float()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Handing these tiny tensors to other threads would take longer than computing them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def language_model(kind: str, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel(made(kind), tiny_tokenizer, name="tiny", source_sha256="0" * 64)


def drawn(count: int, seed: int) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=random).tolist()


def rows_after(start: Sequence[int], lengths: Sequence[int], seed: int) -> list[Row]:
    rows = []
    for number, length in enumerate(lengths):
        tokens = [*start, *drawn(length, seed + number)]
        weights = [0.0] * len(start) + [1.0 + 0.5 * (t % 2) for t in range(length)]
        rows.append(Row(tokens, weights))
    return rows


def plain_logprobs(model: Any, tokens: Sequence[int]) -> Tensor:
    """log p of every token but the first, from transformers' own forward pass."""
    tokens_1_L = torch.tensor([list(tokens)])
    logits_L_V = model(input_ids=tokens_1_L, use_cache=False).logits[0, :-1].float()
    picked: Tensor = logits_L_V.log_softmax(-1).gather(1, tokens_1_L[0, 1:, None])[:, 0]
    return picked


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_training(model: Any, rows: Sequence[Row], states: TargetStates) -> None:
    plain = torch.stack(
        [plain_logprobs(model, row.tokens) @ torch.tensor(row.weights[1:]) for row in rows]
    ).sum()
    values_N = Network(model).logprobs(states.hidden_N_H, states.targets_N)
    ours = states.sums(values_N, len(rows)).sum()
    torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-5)
    expected, found = gradients(model, plain), gradients(model, ours)
    size = max(float(gradient.abs().max()) for gradient in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=5e-5 * size, rtol=1e-3)


def test_what_a_cache_is_used_for(kind: str) -> None:
    model, expected = made(kind), KINDS[kind][2]
    assert continues(model) is expected
    assert Network(model).shares_beginnings == (expected is TOKENS)


def test_rows_on_a_trunk_equal_plain(kind: str) -> None:
    model = made(kind).train()
    rows = rows_after(drawn(17, 1), [1, 9, 3, 6], seed=2)
    assert_equal_training(model, rows, branch_states(Network(model), rows))


def test_branches_of_one_token_equal_plain(kind: str) -> None:
    model = made(kind).train()
    rows = rows_after(drawn(11, 1), [2, 2], seed=20)
    assert_equal_training(model, rows, branch_states(Network(model), rows))


def test_groups_with_trunks_of_unequal_length_equal_plain(kind: str) -> None:
    model = made(kind).train()
    root = drawn(10, 3)
    groups = [rows_after([*root, *drawn(n, n)], [2, 5], seed=30 + n) for n in (2, 9, 5)]
    rows = [row for group in groups for row in group]
    assert_equal_training(model, rows, tree_states(Network(model), groups))


def test_packed_rows_equal_plain(kind: str) -> None:
    model = made(kind).train()
    rows = [Row(drawn(n, n), [0.0] + [1.0] * (n - 1)) for n in (14, 5, 9, 4)]
    assert_equal_training(model, rows, packed_states(Network(model), rows))


@torch.no_grad()
def test_scores_equal_plain(language_model: LanguageModel) -> None:
    items = [
        Choice("where is my parcel and when will the tent come", (" yes", " no, the red one")),
        Choice("where is my parcel and", (" when", " will it come", " no")),
        Choice("where is my parcel and when will it come, please", (" red", " green")),
    ]
    for item, scores in zip(items, language_model.score(items), strict=True):
        context, choices = tokenize_choice(item, language_model.tokenizer)
        for choice, found in zip(choices, scores.logprobs, strict=True):
            expected = plain_logprobs(language_model.module, [*context, *choice])[-len(choice) :]
            assert found == pytest.approx(float(expected.sum()), abs=1e-3)


@torch.no_grad()
def test_answers_to_unequal_prompts_equal_those_of_transformers(
    language_model: LanguageModel,
) -> None:
    texts = ("where is my parcel", "yes", "the tent is torn, please send me another one", "no")
    prompts = [(Message("user", text),) for text in texts]
    module = language_model.module
    stops = sorted(stop_tokens(module, language_model.tokenizer))
    answers = language_model.generate(prompts, Sampling(max_new_tokens=10))
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = render_prompt(prompt, language_model.tokenizer)
        expected = module.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=0,
        )
        assert list(answer.tokens) == expected[0, len(tokens) :].tolist()
        logprobs = plain_logprobs(module, expected[0].tolist())[len(tokens) - 1 :]
        assert answer.logprob == pytest.approx(float(logprobs.sum()), abs=1e-3)


@torch.no_grad()
def test_losses_of_long_texts_equal_plain(language_model: LanguageModel) -> None:
    texts = ["where is my parcel and when will it come " * 7, "the tent is torn", "red green " * 9]
    for text, found in zip(texts, language_model.nll(texts), strict=True):
        tokenizer, size = language_model.tokenizer, language_model.context_length
        windows = token_windows(text, tokenizer, size)
        expected = [plain_logprobs(language_model.module, window) for window in windows]
        assert found.nats == pytest.approx(-float(torch.cat(expected).sum()), rel=1e-4)


def test_rows_are_packed_where_the_family_makes_a_block_mask() -> None:
    assert packs(made("all windows"))
    assert not packs(made("windows, experts, sinks"))
    assert not packs(made("linear attention"))


@pytest.mark.parametrize("kind", ["linear attention", "states in modules", "no cache"])
def test_a_prefix_needs_keys_and_values_in_every_layer(kind: str) -> None:
    with refused("no_cache", ModelError):
        add_prefix(copy.deepcopy(made(kind)), seed=0, num_virtual_tokens=2)
