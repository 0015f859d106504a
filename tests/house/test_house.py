"""The style, executable: who may import whom, and how long things may get."""

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import burnish
from burnish.errors import UserError
from burnish.recipe.schema import Recipe, known_keys

SOURCE = Path(burnish.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = Path(__file__).parents[1]
BENCHES = sorted((Path(__file__).parents[2] / "bench").glob("*.py"))
# From the bottom up: each imports only from itself and from those before it.
ORDER = [
    "errors", "terminal", "progress", "conversation", "processes",
    "recipe", "runs", "data", "models", "evaluation", "inference", "export", "parity", "training",
    "certification", "reports", "preflight", "plan", "healing", "pipeline", "sweep",
    "serving.errors", "serving.log", "serving.state", "serving.schemas", "serving.middleware",
    "serving.catalog", "serving.jobs", "serving.routes", "serving.app",
    "cli",
]  # fmt: skip
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "misc"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def step_of(module: str) -> str | None:
    """The step of ORDER that a module under `burnish` belongs to; None of the packages above."""
    parts = module.split(".")[1:]
    return next((name for n in (2, 1) if (name := ".".join(parts[:n])) in ORDER), None)


def module_of(path: Path) -> str:
    return ".".join(["burnish", *path.relative_to(SOURCE).with_suffix("").parts])


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module or name of ours that a file imports, also inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "burnish":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "burnish")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_follows_the_house(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    own = step_of(module_of(path))
    assert own or path.name == "__init__.py", f"{path} belongs to no folder of the order"
    if own:
        uphill = [n for n in imported(tree) if ORDER.index(step_of(n) or "cli") > ORDER.index(own)]
        assert not uphill, f"{path} imports what comes later: {uphill}"
    assert not FORBIDDEN_NAMES & set(path.with_suffix("").parts)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert len(text.splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given = [a for a in arguments if a.arg not in ("self", "cls")]
            # The arguments of a verb are its options, and those of a route what it is sent.
            is_verb = own == "cli" and node.name == "command"
            assert len(given) <= 6 or is_verb, f"{node.name} has {len(given)} parameters"


def test_few_modules_are_loose() -> None:
    loose = [path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__"]
    assert set(loose) <= set(ORDER)
    assert len(loose) <= 5, loose


def test_public_names_are_documented() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        if path.read_text().strip():
            assert ast.get_docstring(tree), f"{path} says nothing"


def test_every_recipe_key_has_a_reader() -> None:
    """A key that nothing reads is a dead knob."""
    readers = "\n".join(p.read_text() for p in FILES if step_of(module_of(p)) != "recipe")
    whole_sections = {"lora", "prefix"}  # handed over whole by model_dump
    for key in known_keys(Recipe):
        section, _, last = key.rpartition(".")
        if section not in whole_sections:
            assert re.search(rf"\.{last}\b", readers), f"nothing reads {key}"


def test_no_process_imports_from_the_folder_that_it_is_started_in() -> None:
    """A user's `json.py` there would be taken for the library's."""
    lists = [
        [ast.unparse(part) for part in node.elts]
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List)
    ]
    started = [parts for parts in lists if "sys.executable" in parts]
    assert len(started) > 4
    assert all(parts[1] in ("'-P'", "'-I'") for parts in started)


def test_text_reaches_a_terminal_by_one_way() -> None:
    """Print JSON, which has no control characters, or pass it through `burnish.terminal`."""
    others = [path for path in FILES if path.name not in ("terminal.py", "sandbox_child.py")]
    for path in others:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called == "print":
                assert ast.unparse(node.args[0]).startswith("json.dumps("), path
            assert called not in ("Console", "traceback.print_exc", "sys.stdout.write"), path


def test_nothing_of_the_workplace_is_named() -> None:
    root = SOURCE.parents[1]
    words = re.compile(r"/work/|\.library|pypi-more|registry host", re.IGNORECASE)
    for path in [
        *FILES,
        *root.glob("*.md"),
        *(root / "docs").rglob("*.md"),
        *(root / "bench").glob("*"),
    ]:
        if path.is_file():
            assert not words.search(path.read_text()), path


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.name)
def test_benches_import_what_is_there(path: Path) -> None:
    """No other test runs them, so a name that moved would be found only by the next measurement."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("burnish"):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{path.name} imports {missing} from {node.module}"


PROGRAM_IMPORT = re.compile(
    r"^(?:from (burnish[\w.]*) import ([\w, ]+)|import (burnish[\w.]*))", re.M
)


def test_programs_that_tests_start_import_what_is_there() -> None:
    """No type checker reads a program in a string, and one that cannot begin may look killed."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            for match in PROGRAM_IMPORT.finditer(text if isinstance(text, str) else ""):
                module = importlib.import_module(match[1] or match[3])
                for name in re.findall(r"\w+", match[2] or ""):
                    assert hasattr(module, name) or importlib.util.find_spec(
                        f"{module.__name__}.{name}"
                    ), f"{path}: {module.__name__} has no {name}"


def families() -> set[str]:
    """Our errors that carry codes, by name."""
    kinds, found = [UserError], set()
    while kinds:
        kind = kinds.pop()
        found.add(kind.__name__)
        kinds += kind.__subclasses__()
    return found | {"ApiError"}


READERS = {"partition", "rpartition", "removeprefix", "removesuffix", "replace", "split", "find"}
READERS |= {"startswith", "endswith", "index", "search", "match", "fullmatch", "findall", "sub"}


def ours(tree: ast.AST) -> set[str]:
    """Names of errors of ours that a file catches."""
    handlers = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name]
    caught = {
        h.name: set(re.findall(r"\w+", ast.unparse(h.type or ast.Name("")))) for h in handlers
    }
    return {str(name) for name, kinds in caught.items() if families().intersection(kinds)}


def says(node: ast.AST, errors: set[str]) -> bool:
    """Whether an expression is the sentence of an error of ours, or a part of it."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("seen", "remedy") and ast.unparse(node.value) in {*errors, "error"}
    called = isinstance(node, ast.Call) and ast.unparse(node.func) == "str" and node.args
    return bool(called) and ast.unparse(node.args[0]) in errors  # type: ignore[attr-defined]


def test_no_program_decides_by_the_words_of_a_message() -> None:
    """A better wording must change nothing: codes and fields are there to be read."""
    for path in (path for path in FILES if path.name != "errors.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        errors = ours(tree)
        for node in ast.walk(tree):
            read: list[ast.AST] = []
            if isinstance(node, ast.Compare):
                read = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                read = [node.func.value, *node.args] if node.func.attr in READERS else []
            assert not any(says(each, errors) for each in read), f"{path}: {ast.unparse(node)}"


def test_no_test_expects_the_words_of_an_error() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
                kinds = set(re.findall(r"\w+", ast.unparse(node.args[0]))) if node.args else set()
                by_words = any(keyword.arg == "match" for keyword in node.keywords)
                assert not (by_words and kinds & families()), f"{path}: {ast.unparse(node)}"
