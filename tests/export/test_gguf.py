"""A GGUF file says in llama.cpp what its model says in torch, for each family and precision."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from burnish.conversation import Message
from burnish.errors import ModelError, is_disk_full
from burnish.export.gguf import check_gguf, write_gguf
from burnish.export.gguf_tokenizer import _QWEN
from burnish.models.gguf_import import convert_gguf
from burnish.models.language_model import LanguageModel
from burnish.parity.difference import difference
from burnish.parity.llama_cpp import precision_of, serve_gguf
from burnish.parity.local import generate_reference
from burnish.parity.record import Difference
from tests.conftest import CHATML, SENTENCES
from tests.refused import refused

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)
PROMPTS = [
    ("plain", (Message("user", "where is my parcel 2026, it'll come?"),)),
    ("other", (Message("system", "réponds  vite"), Message("user", "用一句话\n\n 12 🙂"))),
]
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1,
}  # fmt: skip
SPLITTING: dict[str, Any] = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(_QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(SPLITTING[kind])
    if kind == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*SENTENCES, "in 2026 it'll come, 2026 it'll be"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", chat_template=CHATML, model_max_length=512
    )


def model_of(kind: type[Any], splitting: str, **changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = tokenizer_of(splitting)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = kind(vocab_size=len(tokenizer) + 5, **special, **SIZES, **changes)
    module = AutoModelForCausalLM.from_config(config)
    return LanguageModel(module, tokenizer, name="tiny", source_sha256="0")


def said_by_llama_cpp(model: LanguageModel, path: Path) -> list[Difference]:
    said = generate_reference(model, PROMPTS)
    with serve_gguf(path, said, model.tokenizer) as file:
        return [difference(*pair) for pair in zip(said, file.probe(said), strict=True)]


@needs_llama_cpp
@pytest.mark.parametrize(
    ("kind", "splitting", "changes"),
    [
        (LlamaConfig, "smollm", {"tie_word_embeddings": True}),
        (LlamaConfig, "gpt-2", {"attention_bias": True, "rope_theta": 5e5}),
        (Qwen2Config, "qwen2", {"tie_word_embeddings": False}),
        (Qwen3Config, "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
    ],
)
def test_llama_cpp_says_the_same(
    kind: type[Any], splitting: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(kind, splitting, **changes)
    for name, weight in model.module.named_parameters():
        if weight.dim() == 1:  # norms of 1 and biases of 0 would hide what is left out
            torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.2)
    write_gguf(model.module, model.tokenizer, tmp_path / "tiny.gguf", name="tiny")
    found = said_by_llama_cpp(model, tmp_path / "tiny.gguf")
    assert all(one.prompt_equal for one in found)
    assert [one.reason(1e-3) for one in found] == [None, None], found
    assert sum(one.compared for one in found) > 4


@needs_llama_cpp
@pytest.mark.parametrize(("precision", "least", "most"), [("f16", 1e-6, 0.05), ("q8_0", 1e-4, 0.5)])
def test_rounded_matrices(precision: Any, least: float, most: float, tmp_path: Path) -> None:
    model = model_of(LlamaConfig, "smollm")
    whole, path = tmp_path / "whole.gguf", tmp_path / "rounded.gguf"
    write_gguf(model.module, model.tokenizer, whole, name="tiny")
    write_gguf(model.module, model.tokenizer, path, name="tiny", precision=precision)
    assert path.stat().st_size < whole.stat().st_size
    assert precision_of(path) == precision
    found = said_by_llama_cpp(model, path)
    assert all(one.reason(most) is None for one in found)
    assert least < max(one.largest or 0.0 for one in found)


def test_transformers_reads_the_same_weights_back(tmp_path: Path) -> None:
    model = model_of(LlamaConfig, "smollm", tie_word_embeddings=False)
    write_gguf(model.module, model.tokenizer, tmp_path / "tiny.gguf", name="tiny")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    for name, weight in model.module.state_dict().items():
        assert torch.equal(back[name], weight), name
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    model = model_of(LlamaConfig, "smollm")
    (tmp_path / f".tiny.gguf.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as met:  # noqa: PT011 - numpy gives it no number
        write_gguf(model.module, model.tokenizer, tmp_path / "tiny.gguf", name="tiny")
    assert is_disk_full(met.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "code", "fields"),
    [
        (GemmaConfig(**SIZES), "architecture_not_exportable", {"architecture": "gemma"}),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "config_not_exportable", {"activation": "gelu"}),
        (
            LlamaConfig(
                **SIZES,
                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            ),
            "rope_not_exportable",
            {"rope": "linear"},
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    config: Any, code: str, fields: dict[str, Any]
) -> None:
    with refused(code, ModelError, **fields) as error:
        check_gguf(config, tokenizer_of("smollm"))
    assert "convert_hf_to_gguf.py" in error.value.remedy


def test_a_tokenizer_that_llama_cpp_would_not_know_is_refused(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with refused("tokenizer_not_exportable", ModelError, model="WordPiece"):
        check_gguf(LlamaConfig(**SIZES), word_tokenizer)
    other = tokenizer_of("gpt-2")
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with refused("tokenizer_not_exportable", ModelError, model="BPE"):
        check_gguf(LlamaConfig(**SIZES), other)
