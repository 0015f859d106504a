"""Adapters of other tools become runs, or nothing is left of the attempt."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import burnish
from burnish.errors import DataError, ModelError, RunError
from burnish.models.lineage import recipe_of
from burnish.pipeline import adopt_adapter
from burnish.pipeline.adopt_adapter import adopt
from burnish.progress import Bars
from burnish.runs.directory import RunDirectory
from tests.certification.test_certify import recipe
from tests.certification.test_certify import suite as suite  # the fixture
from tests.healing.test_heal import attempts
from tests.healing.test_heal import conversations as conversations  # the fixture
from tests.refused import refused

WEIGHTS = "adapter_model.safetensors"
Adopt = Callable[..., RunDirectory]


@pytest.fixture
def foreign(tmp_path: Path, tiny_folder: Path) -> Path:
    """An adapter as PEFT saves it, on two of the projections, far from the base."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    with warnings.catch_warnings(action="ignore"):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), config)
    chance = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=chance))
    model.save_pretrained(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


@pytest.fixture
def taken(foreign: Path, tmp_path: Path, tiny_folder: Path, suite: Path) -> Adopt:
    """Takes the adapter over; nothing is measured."""
    recipe(tmp_path, tiny_folder, suite, 0.02, 5)

    def made(
        folder: Path = foreign, name: str | None = None, bars: Bars | None = None, **given: Any
    ) -> RunDirectory:
        values = {"output": str(tmp_path / "runs"), "evaluate.general": str(suite), **given}
        rows = tmp_path / "rows.jsonl"
        return adopt(folder, rows, str(tiny_folder), name, values, bars or Bars(quiet=True))

    return made


def test_an_adapter_of_others_is_taken_over_and_mended(
    foreign: Path, tmp_path: Path, tiny_folder: Path, suite: Path
) -> None:
    recipe(tmp_path, tiny_folder, suite, 0.02, 5)
    healed = burnish.heal(
        foreign,
        10,
        data=tmp_path / "rows.jsonl",
        model=str(tiny_folder),
        quiet=True,
        **{"output": str(tmp_path / "runs"), "evaluate.general": str(suite)},
    )
    assert healed.path == tmp_path / "runs" / "healed-theirs"
    assert healed.manifest().adopted
    assert healed.verdict().reasons[-1].endswith("the measured gain is too large.")
    tried = attempts(healed)
    assert tried[0] == "1-continue"
    assert not {"2-anchor", "3-replay", "4-rate"} & set(tried)
    model = burnish.open_tuned(healed)
    kinds = {name.split(".")[-4] for name, _ in model.module.named_parameters() if "lora_A" in name}
    assert kinds == {"q_proj", "v_proj"}

    again = tmp_path / "another" / "theirs"
    shutil.copytree(foreign, again)
    weights = load_file(again / WEIGHTS)
    save_file({k: v + 1 for k, v in weights.items()}, again / WEIGHTS)
    with refused("run_exists", RunError, path=str(healed.path), adapter=str(again)):
        burnish.heal(
            again,
            10,
            data=tmp_path / "rows.jsonl",
            model=str(tiny_folder),
            quiet=True,
            **{"output": str(tmp_path / "runs"), "evaluate.general": str(suite)},
        )


def test_an_adapter_of_another_model_leaves_no_run_behind(
    foreign: Path, tmp_path: Path, tiny_folder: Path, suite: Path
) -> None:
    recipe(tmp_path, tiny_folder, suite, 0.02, 5)
    weights = load_file(foreign / WEIGHTS)
    save_file(
        {key: torch.cat([value, value]) for key, value in weights.items()},
        foreign / WEIGHTS,
    )
    given = {"data": tmp_path / "rows.jsonl", "model": str(tiny_folder), "quiet": True}
    with refused("wrong_base", ModelError):
        burnish.heal(foreign, 1, **given, **{"output": str(tmp_path / "runs")})
    assert not list((tmp_path / "runs").glob("*"))


def test_an_adapter_needs_rows_and_safetensors(foreign: Path, tmp_path: Path) -> None:
    with refused("rows_not_named", DataError, path=str(foreign)):
        burnish.heal(foreign, 1, quiet=True)
    (foreign / WEIGHTS).rename(foreign / "adapter_model.bin")
    with refused("pickled_weights", ModelError, path=str(foreign)):
        burnish.heal(foreign, 1, data=tmp_path / "rows.jsonl", quiet=True)


def truncated(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def diverged(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({key: value * float("nan") for key, value in weights.items()}, folder / WEIGHTS)


def settings(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "adapter_config.json"
        found = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return write


def text(said: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "adapter_config.json").write_text(said) and None


@pytest.mark.parametrize(
    ("damage", "code", "fields"),
    [
        (truncated, "weights_damaged", {}),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"garbage " * 9), "weights_damaged", {}),
        (diverged, "weights_not_finite", {}),
        (settings(r="4"), "bad_adapter_settings", {"key": "r", "value": "4"}),
        (settings(r=None), "bad_adapter_settings", {"key": "r", "value": None}),
        (settings(lora_alpha=None), "bad_adapter_settings", {"key": "lora_alpha", "value": None}),
        (settings(layers_to_transform="1"), "adapter_settings_rejected", {}),
        (text('{"r": 4,'), "not_json", {}),
        (text("[]"), "not_an_object", {"kind": "list"}),
    ],
)
def test_a_damaged_adapter_is_taken_over_once_it_is_mended(
    damage: Callable[[Path], None],
    code: str,
    fields: dict[str, Any],
    foreign: Path,
    tmp_path: Path,
    taken: Adopt,
) -> None:
    shutil.copytree(foreign, tmp_path / "whole")
    damage(foreign)
    with refused(code, ModelError, **fields) as error:
        taken()
    assert "theirs" in error.value.fields["path"]
    assert not list((tmp_path / "runs").glob("*"))
    shutil.copytree(tmp_path / "whole", foreign, dirs_exist_ok=True)
    assert taken().manifest().adopted


def test_nothing_is_left_whatever_stopped_it(
    tmp_path: Path, taken: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adopt_adapter, "open_run", stop)
    with pytest.raises(KeyboardInterrupt):
        taken()
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_whose_adapter_was_cut_off_since_names_it(taken: Adopt) -> None:
    run = taken()
    truncated(run.adapter)
    with refused("weights_damaged", ModelError, path=str(run.adapter)):
        burnish.open_tuned(run)


@pytest.mark.parametrize(
    ("named", "is_told"),
    [
        ("meta-llama/Llama-3.2-1B", True),
        ("/home/them/models/larger/", True),
        ("somebody/Tiny-Instruct", False),
        ("/home/them/models/tiny", False),
        ("", False),
        (None, False),
    ],
)
def test_an_adapter_that_names_another_base_is_told(
    named: str | None,
    is_told: bool,
    foreign: Path,
    taken: Adopt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(base_model_name_or_path=named)(foreign)
    told = [found.message for found in taken(bars=Bars()).findings() if found.kind == "base"]
    said = " ".join(capsys.readouterr().err.split())
    assert len(told) == is_told
    assert ("warning" in said) is is_told
    assert all(str(named) in message for message in told)


def test_taken_over_again_it_is_the_same_run(taken: Adopt) -> None:
    run = taken()
    before = run.manifest()
    assert taken().manifest() == before
    before.state = "created"  # a kill while its rows were written
    run.write_manifest(before)
    assert taken().manifest().state == "trained"


def test_what_was_changed_since_is_named(taken: Adopt, tmp_path: Path) -> None:
    run = taken()
    assert recipe_of(taken(**{"budget.general": 7.0}).manifest()).budget.general == 7.0
    manifest = run.manifest()
    manifest.state = "certified"
    run.write_manifest(manifest)
    with refused("recipe_changed", RunError, changes={"budget.general": [7.0, 9.0]}):
        taken(**{"budget.general": 9.0})
    with refused("recipe_changed", RunError, changes={"seed": [0, 3]}):
        taken(**{"budget.general": 7.0, "seed": 3})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("\n")
    with refused("rows_changed", RunError, rows=str(tmp_path / "rows.jsonl")):
        taken(**{"budget.general": 7.0})
    assert taken(name="again").path.name == "again"
