"""Loads a model by name onto the best device, in the dtype that is fastest there."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from burnish.data.chat_templates import (
    check_templates,
    set_model_stops,
    set_stop_tokens,
    set_thinking,
)
from burnish.errors import ModelError
from burnish.models.adapt import load_adapter
from burnish.models.architecture import context_tokens, load_causal_model
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.models.onednn import use_onednn
from burnish.models.registry import Source, first_line, resolve

DeviceChoice = Literal["auto", "cpu", "cuda"]

# Weights that bitsandbytes scales together.
_FOUR_BIT_BLOCK = 64
# Where transformers chooses between kernels of other packages and its own code.
_KERNELS = "transformers.integrations.hub_kernels"


@dataclass(frozen=True, slots=True)
class Placement:
    """The device and the dtype of a model."""

    device: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}"


def pick_device(choice: DeviceChoice) -> Placement:
    """CUDA in bfloat16 if there is a GPU, else the CPU in float32 (bfloat16 is far slower there).

    Raises:
        ModelError: `choice` is cuda, and there is no GPU.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "device is cuda, but torch does not find a GPU",
            "set device to auto or cpu",
            code="no_gpu",
            device=choice,
        )
    if choice != "cpu" and torch.cuda.is_available():
        return Placement("cuda", torch.bfloat16)
    return Placement("cpu", torch.float32)


def check_bitsandbytes() -> None:
    """Checks that 4-bit weights are supported here, before a model is loaded.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "method is qlora, but bitsandbytes is not installed",
            "install it with `pip install burnish[qlora]`, or set method to lora",
            code="not_installed",
            package="bitsandbytes",
        )


def four_bit_options(placement: Placement) -> dict[str, Any]:
    """Arguments of `from_pretrained` for 4-bit weights, on a CPU or with CUDA."""
    check_bitsandbytes()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": placement.device}}


def _checked_four_bit(module: Any, name: str) -> Any:
    """Works around two faults of bitsandbytes 0.50 on a CPU, and returns the model.

    It restores wrong weights if rows are not whole blocks. On CPUs with AVX-512 bfloat16 units it
    repacks the weights at the first pass without gradient, so that evaluation computes different
    numbers than training.

    Raises:
        ModelError: the model's rows are not whole blocks.
    """
    for layer in module.modules():
        if not hasattr(layer, "support_avx512bf16_for_cpu") or layer.weight.device.type != "cpu":
            continue
        layer.support_avx512bf16_for_cpu = False
        if layer.in_features % _FOUR_BIT_BLOCK:
            raise ModelError(
                f"{name} has rows of {layer.in_features} weights, but 4-bit weights on a CPU need "
                f"multiples of {_FOUR_BIT_BLOCK}",
                "set method to lora, or train on a GPU",
                code="rows_not_in_blocks",
                model=name,
                weights=layer.in_features,
                multiple=_FOUR_BIT_BLOCK,
            )
    return module


def _keep_all_layers(module: Any) -> None:
    """Disables LayerDrop, since a dropped layer would leave no keys for the branches of a trunk."""
    for part in module.modules():
        if getattr(part, "layerdrop", 0.0):
            part.layerdrop = 0.0


def context_length(source: Source) -> int:
    """The context length of a model in tokens, without loading its weights."""
    return context_tokens(_config(source))


def hidden_size(source: Source) -> int:
    """The hidden size of a model, without loading its weights."""
    return int(_config(source).hidden_size)


def _config(source: Source) -> Any:
    try:
        return AutoConfig.from_pretrained(
            str(source.path), trust_remote_code=False
        ).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot read the config.json of {source.name} ({first_line(error)[:120]})",
            "use a model folder whose architecture transformers supports",
            code="model_unreadable",
            model=source.name,
            reason=first_line(error),
        ) from error


def load_tokenizer(
    source: Source, stops: Sequence[str | int] = (), *, thinking: bool | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model source.

    Args:
        source: of the model.
        stops: additional tokens that end answers.
        thinking: whether prompts ask for a thought; None leaves it to the chat template.

    Raises:
        ModelError: the tokenizer cannot be read.
        RecipeError: one of the stops is not a token of the tokenizer.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(source.path), trust_remote_code=False
        )
        check_templates(tokenizer)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if _has_own_code(source):
            raise ModelError(
                f"the tokenizer of {source.name} needs its own Python code, and Burnish does not "
                "run code from model folders",
                "use a folder with a tokenizer.json, as a fast tokenizer's save_pretrained writes",
                code="custom_code",
                model=source.name,
            ) from error
        why = f"{type(error).__name__}: {first_line(error)[:120]}"
        raise ModelError(
            f"cannot read the tokenizer of {source.name} ({why})",
            "use a folder with the model's own tokenizer.json and tokenizer_config.json",
            code="tokenizer_unreadable",
            model=source.name,
            reason=why,
        ) from error
    set_stop_tokens(tokenizer, stops)
    set_model_stops(tokenizer, _generation_stops(source))
    set_thinking(tokenizer, thinking)
    return tokenizer


def _has_own_code(source: Source) -> bool:
    """Whether the tokenizer's class is Python code in the model folder."""
    try:
        text = (source.path / "tokenizer_config.json").read_text(encoding="utf-8")
        return "auto_map" in json.loads(text)
    except (OSError, ValueError, TypeError):
        return False


def _generation_stops(source: Source) -> list[int]:
    """The tokens that the model's own files name as ends of answers."""
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
        try:
            named = json.loads((Path(source.path) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        ends = named.get("eos_token_id") if isinstance(named, dict) else None
        stops = [ends] if isinstance(ends, int) else list(ends or ())
        if stops:
            break
    return [stop for stop in stops if isinstance(stop, int)]


def base_sha256(weights: str, *, four_bit: bool) -> str:
    """The hash of a base model; 4-bit weights get a different one, since their results differ."""
    return f"nf4-{weights}" if four_bit else weights


def load_model(
    name: str,
    device: DeviceChoice = "auto",
    adapter: Path | None = None,
    *,
    four_bit: bool = False,
) -> LanguageModel:
    """Loads a model, with an adapter if given; `model.base()` disables the adapter.

    `four_bit` keeps the layers' weights in 4-bit NormalFloat (Dettmers et al. 2023, arXiv
    2305.14314) with doubly quantised scales; that rounded model is then the base.

    Raises:
        ModelError: the model or the adapter cannot be loaded, or they do not fit together.
    """
    source, placement = resolve(name), pick_device(device)
    options: dict[str, Any] = four_bit_options(placement) if four_bit else {}
    logging.disable_progress_bar()
    if placement.device == "cpu":  # it advises kernels for GPUs
        logging.get_logger(_KERNELS).setLevel(logging.ERROR)
    try:
        module = load_causal_model(
            source.path, dtype=placement.dtype, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} is not a causal language model ({first_line(error)[:120]})",
            "choose another model; `burnish models` lists the built-in ones",
            code="not_a_language_model",
            model=name,
            reason=first_line(error),
        ) from error
    module = _checked_four_bit(module, name) if four_bit else module.to(placement.device)
    _keep_all_layers(module)
    use_onednn(module)
    sha256 = base_sha256(source.sha256, four_bit=four_bit)
    model = LanguageModel(module, load_tokenizer(source), name=source.name, source_sha256=sha256)
    if adapter is not None:
        model.module = load_adapter(module, adapter)
        model.adapter_sha256 = folder_sha256(adapter)
    return model
