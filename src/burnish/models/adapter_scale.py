"""Scales an adapter: interpolates between the base model (scale 0) and the tuned model (scale 1).

Every method's weights move on the straight line between both; scales above 1 extrapolate. For LoRA
that is `W + scale B A`, for fully tuned weights WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903,
eq. 1). Only small tensors are kept twice, and nothing is loaded again.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from burnish.errors import ModelError
from burnish.models.adapt import TRAINABLE
from burnish.models.bottleneck import BottleneckModel
from burnish.models.weight_snapshot import WeightSnapshot


@dataclass(frozen=True)
class _ScaledParameter:
    """A parameter, its tuned value, and the value at which the model equals the base."""

    parameter: nn.Parameter
    learnt: Tensor
    neutral: Tensor | float
    depth: float  # 0 for the first layer, 1 for the last and for weights outside of layers


class AdapterScale:
    """Sets the scale of a tuned model's adapter.

    Args:
        model: the tuned model, at scale 1.
        base: the weights before tuning, if tuning changed the weights themselves.

    Raises:
        ModelError: the method cannot be scaled (a learned prefix).
    """

    def __init__(self, model: Any, base: WeightSnapshot | None = None) -> None:
        pairs = list(_scaled_parameters(model, base))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        depths = _depths([names[id(parameter)] for parameter, _ in pairs])
        self._moved = [
            _ScaledParameter(parameter, parameter.detach().clone(), neutral, depth)
            for (parameter, neutral), depth in zip(pairs, depths, strict=True)
        ]

    def set(self, scale: float, slope: float = 0.0) -> None:
        """Sets the weights to a scale until the next call.

        `slope` reduces the early layers, which carry what all tasks share: a layer at depth
        d (0 first, 1 last) gets `scale (1 - slope (1 - d))`. It is LiNeS (Wang et al. 2024, arXiv
        2410.17146, eq. 2) with alpha = scale (1 - slope) and beta = scale slope.
        """
        with torch.no_grad():
            for moved in self._moved:
                factor = scale * (1 - slope * (1 - moved.depth))
                if factor == 1.0:  # exactly what was learnt, not what rounding leaves of it
                    moved.parameter.copy_(moved.learnt)
                else:
                    part = factor * (moved.learnt - moved.neutral)
                    moved.parameter.copy_(part + moved.neutral)

    @contextlib.contextmanager
    def at(self, scale: float, slope: float = 0.0) -> Iterator[None]:
        """Sets the model to a scale for the duration of the context."""
        self.set(scale, slope)
        try:
            yield
        finally:
            self.set(1.0)


def is_scalable(model: Any) -> bool:
    """Whether the model's adapter can be scaled."""
    return not (
        isinstance(model, PeftModel)
        and isinstance(model.peft_config[TRAINABLE], PrefixTuningConfig)
    )


def _scaled_parameters(
    model: Any, base: WeightSnapshot | None
) -> Iterator[tuple[nn.Parameter, Tensor | float]]:
    if isinstance(model, BottleneckModel):
        for adapter in model.adapters.values():
            up: Any = adapter.up
            yield up.weight, 0.0
            yield up.bias, 0.0
        return
    if not isinstance(model, PeftModel):
        if base is None:
            raise ModelError(
                "the weights before tuning were not kept",
                "open the run with burnish.open_tuned",
                code="base_not_kept",
            )
        yield from base.pairs
        return
    if not is_scalable(model):
        raise ModelError(
            "a learned prefix cannot be scaled",
            "set method to lora, or use only the scale 1",
            code="not_scalable",
            method="prefix",
        )
    for name, parameter in model.named_parameters():
        if f"ia3_l.{TRAINABLE}" in name:
            yield parameter, 1.0
        elif f"lora_B.{TRAINABLE}" in name or f"lora_embedding_B.{TRAINABLE}" in name:
            yield parameter, 0.0
    for module in model.modules():
        if isinstance(module, LoraLayer) and TRAINABLE in module.lora_magnitude_vector:
            magnitude: Any = module.lora_magnitude_vector[TRAINABLE]
            weight: Any = module.get_base_layer().weight
            # DoRA trains length and direction of each row separately (arXiv 2402.09353, eq. 5).
            yield magnitude.weight, weight.detach().float().norm(dim=1)


def _depths(names: Sequence[str]) -> list[float]:
    """The depth of each parameter, from 0 for the first layer to 1 for the last."""
    matches = [re.search(r"(?:layers|layer|h|blocks|adapters)\.(\d+)[.:]", name) for name in names]
    numbers = [int(match[1]) if match else None for match in matches]
    last = max((number for number in numbers if number is not None), default=0)
    return [1.0 if number is None or not last else number / last for number in numbers]
