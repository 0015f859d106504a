"""Runs a task on a model: saves results in chunks and never computes them twice."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from burnish.evaluation.tasks import Task
from burnish.models.interface import ModelInfo
from burnish.runs.atomic import new_file, write_atomic, write_lines
from burnish.runs.directory import ItemResult, append_results, read_results

_CHUNK = 256

Advance = Callable[[int], None]


def run_task(
    model: ModelInfo,
    task: Task,
    path: Path,
    *,
    cache: Path | None = None,
    advance: Advance | None = None,
) -> list[ItemResult]:
    """Run a task and save its results at `path`; an interrupted run continues where it stopped.

    Args:
        model: any model with the methods that the task needs.
        task: the task to run.
        path: the JSON Lines file of the results; those of another model or task are replaced.
        cache: a folder of finished results by model and task, for base models.
        advance: called with the number of items finished since the last call.
    """
    key = f"{model.fingerprint}-{task.hash}"
    kept = cache / f"{key}.jsonl" if cache else None
    if kept is not None and kept.exists():
        found = read_results(kept)
        if len(found) == len(task) and _differ(found):  # otherwise a crash or a full disk cut it
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(kept, path)
            write_atomic(_key_path(path), key)
            _report(advance, len(found))
            return found
    done = _finished_before(path, key)
    _report(advance, len(done))
    for start in range(len(done), len(task), _CHUNK):
        chunk = task.answer(model, start, min(start + _CHUNK, len(task)))
        append_results(path, chunk)
        done += chunk
        _report(advance, len(chunk))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, kept)
    return done


def _finished_before(path: Path, key: str) -> list[ItemResult]:
    mark = _key_path(path)
    if mark.exists() and mark.read_text() == key:
        done = read_results(path)
        if _differ(done):
            write_lines(path, (asdict(item) for item in done))  # without an incomplete last line
            return done
    path.unlink(missing_ok=True)
    write_atomic(mark, key)
    return []


def _differ(results: Sequence[ItemResult]) -> bool:
    """Whether each item occurs once, so that no other process wrote to the file."""
    return len({result.id for result in results}) == len(results)


def _key_path(path: Path) -> Path:
    return path.with_suffix(".key")


def _copy(source: Path, target: Path) -> None:
    with new_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _report(advance: Advance | None, count: int) -> None:
    if advance and count:
        advance(count)
