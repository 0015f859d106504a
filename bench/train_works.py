"""What the training bench trains: rows, model, objective and batches of each work."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from burnish.recipe.schema import Recipe, build_recipe, load_recipe
from burnish.training.batches import Batches
from burnish.training.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "support-routing" / "recipe.yaml"
SHARED = ROOT.parent / "shared" / "data"
RATE = 1e-3
RANK, ALPHA = 16, 32
ANSWERS, ANSWER_TOKENS = 8, 64
# On-policy GRPO's loss does not depend on the weights, so there gradient norms are compared: the
# names that Burnish and the peers give them.
COMPARED = {"grpo": ("gradient_norm", "grad_norm")}


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Args:
        name: as `--works` takes it.
        objective: its name in recipes.
        file: rows, or None for those of the demo recipe.
        batch: items a step.
        longest: tokens; items that are longer are left out.
        sides: who is measured; `default` and `grouped` are peers, and so is what follows.
    """

    name: str
    objective: str
    file: Path | None
    batch: int
    longest: int
    sides: tuple[str, ...] = ("burnish", "default", "grouped")

    def missing(self) -> str | None:
        """Why it cannot be measured."""
        if self.objective not in OBJECTIVES:
            return f"there is no objective {self.objective}"
        if self.file is not None and not self.file.exists():
            return f"{self.file.name} is not there"
        return None

    def recipe(self) -> Recipe:
        if self.file is None:
            return load_recipe(RECIPE)
        data = {"train": self.file, "split": {"validation": 0.0, "test": 0.0}, "drop_bad": True}
        values = {"data": data, "objective": self.objective if self.objective != "grpo" else "sft"}
        return build_recipe(values, recipe_keys=set(values), command_keys=set())

    def goal(self) -> Any:
        """The objective with its defaults."""
        return sampled_before() if self.objective == "grpo" else OBJECTIVES[self.objective]()

    def model(self) -> Any:
        """The model with a fresh adapter, alike on every side; rows are rendered with it."""
        return _MODELS.get(self.objective, _language_model)(self)

    def batches(self, tokenizer: Any, steps: int) -> list[list[Any]]:
        """The items of the first steps, as the loop would take them.

        The last batch of an epoch is short; peers would fill it up, so no side gets it.
        """
        from burnish.data.load import load

        recipe = self.recipe()
        examples = load(recipe.data, recipe.seed).train
        items = self.goal().items(examples, tokenizer, 1 << 30)
        items = [item for item in items if _longest_row(item) <= self.longest]
        batches = Batches({"train": items}, self.batch, 1, 100, recipe.seed)
        full: list[list[Any]] = []
        for number in range(batches.steps):
            if len(full) < steps:
                full += [batch for batch in batches.step(number) if len(batch) == self.batch]
        return full[:steps]


def _longest_row(item: Any) -> int:
    rows = [item.chosen, item.rejected] if hasattr(item, "rejected") else [item]
    rows = getattr(item, "rows", rows)
    return max(row.size for row in rows)


def sampled_before() -> Any:
    """GRPO whose answers are there already: only its training is measured.

    A prompt's eight answers are the beginnings of its own and of seven other rows' answers, with
    random rewards.
    """
    from burnish.models.branches import Row
    from burnish.training.objectives.base import rows_of
    from burnish.training.objectives.grpo import Group, Grpo, advantages_of

    class Given(Grpo):
        """Items come with answers."""

        def items(self, examples: Any, tokenizer: Any, max_length: int) -> list[Group]:
            rows = rows_of(examples, tokenizer, max_length)
            starts = [row.weights.index(1.0) for row in rows]
            answers = [
                row.tokens[start : start + ANSWER_TOKENS]
                for row, start in zip(rows, starts, strict=True)
            ]
            chance = random.Random(0)
            groups = []
            for at, (row, start) in enumerate(zip(rows, starts, strict=True)):
                prompt = tuple(row.tokens[:start])
                own = [answers[(at + step) % len(rows)] for step in range(ANSWERS)]
                found = tuple(
                    Row([*prompt, *answer], [0.0] * start + [1.0] * len(answer)) for answer in own
                )
                rewards = tuple(chance.random() for _ in own)
                groups.append(Group(prompt, examples[at], found, rewards, advantages_of(rewards)))
            return groups

        def collect(self, network: Any, items: Any, step: int) -> list[Group]:
            return list(items)

    nothing: Any = None
    return Given(reward=nothing, tokenizer=nothing)


def _language_model(_: Work) -> Any:
    from burnish.models.adapt import add_lora
    from burnish.models.load import load_model

    model = load_model("smollm2-135m")
    model.module = add_lora(model.module, rank=RANK, alpha=ALPHA, seed=0)
    return model


def _classifier(work: Work) -> Any:
    from burnish.data.load import load
    from burnish.models.adapt import add_lora
    from burnish.models.classifier import load_classifier

    recipe = work.recipe()
    labels = sorted({str(example.label) for example in load(recipe.data, recipe.seed).train})
    model = load_classifier("all-minilm-l6-v2", "auto", "classify", labels, 0)
    for module in model.module.modules():
        if isinstance(module, nn.Dropout):  # the sides draw differently, so losses would differ
            module.p = 0.0
    model.module = add_lora(
        model.module,
        rank=RANK,
        alpha=ALPHA,
        seed=0,
        whole=list(model.fresh) or None,
    )
    return model


_MODELS: dict[str, Callable[[Work], Any]] = {"classify": _classifier}

WORKS = {
    work.name: work
    for work in (
        Work("sft-shared", "sft", None, 8, 2048, ("burnish", "default", "grouped", "padding-free")),
        Work(
            "sft-chat",
            "sft",
            SHARED / "dolly_sample" / "train.jsonl",
            8,
            512,
            ("burnish", "default", "grouped", "padding-free"),
        ),
        Work("dpo", "dpo", SHARED / "hh_harmless" / "test.jsonl", 8, 384),
        Work("grpo", "grpo", SHARED / "dolly_sample" / "train.jsonl", 2, 384),
        Work("classify", "classify", SHARED / "banking77" / "train.jsonl", 32, 256),
    )
}
