"""Rows of models with states of their own: the numbers of the plain pass, whoever else is there."""

from typing import Any

import pytest
import torch

from burnish.inference.forward import ModelRunner, NewTokens
from burnish.inference.lora import AdapterPool
from burnish.inference.runner import open_runner
from burnish.inference.state_runner import Abilities, StateRunner
from burnish.models.branches import Network
from tests.inference.test_forward import SMALL, WINDOW, tiny

LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
ALL = Abilities(keeps=True, continues=True, joins=True, joins_unequal=True)
# Transformers reads several tokens after a state wrongly here, so prompts are read in one pass.
WHOLE = Abilities(keeps=True, joins=True, joins_unequal=True)
FAMILIES: dict[str, tuple[str, dict[str, Any], Abilities]] = {
    "qwen3.5": ("qwen3_5_text", SMALL | LINEAR, ALL),
    "qwen3-next": (
        "qwen3_next",
        SMALL | LINEAR | EXPERTS | {"shared_expert_intermediate_size": 24},
        ALL,
    ),
    "lfm2": ("lfm2", SMALL | {"layer_types": ["conv", "full_attention"]}, ALL),
    "falcon-h1": (
        "falcon_h1",
        SMALL | STATE_SPACE | {"mamba_d_ssm": 64, "mamba_chunk_size": 16},
        ALL,
    ),
    "jamba": (
        "jamba",
        SMALL
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8},
        WHOLE,
    ),
    "mamba": ("mamba", {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2}, WHOLE),
    "mamba2": (
        "mamba2",
        {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}
        | {"head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
        ALL,
    ),
    "llama4": (
        "llama4_text",
        SMALL | {"attention_chunk_size": 12, "num_local_experts": 2, "intermediate_size_mlp": 48},
        Abilities(keeps=True, continues=True, joins=True),
    ),
    "minimax": (
        "minimax",
        SMALL | {"layer_types": LINEAR["layer_types"], "num_local_experts": 2},
        Abilities(keeps=True, joins=True),
    ),
    "bloom": ("bloom", {"vocab_size": 120, "hidden_size": 32, "n_layer": 2, "n_head": 4}, ALL),
    "falcon": ("falcon", {"vocab_size": 120, "hidden_size": 32, "num_attention_heads": 4}, ALL),
    "rwkv": (
        "rwkv",
        {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 256},
        Abilities(keeps=True, continues=True),
    ),
    # States in the modules themselves, and no cache at all: rows are computed from their start.
    "recurrent-gemma": (
        "recurrent_gemma",
        SMALL | {"attention_window_size": 12, "num_hidden_layers": 3, "logits_soft_cap": 1e4},
        Abilities(),
    ),
    "gpt": (
        "openai-gpt",
        {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4},
        Abilities(),
    ),
}


def open_tiny(family: str) -> tuple[Any, StateRunner]:
    kind, options, _ = FAMILIES[family]
    model = tiny(kind, options)
    runner = open_runner(Network(model), AdapterPool(model, 1))
    assert isinstance(runner, StateRunner)
    return model, runner


def random_tokens(*sizes: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 120, (size,), generator=generator).tolist() for size in sizes]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_the_plain_pass(family: str) -> None:
    """Rows longer than windows and chunks; one leaves, one comes, one branches."""
    model, runner = open_tiny(family)
    assert runner.can == FAMILIES[family][2]
    texts = random_tokens(25, 55, 40)
    with torch.inference_mode():
        runner.close()
        plain = [model(torch.tensor([text]), use_cache=False).logits[0] for text in texts]
        model, runner = open_tiny(family)
        rows = [runner.new_row(0, 60) for _ in texts]
        found: list[list[torch.Tensor]] = [[], [], []]

        def run(which: list[int], size: int) -> None:
            new = [NewTokens(rows[i], texts[i][len(rows[i].tokens) :][:size]) for i in which]
            for i, states in zip(which, runner.run(new), strict=True):
                found[i].append(runner.logits(states, [0] * len(states)))

        for i, size in ((0, 5), (0, 3), (1, 33)):
            run([i], size)
        for _ in range(3):
            run([0, 1], 1)
        run([2], 20)
        for _ in range(4):
            run([0, 1, 2], 1)
        run([0, 2, 1], 6)
        for _ in range(4):
            run([2, 1], 1)
        branch = rows[2].branch(len(rows[2].tokens), 60)
        run([0, 2], 1)
        (alone,) = runner.run([NewTokens(branch, [texts[2][len(branch.tokens)]])])
        runner.close()
    for i, (row, expected) in enumerate(zip(rows, plain, strict=True)):
        assert row.tokens == texts[i][: len(row.tokens)]
        torch.testing.assert_close(
            torch.cat(found[i]), expected[: len(row.tokens)], atol=1e-4, rtol=1e-3
        )
    torch.testing.assert_close(runner.logits(alone, [0]), found[2][-1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["qwen3.5", "falcon-h1", "bloom"])
def test_a_beginning_is_computed_once(family: str) -> None:
    """A branch starts where a state was kept; where all is keys and values, anywhere."""
    model, runner = open_tiny(family)
    root, one, two = random_tokens(30, 9, 12)
    with torch.inference_mode():
        first = runner.new_row(0, 60)
        runner.run([NewTokens(first, root[:10])])
        assert first.reusable(9) == (9 if family == "bloom" else 0)
        assert first.reusable_later(30) == 30
        runner.run([NewTokens(first, [*root[10:], *one])])
        assert first.reusable(35) == (35 if family == "bloom" else 30)
        second = first.branch(30, 60)
        states = runner.run([NewTokens(second, two[:11]), NewTokens(first, [7])])
        last = runner.run([NewTokens(second, two[11:]), NewTokens(first, [8])])
        logits = [
            runner.logits(torch.cat(pair), [0] * len(torch.cat(pair)))
            for pair in zip(states, last, strict=True)
        ]
        runner.close()
        for tokens, found in (([*root, *two], logits[0]), ([*root, *one, 7, 8], logits[1])):
            plain = model(torch.tensor([tokens]), use_cache=False).logits[0, -len(found) :]
            torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-3)


def test_slots_are_what_rows_hold() -> None:
    _, runner = open_tiny("qwen3.5")
    with torch.inference_mode():
        rows = [runner.new_row(0, 10) for _ in range(2)]
        assert [row.room for row in rows] == [runner.slots(10)] * 2
        for size in (5, 40, 1, 1, 1, 30):
            grown = [row.room + row.growth(size) for row in rows]
            runner.run([NewTokens(row, [7] * size) for row in rows])
            assert [row.room for row in rows] == grown
            held = [row.current_state().layers[1].keys.shape[2] for row in rows]
            assert all(row.room >= held[0] + runner.cost.fixed for row in rows)
        assert runner.cost.fixed > 0
        before = rows[0].room
        assert rows[0].reusable_later(len(rows[0].tokens) + 3) > 0
        assert rows[0].room == before + runner.cost.fixed, "a state that will be kept counts"
        runner.close()
    _, runner = open_tiny("mamba")
    with torch.inference_mode():
        row = runner.new_row(0, 10)
        runner.run([NewTokens(row, [7] * 50)])
        assert row.room == runner.slots(10) == runner.slots(1000), "its states do not grow"


def test_rows_of_very_unequal_length_are_not_padded() -> None:
    _, runner = open_tiny("qwen3.5")
    with torch.inference_mode():
        rows = [runner.new_row(0, 10) for _ in range(4)]
        for row, length in zip(rows, (3, 200, 70, 190), strict=True):
            runner.run([NewTokens(row, [7] * length)])
        runner.run([NewTokens(row, [8]) for row in rows])
        short, long, middle, nearly = rows
        assert long.batch is nearly.batch is not None
        assert short.batch is not long.batch
        for row in rows:
            if row.batch is not None:
                assert row.batch.state.layers[1].keys.shape[2] <= row.room
        assert middle.batch is not long.batch
        runner.close()


def test_a_pass_that_fails_can_be_tried_again() -> None:
    model, runner = open_tiny("qwen3.5")
    with torch.inference_mode():
        rows = [runner.new_row(0, 10) for _ in range(2)]
        runner.run([NewTokens(row, [5, 6, 7]) for row in rows])
        runner.run([NewTokens(row, [8]) for row in rows])
        with pytest.raises(IndexError):
            runner.run([NewTokens(rows[0], [9]), NewTokens(rows[1], [10_000])])
        assert [row.tokens for row in rows] == [[5, 6, 7, 8]] * 2
        found = runner.run([NewTokens(row, [9]) for row in rows])
        runner.close()
        plain = model.base_model(torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state[0, -1:]
        for states in found:
            torch.testing.assert_close(states, plain, atol=1e-5, rtol=1e-4)


def test_the_model_is_restored() -> None:
    kind, options, _ = FAMILIES["qwen3.5"]
    model = tiny(kind, options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        tokens = torch.tensor([[5, 6, 7]])
        plain = model(tokens).logits
        runner = open_runner(Network(model), AdapterPool(model, 1))
        runner.close()
        assert model(tokens).logits.equal(plain)
    for name, value in model.state_dict().items():
        assert value.equal(before[name])
    assert not any(module._forward_hooks for module in model.modules())


def test_the_runner_follows_the_layers() -> None:
    """Attention alone is computed side by side, whatever the family is called."""
    for kind, options in (("llama", SMALL), ("gemma3_text", SMALL | WINDOW)):
        model = tiny(kind, options)
        runner = open_runner(Network(model), AdapterPool(model, 1))
        assert isinstance(runner, ModelRunner)
        runner.close()


def test_padding_enters_no_state() -> None:
    """Products of few sizes pad their rows; recurrent states of a row do not see it."""
    model, runner = open_tiny("qwen3.5")
    (text,) = random_tokens(19)
    with torch.inference_mode():
        rows = [runner.new_row(0, 30) for _ in range(9)]
        for row in rows:
            runner.run([NewTokens(row, text[:11])])
        for token in text[11:]:
            last = runner.run([NewTokens(row, [token]) for row in rows])
        runner.close()
        plain = model.base_model(torch.tensor([text])).last_hidden_state[0, -1:]
        for states in last:
            torch.testing.assert_close(states, plain, atol=1e-5, rtol=1e-4)
