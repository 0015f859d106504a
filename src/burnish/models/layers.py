"""Finds a model's layers, and the linear maps in their attention and MLP parts.

Architectures name their parts differently (`self_attn.q_proj`, `attention.self.query`,
`attention.q_lin`, `attn.c_attn`), so parts are found by structure: the outermost list of modules
is the stack of layers, and a linear map belongs to attention if its path names attention.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from burnish.errors import ModelError

Target = Literal["all-linear", "attention", "mlp"]
_KEYS_AND_VALUES = {"k", "v", "k_proj", "v_proj", "k_lin", "v_lin", "key", "value"}
_KEYS_AND_VALUES |= {"key_proj", "value_proj"}
# How the linear maps that choose experts are called; `gate` may belong to attention, too.
_ROUTER = re.compile(r"(^|\.)(\w*router\w*|shared_expert_gate|gate)(\.|$)")


def layer_stack(model: Any) -> tuple[str, nn.ModuleList]:
    """The decoder or encoder layers, and their path in the model.

    Raises:
        ModelError: the model has no list of layers.
    """
    stacks: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in stacks)
        if isinstance(module, nn.ModuleList) and not inside:
            stacks.append((name, module))
    if not stacks:
        raise ModelError(
            f"{type(model).__name__} has no list of layers",
            "set method to full, or choose another model",
            code="no_layers",
            model=type(model).__name__,
        )
    return max(stacks, key=lambda pair: len(pair[1]))


def backbone_of(model: Any) -> Any:
    """The part of a model that returns hidden states, without its vocabulary projection or head."""
    base = model.base_model
    # One family names a part that it does not have, and is then its own base model.
    return getattr(model, "model", model) if base is model else base


def linear_paths(model: Any, target: Target = "all-linear") -> list[str]:
    """Paths of the linear maps within a layer without routers, in the order of registration.

    Raises:
        ModelError: the layers have no linear maps of that target.
    """
    routers = router_paths(model)
    paths = [path for path in _all_linear_paths(model) if path not in routers]
    chosen = [path for path in paths if target == "all-linear" or layer_part(path) == target]
    if not chosen:
        raise no_target_layers(target)
    return chosen


def router_paths(model: Any) -> list[str]:
    """Paths of the linear maps within a layer that choose experts, which no adapter changes.

    Some of them return more than a tensor, so nothing can be added to what they return.
    """
    layers = layer_stack(model)[1]
    if not any("expert" in name for layer in layers for name, _ in layer.named_modules()):
        return []
    paths = dict.fromkeys(
        name
        for layer in layers
        for name, module in layer.named_modules()
        if is_router(name) and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    )
    return list(paths)


def is_router(path: str) -> bool:
    """Whether a module with this path chooses experts, in a layer that has some."""
    named = _ROUTER.search(path)
    return bool(named) and ("router" in path or layer_part(path) == "mlp")


def no_target_layers(target: Target) -> ModelError:
    """The error for a model without weights that `target` selects."""
    return ModelError(
        f"the model has no {target} layers to adapt",
        "set lora.target_modules to all-linear",
        code="no_target_layers",
        target=target,
    )


def _all_linear_paths(model: Any) -> list[str]:
    paths: dict[str, None] = {}
    for layer in layer_stack(model)[1]:
        own: list[str] = []
        for name, module in layer.named_modules():
            # An adapter's wrapper counts as the linear map that it wraps.
            inside = ".lora_" in name or any(name.startswith(f"{path}.") for path in own)
            if _is_linear(module) and not inside:
                own.append(name)
        paths |= dict.fromkeys(own)
    return list(paths)


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, ParamWrapper):  # around experts, or around a linear map
        return isinstance(module.get_base_layer(), nn.Linear)
    return isinstance(module, (nn.Linear, Conv1D, BaseTunerLayer))


def layer_part(path: str) -> Literal["attention", "mlp"]:
    """`attention` if the path names attention, else `mlp`."""
    return "attention" if re.search(r"att(n|ention)", path, re.IGNORECASE) else "mlp"


def output_path(model: Any, part: Literal["attention", "mlp"]) -> str:
    """The path of the output projection of attention or MLP: its last registered linear map.

    Raises:
        ModelError: the layers have no such part, or it does not end in a linear map.
    """
    path = linear_paths(model, part)[-1]
    size = model.config.get_text_config().hidden_size
    for layer in layer_stack(model)[1]:
        projection: Any = layer.get_submodule(path)
        if size not in projection.weight.shape:
            raise ModelError(
                f"the model's {part} does not end in a linear map of {size} outputs",
                "set method to lora",
                code="no_output_projection",
                part=part,
                expected=size,
            )
    return path


def key_value_paths(model: Any) -> list[str]:
    """Paths of the key and value projections; of fused ones, all but the output projection."""
    paths = linear_paths(model, "attention")
    named = [path for path in paths if path.rpartition(".")[2] in _KEYS_AND_VALUES]
    return named or paths[:-1]


def module_pattern(model: Any, paths: Sequence[str]) -> str:
    """A regular expression of full module names: these paths in every layer."""
    name, _ = layer_stack(model)
    inside = "|".join(re.escape(path) for path in paths)
    return rf"{re.escape(name)}\.\d+\.({inside})"
