"""Two paths that a newcomer follows, file by file, each short enough to be read in an afternoon.

Not listed are the types that files pass to each other, what only some requests or runs use, and the
tensor code below one forward pass. For a request these are `serving.schemas` and `inference.types`;
tools, grammars, adapters and the prefix cache. For a run they are `training.batches` (which rows a
step reads) and the recipe; the readers of each file type, preflight, replay, the learning rate
test, heads, and starting from an earlier run.
"""

import ast
from pathlib import Path
from typing import Any

import pytest

from burnish.training.objectives import OBJECTIVES
from tests.house.test_house import SOURCE, imported

# One chat request, from its route to the sampled token and back.
CHAT = [
    "serving.routes.chat",  # the body is checked; the reply is built at the end
    "serving.routes.generation",  # the model is found; requests are submitted, answers collected
    "serving.middleware.request_state",  # whose request it is; its tokens are counted
    "serving.catalog.registry",  # from the model's name to the served model
    "serving.catalog.served_model",  # from messages to prompt tokens, from tokens to their text
    "inference.engine",  # the request enters the queue of the engine's thread
    "inference.scheduler",  # running requests are batched, step by step
    "inference.forward",  # from tokens to hidden states and logits
    "inference.sampling",  # from logits to the next token
    "inference.stream",  # from tokens to text, and back to the route's event loop
]
# One run of supervised fine-tuning with LoRA, from the command to the saved weights.
TRAINING = [
    "cli.train",  # the options, and the summary at the end
    "pipeline.train",  # the stages of the training
    "pipeline.prepare",  # the run directory with its checked rows
    "data.load",  # from files to training, validation and test rows
    "data.render",  # from conversations to tokens with loss weights
    "training.build",  # from the recipe to the model and its loop
    "models.load",  # the base model
    "models.adapt",  # the adapter, new and saved
    "training.loop",  # the steps
    "training.objectives.sft",  # the loss of a batch
    "models.branches",  # from rows to the log-probabilities of their tokens
    "training.checkpoint",  # the weights on the disk
]


def file_of(name: str) -> Path:
    return SOURCE.joinpath(*name.split(".")).with_suffix(".py")


def test_the_path_of_a_chat_request_is_short() -> None:
    assert len(CHAT) <= 10


def test_the_path_of_a_training_run_is_short() -> None:
    assert len(TRAINING) <= 12
    assert sum(len(file_of(name).read_text().splitlines()) for name in TRAINING) <= 3000


@pytest.mark.parametrize("path", [CHAT, TRAINING], ids=["chat", "training"])
def test_each_file_of_a_path_is_imported_by_one_before_it(path: list[str]) -> None:
    known = path[:1]
    for name in path[1:]:
        package, _, module = name.rpartition(".")
        found: set[Any] = {
            earlier
            for earlier in known
            for each in imported(ast.parse(file_of(earlier).read_text(encoding="utf-8")))
            if each.startswith(f"burnish.{name}.") or each == f"burnish.{package}.{module}"
        }
        # A run finds its objective by the name in the recipe.
        found |= {type_ for type_ in OBJECTIVES.values() if type_.__module__ == f"burnish.{name}"}
        assert found, f"no file before {name} imports it"
        known.append(name)


def test_chat_imports_no_other_middleware() -> None:
    """Middleware that every request passes is no part of the path, unless the path imports it."""
    for name in CHAT:
        tree = ast.parse(file_of(name).read_text(encoding="utf-8"))
        modules = {each.rpartition(".")[0].removeprefix("burnish.") for each in imported(tree)}
        assert {one for one in modules if one.startswith("serving.middleware")} <= set(CHAT), name
