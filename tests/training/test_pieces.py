"""A pass in pieces = the pass whole, and freed memory that stays at hand."""

import resource
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from burnish.models.branches import Network, Row, trunk_length
from burnish.models.fused_lora import fused_lora
from burnish.training.host_memory import keep_freed_memory
from burnish.training.loop import Loop, Settings
from burnish.training.objectives import base
from burnish.training.objectives.base import light_pieces
from burnish.training.objectives.dpo import Dpo, Pair
from burnish.training.objectives.sft import Sft

CPU: Any = types.SimpleNamespace(device=torch.device("cpu"), shares_beginnings=True)
ALONE: Any = types.SimpleNamespace(device=torch.device("cpu"), shares_beginnings=False)
GPU: Any = types.SimpleNamespace(device=torch.device("cuda"))


def sized(*sizes: int) -> list[Row]:
    return [Row([1] * size, [0.0] + [1.0] * (size - 1)) for size in sizes]


def sizes(pieces: list[list[Row]]) -> list[list[int]]:
    return [[row.size for row in piece] for piece in pieces]


def test_pieces_are_of_like_size_and_no_larger_than_the_room() -> None:
    rows = sized(100, 900, 400, 300, 1500, 200)
    assert sizes(light_pieces(CPU, rows)) == [[1500], [900], [400, 300], [200, 100]]


def test_a_long_trunk_is_not_computed_often() -> None:
    # 8 x 200 tokens are room for 1,600 tokens of branches, that is all 8 of them.
    assert len(light_pieces(CPU, sized(*[400] * 8), trunk=200)) == 1
    assert len(light_pieces(CPU, sized(*[400] * 8))) == 4
    assert len(light_pieces(ALONE, sized(*[400] * 8), trunk=200)) == 4


def test_other_devices_get_the_items_whole_and_in_order() -> None:
    rows = sized(100, 900, 400)
    assert light_pieces(GPU, rows) == [rows]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_gradients_in_pieces_equal_the_whole(
    kind: str, adapted: Any, draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw(6, [5, 9, 3, 7, 4, 12])
    items: Any = rows
    goal: Any = Sft()
    if kind == "dpo":
        items = [Pair(a, b, (-9.0, -8.0)) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        goal = Dpo()
    network = Network(adapted)
    adapted.train()
    monkeypatch.setattr(base, "_PIECE", 16)

    def gradients(pieces: list[list[Any]]) -> list[torch.Tensor]:
        adapted.zero_grad()
        for piece in pieces:
            goal.loss(network, piece).total.backward()
        return [p.grad.clone() for p in adapted.parameters() if p.grad is not None]

    pieces = goal.pieces(network, items)
    assert len(pieces) > 1
    assert sum(len(piece) for piece in pieces) == len(items)
    for found, expected in zip(gradients(pieces), gradients([items]), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class OneBatch:
    """The same items at each step."""

    def __init__(self, items: list[Row], steps: int) -> None:
        self.items, self.steps = items, steps

    def step(self, _: int) -> list[list[Row]]:
        return [self.items]


def test_the_loop_runs_the_pieces(
    adapted: Any, draw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = draw(2, [5, 9, 3, 7])
    seen: list[int] = []
    losses: list[float] = []

    class Watched(Sft):
        def loss(self, network: Any, items: Any) -> Any:
            seen.append(len(items))
            return super().loss(network, items)

    def listen(phase: str, values: dict[str, Any]) -> None:
        if phase == "train":
            losses.append(values["loss"])

    # With so small a rate both runs begin with the same weights.
    settings = Settings(1e-9, evaluations=0, checkpoints=1)
    for room in (16, 1024):
        monkeypatch.setattr(base, "_PIECE", room)
        batches: Any = OneBatch(rows, 1)
        folder = tmp_path / str(room)
        Loop(adapted, batches, Watched(), settings, {}, folder, listen).run()
    assert trunk_length(rows) == 2
    assert seen == [1, 2, 1, 4]  # room for 16 tokens: 9, 7 + 5, 3; then all
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_freed_memory_is_used_again_without_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    pages = 16384  # 64 MiB
    before = faults()
    for _ in range(8):
        torch.ones(16 * 2**20)
    assert faults() - before < 4 * pages


def test_no_gradient_below_the_lowest_adapted_layer(llama: Any, draw: Any) -> None:
    maps = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=maps, layers_to_transform=[1])
    with warnings.catch_warnings(action="ignore"):
        model = get_peft_model(llama, config)
    network = Network(model)
    outputs: list[bool] = []
    for layer in network.model.model.layers:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out.requires_grad))
    with fused_lora(model):
        Sft().loss(network, draw(4, [5, 3])).total.backward()
    assert outputs == [False, True] * 2  # the trunk's pass and the branches'
    learnt = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learnt
    assert all("layers.1." in name and "lora_" in name for name in learnt)
