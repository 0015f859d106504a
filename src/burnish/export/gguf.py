"""Writes a model to a GGUF file for llama.cpp and tools built on it."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from burnish.data.chat_templates import extra_stop_tokens
from burnish.errors import ModelError
from burnish.export.gguf_tokenizer import add_vocabulary, check_vocabulary
from burnish.models.stop_tokens import stop_tokens
from burnish.runs.atomic import new_file

if TYPE_CHECKING:
    from gguf import GGUFWriter

Precision = Literal["f32", "f16", "q8_0"]
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# The weights of a q8_0 block share one scale.
_BLOCK = 32


def check_gguf(config: Any, tokenizer: Any) -> None:
    """Check that a model can be written to GGUF.

    Raises:
        ModelError: its architecture, rotary embedding or tokenizer is not supported.
    """
    remedy = (
        "export it with --as merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
    )
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"the architecture {config.model_type} cannot be exported to GGUF, only "
            f"{', '.join(ARCHITECTURES)}",
            remedy,
            code="architecture_not_exportable",
            architecture=config.model_type,
        )
    rope = config.rope_parameters["rope_type"]
    if rope != "default":
        raise ModelError(
            f"the rotary embedding type {rope} cannot be exported to GGUF",
            remedy,
            code="rope_not_exportable",
            rope=rope,
        )
    if config.hidden_act != "silu" or getattr(config, "use_sliding_window", False):
        raise ModelError(
            f"this {config.model_type} model differs from llama.cpp's {config.model_type} "
            f"(activation {config.hidden_act}, or a sliding window)",
            remedy,
            code="config_not_exportable",
            architecture=config.model_type,
            activation=config.hidden_act,
        )
    check_vocabulary(tokenizer)


def write_gguf(
    model: Any, tokenizer: Any, target: Path, *, name: str, precision: Precision = "f32"
) -> None:
    """Write weights, sizes, tokenizer and chat template; the file is complete or absent.

    With `f16` and `q8_0` matrices are rounded and vectors stay float32, as llama.cpp expects.

    Raises:
        ModelError: see `check_gguf`.
    """
    from gguf import GGUFWriter, LlamaFileType

    config = model.config
    check_gguf(config, tokenizer)
    kinds = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    writer = GGUFWriter(None, config.model_type)
    writer.add_name(name)
    writer.add_file_type(kinds[precision])
    _add_sizes(writer, config)
    add_vocabulary(writer, tokenizer, config.vocab_size)
    _add_ends(writer, model, tokenizer)
    _add_weights(writer, model, precision)
    try:
        with new_file(target) as temporary:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    finally:
        with suppress(OSError):  # on a full disk, which was reported already
            writer.close()


def _add_ends(writer: "GGUFWriter", model: Any, tokenizer: Any) -> None:
    """Add stop tokens besides the tokenizer's own; a file has room for two of them.

    They are the end-of-turn and end-of-message tokens.
    """
    more = stop_tokens(model, tokenizer) - {tokenizer.eos_token_id}
    first = [token for token in extra_stop_tokens(tokenizer) if token in more]
    ordered = [*first, *sorted(more - {*first})]
    for add, token in zip(
        (writer.add_eot_token_id, writer.add_eom_token_id), ordered, strict=False
    ):
        add(token)


def _add_sizes(writer: "GGUFWriter", config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_weights(writer: "GGUFWriter", model: Any, precision: Precision) -> None:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map, quantize

    config = model.config
    architecture = next(k for k, v in MODEL_ARCH_NAMES.items() if v == config.model_type)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"the weight {key} cannot be stored in a GGUF file",
                "export it with --as merged",
                code="weight_not_exportable",
                weight=key,
            )
        kind = _kind(weight, precision)
        written = quantize(_ordered(key, weight, config).float().cpu().numpy(), kind)
        writer.add_tensor(name, written, raw_dtype=kind)


def _ordered(key: str, weight: Tensor, config: Any) -> Tensor:
    """Reorder query and key rows for llama.cpp's Llama, which rotates adjacent pairs.

    transformers rotates the first half of a head against the second, and so do llama.cpp's other
    architectures.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(key.split(".")[-2])
    if config.model_type != "llama" or count is None:
        return weight
    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _kind(weight: Tensor, precision: Precision) -> Any:
    from gguf import GGMLQuantizationType

    if precision == "f32" or weight.dim() == 1:
        return GGMLQuantizationType.F32
    if precision == "f16" or weight.shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType.Q8_0
