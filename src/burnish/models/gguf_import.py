"""Converts a GGUF file to a transformers model folder."""

import io
import struct
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import ModelError
from burnish.terminal import Terminal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Vocabularies whose merges were learned with every digit split off (llama.cpp, llama-vocab.cpp).
_DIGIT_SPLITTING = frozenset({"smollm", "starcoder", "refact", "command-r"})


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantises `gguf` to float32 and saves model and tokenizer in the folder `target`.

    Raises:
        ModelError: the file is not GGUF, or transformers does not support its architecture.
    """
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(
                f"{gguf.name} is not a GGUF file",
                "download the file again; it may be damaged",
                code="not_gguf",
                path=gguf.name,
            )
    try:
        with Terminal(stderr=True).status(f"converting {gguf.name}"):
            _convert(gguf, target)
    except (LookupError, RuntimeError, ValueError, struct.error) as error:
        why = str(error).partition("\n")[0]
        raise ModelError(
            f"cannot convert {gguf.name} ({why})",
            "use the model's safetensors instead, as a folder or as hf:org/name",
            code="gguf_not_converted",
            path=gguf.name,
            reason=why,
        ) from error


def _convert(gguf: Path, target: Path) -> None:
    # Imported here, because it takes seconds and a cached model does not need it. It comes before
    # the redirection; otherwise the loggers of torch would keep the redirected stream.
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The progress bars of the loader cannot be disabled and would disturb the status line.
    with redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype="float32",
            quantization_config=GgufConfig(dequantize=True),  # otherwise it cannot be saved
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(target)
    tokenizer.model_max_length = model.config.max_position_embeddings
    _restore_digit_splitting(tokenizer.backend_tokenizer, gguf)
    tokenizer.save_pretrained(target)


def _restore_digit_splitting(tokenizer: "Tokenizer", gguf: Path) -> None:
    """Splits off every digit, as when the vocabulary's merges were learned.

    transformers 5 does not support these `tokenizer.ggml.pre` and falls back to GPT-2's splitting,
    which tokenizes "5  5" differently than in the model's training.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in _DIGIT_SPLITTING:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
