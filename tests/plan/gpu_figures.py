"""Configurations of models that are tuned on GPUs, and what others publish about their memory."""

from dataclasses import dataclass, field
from typing import Any

# Sizes as their makers publish them.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "Qwen3-8B": {
        "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096,
        "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880,
        "intermediate_size": 2880, "num_hidden_layers": 24, "num_local_experts": 32,
        "num_experts_per_tok": 4, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "sliding_window": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "Gemma-3-27B": {
        "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 5376,
        "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
        "query_pre_attn_scalar": 168, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A published peak in GiB, and the settings under which the plan is compared with it."""

    model: str
    method: str
    source: str
    peak: float
    batch: int = 2
    length: int = 2048
    checkpointing: bool = True
    lora: dict[str, Any] = field(default_factory=dict)
    # Where the figure is of other arithmetic than ours, which the page explains.
    agrees: bool = True


_ATTENTION = {"rank": 8, "target_modules": "attention"}
FIGURES = (
    Figure("Llama-3.1-8B", "lora", "torchtune", 16.2, lora=_ATTENTION),
    Figure("Llama-3.1-8B", "lora", "torchtune", 30.3, checkpointing=False, lora=_ATTENTION,
           agrees=False),
    Figure("Llama-3.1-8B", "qlora", "torchtune", 7.4, lora=_ATTENTION),
    Figure("Qwen3-8B", "lora", "Unsloth", 22.0),
    Figure("Qwen3-8B", "qlora", "Unsloth", 6.0, agrees=False),
    Figure("Gemma-3-27B", "lora", "Unsloth", 64.0),
    Figure("Gemma-3-27B", "qlora", "Unsloth", 22.0),
    Figure("gpt-oss-20b", "lora", "Axolotl", 44.0, batch=1, length=4096, lora=_ATTENTION),
    Figure("gpt-oss-20b", "qlora", "Unsloth", 14.0, agrees=False),
)  # fmt: skip
