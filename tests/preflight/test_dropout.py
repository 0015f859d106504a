"""Models whose own configuration drops values: compared without, trained with what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    GPT2Config,
    OPTConfig,
    SeedOssConfig,
    XGLMConfig,
)

import burnish
from burnish.pipeline import verbs
from burnish.preflight.base import without_dropout
from tests.rows import labelled, write_rows

CONFIGS: dict[str, Any] = {
    "opt": lambda **shared: OPTConfig(
        ffn_dim=64, word_embed_proj_dim=32, dropout=0.3, attention_dropout=0.3, layerdrop=0.4,
        num_hidden_layers=2, num_attention_heads=2, **shared,
    ),
    "biogpt": lambda **shared: BioGptConfig(
        intermediate_size=64, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3,
        activation_dropout=0.3, layerdrop=0.4, num_hidden_layers=2, num_attention_heads=2, **shared,
    ),
    "xglm": lambda hidden_size, **shared: XGLMConfig(
        d_model=hidden_size, ffn_dim=64, num_layers=2, attention_heads=2, dropout=0.3,
        attention_dropout=0.3, activation_dropout=0.3, layerdrop=0.4, **shared,
    ),
    "seed-oss": lambda **shared: SeedOssConfig(
        intermediate_size=64, head_dim=16, num_key_value_heads=2, attention_dropout=0.3,
        residual_dropout=0.3, num_hidden_layers=2, num_attention_heads=2, **shared,
    ),
    "gpt2": lambda hidden_size, **shared: GPT2Config(
        n_embd=hidden_size, n_layer=2, n_head=2, resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3,
        n_positions=512, **shared,
    ),
}  # fmt: skip


@pytest.fixture
def model(request: pytest.FixtureRequest, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A tiny random model of a family that drops values."""
    torch.manual_seed(0)
    ids = {
        f"{kind}_token_id": getattr(tiny_tokenizer, f"{kind}_token_id") for kind in ("bos", "eos")
    }
    config = CONFIGS[request.param](
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        max_position_embeddings=512,
        pad_token_id=tiny_tokenizer.pad_token_id,
        **ids,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(12))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {model}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        "training: {epochs: 1, batch_size: 4, learning_rate: 0.02}\nlora: {dropout: 0.1}\n"
        f"evaluate: {{general: null}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


@pytest.mark.parametrize("model", [name for name in CONFIGS if name != "gpt2"], indirect=True)
def test_checks_pass(recipe: Path) -> None:
    checks = verbs.preflight(recipe, quiet=True)
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize("model", ["opt"], indirect=True)
def test_the_run_is_untouched_by_the_checks(recipe: Path) -> None:
    """What the configuration drops is dropped in training, by the same chance with and without."""
    tried = burnish.train(recipe, quiet=True, name="tried")
    plain = burnish.train(recipe, quiet=True, name="plain", **{"training.preflight": False})
    name = "adapter_model.safetensors"
    expected, got = load_file(plain.adapter / name), load_file(tried.adapter / name)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_nothing_is_random_inside_and_all_rates_return(model: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(model).train()
    tokens = torch.arange(40)[None] % 20

    def passes() -> list[torch.Tensor]:
        with torch.no_grad():
            return [module(input_ids=tokens).logits for _ in range(2)]

    before = module.config.to_dict()
    with without_dropout(module):
        assert module.training
        first, second = passes()
    assert torch.equal(first, second)
    assert module.config.to_dict() == before
    first, second = passes()
    assert not torch.equal(first, second)
