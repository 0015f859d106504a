from pathlib import Path

from burnish.errors import DataError
from burnish.parity.prompts import read_prompts
from tests.refused import refused


def test_a_row_that_cannot_be_asked_is_named_by_its_own_mistake(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text('{"prompt": "tent", "completion": "x"}\n{"completion": "x"}\n')
    with refused("column_missing", DataError, source=f"{path}:2", field="prompt"):
        read_prompts(path)
