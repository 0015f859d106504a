"""Nothing that Burnish prints steers the terminal."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from burnish.cli import main
from burnish.progress import Bars
from burnish.terminal import Terminal, visible, write
from tests.rows import write_rows

EVIL = "a\x1b[31mb\x1b]0;t\x07c\rd\be\x9b2Jf\u202eg\u2066h\x7fi\x00j\ud800k\u2028l"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_each_is_shown_in_its_place() -> None:
    assert visible("a\x1b[1m\x7f\x9b\u202e\ttab\n") == "a␛[1m␡��\ttab\n"
    assert len(visible(EVIL)) == len(EVIL)
    assert not RAW.search(visible(EVIL))
    plain = "né 包裹 🎒👩‍🚀 שלום\u200f"
    assert visible(plain) == plain


def test_a_console_keeps_its_own_styles_alone() -> None:
    written = io.StringIO()
    terminal = Terminal(file=written, force_terminal=True, color_system="standard", width=200)
    table = Table(EVIL)
    table.add_row(EVIL)
    terminal.print(EVIL, markup=False, style="red")
    terminal.print(Text(EVIL, style="bold"))
    terminal.print(table)
    said = re.sub("\x1b\\[[\\d;]*m", "", written.getvalue())
    assert "\x1b[31m" in written.getvalue()  # its own red
    assert "b␛]0;t" in said
    assert not RAW.search(said)


def test_lines_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    write(EVIL)
    write(EVIL, end="", error=True)
    bars = Bars()
    bars.say(EVIL.replace("[", "("))
    with bars.items(EVIL.replace("[", "("), 2) as advance:
        advance(2)
    for said in capsys.readouterr():
        assert "␛" in said
        assert not RAW.search(said)


def test_an_error_names_a_file_that_would_steer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["check", EVIL], ["run", EVIL], ["report", EVIL], [EVIL]):
        with pytest.raises(SystemExit) as end:
            # What no name of a file can hold.
            main([one.replace("\x00", "").replace("\ud800", "\udc9b") for one in arguments])
        assert end.value.code == 2
        said = capsys.readouterr()
        assert not RAW.search(said.out + said.err)
    path = tmp_path / "recipe.yaml"
    path.write_text('data: {train: "\\e[31m", limit: "\\e[2J\\u202e"}\n"\\e[1m": 1\n')
    with pytest.raises(SystemExit):
        main(["run", str(path)])
    assert not RAW.search(capsys.readouterr().err)


def test_rows_that_would_steer_are_checked(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = EVIL.replace("\ud800", "")
    rows = [{"text": f"{evil} {n}", "label": f"{evil}{n % 2}", f"x{evil}": n} for n in range(60)]
    path = tmp_path / "rows.jsonl"
    write_rows(path, [*rows, {"text": "both", "label": f"{evil}0"}, {"text": "both", "label": "b"}])
    main(["check", str(path), "--model", str(tiny_folder), "--show", "2", "--drop-bad"])
    said = capsys.readouterr().out
    assert "␛" in said
    assert not RAW.search(said)
