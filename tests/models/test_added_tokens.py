"""Adapters of other tools that bring tokens are taken over; other folders get a clear message."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer

import burnish
from burnish.errors import ModelError, RunError
from burnish.export.export import export
from burnish.inference.engine import Engine
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.models.lineage import check_method
from burnish.models.load import load_model
from burnish.models.registry import resolve
from burnish.parity.compare import check_parity
from burnish.pipeline.adopt_adapter import adopt, is_foreign
from burnish.progress import Bars
from burnish.recipe.schema import build_recipe
from burnish.runs.directory import RunDirectory
from tests.refused import refused
from tests.rows import labelled, write_rows

ADDED = ["<red>", "<green>"]
# How tools save new tokens: PEFT by itself, whole modules, rows alone; one trains old ones, too.
KINDS: dict[str, dict[str, Any]] = {
    "resized": {},
    "modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "indices": {"trainable_token_indices": {"embed_tokens": [351, 352], "lm_head": [351, 352]}},
    "old tokens too": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "untied": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base_folder(kind: str, tiny_folder: Path, tmp_path: Path) -> Path:
    """The base: for one of the kinds its embedding is its vocabulary projection, too."""
    if kind != "untied":
        return tiny_folder
    tied = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    tied.config.tie_word_embeddings = True
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


@pytest.fixture
def made(kind: str, base_folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    """The folder of an adapter with two tokens of its own, and its model in plain PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.add_tokens(ADDED)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    assert len(tokenizer) == 353
    torch.manual_seed(1)
    with warnings.catch_warnings(action="ignore"):
        base.resize_token_embeddings(len(tokenizer))
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **KINDS[kind])
        model = get_peft_model(base, config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
                if "trainable_tokens_delta" in name:
                    torch.nn.init.normal_(parameter, std=0.5)
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if kind != "indices":
                    layer.weight[351:] = torch.randn(2, layer.weight.shape[1]) / 2
                if kind in ("old tokens too", "untied"):
                    layer.weight[:351] += torch.randn(351, layer.weight.shape[1]) / 20
        model.save_pretrained(str(tmp_path / "theirs"))
    tokenizer.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", model


@pytest.fixture
def taken(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Path], RunDirectory]:
    write_rows(tmp_path / "rows.jsonl", labelled(12))
    named = "base_folder" if "kind" in request.fixturenames else "tiny_folder"
    base = str(request.getfixturevalue(named))

    def take(folder: Path) -> RunDirectory:
        values = {"output": str(tmp_path / "runs"), "evaluate.general": None}
        rows = tmp_path / "rows.jsonl"
        return adopt(folder, rows, base, None, values, Bars(quiet=True))

    return take


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.tensor([[5, 6, 351, 7, 352, 8]])).logits
    return found


def test_added_tokens_are_kept_wherever_the_model_is_used(
    kind: str,
    made: tuple[Path, Any],
    taken: Callable[[Path], RunDirectory],
    base_folder: Path,
    tmp_path: Path,
) -> None:
    folder, theirs = made
    run = taken(folder)
    whole = kind in ("old tokens too", "untied")
    assert run.manifest().recipe["method"] == ("full" if whole else "lora")
    model = burnish.open_tuned(run)
    assert model.tokenizer.convert_tokens_to_ids(ADDED) == [351, 352]
    torch.testing.assert_close(logits(model.module), logits(theirs), atol=1e-4, rtol=1e-4)
    plain = load_model(str(base_folder), "cpu").module
    with model.base(), torch.no_grad():  # it is the base that was named, but for the new tokens
        told = model.module(torch.tensor([[5, 6, 7]])).logits[..., :351]
        expected = plain(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)

    merged = export(run, "merged", tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(logits(loaded), logits(theirs), atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(merged).convert_tokens_to_ids(ADDED) == [351, 352]
    assert check_parity(run).difference is None
    again = taken(folder)  # goes on with the same run
    assert again.path == run.path
    if not whole:
        base = load_model(run.manifest().recipe["model"], "cpu")
        engine = Engine(base)
        draw = SamplingSettings(1, temperature=0.0, top_logprobs=1)
        (piece,) = list(
            engine.submit(GenerationRequest((5, 351, 7), draw, adapter=str(run.adapter)))
        )
        engine.close()
        with torch.no_grad():
            likeliest = theirs(torch.tensor([[5, 351, 7]])).logits[0, -1].log_softmax(-1)
        assert piece.drawn[0].logprob == pytest.approx(float(likeliest.max()), abs=1e-3)


@pytest.mark.parametrize("kind", ["resized"], indirect=True)
def test_without_the_tokens_names_nothing_is_left_behind(
    made: tuple[Path, Any], taken: Callable[[Path], RunDirectory], tmp_path: Path
) -> None:
    folder, _ = made
    shutil.move(folder / "tokenizer.json", tmp_path / "tokenizer.json")
    with refused("no_tokenizer", ModelError, path=str(folder)):
        taken(folder)
    assert not list((tmp_path / "runs").glob("*"))
    shutil.move(tmp_path / "tokenizer.json", folder / "tokenizer.json")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: value[..., :4].contiguous() for name, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    with refused("wrong_base", ModelError, width=4):
        taken(folder)
    assert not list((tmp_path / "runs").glob("*"))


def adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")


def mlx(folder: Path) -> None:
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 8}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name in ("adapters.safetensors", "0000100_adapters.safetensors"):
        save_file({"model.layers.0.self_attn.q_proj.lora_a": torch.zeros(4, 2)}, folder / name)


def checkpoints(folder: Path) -> None:
    (folder / "trainer_state.json").write_text("{}")
    for number in (9, 30, 100):
        (folder / f"checkpoint-{number}").mkdir()
        adapter(folder / f"checkpoint-{number}")


def pickled(folder: Path) -> None:
    adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def without_configuration(folder: Path) -> None:
    adapter(folder)
    (folder / "adapter_config.json").unlink()


def without_weights(folder: Path) -> None:
    adapter(folder)
    (folder / "adapter_model.safetensors").unlink()


def full_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")


def file_instead(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("x")


def deep(folder: Path) -> None:
    (folder / "out").mkdir()
    checkpoints(folder / "out")


def merged_inside(folder: Path) -> None:
    (folder / "merged").mkdir()
    full_model(folder / "merged")


@pytest.mark.parametrize(
    ("write", "code", "shown"),
    [
        (mlx, "foreign_format", "`mlx_lm.fuse --model BASE"),
        (checkpoints, "folders_inside", "/theirs/checkpoint-100"),
        (pickled, "pickled_weights", "save_pretrained"),
        (without_configuration, "no_adapter_settings", ""),
        (without_weights, "no_adapter_weights", ""),
        (full_model, "not_an_adapter", "`model: "),
        (merged_inside, "folders_inside", "/theirs/merged"),
    ],
)
def test_folders_of_other_tools_get_a_message(
    write: Callable[[Path], None],
    code: str,
    shown: str,
    taken: Callable[[Path], RunDirectory],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    write(folder)
    assert is_foreign(folder)
    with refused(code, ModelError, path=str(folder)) as error:
        taken(folder)
    assert shown in error.value.remedy
    assert not list((tmp_path / "runs").glob("*"))
    values = {"init_from": str(folder), "data": {"train": "rows.jsonl"}}
    with refused(code, ModelError, path=str(folder)):
        check_method(build_recipe(values, recipe_keys=set(), command_keys=set()))
    if write in (mlx, checkpoints, merged_inside):
        with refused(code, ModelError, path=str(folder)):
            resolve(str(folder))


@pytest.mark.parametrize(
    ("write", "code", "shown"),
    [
        (lambda folder: (folder / "README.md").write_text("# x") and None, "no_adapter", ""),
        (lambda folder: folder.rmdir(), "folder_missing", "adapter_model.safetensors"),
        (file_instead, "not_a_folder", "adapter_model.safetensors"),
        (deep, "folders_inside", "/theirs/out/checkpoint-100"),
    ],
)
def test_what_holds_no_adapter_is_named_where_rows_are_given(
    write: Callable[[Path], None], code: str, shown: str, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    write(folder)
    rows = write_rows(tmp_path / "rows.jsonl", labelled(12))
    with refused(code, ModelError, path=str(folder)) as error:
        burnish.heal(folder, 1, data=rows, model=str(tiny_folder), quiet=True)
    assert shown in error.value.remedy


def test_a_run_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    adapter(tmp_path / "adapter")
    with refused("is_a_run", ModelError, path=str(tmp_path)):
        resolve(str(tmp_path))


@pytest.mark.parametrize("kind", ["indices"], indirect=True)
def test_rows_and_their_tokens_are_as_many(
    made: tuple[Path, Any], taken: Callable[[Path], RunDirectory]
) -> None:
    folder, _ = made
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["trainable_token_indices"] = {"embed_tokens": [351], "lm_head": [351, 352]}
    path.write_text(json.dumps(settings))
    with refused("token_count_differs", ModelError, named=1, rows=2):
        taken(folder)


@pytest.mark.parametrize("kind", ["resized"], indirect=True)
def test_no_tokens_of_its_own_are_none(
    made: tuple[Path, Any], taken: Callable[[Path], RunDirectory]
) -> None:
    folder, _ = made
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"trainable_token_indices": {"embed_tokens": []}}
    path.write_text(json.dumps(settings))
    weights = load_file(folder / "adapter_model.safetensors")
    empty = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    weights[empty] = torch.zeros(0, 48)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    assert taken(folder).manifest().adopted


def test_an_adapter_named_as_a_start_is_to_become_a_run(tmp_path: Path) -> None:
    adapter(tmp_path)
    values = {"init_from": str(tmp_path), "data": {"train": "rows.jsonl"}}
    with refused("is_an_adapter", RunError, path=str(tmp_path)):
        check_method(build_recipe(values, recipe_keys=set(), command_keys=set()))
