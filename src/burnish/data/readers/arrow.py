"""Reads the rows of Parquet and Arrow files, with the values that JSON Lines would have.

An Arrow struct has the fields of all rows, so fields that are null inside a row are left out;
columns that are null are kept. Numbers of a Hugging Face `ClassLabel`, and of a dictionary, are
replaced by their names and values.
"""

import json
from collections.abc import Callable, Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.data.row import MAX_ROW_BYTES, BadRow, Notice, Row, check_columns, not_utf8, too_long
from burnish.errors import DataError

ARROW, PARQUET = b"ARROW1", b"PAR1"  # how the files begin
_BATCH = 512
Plain = Callable[[Any], Any]


def parquet(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(path, file.schema_arrow, file.iter_batches(batch_size=_BATCH))
    except pa.ArrowException as error:
        raise _unreadable(path, "Parquet file", error) from error


def arrow(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of an Arrow file, also called Feather, or of an Arrow stream.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with pa.memory_map(str(path)) as file:
            start = file.read(len(ARROW))
            file.seek(0)
            if start == ARROW:
                with pa.ipc.open_file(file) as whole:
                    batches = (whole.get_batch(at) for at in range(whole.num_record_batches))
                    yield from _rows(path, whole.schema, batches)
            else:
                with pa.ipc.open_stream(file) as stream:
                    yield from _rows(path, stream.schema, stream)
    except pa.ArrowException as error:
        raise _unreadable(path, "Arrow file", error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(
        f"{path} is not a valid {kind} ({what})",
        "create the file again",
        code="broken_file",
        path=str(path),
        reason=what,
    )


def _rows(path: Path, schema: Any, batches: Iterator[Any]) -> Iterator[Row | BadRow]:
    columns = _columns(path, schema)
    number = 0
    for batch in batches:
        for values in _small(_decoded(batch.select(list(columns)))):
            number += 1
            source = f"{path}:{number}"
            if not isinstance(values, dict):
                yield values(source)
                continue
            for name, plain in columns.items():
                if plain is not None and values[name] is not None:
                    values[name] = plain(values[name])
            yield Row(values, source)


def _decoded(batch: Any) -> Any:
    """Replaces dictionary columns by their values, so that the size of a row is that of its own."""
    for at, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(at, field.name, batch.column(at).dictionary_decode())
    return batch


def _small(batch: Any) -> Iterator[dict[str, Any] | Callable[[str], BadRow]]:
    """The rows of a batch, split in halves until only a too large or invalid row is alone."""
    count = batch.num_rows
    broken: Callable[[str], BadRow] = too_long
    if count and batch.nbytes <= MAX_ROW_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            broken = not_utf8
    if count == 1:
        yield broken
    elif count:
        yield from _small(batch.slice(0, count // 2))
        yield from _small(batch.slice(count // 2))


def _columns(path: Path, schema: Any) -> dict[str, Plain | None]:
    """The conversion to JSON values for each column; None if none is needed.

    The index that pandas writes is left out.
    """
    check_columns(schema.names, path)
    features = _part(_part(_metadata(schema, b"huggingface"), "info"), "features")
    index = _part(_metadata(schema, b"pandas"), "index_columns")
    return {
        field.name: _plain(field.type, _part(features, field.name))
        for field in schema
        if not (field.name.startswith("__index_level_") and field.name in (index or ()))
    }


def _metadata(schema: Any, key: bytes) -> Any:
    try:
        return json.loads((schema.metadata or {}).get(key, b"{}"))
    except (ValueError, RecursionError):
        return None


def _part(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, dict) else None


def _plain(kind: Any, feature: Any) -> Plain | None:
    """The conversion of an Arrow type to JSON values; `feature` is the datasets metadata of it."""
    types = pa.types
    if types.is_integer(kind) and _part(feature, "_type") == "ClassLabel":
        return _named(_part(feature, "names"))
    if types.is_struct(kind):
        inside = _part(feature, "feature") or feature  # a sequence of objects is one of lists
        return _object({f.name: _plain(f.type, _part(inside, f.name)) for f in kind})
    if any(is_kind(kind) for is_kind in _LISTS):
        inside = feature[0] if isinstance(feature, list) and feature else feature
        return _list(_plain(kind.value_type, _part(inside, "feature") or inside))
    if types.is_map(kind):
        return _map(_plain(kind.item_type, None))
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type, feature)
    return None if any(is_kind(kind) for is_kind in _PLAIN) else _simple


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_PLAIN = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_null,
)


def _named(names: Any) -> Plain | None:
    """The conversion of class numbers to names; -1 means no class."""
    if not isinstance(names, list):
        return None
    return lambda number: names[number] if 0 <= number < len(names) else None


def _object(fields: dict[str, Plain | None]) -> Plain:
    def plain(value: dict[str, Any]) -> dict[str, Any]:
        return {
            name: part if (convert := fields[name]) is None else convert(part)
            for name, part in value.items()
            if part is not None
        }

    return plain


def _list(item: Plain | None) -> Plain | None:
    if item is None:
        return None
    return lambda items: [None if value is None else item(value) for value in items]


def _map(item: Plain | None) -> Plain:
    def plain(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        return {
            str(key): value if value is None or item is None else item(value)
            for key, value in pairs
        }

    return plain


def _simple(value: Any) -> Any:
    """The JSON value for a value of another type; bytes become text if they are UTF-8."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    return value if isinstance(value, bool | int | float | str | list | dict) else str(value)
