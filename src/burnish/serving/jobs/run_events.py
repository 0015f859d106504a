"""A run's log as events of its job; each line is reported once, even if the log is cut back."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import quantity
from burnish.serving.state.events import Event

Line = dict[str, Any]
# Columns of the step metrics by the names that events have for them; those of rewards come after
# them, where there are any.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
_REWARDS = ("train_reward_mean", "valid_reward_mean")


class LogTail:
    """Reads the new lines of a log that grows and may be replaced by a new file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode, self._offset = -1, 0

    def new(self) -> list[Line]:
        """Return the complete lines since the last call; all lines if the file was replaced."""
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return []

    def _read(self, file: Any) -> list[Line]:
        result = os.fstat(file.fileno())
        if result.st_ino != self._inode or result.st_size < self._offset:
            self._inode, self._offset = result.st_ino, 0
        file.seek(self._offset)
        whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines() if line.strip()]


class EventTranslator:
    """Translates log lines into events of a job.

    A step's line waits for the next one, since a validation pass at that step is told with it. One
    that still waits when a run is cut off is told once the run has gone on.
    """

    def __init__(self) -> None:
        self._waiting: Line | None = None
        self._steps: list[tuple[int, int, float]] = []

    def events(self, lines: Iterable[Line], *, ended: bool = False) -> list[Event]:
        """Return the events for new log lines; `ended` also reports a step that waited for its
        validation."""
        result: list[Event] = []
        for line in lines:
            before, self._waiting = self._waiting, None
            if line["phase"] == "validation" and before and before["step"] == line["step"]:
                result.append(_metrics(before, line))
                continue
            result += [_metrics(before)] if before else []
            result += self._told(line)
        if ended and self._waiting:
            result.append(_metrics(self._waiting))
            self._waiting = None
        return result

    def finish_time(self) -> int | None:
        """Estimate when training ends, in Unix seconds; None before two steps."""
        if len(self._steps) < 2:
            return None
        (first, _, began), (step, steps, last) = self._steps[0], self._steps[-1]
        if step <= first:
            return None
        return int(last + (last - began) / (step - first) * (steps - step))

    def _told(self, line: Line) -> list[Event]:
        if line["phase"] == "train":
            self._waiting = line
            self._steps = [*self._steps[:1], (line["step"], line["steps"], line["time"])]
            return []
        if line["phase"] == "validation":  # of a log that was read between the two
            return [_metrics(None, line)]
        said = _SENTENCES.get(line["phase"])
        return [said(line)] if said else []


def _metrics(train: Line | None, validation: Line | None = None) -> Event:
    line = train or validation
    assert line is not None
    step, data = line["step"], {"step": line["step"]}
    if train:
        data |= {"total_steps": train["steps"], **metric_fields(train, "train")}
    if validation:
        data |= metric_fields(validation, "valid")
    of = f"/{train['steps']}" if train else ""
    losses = {"training": train, "validation": validation}
    said = ", ".join(f"{name} loss={one['loss']:.2f}" for name, one in losses.items() if one)
    place = f"train {step}" if train else f"validation {step}"
    return Event(f"Step {step}{of}: {said}", "info", "metrics", data, place, line["time"])


def metric_fields(line: Line, part: str) -> dict[str, float]:
    """Return the metrics of a log line under the API's names; `part` is train or valid.

    Of a validation pass, which covers all rows, the loss and accuracy are also the `full_` ones.
    """
    seen = line | next(iter(line.get("sets", {}).values()), {})
    result = {f"{part}_loss": line["loss"]}
    if "token_accuracy" in seen:
        result[f"{part}_mean_token_accuracy"] = seen["token_accuracy"]
    if part == "valid":
        result |= {f"full_{name}": value for name, value in result.items()}
    if "reward" in seen:
        result[f"{part}_reward_mean"] = seen["reward"]
    return result


def _screened(line: Line) -> Event:
    message = f"Learning rate: {line['chosen']:.3g}"
    return Event(message, log_position="screen", time=line["time"])


def _replayed(line: Line) -> Event:
    conversations = quantity(line["rows"], "general conversation")
    message = f"Replaying {conversations} to reduce forgetting"
    if not line["rows"]:
        message = "No replay: the base model generated no conversations"
    return Event(message, log_position="replay", time=line["time"])


def _resumed(line: Line) -> Event:
    message = f"Resumed from step {line['step']}"
    return Event(message, log_position=f"resumed {line['time']}", time=line["time"])


def _measured(line: Line) -> Event:
    items = quantity(line["n"], "item")
    message = f"Evaluated {items} of {line['task']} with the {line['label']} model"
    place = f"evaluate {line['label']} {line['task']}"[:128]
    return Event(message, log_position=place, time=line["time"])


_SENTENCES = {"replay": _replayed, "screen": _screened, "resumed": _resumed, "evaluate": _measured}


def metrics_csv(lines: Sequence[Line]) -> str:
    """Return the step metrics as CSV; metrics that were not measured are empty."""
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["phase"] in ("train", "validation"):
            part = "train" if line["phase"] == "train" else "valid"
            row = rows.setdefault(line["step"], {"step": line["step"]})
            row |= metric_fields(line, part)
    rewards = [name for name in _REWARDS if any(name in row for row in rows.values())]
    columns = COLUMNS | {name: name for name in rewards}
    written = [",".join(columns)]
    for _, row in sorted(rows.items()):
        written.append(",".join(str(row.get(name, "")) for name in columns.values()))
    return "\n".join(written) + "\n"
