"""Small random encoders, one of each family that people tag and classify with."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

# The tokens that the position embeddings have room for; RoBERTa's begin after the padding token's.
POSITIONS = 64
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "distilbert": {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
    },
    "roberta": _SIZES | {"max_position_embeddings": POSITIONS + 1},
    "xlm-roberta": _SIZES | {"max_position_embeddings": POSITIONS + 1},
    "deberta-v2": _SIZES  # the architecture of DeBERTa-v3, with its settings
    | {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": _SIZES
    | {
        "num_hidden_layers": 4,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "electra": _SIZES | {"embedding_size": 16},
    "albert": _SIZES | {"embedding_size": 16},
}


def save_encoder(name: str, tokenizer: Any, folder: Path) -> Path:
    """Saves a random encoder without a head, with its tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **ENCODERS[name])
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
