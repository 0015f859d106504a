"""Plans a run's memory on a GPU from the model's configuration alone: no weights are needed.

The model is built without numbers, so a plan for 27 billion parameters takes seconds and no memory.
A folder with config.json is enough. With a tokenizer in it the rows are counted in tokens;
otherwise every row counts as `training.max_length` tokens.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.errors import ModelError
from burnish.models.adapt import METHODS
from burnish.models.lineage import method_settings
from burnish.models.registry import Source, first_line
from burnish.plan.estimate import Plan
from burnish.plan.fit import Disk
from burnish.plan.memory import CUDA_CONTEXT, Batch, Shapes, memory
from burnish.plan.timing import Steps, count_steps
from burnish.recipe.schema import Recipe
from burnish.training.batches import Batches

# Tokens of a row where neither a tokenizer nor the recipe says how long it is.
_ROW = 2048
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def configuration_of(name: str) -> Source | None:
    """The folder of a model that has a configuration and no weights; None for other names."""
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file() or any(folder.glob("*.safetensors")):
        return None
    return Source(name, folder, sha256="", origin=f"folder {folder.resolve()}", size=0)


def has_tokenizer(source: Source) -> bool:
    """Whether the folder contains a tokenizer."""
    return any((source.path / name).is_file() for name in _TOKENIZER)


def plan_configuration(
    recipe: Recipe, source: Source, rows: dict[str, int], items: Sequence[Any] | None
) -> Plan:
    """Plans a run on a GPU.

    Args:
        recipe: the run's recipe.
        source: the folder with the model's configuration.
        rows: number of rows in each split.
        items: the training items; None without a tokenizer.

    Raises:
        ModelError: the configuration is not one of a language model, or the objective needs a
            head, whose labels are read from the rows of a whole run.
    """
    shapes = shapes_of_configuration(recipe, source)
    given = recipe.training
    if items:
        batches = Batches(
            {"train": list(items)}, given.batch_size, given.gradient_accumulation, given.epochs,
            recipe.seed,
        )  # fmt: skip
        steps = count_steps(batches, shapes, given.workers)
        read, learnt = (
            round(given.epochs * sum(getattr(item, name) for item in items))
            for name in ("size", "learnt")
        )
    else:
        length = given.max_length or _ROW
        full = given.batch_size * length
        count = math.ceil(
            rows["train"] * given.epochs / (given.batch_size * given.gradient_accumulation)
        )
        steps = Steps(count, (1.0,), (0,), Batch(given.batch_size, 0, full, full))
        read = learnt = round(given.epochs * rows["train"] * length)
    computed = memory(shapes, steps.heaviest, program=CUDA_CONTEXT)
    smaller = memory(shapes, steps.heaviest, program=CUDA_CONTEXT, checkpointing=True).total
    weights = shapes.learning * shapes.trained_number
    return Plan(
        rows=rows,
        tokens=read,
        learnt_tokens=learnt,
        steps=steps.count,
        device="cuda, bfloat16, from the configuration",
        workers=given.workers,
        memory=computed,
        checkpointing=False,
        checkpointed=smaller,
        peak=None,
        total_memory=computed.total,
        disk=Disk(weights, given.checkpoints + given.evaluations, 2 * weights, 0),
        seconds=None,
        power=[],
    )


def shapes_of_configuration(recipe: Recipe, source: Source) -> Shapes:
    """The shapes of the model with the recipe's method.

    Raises:
        ModelError: see `plan_configuration`.
    """
    if recipe.objective_settings.head is not None:
        raise ModelError(
            f"objective {recipe.objective} puts a head on the model, which is not planned from a "
            "configuration alone",
            "use a folder with the model's weights",
            code="weights_needed",
            model=source.name,
            objective=recipe.objective,
        )
    module = _built(source)
    traits = recipe.method_traits
    four_bit = _matrices(module) if traits.four_bit else []
    with torch.device("meta"):
        module = METHODS[recipe.method](module, seed=recipe.seed, **method_settings(recipe))
    shapes = Shapes.of(
        module,
        module.config.get_text_config(),
        torch.bfloat16,
        trained=torch.float32 if traits.is_adapter else torch.bfloat16,
        fused=not traits.four_bit,
    )
    return shapes.in_four_bits(four_bit)


def _built(source: Source) -> Any:
    """The language model of a configuration, on torch's meta device."""
    try:
        config = AutoConfig.from_pretrained(str(source.path)).get_text_config()
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the config.json of {source.name} does not describe a language model "
            f"({first_line(error)[:120]})",
            "use a model folder whose architecture transformers supports",
            code="not_a_language_model",
            model=source.name,
            reason=first_line(error),
        ) from error


def _matrices(module: Any) -> list[int]:
    """Sizes of the matrices that 4-bit loading rounds: all linear maps but the vocabulary's."""
    head = module.get_output_embeddings()
    return [
        part.weight.numel()
        for part in module.modules()
        if type(part) is nn.Linear and part is not head
    ]
