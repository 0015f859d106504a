"""An engine on the tiny model, and adapters for it of every shape that is served."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from burnish.inference.engine import Engine
from burnish.inference.scheduler import EngineLimits
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model

Open = Callable[..., Engine]

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rank-stabilised": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "down_proj", "lm_head"],
        "rank_pattern": {"q_proj": 5},
        "alpha_pattern": {"down_proj": 7, "layers.1.self_attn.q_proj": 3},
    },
}


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(str(tiny_folder), "cpu")


@pytest.fixture
def engine(model: LanguageModel) -> Iterator[Open]:
    """Opens engines, one at a time; the last is closed after the test."""
    opened: list[Engine] = []

    def open_one(**limits: int) -> Engine:
        for earlier in opened:
            earlier.close(seconds=0)
        opened.append(Engine(model, EngineLimits(**limits)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close(seconds=0)


@pytest.fixture(scope="session")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of adapters that change the tiny model's answers, by the name of their kind."""
    folders = {}
    for seed, (name, options) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        config = LoraConfig(**{"target_modules": "all-linear", **options}, task_type="CAUSAL_LM")
        with warnings.catch_warnings():  # PEFT reads a property that transformers has renamed
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            adapted = get_peft_model(load_model(str(tiny_folder), "cpu").module, config)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp("adapters") / name
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        folders[name] = str(folder)
    return folders
