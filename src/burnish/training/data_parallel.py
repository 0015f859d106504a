"""Data-parallel training: each process computes its share of every batch, gradients are summed.

The loss of a step is divided by the units of the whole step, and each process sums over its own
share. So gradients are summed, not averaged, shares may differ in size, and the weights change
exactly as in one process. Communication is torch.distributed's: gloo, and nccl between GPUs.
torch's DistributedDataParallel does not fit: it averages gradients, and it needs one forward pass
through the whole model, but a step here is several passes through parts of the model.
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
    """The data-parallel processes as seen by one of them; a single process is a team of one.

    All processes have to call every method, in the same order.

    Attributes:
        rank: this process's rank. Rank 0 is the leader: only it validates and writes files.
        size: number of processes.
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
        """Whether the leader has all weights in memory after training."""
        return True

    def learning(self) -> AbstractContextManager[None]:
        """Return the context in which all steps are taken."""
        return nullcontext()

    def sync_passes(self, network: Network, passes: int) -> None:
        """Called after this process's `passes` of a step; processes may take different numbers."""

    def seed(self, batches: Batches, step: int) -> None:
        """Give each process its own random state, which depends on the step and the rank.

        A single process continues with its random state, which its checkpoints contain.
        """
        if self.size > 1:
            words = f"{batches.seed} {step} {self.rank} {self.size}"
            torch.manual_seed(random.Random(words).getrandbits(32))  # torch reads no more bits

    def shares(self, passes: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Return this process's items of each pass; sorted by length, shares have similar sizes."""
        shares = [list(items[self.rank :: self.size]) for items in passes]
        return [items for items in shares if items]

    def totals(self, *values: float) -> list[float]:
        """Return each value summed over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _collective():
            distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def any(self, flag: bool) -> bool:
        return self.totals(float(flag))[0] > 0

    def most(self, value: int) -> int:
        highest = torch.tensor(value)
        with _collective():
            distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def told(self, value: T) -> T:
        """Return the leader's value; the values of other processes are ignored."""
        if self.size == 1:
            return value
        values = [value]
        with _collective():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def merged(self, means: Means) -> Means:
        """Return the metrics of all processes together."""
        if self.size == 1:
            return means
        own = {name: float(value) for name, value in means.sums.items()}
        parts: list[Any] = [None] * self.size
        with _collective():
            distributed.all_gather_object(parts, Means(own, means.counts))
        whole = Means()
        for part in parts:
            whole.include(part)
        return whole

    def add_gradients(self, optimizer: Optimizer) -> None:
        """Sum every gradient over the processes; one that no process has stays None."""
        parameters = self.replicated(optimizer)
        if self.size == 1 or not parameters:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        exist = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
        flat = torch.cat([exist.float(), *(g.flatten().float() for g in gradients)])
        with _collective():
            distributed.all_reduce(flat)
        exist, *sums = torch.split(flat, [len(parameters), *(p.numel() for p in parameters)])
        for parameter, exists, total in zip(parameters, exist.tolist(), sums, strict=True):
            if exists:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def align(self, network: Network, optimizer: Optimizer) -> None:
        """Copy the leader's weights to all processes, and the loaded moments into memory."""
        for parameter, states in optimizer.state.items():
            optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in states.items()
            }
        self.broadcast_weights(parameters_of(optimizer))

    def broadcast_weights(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.size > 1:
            with _collective():
                for parameter in parameters:
                    distributed.broadcast(parameter.data, src=0)

    def clip(self, optimizer: Optimizer, limit: float) -> float:
        """Clip all gradients to the norm `limit`, and return their norm before clipping."""
        return float(nn.utils.clip_grad_norm_(parameters_of(optimizer), limit))

    def replicated(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Return the trained parameters that every process has in full."""
        return parameters_of(optimizer)

    def whole(self, model: Any, optimizer: Optimizer) -> AbstractContextManager[Moments]:
        """Return a context in which the leader has all weights, and which yields all moments."""
        return nullcontext(moments(model, optimizer))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that the optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _collective() -> Iterator[None]:
    """A context for collective operations.

    Raises:
        WorkerLostError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def lost(error: RuntimeError) -> WorkerLostError:
    """Return the error for a broken connection."""
    return WorkerLostError(
        f"another worker of this training has ended ({str(error).splitlines()[0][:200]})",
        "check its output, then continue with --resume",
        code="worker_lost",
    )
