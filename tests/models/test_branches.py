"""Trunk = plain: loss and every gradient equal the plain forward pass."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from burnish.models.branches import Network, Row, branch_logprobs, common_length, trunk_length

VOCABULARY = 97


def llama(key_value_heads: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config)


def gemma(window: int = 6) -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=128,
        final_logit_softcapping=30.0,
        pad_token_id=0,
    )
    return Gemma3ForCausalLM(config)


MODELS = {
    "multi-head": lambda: llama(4),
    "grouped-query": lambda: llama(2),
    "sliding window": gemma,
}


def rows_with_trunk(trunk: int, branches: list[int], seed: int = 1) -> list[Row]:
    random = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(1, VOCABULARY, (count,), generator=random).tolist()

    start = draw(trunk)
    rows = []
    for length in branches:
        tokens = start + draw(length)
        weights = [0.0] * max(trunk, 1) + [
            1.0 + 0.5 * (t % 2) for t in range(max(trunk, 1), len(tokens))
        ]
        rows.append(Row(tokens, weights))
    return rows


def plain_loss(model: torch.nn.Module, rows: list[Row]) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows:
        tokens = torch.tensor([list(row.tokens)])
        logprobs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        picked = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        total = total - (picked * torch.tensor(list(row.weights[1:]))).sum()
    return total


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("trunk", [0, 1, 2, 17])
@pytest.mark.parametrize("branches", [[5], [4, 4, 4], [1, 9, 3, 6]])
def test_loss_and_gradients_equal_plain(family: str, trunk: int, branches: list[int]) -> None:
    if trunk == 0:
        branches = [length + 1 for length in branches]
    model = MODELS[family]()
    rows = rows_with_trunk(trunk, branches)
    plain = plain_loss(model, rows)
    plain.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = branch_logprobs(Network(model), rows)
    loss = -(found.values_N * found.weights_N).sum()
    loss.backward()
    torch.testing.assert_close(loss, plain, atol=1e-4, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4)


def test_trunk_stops_before_what_is_learnt() -> None:
    rows = [Row([1, 2, 3, 4], [0, 0, 1, 1]), Row([1, 2, 3, 5], [0, 0, 1, 1])]
    assert trunk_length(rows) == 2
    assert trunk_length(rows[:1]) == 0
    assert trunk_length([Row([1, 2], [0, 0]), Row([1, 2, 3], [0, 0, 1])]) == 1


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        (([1, 2], [1, 2]), 2),
        (([1, 2], [3]), 0),
        (([1, 2, 3], [1, 2], [1, 2, 9]), 2),
        (([], [1]), 0),
    ],
)
def test_shared(sequences: tuple[list[int], ...], length: int) -> None:
    assert common_length(*sequences) == length


def test_many_positions_are_projected_in_pieces_with_equal_gradients() -> None:
    model = llama()
    rows = rows_with_trunk(3, [100] * 12)
    plain = plain_loss(model, rows)
    plain.backward()
    expected = model.lm_head.weight.grad.clone()
    model.zero_grad()
    found = branch_logprobs(Network(model), rows)
    (-(found.values_N * found.weights_N).sum()).backward()
    torch.testing.assert_close(model.lm_head.weight.grad, expected, atol=2e-3, rtol=1e-4)


@torch.no_grad()
def test_unequal_rows_after_a_trunk_see_their_own_window() -> None:
    network = Network(gemma(window=4).eval())
    root, rows = [5, 6, 7, 8, 9], [[1, 2, 3, 4, 5, 6], [1, 2]]
    trunk, _ = network.extend(network.start(), [root], [0], left=True)
    prefix, _ = network.extend(trunk, rows, [0, 0], left=True)
    prefix, hidden_B_1_H = network.extend(prefix, [[3], [4]], [0, 1], left=True, consume=True)
    assert prefix.mask_B_T.sum(1).tolist() == [12, 8]
    for row, new, hidden_1_H in zip(rows, [3, 4], hidden_B_1_H, strict=True):
        whole = network.model.base_model(input_ids=torch.tensor([[*root, *row, new]]))
        torch.testing.assert_close(hidden_1_H, whole.last_hidden_state[0, -1:], atol=1e-5, rtol=0)
