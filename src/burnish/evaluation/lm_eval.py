"""Suites of lm-eval-harness: its task definitions, asked by our own verbs.

The harness writes the prompts, shots included, and the choices that may follow; which choice is
likeliest is found by `score`, not by its model classes. The choices, and so the scores, are those
of `lm_eval.simple_evaluate` with a Hugging Face model, no chat template and its own seed of the
shots. What it would cut off on the left to fit a context is refused here by the model.
"""

import contextlib
import difflib
import importlib.util
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import DataError
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import ChoiceItem, ChooseTask
from burnish.models.interface import Choice, Model, Scores
from burnish.recipe.files import HARNESS
from burnish.runs.directory import ItemResult

_DEFINED = re.compile(r"^(?:task|group): *[\"']?([^\s\"'\[]+)[\"']? *$", re.MULTILINE)
_SHOT_SEED = 1234  # of lm_eval.simple_evaluate; one generator draws the shots of all items in turn


@dataclass(frozen=True, slots=True)
class HarnessItem(ChoiceItem):
    """An item of lm-eval-harness: `context` starts with the shots, `asked` is the question alone.

    `characters` are the lengths of the choices without their leading delimiter.
    """

    asked: str
    characters: tuple[int, ...]

    @property
    def question(self) -> str:
        return self.asked


@dataclass(frozen=True, slots=True)
class HarnessTask(ChooseTask):
    """A multiple-choice task: with `by_length` scored by `acc_norm`, else by `acc`."""

    def results(self, model: Any, items: Sequence[Any]) -> list[ItemResult]:
        return ChooseTask.results(self, _Counted(model, items), items)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A model whose scores count the characters of choices in the way of the harness."""

    model: Model
    items: Sequence[Any]

    def score(self, asked: Sequence[Choice]) -> list[Scores]:
        scored = self.model.score(asked)
        return [
            Scores(scores.logprobs, item.characters)
            for scores, item in zip(scored, self.items, strict=True)
        ]


def load_harness(name: str) -> Suite:
    """Load a task or a group of tasks by name, or a task by the path of its YAML file.

    A group has a section for each of its tasks.

    Raises:
        DataError: lm-eval-harness is not installed, does not have the task, cannot load its data,
            or the task is not multiple choice.
    """
    with _quiet():
        tasks = _tasks(name)
        only = len(tasks) == 1
        suite = _plain(next(iter(tasks)) if only else Path(name).name)
        sections = [
            _section(suite if only else f"{suite}.{_plain(key)}", task)
            for key, task in tasks.items()
        ]
    return Suite(suite, sections, [])


def _tasks(name: str) -> dict[str, Any]:
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            f"evaluate.general contains {HARNESS}{name}, but lm-eval-harness is not installed",
            "install it with `pip install burnish[lm-eval]`, or use another suite",
            code="not_installed",
            package="lm_eval",
            suite=f"{HARNESS}{name}",
        )
    folder = _folder(name)
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder and str(folder), include_defaults=False)
    try:
        tasks: dict[str, Any] = manager.load([name])["tasks"]
    except Exception as error:  # a task runs code and reads data of its own: anything may fail
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the lm-eval task {name} cannot be loaded ({type(error).__name__}: {reason})",
            "correct its file, or download its data on a machine with network access",
            code="task_not_loaded",
            task=name,
            error=type(error).__name__,
        ) from error
    return tasks


def _folder(name: str) -> Path | None:
    """The folder that defines a task; indexing all 14,000 tasks takes the harness a minute."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise DataError(
                f"the lm-eval task file {path} does not exist",
                "correct the path",
                code="file_missing",
                path=str(path),
            )
        return None
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    known: dict[str, Path] = {}
    for file in sorted(Path(spec.origin).with_name("tasks").rglob("*.yaml")):
        for task in _DEFINED.findall(file.read_text(encoding="utf-8", errors="replace")):
            known.setdefault(task, file.parent)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {HARNESS}{near[0]}" if near else "`lm-eval ls tasks` lists them"
        raise DataError(
            f"lm-eval-harness has no task {name!r}",
            hint,
            code="unknown_task",
            task=name,
            closest=f"{HARNESS}{near[0]}" if near else None,
        )
    return known[name]


def _section(section: str, task: Any) -> HarnessTask:
    _check_choices(task)
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(_SHOT_SEED)
    items = [_item(task, str(number), doc) for number, doc in task.doc_iterator()]
    return HarnessTask(section, items, by_length="acc_norm" in task.aggregation())


def _check_choices(task: Any) -> None:
    """Reject tasks other than a choice between texts after one prompt, with one right answer."""
    kind = task.OUTPUT_TYPE
    if kind != "multiple_choice":
        reason, words = "output_type", f"has the output type {kind}"
    elif task.config.process_results is not None:
        reason, words = "own_program", "grades its answers with its own code"
    elif not {"acc", "acc_norm"} & task.aggregation().keys():
        reason, words = "metrics", f"is measured by {', '.join(task.aggregation())}"
    elif task.multiple_input:
        reason, words = "several_inputs", "has several contexts instead of one prompt"
    elif task.multiple_target:
        reason, words = "several_answers", "has several right answers"
    else:
        return
    raise DataError(
        f"the lm-eval task {task.config.task} {words}",
        "use a multiple_choice task with one prompt, one right answer and the metric acc",
        code="unsuitable_task",
        task=task.config.task,
        reason=reason,
        output_type=kind,
    )


def _item(task: Any, name: str, doc: Any) -> HarnessItem:
    prefix = task.doc_to_prefix(doc)
    context = task.fewshot_context(doc, task.config.num_fewshot, gen_prefix=prefix)
    requests = task.construct_requests(doc, context, metadata=(task.config.task, name, 1))
    choices = task.doc_to_choice(doc)
    # With acc_mutual_info as many requests without a question follow.
    continuations = tuple(request.args[1] for request in requests[: len(choices)])
    target = task.doc_to_target(doc)
    if isinstance(target, str) and target in choices:
        target = choices.index(target)
    if not isinstance(target, int) or target not in range(len(choices)):
        raise DataError(
            f"item {name} of the lm-eval task {task.config.task} has the answer {target!r}, which "
            f"is not one of its {len(choices)} choices",
            "correct the task's doc_to_target",
            code="answer_not_a_choice",
            source=f"{task.config.task}:{name}",
            value=str(target),
            count=len(choices),
        )
    sizes = tuple(map(len, choices))
    return HarnessItem(name, context, continuations, target, task.doc_to_text(doc), sizes)


def _plain(name: str) -> str:
    """The name as part of a file name of results."""
    return re.sub(r"[^\w.-]+", "-", name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness, which warns about every default of a task."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
