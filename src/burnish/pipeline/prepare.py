"""Creates a run: reads, checks and renders the recipe's data and writes it to the run directory."""

import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from burnish.conversation import Example
from burnish.data.chat_templates import set_thinking
from burnish.data.checks.dataset import rejected_answers
from burnish.data.checks.template_marks import speaker_lines
from burnish.data.checks.template_roles import (
    answers_think,
    moved_system_text,
    with_thoughts_apart,
)
from burnish.data.load import Dataset, load
from burnish.data.render import Rendered, hidden_reasoning
from burnish.data.sample import LIMIT
from burnish.data.template_text import form_for
from burnish.errors import DataError, RecipeError, quantity
from burnish.evaluation.measure import LEAST_TESTED, tested
from burnish.models.classifier import max_text_tokens
from burnish.models.lineage import copy_earlier_run
from burnish.models.load import context_length, load_tokenizer, pick_device
from burnish.models.registry import Source, resolve
from burnish.models.stop_tokens import check_stop_token
from burnish.progress import Bars
from burnish.recipe.data import Data
from burnish.recipe.files import check_name
from burnish.recipe.schema import Recipe, changed_recipe
from burnish.runs.directory import Finding, Manifest, RunDirectory
from burnish.training.objectives import OBJECTIVES

_LIBRARIES = ("burnish", "torch", "transformers", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class CheckedData:
    """A data set, the rendered rows of each split, and the findings of all checks.

    `thinking` is whether prompts ask for answers with a thought; None where the template decides.
    """

    dataset: Dataset
    rendered: dict[str, list[Rendered]]
    findings: list[Finding]
    thinking: bool | None = None

    def learnt_tokens(self) -> dict[str, int]:
        """Tokens with a loss weight in each split."""
        return {
            name: sum(1 for row in rows for weight in row.weights if weight)
            for name, rows in self.rendered.items()
        }

    def kept(self, split: str) -> list[Example]:
        """The rows of a split that fit into the model."""
        inside = {row.id for row in self.rendered[split]}
        return [example for example in getattr(self.dataset, split) if example.id in inside]


def prepare(recipe: Recipe, source: Source, data: Data | None = None) -> CheckedData:
    """Reads, checks and renders the recipe's own data set, or the data set of one of its tasks."""
    settings = recipe.objective_settings
    dataset = load(data or recipe.data, recipe.seed, settings.rows)
    tokenizer = load_tokenizer(source, recipe.model_settings.stop_tokens)
    objective = OBJECTIVES[recipe.objective].from_recipe(recipe, tokenizer)
    objective.check(dataset.train)
    if settings.writes_text and any(e.messages[0].role != "document" for e in dataset.train):
        check_stop_token(source, tokenizer)
    # Report rows that the model cannot read now, not when it is tested after training.
    longest = max_text_tokens(source) if settings.head else context_length(source)
    limit = min(recipe.training.max_length or longest, longest)
    remedy = (
        "raise training.max_length" if limit < longest else "choose a model with a longer context"
    )
    findings, rendered = list(dataset.findings), {}
    thinking = recipe.model_settings.thinking
    if settings.writes_text:
        dataset, thinking = _fit_template(dataset, tokenizer, recipe, findings)
    if settings.rows.replies:
        findings += rejected_answers(dataset.train)
    # Other objectives read only the answer's content.
    findings += hidden_reasoning(dataset.train, tokenizer, is_shown=settings.rows.replies)
    if settings.writes_text:
        every = [*dataset.train, *dataset.validation, *dataset.test]
        findings += speaker_lines(every, tokenizer)
    for split in ("train", "validation", "test"):
        examples = getattr(dataset, split)
        found = objective.render(examples, tokenizer, limit) if examples else ([], None)
        rendered[split] = found[0]
        if longer := found[1]:
            advice = f"shorten them, or {remedy}"
            findings.append(replace(longer, seen=f"{split}: {longer.seen}", remedy=advice))
    checked = CheckedData(dataset, rendered, findings, thinking)
    if dataset.test and (count := len(tested(checked.kept("test")))) < LEAST_TESTED:
        raise DataError(
            f"only {quantity(count, 'test row remains', 'test rows remain')}, too few to measure a "
            f"gain (at least {LEAST_TESTED})",
            "add rows, or set data.test to a file",
            code="too_few_test_rows",
            count=count,
            expected=LEAST_TESTED,
        )
    counts = ", ".join(f"{name} {count}" for name, count in checked.learnt_tokens().items())
    total = sum(checked.learnt_tokens().values())
    trained = f"{objective.learns} to be trained on: {counts}"
    findings.append(Finding("tokens", "info", trained, total))
    return checked


def _fit_template(
    dataset: Dataset, tokenizer: Any, recipe: Recipe, findings: list[Finding]
) -> tuple[Dataset, bool | None]:
    """Fits the rows to what the chat template can write, and adds findings about it.

    Returns the rows with their thoughts apart, and whether prompts ask for a thought.
    """
    chosen = recipe.model_settings.thinking
    if all(example.messages[0].role == "document" for example in dataset.train):
        return dataset, chosen
    form = form_for(tokenizer)
    dataset = replace(
        dataset,
        train=with_thoughts_apart(dataset.train, form),
        validation=with_thoughts_apart(dataset.validation, form),
        test=with_thoughts_apart(dataset.test, form),
    )
    shown = recipe.objective_settings.rows.replies
    thinking, found = answers_think(dataset.train, form, shown=shown)
    if chosen is not None and form.thinks:
        thinking, found = chosen, []
    set_thinking(tokenizer, thinking)
    findings += found
    findings += moved_system_text(dataset.train, form)
    return dataset, thinking


def create_run(recipe: Recipe, bars: Bars) -> RunDirectory:
    """Creates a run directory with its manifest and its checked rows, ready to be trained.

    Raises:
        RecipeError: the recipe has stages, which are separate runs, or its name is a path that
            leads out of the folder `output`.
        RunError: a run of that name exists.
    """
    if recipe.stages:
        raise RecipeError(
            f"the recipe has {quantity(len(recipe.stages), 'stage')}; each stage is a run",
            "use `burnish run`, or burnish.pipeline.stages.run_stages in Python",
            code="recipe_of_stages",
            count=len(recipe.stages),
        )
    check_name(recipe.name)
    source = resolve(recipe.model)
    checked = prepare(recipe, source)
    if checked.thinking is not None and recipe.model_settings.thinking is None:
        recipe = changed_recipe(recipe, {"model_settings.thinking": checked.thinking})
    others = {name: prepare(recipe, source, data) for name, data in recipe.tasks.items()}
    manifest = Manifest(
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        versions={name: version(name) for name in _LIBRARIES}
        | {"python": platform.python_version()},
        model={"name": source.name, "origin": source.origin, "sha256": source.sha256},
        data={
            "sha256": {
                path: digest
                for part in (checked, *others.values())
                for path, digest in part.dataset.sha256.items()
            }
        },
        host={
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "device": str(pick_device(recipe.device)),
            "folder": str(Path.cwd()),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
    directory = RunDirectory.create(recipe.output / recipe.name, manifest)
    for task, found in {"": checked, **others}.items():
        for split in found.rendered:
            examples = found.kept(split)
            directory.write_split(split, examples, task)
            manifest.data[f"{task}.{split}" if task else split] = len(examples)
    findings = [finding for part in (checked, *others.values()) for finding in part.findings]
    directory.write_findings(findings)
    manifest.lineage = copy_earlier_run(directory, recipe)
    manifest.state = "training"
    directory.write_manifest(manifest)
    _say(findings, bars)
    return directory


def _say(findings: Sequence[Finding], bars: Bars) -> None:
    for finding in findings:
        if finding.severity == "warning":
            bars.say(f"[yellow]warning[/] {escape(finding.message)}")
        elif finding.kind == LIMIT:
            bars.say(f"[dim]{escape(finding.message)}[/]")
