"""Adapters side by side: PEFT's own numbers, and clear words for what is not served."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from burnish.errors import ModelError
from burnish.inference.forward import ModelRunner, NewTokens
from burnish.inference.kv_cache import KVRow
from burnish.inference.lora import BASE, AdapterPool
from burnish.models.load import load_model
from tests.refused import refused


def test_mixed_rows_equal_peft(model: Any, adapters: dict[str, str], tiny_folder: Path) -> None:
    """Logits of every adapter and the base in one pass, each against PEFT alone, within 1e-5."""
    tokens = list(range(10, 30))
    kinds = [None, *adapters, "plain"]
    with torch.inference_mode():
        runner = ModelRunner(model.network, AdapterPool(model.module, 8))
        numbers = [
            BASE if kind is None else runner.adapters.number(adapters[kind], []) for kind in kinds
        ]
        rows = [KVRow(number) for number in numbers]
        runner.run([NewTokens(row, tokens[: 15 + place]) for place, row in enumerate(rows)])
        last = runner.run([NewTokens(row, tokens[len(row.tokens) :]) for row in rows])
        logits = runner.logits(torch.stack([states[-1] for states in last]), numbers)
        for kind, found in zip(kinds, logits, strict=True):
            adapter = None if kind is None else Path(adapters[kind])
            alone = load_model(str(tiny_folder), "cpu", adapter)
            expected = alone.module(torch.tensor([tokens])).logits[0, -1]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        runner.close()


def test_the_least_recently_used_goes(model: Any, adapters: dict[str, str]) -> None:
    held = AdapterPool(model.module, most=2)
    plain, stabilised, patterns = adapters.values()
    first = held.number(plain, [])
    second = held.number(stabilised, [])
    assert held.number(plain, []) == first
    third = held.number(patterns, [])
    assert held.numbers == {BASE, first, third}
    again = held.number(stabilised, [first, third])
    assert again not in (first, second, third)
    assert held.numbers == {BASE, first, third, again}, "adapters in use stay"
    assert held.number(None, []) == BASE
    held.close()


def changed(adapter: str, folder: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "code", "value"),
    [
        ({"use_dora": True}, "not_plain_lora", "use_dora"),
        ({"lora_bias": True}, "not_plain_lora", "lora_bias"),
        ({"bias": "all"}, "not_plain_lora", "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "not_plain_lora", "modules_to_save"),
        ({"peft_type": "IA3"}, "not_plain_lora", "IA3"),
        ({"r": 5}, "wrong_base", "down_proj"),
    ],
)
def test_what_is_more_than_low_rank_is_refused(
    model: Any, adapters: dict[str, str], tmp_path: Path, settings: Any, code: str, value: str
) -> None:
    folder = changed(adapters["plain"], tmp_path / "other", **settings)
    with refused(code, ModelError, adapter="other") as error:
        AdapterPool(model.module, 8).number(str(folder), [])
    assert value in error.value.fields.get("reason", error.value.fields.get("layer"))


def test_tensors_that_do_not_fit_are_refused(
    model: Any, adapters: dict[str, str], tmp_path: Path
) -> None:
    for number, end in enumerate(("lora_embedding_A", "lora_magnitude_vector.weight")):
        folder = changed(adapters["plain"], tmp_path / str(number))
        path = folder / "adapter_model.safetensors"
        name = "base_model.model.model.embed_tokens." + end
        save_file(load_file(path) | {name: torch.zeros(2, 2)}, path)
        with refused("not_plain_lora", ModelError, adapter=folder.name) as error:
            AdapterPool(model.module, 8).number(str(folder), [])
        assert name in error.value.fields["reason"]
    folder = changed(adapters["plain"], tmp_path / "elsewhere")
    path = folder / "adapter_model.safetensors"
    renamed = {key.replace("q_proj", "query"): tensor for key, tensor in load_file(path).items()}
    save_file(renamed, path)
    with refused("unknown_layer", ModelError, adapter="elsewhere") as error:
        AdapterPool(model.module, 8).number(str(folder), [])
    assert error.value.fields["layer"].endswith(".query")


def test_only_safetensors(model: Any, adapters: dict[str, str], tmp_path: Path) -> None:
    folder = changed(adapters["plain"], tmp_path / "pickled")
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    with refused("weights_unreadable", ModelError, adapter="pickled"):
        AdapterPool(model.module, 8).number(str(folder), [])
