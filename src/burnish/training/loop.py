"""The training loop; it gets the model, batches, objective and callbacks, but not the recipe."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from burnish.errors import DivergedError, InterruptedRunError, RunError, UserError, is_disk_full
from burnish.models.adapt import load_weights
from burnish.models.branches import Network
from burnish.models.fused_lora import fused_lora
from burnish.training import checkpoint
from burnish.training.batches import Batches
from burnish.training.checkpoint import Progress
from burnish.training.data_parallel import Team
from burnish.training.host_memory import keep_freed_memory, peak_memory_mb
from burnish.training.objectives.base import Item, Means, Objective
from burnish.training.schedule import is_due, rate_factor
from burnish.training.signals import stop_requests

Listener = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the optimizer, of validation and of checkpoints.

    `warmup` is a share of the steps, and `patience` counts validation passes. `faster` maps a part
    of parameter names to a multiple of the learning rate.
    """

    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    evaluations: int = 4
    checkpoints: int = 4
    patience: int = 3
    faster: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Loop:
    """One training run.

    Args:
        model: a transformers or PEFT model; the parameters that require a gradient are trained.
        batches: the items of each step.
        objective: computes the loss of a batch of items.
        settings: see `Settings`.
        validation: items for early stopping by data set; without any the last step is the best.
        folder: the folder for checkpoints.
        listen: called with (phase, values) after every step, validation, checkpoint and resumption.
        team: the data-parallel processes.
    """

    model: Any
    batches: Batches
    objective: Objective[Any]
    settings: Settings
    validation: Mapping[str, Sequence[Item]]
    folder: Path
    listen: Listener
    team: Team = field(default_factory=Team)

    def __post_init__(self) -> None:
        groups = _groups(self.model, self.settings.faster)
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.network = Network(self.model)
        self.progress = Progress(carried=dict(self.objective.carried))

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the end, then load the weights of the best checkpoint.

        Raises:
            InterruptedRunError: SIGINT or SIGTERM was received; a checkpoint was written.
            UserError: the loss is not finite, memory ran out or the disk is full; the last
                checkpoint stays.
        """
        steps = self.batches.steps
        if resume:
            self._resume()
        self.team.align(self.network, self.optimizer)
        self.objective.carried.update(self.progress.carried)
        keep_freed_memory()
        answer = self._stopping if self.team.leads else None
        with stop_requests(answer) as stop, self._user_errors(), fused_lora(self.model):
            while self.progress.step < steps and not self.progress.stopped:
                self._step(steps)
                self._after_step(steps)
                if self.team.any(stop.is_set()) and self.progress.step < steps:
                    self._save()
                    raise InterruptedRunError(f"stopped at step {self.progress.step} of {steps}")
            self._restore_best()
        return self.progress

    def _stopping(self) -> str:
        """Return the message printed after a request to stop."""
        number = min(self.progress.step + 1, self.batches.steps)
        return f"finishing step {number}, then saving; press Ctrl-C again to stop now"

    def _resume(self) -> None:
        """Load the newest undamaged checkpoint, which the leader finds for all processes."""
        newest, damaged = Progress(), dict[str, str]()
        if self.team.leads:
            newest, damaged = checkpoint.load_newest(self.folder, self.model, self.optimizer)
        step = self.team.told(newest.step)
        if step and not self.team.leads:
            newest = checkpoint.load(self.folder / f"step-{step}", self.model, self.optimizer)
        self.progress = newest if step else self.progress
        self.listen("resumed", {"step": step, "damaged": damaged})

    def _step(self, steps: int) -> None:
        started = time.perf_counter()
        self.model.train()
        number = self.progress.step
        self.team.seed(self.batches, number)
        shares = self.team.shares(self.batches.step(number))
        passes = [self.objective.collect(self.network, items, number) for items in shares]
        units, learnt, read = self.team.totals(
            sum(self.objective.units(items) for items in passes),
            sum(item.learnt for items in passes for item in items),
            sum(item.size for items in passes for item in items),
        )
        self.model.train()  # collecting may have sampled in evaluation mode
        for _ in range(self.objective.num_iterations):
            means = self._backward(passes, units)
            self.team.add_gradients(self.optimizer)
            norm = self.team.clip(self.optimizer, self.settings.clip)
            rate = self._set_rate(steps)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(means)
        self.progress.step += 1
        self.progress.tokens += int(read)
        seconds = time.perf_counter() - started
        self.listen(
            "train",
            {
                "step": self.progress.step,
                "steps": steps,
                **means,
                **self.objective.carried,
                "learning_rate": rate,
                "gradient_norm": norm,
                "learnt_tokens": int(learnt),
                "tokens": int(read),
                "tokens_per_second": round(read / seconds, 1),
                "learnt_tokens_per_second": round(learnt / seconds, 1),
                "memory_mb": peak_memory_mb(),
            },
        )

    def _backward(self, passes: Sequence[Sequence[Item]], units: float) -> dict[str, float]:
        """Compute gradients; return loss and metrics per unit. Only this waits for the device."""
        sums = Means()
        pieces = [p for items in passes for p in self.objective.pieces(self.network, items) if p]
        for piece in pieces:
            loss = self.objective.loss(self.network, piece)
            (loss.total / units).backward()  # type: ignore[no-untyped-call]
            sums.add(loss, units)
        self.team.sync_passes(self.network, len(pieces))
        means = self.team.merged(sums).values()
        if not math.isfinite(means["loss"]):
            raise DivergedError(
                f"the loss became {means['loss']} at step {self.progress.step + 1}",
                f"lower training.learning_rate (now {self.settings.learning_rate:g})",
                code="loss_not_finite",
                loss=str(means["loss"]),  # JSON has no nan
                step=self.progress.step + 1,
                learning_rate=self.settings.learning_rate,
            )
        return means

    def _set_rate(self, steps: int) -> float:
        warmup = round(self.settings.warmup * steps)
        factor = rate_factor(self.progress.step, steps, warmup, self.settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor * group["times"]
        return self.settings.learning_rate * factor

    def _after_step(self, steps: int) -> None:
        step = self.progress.step
        due = is_due(step, steps, self.settings.evaluations)
        if due and self.validation and self.team.validates:
            self._validate()
        self.progress = self.team.told(self.progress) if due else self.progress
        if due or is_due(step, steps, self.settings.checkpoints) or step == steps:
            self._save()

    def _validate(self) -> None:
        self.model.eval()
        sets = {
            name: self.objective.validate(self.network, items)
            for name, items in self.validation.items()
        }
        # All data sets have the same weight, whatever their number of rows.
        loss = sum(values["loss"] for values in sets.values()) / len(sets)
        self.listen("validation", {"step": self.progress.step, "loss": loss, "sets": sets})
        if self.progress.best_loss is None or loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self.progress.passes_without_progress = 0
            return
        self.progress.passes_without_progress += 1
        self.progress.stopped = self.progress.passes_without_progress >= self.settings.patience

    def _save(self) -> None:
        with self.team.whole(self.model, self.optimizer) as moments:
            if not self.team.leads:
                return
            self.progress.carried = dict(self.objective.carried)
            checkpoint.save(self.folder, self.model, moments, self.progress)
        checkpoint.drop_optimizers(self.folder)
        self.listen("checkpoint", {"step": self.progress.step})

    def _restore_best(self) -> None:
        best = self.progress.best_step
        if best is not None and best != self.progress.step and self.team.leads:
            if self.team.holds_all:
                load_weights(self.model, self.folder / f"step-{best}")
            self.listen("restored", {"step": best})

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turn errors about full memory and full disks into errors for the user."""
        try:
            with self.team.learning():
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(
                f"memory ran out at step {self.progress.step + 1}",
                "lower training.batch_size and raise training.gradient_accumulation by the same "
                "factor",
                code="out_of_memory",
                step=self.progress.step + 1,
            ) from error
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise RunError(
                f"the disk is full at {self.folder}",
                "free some disk space, then continue with --resume",
                code="disk_full",
                path=str(self.folder),
            ) from error


def _groups(model: Any, faster: Mapping[str, float]) -> list[dict[str, Any]]:
    """Group the trained parameters by their multiple of the learning rate."""
    groups: dict[float, list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            times = next((value for part, value in faster.items() if part in name), 1.0)
            groups.setdefault(times, []).append(parameter)
    return [{"params": members, "times": times} for times, members in groups.items()]
