"""Writes the model card: intended use, gains and losses, training, data, and how to load it.

Markdown with the YAML front matter of the Hugging Face Hub. The licence is not known, so the card
does not name one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.models.lineage import needs_earlier_weights
from burnish.recipe.methods import METHODS, Method
from burnish.recipe.objectives import Head, find_settings
from burnish.reports.html import confusion
from burnish.reports.read_run import (
    MISSING,
    Contents,
    Row,
    count,
    flat,
    leakage_line,
    ledger_groups,
    number,
    plain,
    read_contents,
    signed,
)
from burnish.reports.render_template import render_template
from burnish.runs.atomic import write_atomic
from burnish.runs.directory import RunDirectory

# Hub names of the built-in models, whose weights are quantised copies of those on the Hub.
_HUB_TWINS = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gemma3-270m": "google/gemma-3-270m",
}


def write_card(run: RunDirectory) -> Path:
    """Write `card.md` of a finished or unfinished run atomically.

    Raises:
        RunError: a file of the run is incomplete.
    """
    path = run.path / "card.md"
    write_atomic(path, _render(read_contents(run)))
    return path


def _render(contents: Contents) -> str:
    recipe = flat(contents.manifest.recipe)
    groups = ledger_groups(contents.ledger)
    lineage = contents.manifest.lineage
    by_peft = _by_peft(recipe) and not (lineage and needs_earlier_weights(lineage))
    return render_template(
        "burnish.reports",
        "card.md.j2",
        cell,
        count,
        _points,
        _gain,
        front=yaml.safe_dump(_front(recipe, by_peft), sort_keys=False, allow_unicode=True),
        contents=contents,
        manifest=contents.manifest,
        recipe=recipe,
        groups=groups,
        fallen=_worse(groups),
        labels=_labels(contents),
        metrics=[row.metric for row in contents.ledger if row.kind == "target"],
        settings=_settings(contents, recipe),
        hub=_hub_name(recipe),
        base=_name_of(recipe),
        whole=_whole(recipe),
        method=_method(recipe).title,
        by_peft=by_peft,
        lineage=contents.manifest.lineage,
        head=head.auto_class if (head := _head(recipe)) else None,
        leakage=leakage_line(contents.leakage, contents.ledger) if contents.leakage else None,
    )


def cell(value: Any) -> str:
    """Format a value as one line of Markdown, escaped for tables and HTML."""
    text = " ".join(plain(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _front(recipe: Mapping[str, Any], by_peft: bool) -> dict[str, Any]:
    whole, method, head = _whole(recipe), plain(recipe.get("method")), _head(recipe)
    tags = ["burnish", plain(recipe.get("objective")), *([] if whole else [method])]
    library = "transformers" if whole else "peft" if by_peft else "burnish"
    return {
        "base_model": _hub_name(recipe) or _name_of(recipe),
        "library_name": library,
        "pipeline_tag": (head and head.pipeline) or "text-generation",
        "tags": tags,
    }


def _whole(recipe: Mapping[str, Any]) -> bool:
    """Whether the run saves full weights rather than an adapter."""
    return not _method(recipe).is_adapter


def _by_peft(recipe: Mapping[str, Any]) -> bool:
    """Whether PEFT can load the adapter."""
    return _method(recipe).is_adapter and _method(recipe).peft_reads


def _method(recipe: Mapping[str, Any]) -> Method:
    """The traits of the run's method; those of LoRA where the recipe has no method."""
    return METHODS.get(plain(recipe.get("method")), METHODS["lora"])


def _head(recipe: Mapping[str, Any]) -> Head | None:
    settings = find_settings(plain(recipe.get("objective")))
    return settings.head if settings is not None else None


def _name_of(recipe: Mapping[str, Any]) -> str:
    return plain(recipe.get("model"))


def _hub_name(recipe: Mapping[str, Any]) -> str | None:
    """The model's name on the Hub; None for folders and packages."""
    name = _name_of(recipe)
    return name.removeprefix("hf:") if name.startswith("hf:") else _HUB_TWINS.get(name)


def _worse(groups: list[tuple[str, list[Row]]]) -> list[Row]:
    """Tasks that got significantly worse."""
    return [row for _, rows in groups for row in rows if row.tone == "worse"]


def _labels(contents: Contents) -> list[str]:
    """The labels of a classification task; empty for free-text answers."""
    matrix = confusion(contents.labelled)
    return matrix.labels if matrix is not None else []


def _settings(contents: Contents, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings of the recipe and their results; few are known for another tool.

    The settings of healing attempts are in their own folders.
    """
    method = plain(recipe.get("method"))
    section = f"{_method(recipe).section or method}."
    settings = {
        key: value
        for key, value in recipe.items()
        if key in ("method", "objective", "seed") or key.startswith(("training.", section))
    }
    if contents.manifest.adopted:
        settings = {key: recipe[key] for key in ("method", "lora.rank", "lora.alpha")}
    return settings | {k.replace("_", " "): v for k, v in flat(contents.manifest.training).items()}


def _points(value: float | None) -> str:
    return MISSING if value is None else f"{number(value, 2)} points"


def _gain(value: float | None) -> str:
    return MISSING if value is None else f"{signed(value, 2)} points"
