"""Reads the functions of `data.tools`, which every row without its own tools offers."""

import json
from pathlib import Path
from typing import Any

from burnish.conversation import Message
from burnish.data.row import MAX_ROW_BYTES, Row
from burnish.data.row_errors import RowFormatError
from burnish.data.tool_calls import with_offered_tools
from burnish.errors import DataError
from burnish.recipe.paths import expanded


def read_tools(path: Path) -> list[Any]:
    """The functions in a JSON file: a list, or an object with a list as `tools`.

    Raises:
        DataError: the file cannot be read, or does not contain functions with names.
    """
    remedy = "write a JSON list of functions, each with a name and its parameters"
    try:
        with expanded(path).open(encoding="utf-8-sig") as file:
            read = json.loads(file.read(MAX_ROW_BYTES + 1))
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(
            f"cannot read the tools file {path} ({why})",
            "check the path and the file's permissions",
            code="file_unreadable",
            path=str(path),
            reason=why,
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the tools file {path} is not valid JSON ({error})",
            remedy,
            code="not_json",
            path=str(path),
            reason=str(error),
        ) from error
    tools = read.get("tools", [read]) if isinstance(read, dict) else read
    try:
        found = with_offered_tools((Message("user", ""),), {"tools": tools})
    except RowFormatError as misfit:
        raise DataError(
            f"the tools file {path} {misfit.reason}",
            misfit.remedy,
            code=misfit.code,
            path=str(path),
            **misfit.fields,
        ) from misfit
    if not isinstance(tools, list) or not found[0].tools:
        raise DataError(
            f"the tools file {path} contains no functions", remedy, code="no_tools", path=str(path)
        )
    return tools


def with_tools(row: Row, tools: list[Any]) -> Row:
    """The row with these functions, unless it has its own."""
    if row.values.get("tools") or row.values.get("functions"):
        return row
    return Row({**row.values, "tools": tools}, row.source)
