"""The path of one chat request, from its route to the sampled token and back, in at most 10 files.

A newcomer who reads these files in this order has followed a request. Not listed are the types that
the files pass to each other (`serving.schemas`, `inference.types`), what only some requests use
(tools, grammars, adapters, the prefix cache), and the tensor code below one forward pass.
"""

import ast
from pathlib import Path

from tests.house.test_house import SOURCE, imported

PATH = [
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


def file_of(name: str) -> Path:
    return SOURCE.joinpath(*name.split(".")).with_suffix(".py")


def test_the_path_of_a_chat_request_is_short() -> None:
    assert len(PATH) <= 10
    assert all(file_of(name).is_file() for name in PATH)


def test_each_file_of_the_path_is_imported_by_one_before_it() -> None:
    known = PATH[:1]
    for name in PATH[1:]:
        found = {
            earlier
            for earlier in known
            for each in imported(ast.parse(file_of(earlier).read_text(encoding="utf-8")))
            if each.startswith(f"burnish.{name}.")
        }
        assert found, f"no file before {name} imports it"
        known.append(name)


def test_chat_imports_no_other_middleware() -> None:
    """Middleware that every request passes is no part of the path, unless the path imports it."""
    for name in PATH:
        tree = ast.parse(file_of(name).read_text(encoding="utf-8"))
        modules = {each.rpartition(".")[0].removeprefix("burnish.") for each in imported(tree)}
        assert {one for one in modules if one.startswith("serving.middleware")} <= set(PATH), name
