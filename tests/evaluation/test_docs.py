"""The pages on suites: the example is a suite, the table has the sections of `core`."""

import re
from pathlib import Path

from burnish.evaluation.suite import chance, load_suite, split_suite

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanation" / "suite.md").read_text(encoding="utf-8")
OWN = (DOCS / "how-to" / "own-suite.md").read_text(encoding="utf-8")


def test_the_example_is_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(re.findall(r"```json.*?\n(.*?)```", OWN, re.DOTALL)[0])
    suite = load_suite(str(path))
    assert [(task.name, len(task)) for task in suite.sections] == [
        ("own.choices", 2),
        ("own.replies", 2),
    ]
    assert all(side.sections for side in split_suite(suite))


def test_the_table_has_every_part_with_its_size_and_chance() -> None:
    rows = re.findall(r"^\| (\w+) \| [\w ]+ \| (\d+) \| ([\d.–]+) \| [\d.]+ \|", PAGE, re.MULTILINE)
    core = load_suite("core")
    expected = [
        (task.name.removeprefix("core."), str(len(task)), f"{chance(task) * 100:.1f}")
        for task in core.sections
    ]
    others = [*core.texts, *core.bias, *core.openings]
    expected += [(task.name.removeprefix("core."), str(len(task)), "–") for task in others]
    assert rows == expected
