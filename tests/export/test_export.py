"""What is exported is loaded by the tool it is for, and computes what the run's model computes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import burnish
from burnish.cli import main
from burnish.data.chat_templates import PLAIN_TEMPLATE
from burnish.errors import ModelError, RunError
from burnish.export.export import check_form, export
from burnish.models.lineage import recipe_of
from burnish.parity.compare import check_parity
from burnish.runs.directory import RunDirectory, Verdict
from tests.refused import refused
from tests.rows import labelled, write_rows

Train = Callable[..., RunDirectory]
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Train:
    """A run by its name, trained once for all tests."""
    folder = tmp_path_factory.mktemp("exporting")
    write_rows(folder / "rows.jsonl", labelled(12))
    (folder / "recipe.yaml").write_text(
        f"model: {tiny_folder}\ndata: {{train: rows.jsonl}}\nlora: {{rank: 4}}\n"
        f"last_n: {{layers: 1}}\nprefix: {{num_virtual_tokens: 4}}\nevaluate: {{general: null}}\n"
        f"training: {{epochs: 1, learning_rate: 0.02, preflight: false}}\noutput: {folder}\n"
    )

    def made(name: str, **changes: Any) -> RunDirectory:
        if (folder / name).exists():
            return RunDirectory.open(folder / name)
        return burnish.train(folder / "recipe.yaml", quiet=True, name=name, **changes)

    return made


def stacked(train: Train) -> RunDirectory:
    return train("stacked", init_from=str(train("lora").path), init="stack")


def own(run: RunDirectory) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = burnish.open_tuned(run).module.eval()(TOKENS).logits
    return logits


@pytest.mark.parametrize("name", ["lora", "ia3", "last-n", "stacked"])
def test_merged_is_loaded_by_transformers(name: str, train: Train, tmp_path: Path) -> None:
    run = stacked(train) if name == "stacked" else train(name, method=name)
    folder = export(run, "merged", tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, own(run), atol=1e-4, rtol=1e-4)
    asked = [{"role": "user", "content": "where is my parcel"}]
    told = AutoTokenizer.from_pretrained(folder).apply_chat_template(asked, tokenize=False)
    assert told == burnish.open_tuned(run).tokenizer.apply_chat_template(asked, tokenize=False)
    assert not list(folder.glob("*.bin"))
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["lora", "ia3", "prefix"])
def test_an_adapter_is_loaded_by_peft(
    name: str, train: Train, tiny_folder: Path, tmp_path: Path
) -> None:
    run = train(name, method=name)
    folder = export(run, "peft", tmp_path / "new" / "peft")
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    loaded = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, own(run), atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("lora", None),
        ("ia3", None),
        ("stacked", None),
        ("last-n", "no adapter to merge"),
        ("prefix", "cannot be merged into the weights"),
        ("bottleneck", "only Burnish can load"),
    ],
)
def test_what_was_trained_is_what_is_loaded(name: str, missing: str | None, train: Train) -> None:
    run = stacked(train) if name == "stacked" else train(name, method=name)
    parity = check_parity(run)
    reloaded, merged = parity.comparisons
    assert parity.reference.form == "memory"
    assert parity.difference is None
    assert reloaded.largest is not None
    assert reloaded.largest < 1e-5
    assert merged.missing is None if missing is None else missing in str(merged.missing)


def test_a_label_model_is_merged_with_its_head(train: Train, tmp_path: Path) -> None:
    run = train("classify", objective="classify")
    loaded = AutoModelForSequenceClassification.from_pretrained(
        export(run, "merged", tmp_path / "merged")
    ).eval()
    model = burnish.open_classifier(run)
    assert sorted(loaded.config.id2label.values()) == ["green", "red"]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(TOKENS).logits, model.module.eval()(TOKENS).logits, atol=1e-4, rtol=1e-4
        )


def test_a_gguf_file_stands_where_it_is_asked_for(train: Train, tmp_path: Path) -> None:
    run = train("lora")
    assert export(run, "gguf") == run.path / "exported" / "lora-f32.gguf"
    assert export(run, "gguf", tmp_path / "a.gguf", "f16") == tmp_path / "a.gguf"
    assert export(run, "gguf", tmp_path, "q8_0") == tmp_path / "lora-q8_0.gguf"
    sizes = [path.stat().st_size for path in (tmp_path / "a.gguf", tmp_path / "lora-q8_0.gguf")]
    assert sizes[0] >= sizes[1] > 0


def test_nothing_is_written_over(train: Train, tmp_path: Path) -> None:
    run = train("lora")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.gguf").write_text("mine")
    for form, place in (("merged", "mine"), ("peft", "mine"), ("gguf", "mine.gguf")):
        with refused("output_exists", RunError, path=str(tmp_path / place)):
            export(run, form, tmp_path / place)  # type: ignore[arg-type]
    assert (tmp_path / "mine.gguf").read_text() == "mine"
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_what_could_not_be_written_keeps_no_room(
    form: Any, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        export(train("lora"), form, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "form", "code", "remedy"),
    [
        ("last-n", "peft", "no_adapter", "--as merged"),
        ("stacked", "peft", "adapter_not_alone", "--as merged"),
        ("prefix", "merged", "not_mergeable", "--as peft"),
        ("prefix", "gguf", "not_mergeable", "--as peft"),
        ("bottleneck", "merged", "not_exportable", "burnish.open_tuned"),
        ("bottleneck", "peft", "not_exportable", "burnish.open_tuned"),
        ("classify", "gguf", "writes_no_text", "--as merged"),
    ],
)
def test_what_cannot_be_had_names_what_can(
    name: str, form: Any, code: str, remedy: str, train: Train, tmp_path: Path
) -> None:
    if name == "stacked":
        run = stacked(train)
    elif name == "classify":
        run = train(name, objective="classify")
    else:
        run = train(name, method=name)
    with refused(code, RunError, path=str(run.path)) as error:
        export(run, form, tmp_path / "new")
    assert remedy in error.value.remedy
    assert not (tmp_path / "new").exists()


def test_weights_of_4_bits_are_not_merged_into(train: Train) -> None:
    run = train("lora")
    manifest = run.manifest()
    try:
        run.write_manifest(replaced(manifest, "qlora"))
        assert recipe_of(run.manifest()).method == "qlora"
        with refused("not_mergeable", RunError, method="qlora"):
            check_form(run, "gguf")
        check_form(run, "peft")
        lineage = {"method": "qlora", "init": "stack", "lineage": {}}
        run.write_manifest(replace(replaced(manifest, "qlora"), lineage=lineage))
        for form in ("peft", "merged", "gguf"):
            code = "adapter_not_alone" if form == "peft" else "not_mergeable"
            with refused(code, RunError, method="qlora") as error:
                check_form(run, form)
            assert "burnish.open_tuned" in error.value.remedy
    finally:
        run.write_manifest(manifest)


def replaced(manifest: Any, method: str) -> Any:
    return type(manifest)(
        **{
            name: (manifest.recipe | {"method": method} if name == "recipe" else value)
            for name, value in vars(manifest).items()
        }
    )


def test_an_unknown_architecture_names_the_converter(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.export.gguf.ARCHITECTURES", ("qwen2",))
    with refused("architecture_not_exportable", ModelError, architecture="llama") as error:
        export(train("lora"), "gguf", tmp_path / "new.gguf")
    assert "--as merged" in error.value.remedy
    assert "convert_hf_to_gguf.py" in error.value.remedy


def test_a_model_without_a_template_is_exported_with_ours(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("lora")
    bare = AutoTokenizer.from_pretrained(recipe_of(run.manifest()).model)
    bare.chat_template = None

    def without(*_: Any, **__: Any) -> PreTrainedTokenizerFast:
        return bare  # type: ignore[no-any-return]

    monkeypatch.setattr("burnish.export.export.load_tokenizer", without)
    folder = export(run, "peft", tmp_path / "peft")
    assert AutoTokenizer.from_pretrained(folder).chat_template == PLAIN_TEMPLATE


def test_the_verb_says_who_loads_it(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("lora")
    main(["export", str(run.path), "--as", "gguf", "--output", str(tmp_path / "x.gguf")])
    said = capsys.readouterr().out
    assert f"llama-server --model {tmp_path / 'x.gguf'}" in said
    assert f"burnish parity {run.path} --gguf {tmp_path / 'x.gguf'}" in said
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run.path), "--output", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "[output_exists]" in said
    assert str(tmp_path) in said
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run.path), "--as", "peft", "--type", "q8_0"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "[type_without_gguf]" in said
    assert "q8_0" in said
    assert "--as peft" in said
    main(["export", str(run.path), "--output", str(tmp_path / "m"), "--json"])
    assert json.loads(capsys.readouterr().out)["output"] == str(tmp_path / "m")


@pytest.mark.parametrize("decision", ["release", "hold", "inconclusive", None])
def test_a_model_that_is_not_released_is_called_so(
    decision: Any, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("lora")
    if decision:
        run.write_verdict(Verdict(decision, ("So it was.",), 2.0, 0.95, None, None))
    main(["export", str(run.path), "--output", str(tmp_path / "a")])
    said = capsys.readouterr().out
    main(["export", str(run.path), "--output", str(tmp_path / "b"), "--json"])
    (run.path / "verdict.json").unlink(missing_ok=True)
    assert json.loads(capsys.readouterr().out)["verdict"] == decision
    assert f"\nverdict  {decision or 'none yet'}" in said
    assert ("NOT RELEASED" in said) is (decision != "release")
    assert (tmp_path / "a" / "model.safetensors").exists()


@pytest.mark.parametrize("form", ["merged", "peft", "gguf"])
def test_weights_that_were_cut_off_are_not_given_out(
    form: Any, train: Train, tmp_path: Path
) -> None:
    shutil.copytree(train("lora").path, tmp_path / "run")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with refused("weights_damaged", ModelError, path=str(weights.parent)):
        export(tmp_path / "run", form, tmp_path / "new")
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
