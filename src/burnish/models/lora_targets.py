"""Chooses the weights of a model's layers that LoRA adapts, and says what it leaves and why.

Linear maps get an adapter each. The experts of a mixture are often one parameter with a matrix for
each expert; PEFT adapts it through `target_parameters`. Routers, which choose experts, keep the
weights that balanced their load in pretraining.
"""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft.tuners.lora.layer import ParamWrapper
from peft.utils.transformers_weight_conversion import _MOE_TARGET_MODULE_MAPPING
from torch import nn
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN
from transformers.pytorch_utils import Conv1D

from burnish.models.layers import (
    Target,
    is_router,
    layer_part,
    layer_stack,
    linear_paths,
    no_target_layers,
    router_paths,
)
from burnish.recipe.schema import Recipe

ROUTER = "a router"
INDEXER = "an indexer, which gets no gradient"
READ_DIRECTLY = "its layer reads the weight past an adapter"
SHARED = "layers share its weight"
DROPOUT = "PEFT adapts it only without lora.dropout"

# Attributes of a weight that do not depend on its values.
_READ = r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|size|data|requires_grad|is_\w+)|\[)"


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """The weights that LoRA adapts, by their paths within a layer.

    Attributes:
        modules: linear maps.
        parameters: matrices that are not a linear map of their own: those of all experts of a
            layer, and linear maps that PEFT reaches only by their weight.
        left: linear maps and expert matrices that are not adapted, with the reason.
        transposed: whether the linear maps keep their weights transposed, as in GPT-2.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    transposed: bool = False

    @property
    def notable(self) -> bool:
        """Whether the targets are others than all linear maps."""
        return bool(self.parameters or self.left)

    def sentence(self) -> str:
        """What LoRA adapts and what it leaves, for a person."""
        parts = [f"LoRA adapts {', '.join(_short([*self.modules, *self.parameters]))}"]
        reasons = dict.fromkeys(self.left.values())
        for reason in reasons:
            names = _short([path for path, why in self.left.items() if why == reason])
            parts.append(f"not {', '.join(names)} ({reason})")
        return ", ".join(parts)


def lora_targets(model: Any, target: Target = "all-linear", dropout: float = 0.0) -> LoraTargets:
    """The targets of a LoRA adapter on a transformers model, with or without earlier adapters.

    Raises:
        ModelError: no weight that `target` selects can be adapted.
    """
    experts, outside = _expert_parameters(model)
    left = dict.fromkeys([*_read_directly(model), *outside], READ_DIRECTLY)
    left |= dict.fromkeys(_shared_weights(model), SHARED)
    left |= {path: INDEXER for path in linear_paths(model) if "indexer" in path.split(".")}
    left |= dict.fromkeys(router_paths(model), ROUTER)
    paths = [path for path in linear_paths(model, target) if path not in left]
    renamed = _names_of_experts(model)
    by_weight = [path for path in paths if path.rpartition(".")[2] in renamed]
    parameters = [f"{path}.weight" for path in by_weight]
    parameters += [p for p in experts if target == "all-linear" or layer_part(p) == target]
    if dropout:
        left |= dict.fromkeys(parameters, DROPOUT)
        parameters = []
    modules = tuple(path for path in paths if path not in by_weight)
    if not modules and not parameters:
        raise no_target_layers(target)
    left = {p: why for p, why in left.items() if target == "all-linear" or layer_part(p) == target}
    return LoraTargets(modules, tuple(parameters), left, _transposed(model, modules))


def recipe_targets(recipe: Recipe, model: Any) -> LoraTargets | None:
    """The targets of a recipe's adapter on a transformers model; None without LoRA."""
    if recipe.method_traits.section != "lora":
        return None
    given = recipe.lora
    return lora_targets(model, given.target_modules, given.dropout)


def _expert_parameters(model: Any) -> tuple[list[str], list[str]]:
    """Paths within a layer of matrices that belong to all experts together.

    The second list has those that another module multiplies, past a wrapper around their own.
    """
    inside: dict[str, None] = {}
    outside: dict[str, None] = {}
    for name, module in _parts(model):
        kind = type(module)
        if not re.search("expert", f"{name} {kind.__name__}", re.IGNORECASE):
            continue
        if kind.__module__.startswith("torch.nn") or is_router(name):
            continue
        source = _forwards(kind)
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim in (2, 3) and "bias" not in own:
                read = re.search(rf"self\.{own}\b", source)
                (inside if read else outside)[f"{name}.{own}"] = None
    return list(inside), list(outside)


def _parts(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules within each layer with their paths, as they were before any adapter."""
    for layer in layer_stack(model)[1]:
        for name, module in layer.named_modules():
            if ".lora_" not in name and not isinstance(module, ParamWrapper):
                yield re.sub(r"(^|\.)base_layer\b", "", name), module


def _read_directly(model: Any) -> Collection[str]:
    """Linear maps whose weights their parent multiplies by itself, in any of its code paths.

    State-space layers hand `out_proj.weight` to a fused kernel; PEFT refuses it in some of them.
    """
    readers: dict[type, frozenset[str]] = {}
    paths: dict[str, None] = {}
    for name, module in _parts(model):
        kind = type(module)
        if kind.__module__.startswith(("torch.", "peft.")):
            continue
        if kind not in readers:
            readers[kind] = frozenset(re.findall(_READ, _forwards(kind)))
        for child in readers[kind]:
            if isinstance(getattr(module, child, None), (nn.Linear, Conv1D)):
                paths[f"{name}.{child}" if name else child] = None
    return paths


def _forwards(kind: type) -> str:
    """The source of a module's methods but for those that make or initialise it."""
    sources = []
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and "init" not in name:
            try:
                sources.append(inspect.getsource(method))
            except (OSError, TypeError):  # made at run time
                continue
    return "\n".join(sources)


def _shared_weights(model: Any) -> Collection[str]:
    """Linear maps and expert matrices of one layer whose weight another layer has, too.

    Two adapters on one weight could not both be merged into it.
    """
    owners: dict[int, dict[tuple[int, str], str]] = {}
    for name, module in _parts(model):
        if ".lora_" in name:
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                linear = isinstance(module, (nn.Linear, Conv1D))
                path = name if linear else f"{name}.{own}"
                owners.setdefault(id(parameter), {})[(id(module), own)] = path
    shared = (paths for paths in owners.values() if len(paths) > 1)
    return dict.fromkeys(path for paths in shared for path in paths.values())


def _names_of_experts(model: Any) -> Collection[str]:
    """Names of linear maps that PEFT takes for experts of an older layout of this architecture.

    PEFT 0.21 turns them into `target_parameters` of the experts, wherever they are, so that it
    would pass over the linear maps of a dense layer or a shared expert with such a name.
    """
    pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    names: dict[str, str] = _MOE_TARGET_MODULE_MAPPING.get(pattern, {})
    return names.keys()


def _transposed(model: Any, modules: Collection[str]) -> bool:
    found = {name: module for name, module in _parts(model) if name in modules}
    return bool(found) and all(isinstance(module, Conv1D) for module in found.values())


def _short(paths: Collection[str]) -> list[str]:
    """Paths with one entry for all numbers of a list, and `.weight` left out."""
    plain = (re.sub(r"\.\d+(?=\.|$)", ".N", path.removesuffix(".weight")) for path in paths)
    return list(dict.fromkeys(plain))
