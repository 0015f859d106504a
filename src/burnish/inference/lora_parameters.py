"""LoRA on the experts of a mixture, whose matrices are one parameter, as PEFT reads and adds it.

Each expert has low-rank maps of its own: `W_e + scale B_e A_e`. Which expert computes which token
is decided inside of the layer, so rows of such an adapter are computed by themselves, and while
they are, the layer has the sum in place of its parameter.

Source of the format: PEFT's `ParamWrapper`. Adapters of several parameters of one module are nested
in each other; the first parameter is the innermost. Shapes: E experts, R rank, X and Y the
parameter's own dimensions, I inputs, O outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPED = ".base_layer"


@dataclass(frozen=True, slots=True)
class ExpertMaps:
    """The low-rank maps of all experts; PEFT's scale is worked into `lhs_E_X_R`."""

    lhs_E_X_R: Tensor
    rhs_E_R_Y: Tensor

    def added_to(self, weight_E_X_Y: Tensor) -> Tensor:
        """The parameter with the maps added."""
        lhs, rhs = (each.to(weight_E_X_Y.dtype) for each in (self.lhs_E_X_R, self.rhs_E_R_Y))
        return torch.baddbmm(weight_E_X_Y, lhs, rhs)


def expert_parameter(
    name: str, modules: dict[str, nn.Module], targets: Sequence[str]
) -> tuple[str, str] | None:
    """Return the module and the parameter that the maps `name` of a file are for, None if they are
    not for experts."""
    depth = 0
    while name.endswith(_WRAPPED):
        name, depth = name.removesuffix(_WRAPPED), depth + 1
    module = modules.get(name)
    if module is None or isinstance(module, nn.Linear):
        return None
    chosen = [
        own
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and _is_target(f"{name}.{own}", targets)
    ]
    return (name, chosen[-1 - depth]) if depth < len(chosen) else None


def _is_target(path: str, targets: Sequence[str]) -> bool:
    return any(path == target or path.endswith(f".{target}") for target in targets)


def expert_maps(
    module: nn.Module,
    parameter: str,
    a_ER_I: Tensor,
    b_O_ER: Tensor,
    scaling: Callable[[int], float],
) -> ExpertMaps | None:
    """Return the maps of a file for a parameter; None if the sizes are others than its own.

    `scaling` is PEFT's scale for a rank.
    """
    weight_E_X_Y: Any = getattr(module, parameter)
    experts = weight_E_X_Y.shape[0]
    if a_ER_I.shape[0] % experts or a_ER_I.shape[0] != b_O_ER.shape[1]:
        return None
    a_E_R_I = a_ER_I.float().reshape(experts, -1, a_ER_I.shape[-1])
    b_E_O_R = b_O_ER.float().reshape(b_O_ER.shape[0], -1, experts).permute(2, 0, 1)
    b_E_O_R = b_E_O_R * scaling(a_E_R_I.shape[1])
    lhs_E_X_R, rhs_E_R_Y = b_E_O_R, a_E_R_I
    if getattr(module, "is_transposed", False):  # (experts, inputs, outputs)
        lhs_E_X_R, rhs_E_R_Y = a_E_R_I.mT, b_E_O_R.mT
    if (lhs_E_X_R.shape[1], rhs_E_R_Y.shape[2]) != tuple(weight_E_X_Y.shape[1:]):
        return None
    device = weight_E_X_Y.device
    return ExpertMaps(lhs_E_X_R.contiguous().to(device), rhs_E_R_Y.contiguous().to(device))


class ExpertHooks:
    """Puts sums in place of the parameters of one module while it computes.

    Args:
        module: the experts.
        acting: returns the maps by the parameter's name that act now; none for the base.
    """

    def __init__(self, module: nn.Module, acting: Callable[[], dict[str, ExpertMaps]]) -> None:
        self._module, self._acting = module, acting
        self._own: dict[str, nn.Parameter | None] = {}
        self._handles = [
            module.register_forward_pre_hook(self._add),
            module.register_forward_hook(self._take_away, always_call=True),
        ]

    def remove(self) -> None:
        """The module is as it was."""
        for handle in self._handles:
            handle.remove()

    def _add(self, *_: Any) -> None:
        parameters = self._module._parameters
        for name, maps in self._acting().items():
            weight = parameters[name]
            assert weight is not None
            self._own[name] = weight
            parameters[name] = nn.Parameter(maps.added_to(weight.data), requires_grad=False)

    def _take_away(self, *_: Any) -> None:
        self._module._parameters.update(self._own)
        self._own.clear()
