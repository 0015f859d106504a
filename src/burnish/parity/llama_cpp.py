"""Compares a GGUF file: runs llama.cpp's server in this process, on loopback only."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from burnish.errors import ModelError
from burnish.parity.endpoint import ServedForm
from burnish.parity.record import ReferenceAnswer

# llama.cpp allocates its cache in blocks of this many tokens.
_BLOCK = 256
# Precisions below 8 bits get the tolerance of 8 bits, so that their loss is reported.
_PRECISIONS = {"ALL_F32": "f32", "MOSTLY_F16": "f16", "MOSTLY_BF16": "f16", "MOSTLY_Q8_0": "q8_0"}


class LlamaCpp(ServedForm):
    """llama.cpp's server, which also reports how the template in the file renders a prompt."""

    def prompt_ids(
        self, reference: ReferenceAnswer, reply: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """The prompt's token ids, rendered with the template in the file."""
        root = self.endpoint.url.removesuffix("/v1")
        text = self.endpoint.post(f"{root}/apply-template", reference.body)["prompt"]
        body = {"content": text, "add_special": True, "parse_special": True}
        return tuple(self.endpoint.post(f"{root}/tokenize", body)["tokens"])

    def echo_logprobs(self, reference: ReferenceAnswer) -> list[float | None]:
        """All None: llama.cpp does not support `echo`."""
        return [None] * len(reference.answer)


def check_llama_cpp() -> None:
    """Check that llama.cpp can be used.

    Raises:
        ModelError: llama.cpp's Python package is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelError(
            "comparing a GGUF file needs llama.cpp, which is not installed",
            "install it with `pip install burnish[llama-cpp]`",
            code="not_installed",
            package="xllamacpp",
        )


def precision_of(path: Path) -> str:
    """Return the precision of the weights in a GGUF file: f32, f16 or q8_0.

    Raises:
        ModelError: the file does not exist, or is not a GGUF file.
    """
    from gguf import GGUFReader, LlamaFileType

    try:
        field = GGUFReader(path).get_field("general.file_type")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} does not exist or is not a GGUF file",
            "create one with `burnish export RUN --as gguf`",
            code="file_missing" if isinstance(error, FileNotFoundError) else "not_gguf",
            path=str(path),
        ) from error
    kind = LlamaFileType(field.contents()) if field is not None else LlamaFileType.GUESSED
    return _PRECISIONS.get(kind.name, "q8_0")


@contextmanager
def serve_gguf(
    path: Path, references: Sequence[ReferenceAnswer], tokenizer: Any
) -> Iterator[LlamaCpp]:
    """Serve a GGUF file with llama.cpp within a `with` block.

    Keys and values are stored in float32, as in torch; llama.cpp's default is float16.

    Raises:
        ModelError: llama.cpp is not installed, or does not load the file.
    """
    check_llama_cpp()
    import xllamacpp

    longest = max(len(one.prompt) + len(one.answer) for one in references)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = -(-2 * longest // _BLOCK) * _BLOCK  # its template may add tokens
    parameters.n_parallel = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = torch.get_num_threads()
    parameters.verbosity, parameters.warmup, parameters.ui = 0, False, False
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"llama.cpp cannot load {path} ({error})",
            "export it again, or choose another file",
            code="gguf_not_loaded",
            path=str(path),
            reason=str(error),
        ) from error
    yield LlamaCpp(f"{server.listening_address}/v1", path.name, tokenizer)
    del server
