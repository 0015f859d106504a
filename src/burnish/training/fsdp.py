"""A team that keeps each layer in parts and gathers it where it is computed: torch's FSDP2.

A layer that learns as a whole is learnt in parts, too: each process has its part of the gradients
and of the optimizer's moments. What learns beside frozen weights is small and stays whole
everywhere, as do the embeddings. A layer is gathered by all of them together, forwards and
backwards, so all take the same passes in the same order: no row has a trunk of its own, a process
whose share ended goes along with an empty pass, and all of them validate.

Source: Zhao et al. 2023 (arXiv 2304.11277), full sharding; FSDP2 keeps the parts as DTensors.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from burnish.models.branches import Network
from burnish.models.cache_kinds import packs
from burnish.models.layers import layer_stack
from burnish.training.checkpoint import Moments, moments
from burnish.training.data_parallel import Team, lost, parameters_of


@dataclass(frozen=True, slots=True)
class Sharded(Team):
    """A team of at least two, each of which holds its part of the layers."""

    @property
    def validates(self) -> bool:
        return True

    @property
    def holds_all(self) -> bool:
        return False

    def align(self, network: Network, optimizer: Optimizer) -> None:
        """Of every layer each keeps its part, for as long as the model lives."""
        self.begin_alike(parameters_of(optimizer))
        network.may_share = False
        packs(network.model)  # found out together, before a layer needs all of them
        mesh = DeviceMesh(network.device.type, torch.arange(self.size))
        learnt, parts = set(parameters_of(optimizer)), dict[Tensor, DTensor]()
        for layer in layer_stack(network.model)[1]:
            before = list(layer.parameters())
            small = set() if learnt.issuperset(before) else learnt
            kept: FSDPModule = fully_shard(
                layer, mesh=mesh, reshard_after_forward=True, ignored_params=small
            )
            # A loss is a share of the whole step's already: gradients are summed.
            kept.set_gradient_divide_factor(1.0)
            kept.set_force_sum_reduction_for_comms(True)
            now = zip(before, layer.parameters(), strict=True)
            parts |= {whole: part for whole, part in now if isinstance(part, DTensor)}
        _take_over(optimizer, parts)

    def alike(self, optimizer: Optimizer) -> list[nn.Parameter]:
        return [p for p in parameters_of(optimizer) if not isinstance(p, DTensor)]

    def clip(self, optimizer: Optimizer, limit: float) -> float:
        """Each shortens its parts by the norm of all."""
        whole = [p.grad for p in self.alike(optimizer) if p.grad is not None]
        own = [
            p.grad.to_local()
            for p in parameters_of(optimizer)
            if isinstance(p, DTensor) and isinstance(p.grad, DTensor)
        ]
        (squares,) = self.totals(float(nn.utils.get_total_norm(own)) ** 2)
        norm = math.hypot(math.sqrt(squares), float(nn.utils.get_total_norm(whole)))
        shorter = min(1.0, limit / (norm + 1e-6))  # as in torch's clip_grads_with_norm_
        torch._foreach_mul_([*whole, *own], shorter)
        return norm

    @contextmanager
    def whole(self, model: Any, optimizer: Optimizer) -> Iterator[Moments]:
        """One weight after the other is gathered; only the leader keeps it, outside of a GPU."""
        own = moments(model, optimizer)
        parts = {name: p for name, p in model.named_parameters() if isinstance(p, DTensor)}
        if not any(p.requires_grad for p in parts.values()):  # no checkpoint has them
            yield own
            return
        weights = {name: self._gathered(p) for name, p in parts.items()}
        found = {
            name: {key: self._gathered(value) for key, value in states.items()}
            for name, states in own.items()
        }
        with _put_in(model, weights) if self.leads else nullcontext():
            yield found

    def _gathered(self, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        whole: Tensor = value.detach().full_tensor()  # type: ignore[attr-defined]
        return whole.cpu() if self.leads else whole.new_empty(0)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """
        Raises:
            WorkerLostError: another process is gone, as is seen when a layer is gathered.
        """
        try:
            yield
        except RuntimeError as error:
            # Gloo has no type of its own for a connection that broke, only its name in the words.
            if isinstance(error, distributed.DistError) or "gloo" in str(error):
                raise lost(error) from error
            raise

    def go_along(self, network: Network, passes: int) -> None:
        """Empty passes, until this process has taken as many as the one that takes most."""
        for _ in range(self.most(passes) - passes):
            _, hidden_1_1_H = network.extend(network.start(), [[0]], [0], left=False)
            (0.0 * hidden_1_1_H.sum()).backward()  # type: ignore[no-untyped-call]


def _take_over(optimizer: Optimizer, parts: Mapping[Tensor, DTensor]) -> None:
    """It moves the parts instead of the whole parameters, in groups of their own.

    torch updates a list of tensors at once only where all or none of them are DTensors.
    """
    for parameter, states in list(optimizer.state.items()):
        del optimizer.state[parameter]
        now = parts.get(parameter, parameter)
        optimizer.state[now] = {key: _like(now, value) for key, value in states.items()}
    for group in list(optimizer.param_groups):
        taken = [parts[p] for p in group["params"] if p in parts]
        group["params"] = [p for p in group["params"] if p not in parts]
        if taken:
            optimizer.add_param_group({**group, "params": taken})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment, kept as its parameter is."""
    if value.ndim and isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)


@contextmanager
def _put_in(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Whole weights instead of parts."""
    kept = {name: model.get_parameter(name) for name in weights}
    try:
        _put(model, {name: nn.Parameter(value) for name, value in weights.items()})
        yield
    finally:
        _put(model, kept)


def _put(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, parameter)
