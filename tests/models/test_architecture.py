"""Model folders: the text part of a larger model is loaded whole, and the others get a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

import burnish
from burnish.errors import DataError, ModelError
from burnish.models.architecture import context_tokens, load_causal_model
from burnish.models.load import load_model
from burnish.models.stop_tokens import stop_tokens
from burnish.recipe.schema import recipe_of_rows
from tests.models.families import configuration
from tests.refused import refused
from tests.rows import labelled, write_rows

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10]])
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LOOKS = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}


def text_of(family: str) -> dict[str, Any]:
    values: dict[str, Any] = configuration(family, 100).to_dict()
    return values


def gemma3() -> Any:
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text_of("gemma3_text"), vision_config=SIGHT, mm_tokens_per_image=4)
    )


def mistral3() -> Any:
    sight = SIGHT | {"model_type": "pixtral", "head_dim": 16}
    config = Mistral3Config(text_config=text_of("mistral"), vision_config=sight)
    return Mistral3ForConditionalGeneration(config)


def qwen3_5() -> Any:
    sight = LOOKS | {"out_hidden_size": 64}
    config = Qwen3_5Config(text_config=text_of("qwen3_5_text"), vision_config=sight)
    return Qwen3_5ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [gemma3, mistral3, qwen3_5])
def test_the_text_part_is_the_whole_model_on_text(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = make().eval()
    whole.save_pretrained(tmp_path)
    part = load_causal_model(tmp_path, dtype=torch.float32).eval()
    assert type(part).__name__.endswith("ForCausalLM")
    assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in whole.parameters())
    with torch.no_grad():
        expected = whole(input_ids=TOKENS).logits
        torch.testing.assert_close(part(input_ids=TOKENS).logits, expected)


def test_a_text_part_that_transformers_does_not_know_alone_is_a_sentence(tmp_path: Path) -> None:
    text = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
    }
    sight = LOOKS | {"out_hidden_size": 64}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=sight)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path)
    with refused("text_part_not_alone", ModelError, architecture="qwen2_5_vl"):
        load_causal_model(tmp_path)


def test_context_lengths_of_families() -> None:
    named = {
        family: context_tokens(configuration(family, 100))
        for family in ("llama", "gpt2", "mpt", "dbrx", "rwkv", "bloom", "mamba", "xglm")
    }
    limited = dict.fromkeys(("llama", "gpt2", "mpt", "dbrx", "rwkv", "xglm"), 512)
    assert named == limited | {"bloom": 2048, "mamba": 2048}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def edited(path: Path, **values: Any) -> None:
    kept = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def started(folder: Path) -> None:
    rows = write_rows(folder.parent / "rows.jsonl", labelled(16))
    settings = {"name": "run", "model": str(folder), "output": str(folder.parent / "runs")}
    try:
        burnish.train(recipe_of_rows(rows, settings), quiet=True)
    finally:
        assert not (folder.parent / "runs" / "run").exists()


def test_an_unknown_architecture_is_a_sentence(folder: Path) -> None:
    edited(folder / "config.json", model_type="nothing")
    with refused("unknown_architecture", ModelError, architecture="nothing"):
        started(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    edited(folder / "config.json", model_type="nothing", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('this ran')")
    with refused("custom_code", ModelError, architecture="nothing"):
        started(folder)


def test_a_tokenizer_with_its_own_code_is_a_sentence(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit('this ran')")
    edited(
        folder / "tokenizer_config.json",
        tokenizer_class="MineTokenizer",
        auto_map={"AutoTokenizer": ["mine.MineTokenizer", None]},
    )
    with refused("custom_code", ModelError, model=str(folder)):
        started(folder)


def test_without_a_generation_config_the_model_stops_where_it_did(folder: Path) -> None:
    before = load_model(str(folder), "cpu")
    (folder / "generation_config.json").unlink()
    after = load_model(str(folder), "cpu")
    ends = [stop_tokens(model.module, model.tokenizer) for model in (before, after)]
    assert ends[0] == ends[1] == {before.tokenizer.eos_token_id}


def test_without_a_token_that_ends_a_turn_nothing_is_trained(folder: Path) -> None:
    edited(folder / "tokenizer_config.json", eos_token=None)
    edited(folder / "config.json", eos_token_id=None)
    (folder / "generation_config.json").unlink()
    (folder / "chat_template.jinja").unlink()
    with refused("no_stop_token", ModelError, model=str(folder)):
        started(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no such role') }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_raises_is_a_sentence(template: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with refused("refused_by_template", DataError):
        started(folder)


def test_missing_weights_are_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.0.mlp.up_proj.weight"
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with refused("weights_missing", ModelError, missing=[lost]):
        load_model(str(folder), "cpu")
