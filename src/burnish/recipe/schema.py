"""The recipe of a run: immutable, strictly validated, with the origin of every value.

A recipe sets the model, data, method, objective, evaluation and forgetting budgets. All unknown
keys, wrong types and impossible values are reported at once, with hints for misspelt keys.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

from burnish.errors import RecipeError, shown
from burnish.recipe.certification import REPLAYED, Budget, Heal, Replay, ScaleSearch
from burnish.recipe.data import Data, Mixing, Task
from burnish.recipe.evaluate import Evaluate
from burnish.recipe.files import check_name, place_files, read_yaml, whole_files
from burnish.recipe.methods import METHODS, Bottleneck, LastN, Lora, Method, Prefix
from burnish.recipe.model_settings import ModelSettings
from burnish.recipe.objectives import (
    SETTINGS,
    Classify,
    Distill,
    Dpo,
    Grpo,
    Head,
    Kto,
    Lm,
    ObjectiveSettings,
    Reward,
    Sft,
    Tag,
    find_settings,
)
from burnish.recipe.paths import beginning_in, expanded
from burnish.recipe.problems import (
    SEVERAL,
    problems_of,
    quotable,
    recipe_error,
)
from burnish.recipe.search_space import numbers, space_problems
from burnish.recipe.section import Section
from burnish.recipe.training import Training

Origin = Literal["default", "recipe", "command line", "derived"]
_SPLITS = ("train", "validation", "test")
_NOT_FOR_HEADS = {
    "evaluate.general": "leave it out, or set it to null",
    "evaluate.answer": "leave it out",
    "evaluate.max_new_tokens": "leave it out",
    "data.system": "leave it out, a head reads the text alone",
    "model_settings.stop_tokens": "leave it out",
}
# Keys with names chosen by the user, which may contain full stops.
_WHOLE = ("budget.suites", "classify.weights", "tag.weights", "tasks")


class Sweep(Section):
    """The search space of `burnish sweep`; by default learning rate, rank and epochs."""

    space: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="dotted key to a range [low, high] of numbers, or to a list of values",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _read_space(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        flat = {key: numbers(values) for key, values in _flatten(space).items()}
        if problems := space_problems(flat, known_keys()):
            raise PydanticCustomError(SEVERAL, "problems of a space", {"problems": problems})
        return flat


class Recipe(Section):
    """All settings of one run."""

    name: str = Field(
        "run",
        pattern=r"[^.]",
        description="name of the run's folder in `output`; by default that of the recipe file",
    )
    model: str = Field(
        "smollm2-135m", description="a built-in model, a folder, or a name on the Hugging Face Hub"
    )
    model_settings: ModelSettings = Field(default_factory=ModelSettings)
    data: Data
    tasks: dict[str, Task] = Field(
        default_factory=dict, description="further data sets trained together with `data`, by name"
    )
    mixing: Mixing = Field(default_factory=Mixing)
    stages: tuple[dict[str, Any], ...] = Field(
        (), description="runs in sequence, each with a name and the values that differ"
    )
    method: Literal["lora", "qlora", "full", "last-n", "ia3", "prefix", "bottleneck"] = Field(
        "lora", description="which weights are trained"
    )
    init_from: Path | None = Field(None, description="folder of a finished run to start from")
    init: Literal["merge", "stack", "continue"] = Field(
        "merge",
        description="merge its adapter, stack a new one on it, or continue training it",
    )
    objective: str = Field("sft", description="training objective", examples=list(SETTINGS))
    lora: Lora = Field(default_factory=Lora)
    last_n: LastN = Field(default_factory=LastN)
    prefix: Prefix = Field(default_factory=Prefix)
    bottleneck: Bottleneck = Field(default_factory=Bottleneck)
    sft: Sft = Field(default_factory=Sft)
    lm: Lm = Field(default_factory=Lm)
    dpo: Dpo = Field(default_factory=Dpo)
    kto: Kto = Field(default_factory=Kto)
    grpo: Grpo = Field(default_factory=Grpo)
    distill: Distill = Field(default_factory=Distill)
    classify: Classify = Field(default_factory=Classify)
    tag: Tag = Field(default_factory=Tag)
    reward: Reward = Field(default_factory=Reward)
    training: Training = Field(default_factory=Training)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    budget: Budget = Field(default_factory=Budget)
    scale_search: ScaleSearch = Field(default_factory=ScaleSearch)
    replay: Replay = Field(default_factory=Replay)
    heal: Heal = Field(default_factory=Heal)
    sweep: Sweep = Field(default_factory=Sweep)
    output: Path = Field(Path("runs"), description="folder that holds the runs")
    seed: int = Field(0, ge=0, description="seed of every random choice")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device for the model; auto uses the GPU if there is one"
    )

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    @field_validator("init_from")
    @classmethod
    def _whole_path(cls, folder: Path | None) -> Path | None:
        return folder and folder.absolute()

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str) -> str:
        if find_settings(name) is None:
            *names, last = (repr(known) for known in SETTINGS)
            raise PydanticCustomError(
                "literal_error", f"input should be {', '.join(names)} or {last}"
            )
        return name

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        """Check that a task's name can be a folder name, next to those of the splits."""
        for name in tasks:
            if not name.replace("-", "").isidentifier() or name in _SPLITS:
                raise PydanticCustomError(
                    "name", f"{shown(name)} cannot name a task; use a plain word"
                )
        return tasks

    @property
    def origins(self) -> dict[str, Origin]:
        """The origin of the value of each dotted key."""
        return dict(self._origins)

    @property
    def objective_settings(self) -> ObjectiveSettings:
        """The objective's section, with the properties of the objective."""
        settings: ObjectiveSettings = getattr(self, self.objective)
        return settings

    @property
    def method_traits(self) -> Method:
        """The properties of the method."""
        return METHODS[self.method]


def _recipe_class(objective: Any) -> type[Recipe]:
    """Return the class of recipes, with a section for an objective that is not built in."""
    settings = find_settings(objective) if isinstance(objective, str) else None
    if settings is None or objective in Recipe.model_fields:
        return Recipe
    return _with_section(objective, settings)


@functools.cache  # recipes with the same objective need the same class to be comparable
def _with_section(name: str, settings: type[ObjectiveSettings]) -> type[Recipe]:
    section: Any = (settings, Field(default_factory=settings))
    return create_model("Recipe", __base__=Recipe, **{name: section})


def load_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a YAML recipe; `overrides`, nested or dotted, replace its values.

    Relative paths of data and suites start at the recipe's folder, so that a recipe can be used
    from anywhere. Those of runs, such as `output` and `init_from`, start at the current folder.

    Raises:
        RecipeError: the file is missing or not YAML, or a key or value is wrong.
    """
    path = expanded(path)
    written = read_yaml(path)
    forced = _flatten(overrides or {})
    place_files(written, lambda file: beginning_in(path.parent, file))
    values = nested(_flatten(written) | forced)
    values.setdefault("name", path.parent.resolve().name if path.stem == "recipe" else path.stem)
    recipe = build_recipe(values, recipe_keys=set(_flatten(written)), command_keys=set(forced))
    check_name(recipe.name)
    return recipe


def recipe_of_rows(train: Path | str, overrides: Mapping[str, Any]) -> Recipe:
    """Create a recipe from a file of rows and `overrides`, nested or dotted.

    Raises:
        RecipeError: a key or value is wrong.
    """
    values = {"data.train": str(train)} | _flatten(overrides)
    return build_recipe(nested(values), recipe_keys=set(), command_keys=set(values))


def build_recipe(
    values: Mapping[str, Any], *, recipe_keys: set[str], command_keys: set[str]
) -> Recipe:
    """Validate nested values and set their origins.

    Raises:
        RecipeError: a key or value is wrong; the error contains all problems.
    """
    objective = values.get("objective")
    kind = _recipe_class(objective)
    settings = SETTINGS.get(objective) if isinstance(objective, str) else None
    if settings is not None and settings.head is not None:
        values = _for_head(values, settings.head)
    replay = values.get("replay")
    if isinstance(replay, Mapping) and replay.get("data") and "rows" not in replay:
        values = {**values, "replay": {**replay, "rows": REPLAYED}}
    try:
        recipe = kind.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error.errors(), known_keys())
        count = f"{len(problems)} problems in the recipe" if len(problems) > 1 else "the recipe"
        remedy = "correct it, `burnish run --explain` shows the keys"
        raise recipe_error(problems, count, remedy) from error
    derived = set(_flatten(values)) - recipe_keys - command_keys
    for key, _ in flat_values(recipe):
        recipe._origins[key] = _origin(key, recipe_keys, command_keys, derived)
    return recipe


def _for_head(values: Mapping[str, Any], head: Head) -> Mapping[str, Any]:
    """Change the defaults for a model with a head; texts to label are short, so batches are larger.

    Raises:
        RecipeError: the recipe sets a key that needs generated text.
    """
    flat = _flatten(values)
    if head.reads_conversations:
        return nested({"evaluate.general": None} | flat)
    for key, remedy in _NOT_FOR_HEADS.items():
        if flat.get(key) is not None:
            raise RecipeError(
                f"{key} is {shown(flat[key])}, but a model of objective {values['objective']} does "
                "not generate text",
                remedy,
                code="not_for_head",
                key=key,
                value=quotable(flat[key]),
                objective=values["objective"],
            )
    return nested({"evaluate.general": None, "training.batch_size": 32} | flat)


def restore_recipe(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Recipe:
    """Restore the recipe of a run from its manifest, with the saved origins."""
    recipe = _recipe_class(values.get("objective")).model_validate(values)
    recipe._origins.update(origins)
    return recipe


def changed_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values, nested or dotted, whose origin is `derived`.

    Raises:
        RecipeError: a new value is wrong.
    """
    changes = _flatten(changes)
    values = nested({**dict(flat_values(recipe)), **changes})
    if changes.get("objective", recipe.objective) != recipe.objective not in Recipe.model_fields:
        del values[recipe.objective]  # only recipes with this objective have this section
    built = build_recipe(values, recipe_keys=set(), command_keys=set())
    derived: dict[str, Origin] = dict.fromkeys(changes, "derived")
    return restore_recipe(built.model_dump(mode="json"), recipe.origins | derived)


def resolve_recipe(recipe: Path | str | Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Load a recipe file unless it is loaded already, and apply `overrides`."""
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    return changed_recipe(recipe, overrides) if overrides else recipe


def flat_values(recipe: Recipe, folder: Path | None = None) -> Iterator[tuple[str, Any]]:
    """Return dotted keys and values in the order of the classes.

    With a `folder`, relative paths are made absolute from there.
    """
    values = recipe.model_dump(mode="json")
    yield from _flatten(whole_files(values, folder) if folder else values, empty=True).items()


def explain(recipe: Recipe) -> list[tuple[str, Any, Origin]]:
    """Return each dotted key with its value and its origin."""
    return [(key, value, recipe.origins[key]) for key, value in flat_values(recipe)]


def known_keys() -> list[str]:
    """Return every dotted key of a recipe, including those of all registered objectives."""
    added = (name for name in SETTINGS if name not in Recipe.model_fields)
    further = (key for name in added for key in (name, *_keys_of(SETTINGS[name], f"{name}.")))
    return [*_keys_of(Recipe), *further]


def _keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in section.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys_of(info.annotation, f"{prefix}{name}.")


def _origin(key: str, recipe: set[str], command: set[str], derived: set[str]) -> Origin:
    for origin, keys in (("command line", command), ("recipe", recipe), ("derived", derived)):
        if any(key == k or key.startswith(k + ".") or k.startswith(key + ".") for k in keys):
            return origin  # type: ignore[return-value]
    return "default"


def _flatten(values: Mapping[str, Any], prefix: str = "", empty: bool = False) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        whole = not isinstance(value, Mapping) or f"{prefix}{key}" in _WHOLE
        if isinstance(value, Mapping) and value and not whole:
            flat |= _flatten(value, f"{prefix}{key}.", empty)
        elif whole or empty:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested sections, as in a recipe file."""
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        section = root
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                inner = section[parent] = {}
            section = inner
        section[last] = value
    return root
