"""Processes that learn as one: each takes its share of every batch, gradients are summed.

The loss of a step is divided by the units of the whole step, and each process holds the sum over
its own share. So gradients are added up, not averaged, and shares need not be of one size: the
weights move as those of one process. All of it goes through torch.distributed's gloo, and nccl
between GPUs. torch's DistributedDataParallel is no help here: it averages, and it wants one forward
pass through the whole model where a step here is several passes through parts of it.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.optim import Optimizer

from burnish.errors import WorkerLostError
from burnish.models.branches import Network
from burnish.training.batches import Batches
from burnish.training.checkpoint import Moments, moments
from burnish.training.objectives.base import Means

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """What one process knows of those that it learns with; one alone is a team, too.

    Every method is to be called by all of them, in the same order.

    Attributes:
        rank: which one it is; 0 leads: it alone validates, writes and tells.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def validates(self) -> bool:
        return self.leads

    @property
    def holds_all(self) -> bool:
        """Whether the leader has all weights when training ends."""
        return True

    def learning(self) -> AbstractContextManager[None]:
        """All steps are taken within it."""
        return nullcontext()

    def go_along(self, network: Network, passes: int) -> None:
        """After this process's `passes` of a step: it need not take as many as the others."""

    def seed(self, batches: Batches, step: int) -> None:
        """Each process has noise of its own, which step and rank alone decide.

        One alone goes on with the noise that it had; its checkpoints keep where that stood.
        """
        if self.size > 1:
            words = f"{batches.seed} {step} {self.rank} {self.size}"
            torch.manual_seed(random.Random(words).getrandbits(32))  # torch reads no more bits

    def shares(self, passes: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Its items of each forward pass; they come sorted by length, so shares are alike."""
        shares = [list(items[self.rank :: self.size]) for items in passes]
        return [items for items in shares if items]

    def totals(self, *values: float) -> list[float]:
        """Each value, summed over all."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _together():
            distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def any(self, flag: bool) -> bool:
        return self.totals(float(flag))[0] > 0

    def most(self, value: int) -> int:
        highest = torch.tensor(value)
        with _together():
            distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def told(self, value: T) -> T:
        """What the leader gives; what the others give is ignored."""
        if self.size == 1:
            return value
        given = [value]
        with _together():
            distributed.broadcast_object_list(given, src=0)
        return given[0]

    def merged(self, means: Means) -> Means:
        """The metrics of all shares as one."""
        if self.size == 1:
            return means
        own = {name: float(value) for name, value in means.sums.items()}
        found: list[Any] = [None] * self.size
        with _together():
            distributed.all_gather_object(found, Means(own, means.counts))
        whole = Means()
        for part in found:
            whole.include(part)
        return whole

    def add_gradients(self, optimizer: Optimizer) -> None:
        """Every gradient becomes the sum of all processes'; one that none has stays away."""
        parameters = self.alike(optimizer)
        if self.size == 1 or not parameters:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
        flat = torch.cat([there.float(), *(g.flatten().float() for g in gradients)])
        with _together():
            distributed.all_reduce(flat)
        there, *sums = torch.split(flat, [len(parameters), *(p.numel() for p in parameters)])
        for parameter, was_there, total in zip(parameters, there.tolist(), sums, strict=True):
            if was_there:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def align(self, network: Network, optimizer: Optimizer) -> None:
        """All begin with the leader's weights; an optimizer that goes on takes its moments in."""
        for parameter, states in optimizer.state.items():
            optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in states.items()
            }
        self.begin_alike(parameters_of(optimizer))

    def begin_alike(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.size > 1:
            with _together():
                for parameter in parameters:
                    distributed.broadcast(parameter.data, src=0)

    def clip(self, optimizer: Optimizer, limit: float) -> float:
        """The norm of all gradients, which are shortened to `limit`."""
        return float(nn.utils.clip_grad_norm_(parameters_of(optimizer), limit))

    def alike(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Of what is learnt that which every process holds."""
        return parameters_of(optimizer)

    def whole(self, model: Any, optimizer: Optimizer) -> AbstractContextManager[Moments]:
        """In it the leader has all weights, and is given all moments."""
        return nullcontext(moments(model, optimizer))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that it moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _together() -> Iterator[None]:
    """
    Raises:
        WorkerLostError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def lost(error: RuntimeError) -> WorkerLostError:
    """What a broken connection means."""
    return WorkerLostError(
        f"another worker of this training has ended ({str(error).splitlines()[0][:200]})",
        "see what it said, then continue with --resume",
        code="worker_lost",
    )
