"""The page on data shows rows that are read as it says."""

import json
import re
from pathlib import Path

import pytest

from burnish.conversation import Example
from burnish.data.formats import KNOWN
from burnish.data.readers.read_rows import Row
from burnish.data.recognise import FORMATS, Converter

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "data-formats.md").read_text(
    encoding="utf-8"
)
ROWS = re.findall(r"^\| ([\w/ ]+) \| `(\{.*\})` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_rows_of_the_page_are_of_their_format(name: str, row: str) -> None:
    converter = Converter({})
    read = converter.convert(Row(json.loads(row), "f:1"))
    assert isinstance(read, Example)
    assert converter.format
    assert converter.format.name == name
    assert converter.findings("train") == []


def test_every_format_and_name_is_on_the_page() -> None:
    assert {name for name, _ in ROWS} == {form.name for form in FORMATS if form.is_plain}
    words = set(re.findall(r"`(\w+)`|\"(\w+)\":", PAGE))
    assert KNOWN - {"group"} <= {one or other for one, other in words}
