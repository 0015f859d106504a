"""A team that keeps each frozen layer in parts and gathers it where it is computed: torch's FSDP2.

What learns is small and stays whole in every process. A layer is gathered by all of them together,
forwards and backwards, so all take the same passes in the same order: no row has a trunk of its
own, a process whose share ended goes along with an empty pass, and all of them validate.

Source: Zhao et al. 2023 (arXiv 2304.11277), full sharding; FSDP2 keeps the parts as DTensors.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from burnish.models.branches import Network
from burnish.models.layers import layer_stack
from burnish.training.team import Team, lost


@dataclass(frozen=True, slots=True)
class Sharded(Team):
    """A team of at least two, each of which holds its part of the frozen layers."""

    @property
    def validates(self) -> bool:
        return True

    def align(self, network: Network, parameters: Sequence[nn.Parameter]) -> None:
        """Of every layer each keeps its part, for as long as the model lives."""
        Team.align(self, network, parameters)
        network.shares_beginnings = False
        mesh = DeviceMesh(network.device.type, torch.arange(self.size))
        learnt = set(parameters)
        for layer in layer_stack(network.model)[1]:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=learnt)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """
        Raises:
            WorkerLostError: another process is gone, as is seen when a layer is gathered.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, distributed.DistError) or "gloo" in str(error):
                raise lost(error) from error
            raise

    def go_along(self, network: Network, passes: int) -> None:
        """Empty passes, until this process has taken as many as the one that takes most."""
        for _ in range(self.most(passes) - passes):
            _, hidden_1_1_H = network.extend(network.start(), [[0]], [0], left=False)
            (0.0 * hidden_1_1_H.sum()).backward()  # type: ignore[no-untyped-call]
