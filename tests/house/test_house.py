"""The style, executable: who may import whom, and how long things may get."""

import ast
import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import burnish
from burnish.errors import UserError
from burnish.models import adapt
from burnish.recipe.methods import METHODS
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe

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
    """A module says what it holds, and each public function and class what it is for."""
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body:
            assert ast.get_docstring(tree), f"{path} says nothing"
        for node in tree.body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                is_verb = (
                    path.parent.name == "cli" and node.name == "command"
                )  # it has the module's
                assert is_verb or ast.get_docstring(node), f"{path} {node.name} says nothing"


def sections(kind: type[BaseModel] = Recipe, name: str = "recipe") -> Iterator[tuple[str, Any]]:
    """The recipe and every section in it, each under the name of the field that holds it."""
    yield name, kind
    for field, info in kind.model_fields.items():
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part, field)


@dataclass(frozen=True)
class Uses:
    """What one file reads, and which of its names may hold a section of the recipe.

    `reads` are owners and attributes: of `recipe.training.epochs`, `training` owns `epochs`.
    `annotated` maps names to the words of their annotations, `assigned` to the last words of what
    is assigned to them.
    """

    reads: set[tuple[str, str]]
    annotated: list[tuple[str, set[str]]]
    assigned: list[tuple[str, set[str]]]

    def of(self, name: str, kinds: set[str]) -> set[str]:
        """The attributes that are read of a section, by its name or the names of its classes."""
        owners = {name}
        for target, words in self.annotated:
            owners |= {target, "_" + target} if words & kinds else set()
        owners |= {target for target, words in self.assigned if name in words}
        return {attribute for owner, attribute in self.reads if owner in owners}


def last_word(node: ast.AST) -> str:
    """`epochs` of `recipe.training.epochs`, `tasks` of `recipe.tasks["a"]` and its `.items()`."""
    if isinstance(node, ast.Subscript):
        return last_word(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return last_word(node.func.value) if node.func.attr in ("items", "values") else ""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def uses(tree: ast.AST) -> Uses:
    """What a file reads, in one walk."""
    found, called = Uses(set(), [], []), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            called |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.reads.add((last_word(node.value), node.attr))
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            words = {called.get(w, w) for w in re.findall(r"\w+", ast.unparse(node.annotation))}
            target = node.arg if isinstance(node, ast.arg) else last_word(node.target)
            found.annotated.append((target, words))
        elif isinstance(node, ast.Assign | ast.For | ast.comprehension):
            value = node.value if isinstance(node, ast.Assign) else node.iter
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                pairs = [(target, value)]
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = list(zip(target.elts, value.elts, strict=False))
                for one, bound in pairs:
                    words = {last_word(part) for part in ast.walk(bound)}
                    names = (n.id for n in ast.walk(one) if isinstance(n, ast.Name))
                    found.assigned.extend((name, words) for name in names)
    return found


def own_reads(tree: ast.AST) -> set[str]:
    """The attributes of itself that a class or a method reads."""
    return {attribute for owner, attribute in uses(tree).reads if owner == "self"}


def whole_readers(section: str) -> set[str]:
    """Keys that are read where a section is handed over whole.

    An objective's are the fields of its class, a method's the arguments of its function.
    """
    read: set[str] = set()
    for path in (SOURCE / "training" / "objectives").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and section in [literal(k) for k in node.keywords]:
                read |= own_reads(node)
    functions = {
        adapt.METHODS[name] for name, one in METHODS.items() if one.section == section
    }  # fmt: skip
    for function in functions:
        tree = ast.parse(inspect.getsource(function))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        read |= names & set(inspect.signature(function).parameters)
        gets = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        read |= {
            n.args[0].value
            for n in gets
            if ast.unparse(n.func) == "options.get" and isinstance(n.args[0], ast.Constant)
        }
    return read


def literal(keyword: ast.keyword) -> Any:
    """The constant that a class is given by keyword; None where it is none."""
    return keyword.value.value if isinstance(keyword.value, ast.Constant) else None


def test_every_recipe_key_has_a_reader() -> None:
    """A key is read where its own section's field is, not where any other has its name."""
    others = [path for path in FILES if step_of(module_of(path)) != "recipe"]
    files = [uses(ast.parse(path.read_text(encoding="utf-8"))) for path in others]
    unread = []
    for name, kind in sections():
        kinds = {base.__name__ for base in kind.__mro__ if base.__name__ != "Section"}
        read = set().union(*(file.of(name, kinds) for file in files))
        for one in read & {n for n, p in vars(kind).items() if isinstance(p, property)}:
            getter = textwrap.dedent(inspect.getsource(vars(kind)[one].fget))
            read |= own_reads(ast.parse(getter))
        leaves = {
            field
            for field, info in kind.model_fields.items()
            if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
        }
        unread += [f"{name}.{key}" for key in sorted(leaves - read - whole_readers(name))]
    assert not unread, f"nothing reads {unread}"


def literals(node: ast.AST) -> set[Any]:
    """The constants in an expression."""
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}


def names_a(kind: str, node: ast.AST) -> bool:
    """Whether an expression is an objective's or a method's name, read from a recipe."""
    text = ast.unparse(node)
    return bool(re.search(rf"(^|\.|\[['\"]|get\(['\"]){kind}(\b|$)", text))


@pytest.mark.parametrize(
    ("kind", "names", "folders"),
    [
        ("objective", set(SETTINGS), ("recipe", "training/objectives")),
        ("method", set(METHODS), ("recipe",)),
    ],
)
def test_nothing_asks_which_objective_or_method_it_is(
    kind: str, names: set[str], folders: tuple[str, ...]
) -> None:
    """Facts about them stand with them, so that a new one changes no other module."""
    for path in FILES:
        if path.relative_to(SOURCE).as_posix().startswith(folders):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                asks = any(names_a(kind, side) for side in sides)
                assert not (asks and names & literals(node)), f"{path}: {ast.unparse(node)}"
            elif isinstance(node, ast.Dict | ast.Set | ast.Tuple | ast.List):
                keys = node.keys if isinstance(node, ast.Dict) else node.elts
                listed = {key.value for key in keys if isinstance(key, ast.Constant)}
                # The kinds of a head are called as the objectives that need one.
                is_table = len(listed) > 1 and listed <= names - {"classify", "tag", "reward"}
                assert not is_table or path.name == "adapt.py", f"{path}: {ast.unparse(node)}"


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
