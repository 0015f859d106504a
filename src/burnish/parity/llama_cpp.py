"""A GGUF file as a voice: llama.cpp's own server, in this process, on loopback only."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch

from burnish.errors import ModelError
from burnish.parity.endpoint import Endpoint
from burnish.parity.record import Said

_SECONDS = 60.0
# Places in the cache come in such blocks.
_BLOCK = 256
# Those that are coarser than 8 bits are allowed no more, so that what they lost is told.
_PRECISIONS = {"ALL_F32": "f32", "MOSTLY_F16": "f16", "MOSTLY_BF16": "f16", "MOSTLY_Q8_0": "q8_0"}


class LlamaCpp(Endpoint):
    """An endpoint that also shows how it renders a prompt, with the template in the file."""

    def prompt_ids(self, said: Said, reply: dict[str, Any]) -> tuple[int, ...] | None:
        root = self.url.removesuffix("/v1")
        with httpx2.Client(base_url=root, timeout=_SECONDS) as client:
            text = client.post("/apply-template", json=said.body).json()["prompt"]
            wanted = {"content": text, "add_special": True, "parse_special": True}
            return tuple(client.post("/tokenize", json=wanted).json()["tokens"])

    def echoed(self, said: Said) -> list[float | None]:
        """It does not echo."""
        return [None] * len(said.answer)


def check_llama_cpp() -> None:
    """
    Raises:
        ModelError: llama.cpp's Python package is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelError(
            "a GGUF file is to be asked, but llama.cpp is not installed",
            "install it with `pip install burnish[llama-cpp]`",
            code="not_installed",
            package="xllamacpp",
        )


def precision_of(path: Path) -> str:
    """In what the matrices of a GGUF file are kept.

    Raises:
        ModelError: there is no such file, or it is no GGUF file.
    """
    from gguf import GGUFReader, LlamaFileType

    try:
        field = GGUFReader(path).get_field("general.file_type")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is no GGUF file",
            "write one with `burnish export RUN --as gguf`",
            code="file_missing" if isinstance(error, FileNotFoundError) else "not_gguf",
            path=str(path),
        ) from error
    kind = LlamaFileType(field.contents()) if field is not None else LlamaFileType.GUESSED
    return _PRECISIONS.get(kind.name, "q8_0")


@contextmanager
def opened(path: Path, said: Sequence[Said], tokenizer: Any) -> Iterator[LlamaCpp]:
    """The file, loaded, for as long as the block lasts.

    Keys and values are kept in float32, as torch keeps them; llama.cpp's own default is float16.

    Raises:
        ModelError: llama.cpp is not installed, or does not load the file.
    """
    check_llama_cpp()
    import xllamacpp

    longest = max(len(one.prompt) + len(one.answer) for one in said)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = -(-2 * longest // _BLOCK) * _BLOCK  # its template may write more
    parameters.n_parallel = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = torch.get_num_threads()
    parameters.verbosity, parameters.warmup, parameters.ui = 0, False, False
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"llama.cpp does not load {path} ({error})",
            "export it again, or name another file",
            code="gguf_not_loaded",
            path=str(path),
            reason=str(error),
        ) from error
    with LlamaCpp(f"{server.listening_address}/v1", path.name, tokenizer) as found:
        yield found
    del server
