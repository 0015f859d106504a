"""Sharded data-parallel training: each layer is split over the processes (torch's FSDP2).

A layer whose weights are all trained is trained in shards: each process has its shard of the
gradients and of the optimizer's moments. Parameters that are trained next to frozen weights are
small and stay complete in every process, as do the embeddings. All processes gather a layer
together, forwards and backwards, so all take the same passes in the same order: rows do not share
a trunk, a process with fewer passes adds empty ones, and all processes validate.

Source: Zhao et al. 2023 (arXiv 2304.11277), full sharding; in FSDP2 a shard is a DTensor.
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
    """At least two processes, each of which has a shard of every layer."""

    @property
    def validates(self) -> bool:
        return True

    @property
    def holds_all(self) -> bool:
        return False

    def align(self, network: Network, optimizer: Optimizer) -> None:
        """Shard every layer; this cannot be undone for the model."""
        self.broadcast_weights(parameters_of(optimizer))
        network.may_share = False
        packs(network.model)  # measured now: passes through sharded layers need all processes
        mesh = DeviceMesh(network.device.type, torch.arange(self.size))
        trained, shards = set(parameters_of(optimizer)), dict[Tensor, DTensor]()
        for layer in layer_stack(network.model)[1]:
            before = list(layer.parameters())
            small = set() if trained.issuperset(before) else trained
            sharded: FSDPModule = fully_shard(
                layer, mesh=mesh, reshard_after_forward=True, ignored_params=small
            )
            # Each loss is already divided by the units of the whole step: gradients are summed.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
            now = zip(before, layer.parameters(), strict=True)
            shards |= {whole: shard for whole, shard in now if isinstance(shard, DTensor)}
        _replace_parameters(optimizer, shards)

    def replicated(self, optimizer: Optimizer) -> list[nn.Parameter]:
        return [p for p in parameters_of(optimizer) if not isinstance(p, DTensor)]

    def clip(self, optimizer: Optimizer, limit: float) -> float:
        """Scale this process's gradients by the norm of the gradients of all processes."""
        whole = [p.grad for p in self.replicated(optimizer) if p.grad is not None]
        own = [
            p.grad.to_local()
            for p in parameters_of(optimizer)
            if isinstance(p, DTensor) and isinstance(p.grad, DTensor)
        ]
        (squares,) = self.totals(float(nn.utils.get_total_norm(own)) ** 2)
        norm = math.hypot(math.sqrt(squares), float(nn.utils.get_total_norm(whole)))
        factor = min(1.0, limit / (norm + 1e-6))  # as in torch's clip_grads_with_norm_
        torch._foreach_mul_([*whole, *own], factor)
        return norm

    @contextmanager
    def whole(self, model: Any, optimizer: Optimizer) -> Iterator[Moments]:
        """Gather one weight after the other; only the leader keeps them, in CPU memory."""
        own = moments(model, optimizer)
        shards = {name: p for name, p in model.named_parameters() if isinstance(p, DTensor)}
        if not any(p.requires_grad for p in shards.values()):  # checkpoints do not contain them
            yield own
            return
        weights = {name: self._gathered(p) for name, p in shards.items()}
        gathered = {
            name: {key: self._gathered(value) for key, value in states.items()}
            for name, states in own.items()
        }
        with _put_in(model, weights) if self.leads else nullcontext():
            yield gathered

    def _gathered(self, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        whole: Tensor = value.detach().full_tensor()  # type: ignore[attr-defined]
        return whole.cpu() if self.leads else whole.new_empty(0)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The context of all steps.

        Raises:
            WorkerLostError: another process has ended, which the next gathering of a layer notices.
        """
        try:
            yield
        except RuntimeError as error:
            # For a broken connection, gloo raises a RuntimeError that only its text identifies.
            if isinstance(error, distributed.DistError) or "gloo" in str(error):
                raise lost(error) from error
            raise

    def sync_passes(self, network: Network, passes: int) -> None:
        """Add empty passes until this process has taken as many as any other."""
        for _ in range(self.most(passes) - passes):
            _, hidden_1_1_H = network.extend(network.start(), [[0]], [0], left=False)
            (0.0 * hidden_1_1_H.sum()).backward()  # type: ignore[no-untyped-call]


def _replace_parameters(optimizer: Optimizer, shards: Mapping[Tensor, DTensor]) -> None:
    """Let the optimizer update the shards instead of the parameters, in separate groups.

    torch updates a list of tensors at once only if all or none of them are DTensors.
    """
    for parameter, states in list(optimizer.state.items()):
        del optimizer.state[parameter]
        now = shards.get(parameter, parameter)
        optimizer.state[now] = {key: _like(now, value) for key, value in states.items()}
    for group in list(optimizer.param_groups):
        replaced = [shards[p] for p in group["params"] if p in shards]
        group["params"] = [p for p in group["params"] if p not in shards]
        if replaced:
            optimizer.add_param_group({**group, "params": replaced})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Shard a moment, or copy it to a device, like its parameter."""
    if value.ndim and isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)


@contextmanager
def _put_in(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the shards with complete weights within a `with` block."""
    shards = {name: model.get_parameter(name) for name in weights}
    try:
        _set_parameters(model, {name: nn.Parameter(value) for name, value in weights.items()})
        yield
    finally:
        _set_parameters(model, shards)


def _set_parameters(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, parameter)
