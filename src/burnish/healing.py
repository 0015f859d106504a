"""Healing: where a model forgot too much, other ways to learn the same, one lever at a time.

Every attempt is a run of its own below the run's `heal/`, and is judged on PROBE and the validation
rows as the run's own checkpoints are. The levers are pulled in turn, those first that cost little
or mend much, until a candidate is expected to keep every budget with 90 % of the target gain, or
until the time is up. CERT is not looked at in between: all attempts together are one search.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from burnish.chat import Example
from burnish.lineage import keep_earlier, link, recipe_of
from burnish.models.cache import cache_folder
from burnish.progress import Bars
from burnish.recipe import Recipe, changed_recipe
from burnish.run_directory import RunDirectory
from burnish.searching import Search
from burnish.training.replay import examples_of, replayed
from burnish.tuning import ANCHORED, TOLERATED

# What of the target gain has to be kept; the issue is settled once a candidate inside keeps it.
_ENOUGH = 0.9
# Conversations to hold to, and how many of them a step reads where nothing else is mended.
_ROWS, _EACH = 64, 8

Settings = dict[str, Any]
Train = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Lever:
    """One way to forget less.

    Attributes:
        name: as the attempt's folder is called.
        words: what it does.
        settings: what it changes in the recipe; None where it does not apply.
        share: of the run's training time that it is expected to take.
        on_prompts: whether it learns on general prompts alone, which the base wrote.
    """

    name: str
    words: str
    settings: Callable[[Recipe, "Past"], Settings | None]
    share: float = 1.0
    on_prompts: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What a lever goes on from: the run, its learning rate, and whether it can be trained anew."""

    run: RunDirectory
    rate: float
    anew: bool


def _mend(recipe: Recipe, past: Past) -> Settings | None:
    """From the weights as they are, held to the base, with half the rate and half the rows."""
    if recipe.method not in ("lora", "qlora") or recipe.objective not in ANCHORED:
        return None
    return _onwards(recipe, past) | {
        "training.epochs": recipe.training.epochs / 2 if past.anew else 1.0,
        "replay.rows": _ROWS,
        "replay.mode": "anchor",
        "replay.each": _EACH,
    }


def _anchor(recipe: Recipe, past: Past) -> Settings | None:
    if not past.anew or recipe.objective not in ANCHORED:
        return None
    held = recipe.replay.rows and recipe.replay.mode == "anchor"
    tolerated = recipe.replay.divergence or TOLERATED * recipe.budget.general
    return {
        "replay.rows": max(recipe.replay.rows, _ROWS),
        "replay.mode": "anchor",
        "replay.divergence": tolerated / 2 if held else tolerated,
    }


def _rate(recipe: Recipe, past: Past) -> Settings | None:
    return {"training.learning_rate": past.rate / 2} if past.anew else None


def _entropy(recipe: Recipe, past: Past) -> Settings | None:
    return _focused(recipe, past, "entropy")


def _likely(recipe: Recipe, past: Past) -> Settings | None:
    return _focused(recipe, past, "likely")


def _focused(recipe: Recipe, past: Past, focus: str) -> Settings | None:
    fits = past.anew and recipe.objective == "sft" and recipe.sft.focus != focus
    return {"sft.focus": focus} if fits else None


def _replay(recipe: Recipe, past: Past) -> Settings | None:
    fits = past.anew and recipe.objective == "sft" and not recipe.replay.rows
    return {"replay.rows": _ROWS, "replay.mode": "text"} if fits else None


def _on_policy(recipe: Recipe, past: Past) -> Settings | None:
    """Its own answers to general prompts, drawn to what the base would say (GKD, reverse KL)."""
    if recipe.method not in ("lora", "qlora") or recipe.tasks:
        return None
    return _onwards(recipe, past) | {
        "objective": "distill",
        "distill.on": "samples",
        "distill.direction": "reverse",
        "distill.max_new_tokens": 40,
        "replay.rows": 0,
        "training.epochs": 2.0,
    }


def _onwards(recipe: Recipe, past: Past) -> Settings:
    """From the run's last weights, which learn on at half the rate."""
    return {
        "init_from": str(past.run.path),
        "init": "continue",
        "training.learning_rate": past.rate / 2,
    }


LEVERS = (
    Lever("mend", "goes on from the last checkpoint, held to the base", _mend, 0.8),
    Lever("anchor", "learns anew, held to the base on what the base wrote", _anchor, 1.4),
    Lever("rate", "learns anew at half the rate", _rate),
    Lever("entropy", "learns tokens by how unsure the model is (EAFT)", _entropy),
    Lever("likely", "learns the tokens that the base finds likely (STM)", _likely),
    Lever("replay", "learns beside what the base wrote", _replay, 1.5),
    Lever("on-policy", "is drawn to the base on its own answers", _on_policy, on_prompts=True),
)
_SLOPES = (0.5, 1.0)
# One in so many prompts chooses the checkpoint.
_HELD = 5
# Where the run's own training is not known: seconds, and the rate of most LoRA recipes.
_UNKNOWN, _RATE = 300.0, 2e-4


def is_well(search: Search) -> bool:
    """Whether a candidate expected inside has 90 % of the greatest gain that was seen."""
    best = search.inside()
    gains = [one.gain for one in search.found.values() if one.gain is not None]
    return best is not None and (best.gain or 0.0) >= _ENOUGH * max(gains, default=0.0) > 0


def heal(search: Search, minutes: float, train: Train, bars: Bars, *, anew: bool = True) -> None:
    """Pulls levers until the search holds a candidate that is well, or the time is up.

    Args:
        search: of the run; the attempts' candidates are added to it.
        minutes: for all attempts together; one that is not expected to fit is not begun.
        train: goes on with a run that was begun, and returns it trained.
        bars: progress.
        anew: whether the run can be trained again, as an adapter of another tool cannot.
    """
    directory, recipe = search.directory, search.recipe
    ends = time.monotonic() + 60 * minutes
    if recipe.method in ("lora", "qlora"):
        for slope in _SLOPES:
            if is_well(search) or time.monotonic() + search.seconds_a_look > ends:
                break
            bars.say(f"[bold]healing[/] with less of the adapter in the first layers ({slope:g})")
            search.tilted(slope)
    manifest = directory.manifest()
    training = float(manifest.times.get("train", _UNKNOWN))
    past = Past(directory, float(manifest.training.get("learning_rate", _RATE)), anew)
    for number, lever in enumerate(LEVERS, 1):
        name = f"{number}-{lever.name}"
        if is_well(search):
            break
        settings = lever.settings(recipe, past)
        if settings is None:
            continue
        if time.monotonic() + lever.share * training + search.seconds_a_look > ends:
            bars.say(f"[dim]no time is left for {name}, which {lever.words}[/]")
            continue
        bars.say(f"[bold]healing[/] {name}: {lever.words}")
        started = time.monotonic()
        prompts = _prompts(search) if lever.on_prompts else None
        attempt = _begin(directory, _attempt(recipe, settings, directory, name), prompts)
        with search.closed():
            train(recipe_of(attempt.manifest()), resume=True, quiet=bars.console.quiet)
        search.run(name, attempt)
        best = search.inside()
        directory.log(
            "heal",
            attempt=name,
            words=lever.words,
            seconds=round(time.monotonic() - started, 1),
            well=is_well(search),
            best=best.label if best else None,
        )


def _attempt(recipe: Recipe, settings: Settings, run: RunDirectory, name: str) -> Recipe:
    """The run's recipe with what the lever changes; nothing of it is judged by itself."""
    own = {
        "name": name,
        "output": str(run.path / "heal"),
        "training.preflight": False,
        "evaluate.general": None,
    }
    return changed_recipe(recipe, own | settings)


def _begin(run: RunDirectory, recipe: Recipe, prompts: list[Example] | None) -> RunDirectory:
    """A run on the very rows of the first one, whatever became of its files since."""
    path = recipe.output / recipe.name
    if path.exists():  # a heal that was interrupted
        return RunDirectory.open(path)
    manifest = replace(
        run.manifest(),
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        times={},
        training={},
        lineage={},
        changes=[],
    )
    made = RunDirectory.create(path, manifest)
    if prompts is None:
        shutil.copytree(run.path / "data", made.path / "data", copy_function=link)
    else:
        held = max(1, len(prompts) // _HELD)
        for split, rows in (("train", prompts[held:]), ("validation", prompts[:held])):
            made.write_split(split, rows)
        made.write_split("test", ())
        made.write_findings(())
    manifest.lineage = keep_earlier(made, recipe)
    manifest.state = "training"
    made.write_manifest(manifest)
    return made


def _prompts(search: Search) -> list[Example]:
    rows = replayed(search.model, _ROWS, search.recipe.seed, cache_folder() / "replay")
    return list(examples_of(rows))
