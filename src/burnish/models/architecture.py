"""Reads a model's architecture from its configuration, and loads the part that writes text.

A model that also reads images or sound keeps the configuration of its text part inside of its own.
Burnish tunes and serves that part alone, as the causal language model that it is.
"""

import json
from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    __version__,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from burnish.errors import ModelError

# Names under which configurations keep the number of tokens that a model was built for.
_CONTEXT = ("max_position_embeddings", "max_seq_len", "context_length", "seq_length")
_DEFAULT_CONTEXT = 2048
# Where the weights of a text part are, by the newest and by an older layout of such models.
_TEXT_PART = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def context_tokens(config: Any) -> int:
    """The number of tokens that a model was built for; 2048 if its configuration has no limit."""
    values = (getattr(config, name, None) for name in _CONTEXT)
    return next((int(value) for value in values if value), _DEFAULT_CONTEXT)


def unsupported(folder: Path) -> ModelError | None:
    """Why transformers cannot build the model in a folder; None if it can, or cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind in CONFIG_MAPPING_NAMES:
        return None
    if config.get("auto_map"):
        return ModelError(
            f"{folder} needs its own Python code (auto_map in config.json, architecture {kind}), "
            "and Burnish does not run code from model folders",
            "use a model whose architecture is part of transformers",
            code="custom_code",
            path=str(folder),
            architecture=kind,
        )
    return ModelError(
        f"{folder} has the architecture {kind}, which transformers {__version__} does not know",
        "use another model, or a version of transformers that knows it",
        code="unknown_architecture",
        path=str(folder),
        architecture=kind,
    )


def text_part_renamings(path: Path | str) -> dict[str, str] | None:
    """How to rename the weights in a folder to load its text part; None if it is all text."""
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    text = config.get_text_config()
    whole, part = (_causal_class(each) for each in (config, text))
    return None if text is config or whole is part is not None else _TEXT_PART


def load_causal_model(path: Path | str, **options: Any) -> Any:
    """The causal language model in a folder; of a model that reads more than text, its text part.

    `options` are those of `from_pretrained`.

    Raises:
        ModelError: transformers has no causal language model for the text part alone, or the
            folder lacks weights.
        OSError, ValueError, KeyError: transformers cannot load it.
    """
    options |= {"trust_remote_code": False, "output_loading_info": True}
    if (renamings := text_part_renamings(path)) is None:
        module, report = AutoModelForCausalLM.from_pretrained(str(path), **options)
    else:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        text = config.get_text_config()
        kind = _causal_class(text)
        if kind is None:
            raise ModelError(
                f"{path} is a {config.model_type} model, which also reads images or sound, and "
                f"transformers has no language model for its text part ({text.model_type}) alone",
                "use a model that reads text only",
                code="text_part_not_alone",
                path=str(path),
                architecture=config.model_type,
            )
        text.tie_word_embeddings = config.tie_word_embeddings  # the whole model decides
        module, report = kind.from_pretrained(
            str(path), config=text, key_mapping=renamings, **options
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the weights in {path} lack {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            "download the model again, or save it again with all of its weights",
            code="weights_missing",
            path=str(path),
            missing=missing[:20],
        )
    return module


def _causal_class(config: Any) -> Any:
    """The causal language model of a configuration; None if transformers has none."""
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
