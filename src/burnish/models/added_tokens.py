"""Splits adapters that contain embeddings into an extended base model and a plain adapter.

Tokens that the base does not have become rows of an extended base, with the adapter's tokenizer.
The rest is an adapter of low-rank maps, unless embeddings of the base's own tokens were trained,
too: then all weights are saved.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.errors import ModelError, quantity
from burnish.models.adapt import load_adapter, merge_adapters, save_weights
from burnish.models.adapter_files import CONFIG, WEIGHTS, adapter_settings, safetensors_errors
from burnish.models.registry import Source

_PREFIX = "base_model.model."
_DELTA = "trainable_tokens_delta"
_WRAPPED = re.compile(
    r"(\.(modules_to_save|original_module|token_adapter|base_layer|trainable_tokens_delta))*"
    r"(\.weight)?$"
)
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Names of the embedding and the vocabulary projection in different architectures.
_LAYERS = (
    "embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings", "output_layer"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SplitAdapter:
    """How an adapter was split.

    Attributes:
        extended: whether an extended base was written.
        whole: whether the rest is all weights, because embeddings of the base were trained.
    """

    extended: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class _TokenRows:
    """Rows of the embedding or the vocabulary projection, with their token ids."""

    tokens: Tensor
    values: Tensor


def has_embeddings(folder: Path) -> bool:
    """Whether the adapter's weights contain embeddings."""
    with safetensors_errors(folder):
        return bool(_embedding_rows(load_file(folder / WEIGHTS), adapter_settings(folder)))


def split_adapter(folder: Path, base: Source, extended: Path, rest: Path) -> SplitAdapter:
    """Writes the base with the adapter's tokens to `extended`, if it adds any, and the rest of the
    adapter to `rest`.

    Raises:
        ModelError: the folder has no tokenizer with the added tokens, or the adapter was made for
            another base model.
    """
    with safetensors_errors(folder):
        weights = load_file(folder / WEIGHTS)
    config = adapter_settings(folder)
    model = AutoModelForCausalLM.from_pretrained(str(base.path), dtype="auto")
    found = _embedding_rows(weights, config)
    untied = _untie(model, found)
    before = _matrices(model)
    rows = {name if name in before else next(iter(before)): own for name, own in found.items()}
    size = len(next(iter(before.values())))
    known = AutoTokenizer.from_pretrained(str(base.path))
    embedded = max([size, *(int(own.tokens.max()) + 1 for own in rows.values())])
    tokenizer = _tokenizer(folder, known if embedded == size else None)
    if len(tokenizer) > embedded:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, but the adapter and its base "
            f"have embeddings for {embedded}",
            "copy the tokenizer that the adapter was trained with into the folder",
            code="tokenizer_too_large",
            path=str(folder),
            tokens=len(tokenizer),
            embeddings=embedded,
        )
    if embedded > size:
        model.resize_token_embeddings(embedded, mean_resizing=False)
    changed = _put_rows(model, rows, before, first_new=min(len(known), size))
    added = untied or embedded > size or tokenizer.get_vocab() != known.get_vocab()
    if added:
        model.save_pretrained(str(extended))
        tokenizer.save_pretrained(str(extended))
    _write_rest(weights, config, rest)
    if changed:
        _write_whole(model.float(), rows, rest)
    return SplitAdapter(added, changed)


def _write_rest(weights: dict[str, Tensor], config: dict[str, Any], rest: Path) -> None:
    """The adapter without its embeddings."""
    kept = {key: value for key, value in weights.items() if not _is_embedding(key)}
    whole = [name for name in config.get("modules_to_save") or () if name not in _LAYERS]
    settings = config | {"trainable_token_indices": None, "modules_to_save": whole or None}
    rest.mkdir(parents=True)
    save_file(kept, rest / WEIGHTS, metadata={"format": "pt"})
    (rest / CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _write_whole(model: Any, rows: dict[str, _TokenRows], rest: Path) -> None:
    """All weights in place of the adapter, the trained rows of the base's own tokens in them."""
    with torch.no_grad():
        for name, matrix in _matrices(model).items():
            if name in rows:
                matrix[rows[name].tokens] = rows[name].values.to(matrix.dtype)
    tuned = merge_adapters(load_adapter(model, rest))
    shutil.rmtree(rest)
    rest.mkdir()
    save_weights(tuned, rest)


def _untie(model: Any, found: dict[str, _TokenRows]) -> bool:
    """Unties the vocabulary projection from the embedding if the adapter trained both separately;
    returns whether it did."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    own = [part.values for part in found.values()]
    tied = outputs is not None and outputs.weight is inputs.weight
    if not tied or len(own) < 2 or (own[0].shape == own[1].shape and own[0].equal(own[1])):
        return False
    outputs.weight = nn.Parameter(outputs.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


def _put_rows(
    model: Any, rows: dict[str, _TokenRows], before: dict[str, Tensor], first_new: int
) -> bool:
    """Copies rows of new tokens into the model; returns whether rows of its own tokens differ.

    A new token in a matrix that the adapter did not save gets the mean of the base's rows.
    """
    changed = False
    with torch.no_grad():
        for name, matrix in _matrices(model).items():
            old = before[name]
            matrix[old.shape[0] :] = old.float().mean(0).to(matrix.dtype)
            if name not in rows:
                continue
            own = rows[name]
            if own.values.shape[1] != matrix.shape[1]:
                raise ModelError(
                    f"the adapter was made for another base model (its embeddings have the width "
                    f"{own.values.shape[1]}, those of the base {matrix.shape[1]})",
                    "pass the adapter's own base model with --model",
                    code="wrong_base",
                    width=own.values.shape[1],
                    expected=matrix.shape[1],
                )
            new = own.tokens >= first_new
            matrix[own.tokens[new]] = own.values[new].to(matrix.dtype)
            earlier, values = own.tokens[~new], own.values[~new].to(old.dtype)
            changed |= not torch.equal(old[earlier], values)
    return changed


def _matrices(model: Any) -> dict[str, Tensor]:
    """The embedding and, if it is not tied, the vocabulary projection, by module name."""
    found: dict[str, Tensor] = {}
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None and all(layer.weight is not matrix for matrix in found.values()):
            name = next(n for n, module in model.named_modules() if module is layer)
            found[name] = layer.weight
    return {name: weight.detach() for name, weight in found.items()}


def _embedding_rows(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, _TokenRows]:
    """The embedding rows in the adapter's weights, by module name."""
    found: dict[str, _TokenRows] = {}
    for key, value in sorted(weights.items(), key=lambda item: _DELTA in item[0]):
        if not _is_embedding(key) or ".original_module." in key:
            continue
        name = _layer_of(key)
        if _DELTA not in key:
            found[name] = _TokenRows(torch.arange(len(value)), value)
            continue
        listed = _indices(name, config.get("trainable_token_indices"))
        if len(listed) != len(value):
            raise ModelError(
                f"the adapter lists {quantity(len(listed), 'token')} in trainable_token_indices, "
                f"but its weights have {quantity(len(value), 'row')}",
                "copy adapter_config.json and the weights again, from the same checkpoint",
                code="token_count_differs",
                named=len(listed),
                rows=len(value),
            )
        if not listed:
            continue
        tokens = torch.tensor(listed)
        if name in found:  # the rows of its base layer were saved, too
            found[name].values[tokens] = value.to(found[name].values.dtype)
        else:
            found[name] = _TokenRows(tokens, value)
    return found


def _indices(name: str, named: Any) -> list[int]:
    """The individually trained tokens as PEFT lists them: for the embedding, or by layer."""
    if not isinstance(named, dict):
        return list(named or ())
    own = next((tokens for layer, tokens in named.items() if name.endswith(layer)), None)
    return list(next(iter(named.values()), ()) if own is None else own)


def _layer_of(key: str) -> str:
    """The module name of a weight, without PEFT's wrappers."""
    return _WRAPPED.sub("", key.removeprefix(_PREFIX))


def _is_embedding(key: str) -> bool:
    """Whether a weight is an embedding or vocabulary projection, or rows of one."""
    whole = key.endswith(".weight") or _DELTA in key
    return whole and _layer_of(key).split(".")[-1] in _LAYERS


def _tokenizer(folder: Path, otherwise: Any) -> Any:
    if any((folder / name).exists() for name in _TOKENIZER):
        return AutoTokenizer.from_pretrained(str(folder))
    if otherwise is None:
        raise ModelError(
            f"{folder} has embeddings of added tokens, but no tokenizer with these tokens",
            "copy the tokenizer that the adapter was trained with (tokenizer.json and "
            "tokenizer_config.json) into the folder",
            code="no_tokenizer",
            path=str(folder),
        )
    return otherwise
