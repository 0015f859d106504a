"""The verb `suite`: measures any model, loaded or behind a server, on a general suite."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import UserError
from burnish.evaluation.levels import registry
from burnish.evaluation.levels.curve import Curve, Limits, level_curves, suite_curves
from burnish.evaluation.load_suite import load_suites, seed_of
from burnish.evaluation.measure import results_cache
from burnish.evaluation.runner import run_task
from burnish.evaluation.suite import Section
from burnish.models.endpoint import RemoteModel
from burnish.models.load import context_length, load_model, load_tokenizer
from burnish.models.registry import resolve
from burnish.models.served_chat import ServedChat
from burnish.progress import Bars
from burnish.runs.directory import ItemResult

# A server does not say how much its model reads.
_SERVED_CONTEXT = 131_072


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model to measure.

    Attributes:
        model: a name, a folder, or the base URL of an OpenAI-compatible server.
        served_name: the model's name on the server.
        tokenizer: a model with the served model's tokenizer; its choices are then scored by
            likelihood, for which the server has to echo log-probabilities. Without it the model is
            asked for the letter of a choice.
        context: leave out levels with longer items.
    """

    model: str
    served_name: str | None = None
    tokenizer: str | None = None
    context: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether the model is behind a server."""
        return self.model.startswith(("http://", "https://"))


def measure_suite(
    suite: str,
    measured: MeasuredModel,
    *,
    sections: Sequence[str] = (),
    items: int = 40,
    quiet: bool = False,
    on_curve: Callable[[Curve], None] | None = None,
) -> list[Curve]:
    """Measure a model on a suite; `levels` has a point for each level, other suites one.

    Args:
        suite: `levels`, `levels:SEED`, or any suite that a recipe can name.
        measured: the model.
        sections: names of the sections to measure; empty for all.
        items: items of each level, for `levels`.
        quiet: show no progress bars.
        on_curve: called with each section when it is finished.

    Raises:
        UserError: the suite has no such section.
        ModelError: the model cannot be loaded, or the server does not answer.
    """
    seed = seed_of(suite)
    tasks = list[Section]() if seed is not None else list(load_suites([suite])[0].sections)
    known = [one.name for one in registry.SECTIONS] if seed is not None else _names(tasks)
    _check_sections(sections, known, suite)
    wanted = set(sections or known)
    curves = []
    with _opened(measured) as (model, context, letters), _answers(model, quiet) as answers:
        if seed is None:
            chosen = (task for task, name in zip(tasks, known, strict=True) if name in wanted)
            found = suite_curves(chosen, answers, letters=letters)
        else:
            generators = [one for one in registry.SECTIONS if one.name in wanted]
            limits = Limits(items, context, seed)
            found = level_curves(generators, answers, limits, letters=letters)
        for curve in found:
            curves.append(curve)
            if on_curve is not None:
                on_curve(curve)
    return curves


def _names(tasks: Sequence[Section]) -> list[str]:
    return [task.name.rpartition(".")[2] for task in tasks]


def _check_sections(sections: Sequence[str], known: Sequence[str], suite: str) -> None:
    if unknown := [name for name in sections if name not in known]:
        raise UserError(
            f"the suite {suite} does not have a section {unknown[0]!r}",
            f"use one of {', '.join(known)}",
            code="unknown_section",
            suite=suite,
            section=unknown[0],
            expected=list(known),
        )


@contextmanager
def _answers(model: Any, quiet: bool) -> Iterator[Callable[[Section], list[ItemResult]]]:
    """Runs a task with a bar; results of models on this machine are cached."""
    bars = Bars(quiet=quiet)
    cache = None if isinstance(model, ServedChat | RemoteModel) else results_cache()
    with tempfile.TemporaryDirectory(prefix="burnish-suite-") as folder:

        def answers(task: Section) -> list[ItemResult]:
            with bars.items(task.name, len(task)) as advance:
                path = Path(folder) / f"{task.name}.jsonl"
                return run_task(model, task, path, cache=cache, advance=advance)

        yield answers


@contextmanager
def _opened(measured: MeasuredModel) -> Iterator[tuple[Any, int, bool]]:
    """The model, its context in tokens, and whether it is asked for letters."""
    limit = measured.context
    if not measured.is_served:
        model = load_model(measured.model)
        yield model, min(limit or model.context_length, model.context_length), False
        return
    served: ServedChat | RemoteModel
    if measured.tokenizer is None:
        served, longest = ServedChat(measured.model, _served_name(measured)), _SERVED_CONTEXT
    else:
        source = resolve(measured.tokenizer)
        longest = context_length(source)
        tokenizer = load_tokenizer(source)
        served = RemoteModel(measured.model, _served_name(measured), tokenizer, longest)
    try:
        yield served, min(limit or longest, longest), measured.tokenizer is None
    finally:
        served.close()


def _served_name(measured: MeasuredModel) -> str:
    if measured.served_name is None:
        raise UserError(
            f"--model is the URL {measured.model}, but the name of the model there is not set",
            "add --served-name",
            code="no_served_name",
            url=measured.model,
        )
    return measured.served_name
