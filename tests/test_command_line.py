"""What a newcomer types wrongly is answered in one sentence."""

from pathlib import Path

import pytest

from burnish.cli import main
from burnish.cli.options import overrides
from burnish.errors import InterruptedRunError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tun"], "burnish: No such command 'tun': `burnish --help` shows what there is.\n"),
        (
            ["run"],
            "burnish: Missing argument 'recipe': `burnish run --help` shows what there is.\n",
        ),
    ],
)
def test_a_wrong_word_names_the_help_that_shows_it(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err == sentence


def test_a_folder_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path)])
    assert f"{tmp_path} is a folder: name a recipe, such as {tmp_path}/recipe.yaml" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [("audit", "verify"), ("alias",), ("keys", "list")])
def test_a_mistyped_folder_is_no_empty_server(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "burnish-dta"
    with pytest.raises(SystemExit) as end:
        main([*words, "--folder", str(folder)])
    assert end.value.code == 2
    assert f"there is no server's database in {folder}: name with" in capsys.readouterr().err
    assert not folder.exists()


def test_what_is_missing_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["keys"])
    said = capsys.readouterr().err
    assert "Choose from: make, list, revoke" in said
    assert said.count("\n") == 1


def test_healing_that_was_stopped_goes_on_with_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise InterruptedRunError("stopped at step 74 of 147")

    monkeypatch.setattr("burnish.pipeline.heal", stop)
    with pytest.raises(SystemExit) as end:
        main(["heal", "runs/plain"])
    assert end.value.code == 130
    said = "burnish: stopped at step 74 of 147; go on with the same command\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("text", ["Sort: queue: x", "{", "a] b"])
def test_a_setting_that_is_no_yaml_is_text(text: str) -> None:
    given = overrides([f"data.system={text}", "seed=3"], None, None, drop_bad=False)
    assert given == {"data.system": text, "seed": 3}
