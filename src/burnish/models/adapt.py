"""Which weights learn, and how they are kept: PEFT makes the adapters and owns their format."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_model, save_model

from burnish.errors import ModelError

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_MLP = ["gate_proj", "up_proj", "down_proj"]
Target = Literal["all-linear", "attention", "mlp"]


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    seed: int,
    target: Target = "all-linear",
    **options: Any,
) -> Any:
    """Wraps the model in a fresh LoRA adapter; only the adapter learns.

    `options` are `dropout`, `layers` (numbers from 0, None is all), `rslora`, `dora`, and for a
    head PEFT's `task_type` and `whole`, the names of modules that learn and are kept whole.

    Raises:
        ModelError: the model has no layers of the names that `target` stands for.
    """
    modules: Any = {"all-linear": "all-linear", "attention": _ATTENTION, "mlp": _MLP}[target]
    layers = options.get("layers")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=options.get("dropout", 0.0),
        target_modules=modules,
        layers_to_transform=list(layers) if layers is not None else None,
        use_rslora=options.get("rslora", False),
        use_dora=options.get("dora", False),
        task_type=options.get("task_type", "CAUSAL_LM"),
        modules_to_save=options.get("whole"),
        exclude_modules=_within(options.get("whole")),
    )
    torch.manual_seed(seed)
    try:
        with _without_renaming_notice():
            return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"the model has no {target} layers to adapt", "set lora.target to all-linear"
        ) from error


def _within(names: Sequence[str] | None) -> str | None:
    """A pattern of the modules so named and all inside them."""
    return rf"({'|'.join(map(re.escape, names))})(\..*)?" if names else None


def load_adapter(model: Any, folder: Path) -> Any:
    """Puts a saved adapter on its base.

    Raises:
        ModelError: the folder holds no adapter, or it was made for another base.
    """
    if not (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds no adapter", "name a folder with adapter_config.json")
    try:
        with _without_renaming_notice():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the adapter {folder} was made for another base model ({_first_line(error)})",
            "load it on the model that its adapter_config.json names",
        ) from error


@contextlib.contextmanager
def _without_renaming_notice() -> Iterator[None]:
    """PEFT 0.21 still reads the old name of a property that transformers 5.23 renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120]


def save_weights(model: Any, folder: Path) -> None:
    """The adapter in PEFT's format, or all weights of a fully tuned model."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder))
    else:
        save_model(model, str(folder / "model.safetensors"))
        model.config.save_pretrained(str(folder))


def load_weights(model: Any, folder: Path) -> None:
    """Puts weights that `save_weights` wrote back into the same model."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    else:
        load_model(model, str(folder / "model.safetensors"))
