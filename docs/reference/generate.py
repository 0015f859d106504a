"""The tables of the reference, made from the code when the site is built, so they cannot go stale.

A page asks for one with a line such as `<!-- generated: recipe_keys -->`.
"""

import ast
import builtins
import dataclasses
import html
import importlib
import inspect
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

import burnish
from burnish.certification.alpha_ledger import CertUse
from burnish.cli import VERBS, app
from burnish.evaluation.levels.registry import SECTIONS
from burnish.parity.record import Comparison, Difference, Reference, ReferenceAnswer
from burnish.recipe.keys import RecipeKey
from burnish.recipe.keys import recipe_keys as keys_of_recipe
from burnish.runs.candidates import Candidate, Frontier
from burnish.runs.directory import Finding, ItemResult, LedgerRow, Manifest, Verdict
from burnish.runs.levels import KeptLevel, LevelChoice, MeasuredLevel, SectionLevels
from burnish.runs.overlaps import ComparedSet, Leakage, Overlap
from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import open_server
from burnish.serving.middleware.auth import needed
from burnish.serving.state.installation import Settings

_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_KINDS = {str: "text", int: "whole number", float: "number", bool: "none", Path: "path"}
_BRACES = str.maketrans("", "", "{}")
_ACCESS = {"open": "no key", "known": "any key"}
# The files of a run whose rows are typed, each with what its rows are.
_RECORDS: dict[str, tuple[type, ...]] = {
    "manifest.json": (Manifest,),
    "verdict.json": (Verdict,),
    "ledger.json": (LedgerRow,),
    "results/LABEL/TASK.jsonl": (ItemResult,),
    "frontier.json": (Frontier, Candidate),
    "levels.json": (LevelChoice, SectionLevels, MeasuredLevel, KeptLevel),
    "cert-uses.jsonl": (CertUse,),
    "leakage.json": (Leakage, ComparedSet, Overlap),
    "parity.json": (Reference, ReferenceAnswer, Comparison, Difference),
    "data/findings.jsonl": (Finding,),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page; replaces its markers with the tables that they name."""
    return _MARKER.sub(lambda found: _TABLES[found[1]](), markdown)


def recipe_keys() -> str:
    """A table for each section of a recipe, in the order of the code."""
    sections: dict[str, list[RecipeKey]] = {}
    for one in keys_of_recipe():
        section, dot, _ = one.key.partition(".")
        sections.setdefault(section if dot else "", []).append(one)
    parts = []
    for section, keys in sections.items():
        heading = f"## `{section}`" if section else "## Keys of the recipe itself"
        rows = [(f"`{one.key}`", _default(one), _text(one.meaning)) for one in keys]
        parts += [heading, _table(("key", "default", "meaning"), rows)]
    return "\n\n".join(parts)


def verbs() -> str:
    """Each verb with its description, arguments and options."""
    parts = [_table(("verb", "what it does"), [(f"[`{v}`](#{v})", t) for v, t in VERBS.items()])]
    for verb in VERBS:
        command: Any = app.get_command(click.Context(app), verb)
        kinds = get_type_hints(importlib.import_module(f"burnish.cli.{verb}").command)
        parts += [f"## `{verb}` {{ #{verb} }}", _help(command.help or "")]
        given = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        if given:
            rows = [(f"`{one.name}`", _required(one), _text(one.help or "")) for one in given]
            parts.append(_table(("argument", "required", "meaning"), rows))
        if options:
            rows = [(_names(one), _value(kinds[one.name]), _text(_meaning(one))) for one in options]
            parts.append(_table(("option", "value", "meaning"), rows))
    return "\n\n".join(parts)


def python_verbs() -> str:
    """Each function of the package with its signature and docstring."""
    parts = []
    for name in burnish.__all__:
        function = getattr(burnish, name)
        signature = re.sub(
            r"burnish(\.\w+)*\.|pathlib\.(_local\.)?", "", str(inspect.signature(function))
        )
        parts += [f"## `burnish.{name}`", f"`{name}{signature}`", _docstring(function)]
    return "\n\n".join(parts)


def routes() -> str:
    """Each route of the server's OpenAPI document: the scope that it needs and what it takes."""
    with tempfile.TemporaryDirectory() as folder:
        server = open_server(Settings(Path(folder)))
        document = make_app(server).openapi()
        server.drain(0)
    rows, bodies = [], []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            scope = needed(method.upper(), path) or "open"
            said = " ".join(route["description"].split())
            name, access = f"`{method.upper()} {path}`", _ACCESS.get(scope, f"`{scope}`")
            rows.append((name, access, _text(said)))
            bodies += _parameters(document, f"{method.upper()} {path}", route)
    return "\n\n".join([_table(("route", "needs", "what it does"), rows), *bodies])


def error_codes() -> str:
    """Each code with the kinds of error that carry it and the first message that has it."""
    found: dict[str, tuple[set[str], str]] = {}
    for path in sorted(Path(burnish.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            for code in _codes(call):
                kinds, message = found.setdefault(code, (set(), ""))
                kinds.update(re.findall(r"^[A-Z]\w*Error$", ast.unparse(call.func)))
                found[code] = kinds, message or " ".join(_message(call).split())
    rows = [
        (
            f"`{code}`",
            ", ".join(f"`{kind}`" for kind in sorted(kinds)) or "–",
            _text(message or "–"),
        )
        for code, (kinds, message) in sorted(found.items())
    ]
    return _table(("code", "raised as", "message"), rows)


def run_files() -> str:
    """The fields of each typed file of a run directory."""
    parts = []
    for file, kinds in _RECORDS.items():
        parts.append(f"### `{file}` {{ #{re.sub(r'[^a-z]+', '-', file.lower())} }}")
        for kind in kinds:
            parts.append(f"**{kind.__name__}.** " + _docstring(kind))
            rows = [(f"`{one.name}`", f"`{_type(one.type)}`") for one in dataclasses.fields(kind)]
            parts.append(_table(("field", "type"), rows))
    return "\n\n".join(parts)


def _codes(call: ast.Call) -> Iterator[str]:
    """The codes that a call may give its error."""
    for word in call.keywords:
        both = word.value
        for one in (both.body, both.orelse) if isinstance(both, ast.IfExp) else (both,):
            if word.arg == "code" and isinstance(one, ast.Constant) and one.value:
                yield str(one.value)


def _message(call: ast.Call) -> str:
    """The sentence of an error with names for its values; empty where it is put together."""
    for part in call.args:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            return part.value
        if isinstance(part, ast.JoinedStr):
            return re.sub(r"\}\{", "} {", "".join(map(_piece, part.values))).translate(_BRACES)
    return ""


def _piece(part: ast.expr) -> str:
    """A part of a sentence; a value as its name in capitals and braces."""
    if isinstance(part, ast.Constant):
        return str(part.value).translate(_BRACES)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    names = [one.id for one in ast.walk(value) if isinstance(one, ast.Name)]
    own = [name for name in names if not hasattr(builtins, name)] or ["value"]
    name = value.attr if isinstance(value, ast.Attribute) else own[0]
    return "{" + name.strip("_").upper() + "}"


def _parameters(document: Any, name: str, route: Any) -> Iterator[str]:
    rows = [
        (f"`{one['name']}`", one["in"], _schema(one["schema"]), "yes" if one["required"] else "no")
        for one in route.get("parameters", ())
    ]
    for content in route.get("requestBody", {}).get("content", {}).values():
        for body in _objects(document, content["schema"]):
            required = body.get("required", ())
            rows += [
                (f"`{key}`", "body", _schema(value), "yes" if key in required else "no")
                for key, value in body.get("properties", {}).items()
            ]
    if rows:
        yield f"### `{name}`"
        yield _table(("parameter", "in", "type", "required"), list(dict.fromkeys(rows)))


def _objects(document: Any, schema: Any) -> Iterator[Any]:
    """The objects that a body may be."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "properties" in schema:
        yield schema
    for one in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from _objects(document, one)


def _schema(schema: Any) -> str:
    """The type of a value in words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2].removesuffix("-Input")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(_schema(one) for one in several))
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    return str(schema.get("type", "any value"))


def _default(one: RecipeKey) -> str:
    if one.required:
        return "required"
    return f"`{one.default if isinstance(one.default, str) else json.dumps(one.default)}`"


def _required(parameter: Any) -> str:
    return "yes" if parameter.required else "no"


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def _value(annotation: Any) -> str:
    """What an option takes, in words: `annotation` is that of the verb's argument."""
    kinds = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in kinds)
    if get_origin(kinds[0]) in (list, Literal):
        inner = _value(get_args(kinds[0])[0] if get_origin(kinds[0]) is list else kinds[0])
        return f"{inner}, repeatable" if get_origin(kinds[0]) is list else inner
    return _KINDS[kinds[0]]


def _meaning(option: Any) -> str:
    said = option.help or ""
    if option.default is None or option.default in ("", False, ()) or option.is_flag:
        return said + (" (required)" if option.required else "")
    return f"{said} (default: {option.default})".strip()


def _help(text: str) -> str:
    """A verb's help, its examples as a block of commands."""
    words = inspect.cleandoc(text).replace("\b\n", "")  # click's mark for lines that it keeps
    examples = re.findall(r"^(?:Example: )(.+(?:\n .+)*)$", words, re.MULTILINE)
    said = re.sub(r"^Example: .+(?:\n .+)*$", "", words, flags=re.MULTILINE).strip()
    block = "\n\n```sh\n" + "\n".join(examples) + "\n```" if examples else ""
    return _text(said) + block


def _docstring(thing: Any) -> str:
    """As prose; its lists of arguments, attributes and errors become lists."""
    lines: list[str] = []
    for line in inspect.cleandoc(inspect.getdoc(thing) or "").splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Attributes):", line):
            lines += ["", f"*{line.replace('Args', 'Arguments')}*", ""]
        elif found := re.match(r" {4}([\w.]+): (.*)", line):
            lines.append(f"- `{found[1]}`: {_text(found[2])}")
        else:
            lines.append(_text(line))
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if not isinstance(annotation, type):
        text = re.sub(r"[\w.]+\.(?=\w)", "", str(annotation))
    return text.replace("|", "or")


def _text(words: str) -> str:
    """Words as they are, whatever they would mean in Markdown or in a table."""
    escaped = html.escape(words, quote=False)
    return re.sub(r"(?<![`\w])([*_])|\|", lambda found: f"&#{ord(found[0])};", escaped)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in lines
    )


def level_sections() -> str:
    """The sections of the suite `levels`, with what each level asks."""
    rows = [
        (
            section.name.replace("_", " "),
            section.kind,
            "<br>".join(f"{n}. {level.description}" for n, level in enumerate(section.levels, 1)),
        )
        for section in SECTIONS
    ]
    return _table(("section", "kind", "levels"), rows)


_TABLES = {
    table.__name__: table
    for table in (recipe_keys, verbs, python_verbs, routes, error_codes, run_files, level_sections)
}
