"""Adapters side by side: PEFT's own numbers, and clear words for what is not served."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from burnish.errors import ModelError
from burnish.inference.forward import ModelRunner, NewTokens
from burnish.inference.kv_cache import KVRow
from burnish.inference.lora import BASE, AdapterPool
from burnish.inference.runner import open_runner
from burnish.models.branches import Network
from burnish.models.load import load_model
from tests.inference.test_forward import SMALL, tiny
from tests.inference.test_state_runner import LINEAR
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


EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "side by side": ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 24}),
    "transposed": ("gpt_oss", {"num_local_experts": 4, "layer_types": ["full_attention"] * 2}),
    "with states": (
        "qwen3_next",
        LINEAR
        | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    ),
}


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_experts_equal_peft(kind: str, tmp_path: Path) -> None:
    """Rows of the base, of an adapter of experts and of a plain one, in one step."""
    name, options = EXPERTS[kind]
    sizes = SMALL | {"num_experts_per_tok": 2} | options
    both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    wishes: list[dict[str, Any]] = [
        {"target_parameters": both, "target_modules": ["q_proj"]},
        {"target_parameters": both[1:], "target_modules": [], "use_rslora": True},
        {"target_modules": ["q_proj"]},
    ]
    folders = []
    for seed, wish in enumerate(wishes):
        torch.manual_seed(seed)
        config = LoraConfig(r=3, lora_alpha=8, task_type="CAUSAL_LM", **wish)
        adapted = get_peft_model(tiny(name, sizes), config)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        folders.append(tmp_path / str(seed))
        adapted.save_pretrained(str(folders[-1]), save_embedding_layers=False)
    model, tokens = tiny(name, sizes), list(range(10, 35))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        runner = open_runner(Network(model), AdapterPool(model, 8))
        numbers = [BASE, *(runner.adapters.number(str(folder), []) for folder in folders), BASE]
        rows = [runner.new_row(number, 30) for number in numbers]
        runner.run([NewTokens(row, tokens[: 15 + place]) for place, row in enumerate(rows)])
        for _ in range(2):
            last = runner.run([NewTokens(row, [tokens[len(row.tokens)]]) for row in rows])
        found = runner.logits(torch.stack([states[-1] for states in last]), numbers)
        runner.close()
    for key, value in model.state_dict().items():
        assert value.equal(before[key])
    seen = []
    for place, folder in enumerate([None, *folders, None]):
        alone: Any = tiny(name, sizes)
        if folder is not None:
            alone = PeftModel.from_pretrained(alone, str(folder)).eval()
        with torch.no_grad():
            plain = alone(torch.tensor([tokens[: 17 + place]])).logits[0, -1]
        torch.testing.assert_close(found[place], plain, atol=1e-4, rtol=1e-3)
        with torch.no_grad():
            seen.append(alone(torch.tensor([tokens])).logits[0, -1])
    assert all((seen[0] - other).abs().max() > 0.05 for other in seen[1:-1])


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
