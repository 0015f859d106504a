"""QLoRA where bitsandbytes is installed: it trains on the CPU too."""

import importlib
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.errors import ModelError
from burnish.models.adapt import METHODS, load_adapter, save_weights
from burnish.models.branches import Network, Row
from burnish.models.load import load_model
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.sft import Sft
from tests.refused import refused

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ROWS = [Row([1, 2, 3, 4 + i, 5 + i, 6 + i], [0.0] * 4 + [1.0] * 2) for i in range(12)]


def hidden(module: object) -> torch.Tensor:
    network = Network(module)  # type: ignore[arg-type]
    with torch.no_grad():
        return network.extend(network.start(), [[5, 6, 7, 8, 9]], [0], left=False)[1]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with widths that are whole blocks of 64."""
    made = tmp_path / "wide"
    shutil.copytree(tiny_folder, made)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(made)
    return made


def test_rows_that_are_no_whole_blocks_are_a_sentence(tiny_folder: Path) -> None:
    with refused("rows_not_in_blocks", ModelError, model=str(tiny_folder), weights=48):
        load_model(str(tiny_folder), "cpu", four_bit=True)


def test_a_lora_learns_on_four_bit_weights(folder: Path, tmp_path: Path) -> None:
    exact, four = (load_model(str(folder), "cpu", four_bit=bits) for bits in (False, True))
    projection = four.module.model.layers[0].mlp.up_proj
    assert projection.weight.dtype == torch.uint8
    assert projection.weight.numel() == 64 * 128 // 2  # two weights a byte
    base = hidden(four.module)
    weight = exact.module.model.layers[0].mlp.up_proj.weight
    functional = importlib.import_module("bitsandbytes.functional")
    rounded = functional.dequantize_4bit(projection.weight.data, projection.weight.quant_state)
    # Rounding a normal variable to 16 levels, scaled by blocks of 64, errs by about 9%.
    assert 0.05 < (rounded - weight).norm() / weight.norm() < 0.15
    assert four.fingerprint != exact.fingerprint
    module = METHODS["qlora"](four.module, seed=0, rank=4, alpha=8)
    losses: list[float] = []
    made = Loop(
        module,
        Batches({"train": ROWS}, 4, 1, 10, 0),
        Sft(),
        Settings(3e-2, evaluations=0, checkpoints=1),
        {},
        tmp_path / "checkpoints",
        lambda phase, values: losses.append(values["loss"]) if phase == "train" else None,
    )
    made.run()
    assert losses[-1] < 0.7 * losses[0]
    module.eval()
    with made.network.base():
        assert torch.equal(hidden(module), base)
    save_weights(module, tmp_path)
    again = load_adapter(load_model(str(folder), "cpu", four_bit=True).module, tmp_path)
    assert torch.equal(hidden(again.eval()), hidden(module))
