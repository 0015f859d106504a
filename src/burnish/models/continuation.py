"""Runs new tokens of rows after computed ones, by the kind of the model's cache.

Keys and values: one pass, padded at the right, which no real token attends to; afterwards the
columns of shorter rows are moved to the right. Every row's columns then have no gap, so windows
and chunks, which attention masks count in columns, are exact at any length.

States: padding would change them, so rows that are continued later are run in groups of equal
length, and their caches are joined. Rows that are not continued are padded at the right.

Neither: the rows are computed again from their first token.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from burnish.models.cache_kinds import Continues, cache_kind, continues, new_cache, run_backbone
from burnish.models.devices import tensor_on, upload
from burnish.models.trunk_cache import TrunkCache, align_right, expand_cache, join_caches

Tokens = Sequence[int]


def extend_rows(
    model: Any,
    prefix: TrunkCache,
    rows: Sequence[Tokens],
    parents: Sequence[int],
    *,
    left: bool,
    consume: bool,
) -> tuple[TrunkCache, Tensor]:
    """The extended rows and the hidden states (B, L, H) of the new tokens; see `Network.extend`."""
    kind = cache_kind(model)
    if kind.trusted:
        return _run(model, prefix, rows, parents, keep=left, consume=consume)
    before = [prefix.tokens[parent] for parent in parents]
    whole = tuple((*b, *row) for b, row in zip(before, rows, strict=True))
    if any(before) and not _fits(model, prefix, rows):
        first = TrunkCache(None, torch.ones(1, 0, dtype=torch.long), None)
        trunk, hidden_B_K_H = extend_rows(
            model, first, whole, [0] * len(whole), left=left, consume=False
        )
        return trunk, _after(hidden_B_K_H, [len(b) for b in before], max(map(len, rows)))
    keep = left and continues(model) > Continues.NOTHING
    if keep and kind.recurrent:
        trunk, hidden_B_L_H = _run_by_length(model, prefix, rows, parents, consume=consume)
    else:
        trunk, hidden_B_L_H = _run(model, prefix, rows, parents, keep=keep, consume=consume)
    last_B_H = _last(hidden_B_L_H, rows) if left else None
    return TrunkCache(trunk.cache, trunk.mask_B_T, last_B_H, whole), hidden_B_L_H


def _fits(model: Any, prefix: TrunkCache, rows: Sequence[Tokens]) -> bool:
    """Whether the cache can be continued with these rows."""
    if prefix.cache is None:
        return False
    # A single token changes a state in place, which the backward pass may still need.
    single = max(map(len, rows)) == 1 and not torch.is_grad_enabled()
    return continues(model) >= (Continues.ONE_TOKEN if single else Continues.TOKENS)


def _run(
    model: Any,
    prefix: TrunkCache,
    rows: Sequence[Tokens],
    parents: Sequence[int],
    *,
    keep: bool,
    consume: bool,
) -> tuple[TrunkCache, Tensor]:
    """One forward pass; `keep` returns a cache that can be continued."""
    # On the CPU: checking for padding on another device would wait for it.
    lengths = [len(row) for row in rows]
    longest, parents_B = max(lengths), torch.tensor(parents)
    before_B_T = prefix.mask_B_T[parents_B]
    counts_B = before_B_T.sum(1)
    # At least two tokens after a state: see `_fits`.
    single = longest == 1 and cache_kind(model).recurrent and torch.is_grad_enabled()
    tokens_B_L, new_B_L = _pad(rows, longest + single)
    cache = prefix.cache
    if cache is None and keep:
        cache = new_cache(model)
    elif cache is not None and not consume:
        cache = expand_cache(cache, upload(parents_B, model.device))
    positions_B_L = counts_B[:, None] + torch.arange(tokens_B_L.shape[1])
    if cache is not None:  # padding must not pass the last position that a model has learnt
        positions_B_L = positions_B_L.clamp(max=int((counts_B + torch.tensor(lengths)).max()) - 1)
    mask_B_K = None
    if not bool(before_B_T.all()):
        mask_B_K = torch.cat([before_B_T, torch.ones_like(new_B_L)], dim=1)
        mask_B_K = upload(mask_B_K, model.device)
    hidden_B_L_H = run_backbone(
        model,
        upload(tokens_B_L, model.device),
        upload(positions_B_L, model.device),
        mask_B_K=mask_B_K,
        cache=cache,
    )[:, :longest]
    if not keep:
        return TrunkCache(cache, torch.cat([before_B_T, new_B_L], dim=1), None), hidden_B_L_H
    assert cache is not None
    mask_B_T = torch.cat([before_B_T, new_B_L], dim=1)
    if min(lengths) < longest:
        mask_B_T = _aligned(cache, before_B_T, counts_B, torch.tensor(lengths), model.device)
    return TrunkCache(cache, mask_B_T, _last(hidden_B_L_H, rows)), hidden_B_L_H


def _aligned(
    cache: Any, before_B_T: Tensor, counts_B: Tensor, lengths_B: Tensor, device: torch.device
) -> Tensor:
    """Moves the columns so that every row ends in the last one; returns the new mask."""
    totals_B = counts_B + lengths_B
    columns = int(totals_B.max())
    # The last column was the row's last new token.
    from_end_T = torch.arange(columns) - columns
    source_B_T = before_B_T.shape[1] + lengths_B[:, None] + from_end_T
    align_right(cache, upload(source_B_T.clamp(min=0), device))
    return (from_end_T >= -totals_B[:, None]).long()


def _run_by_length(
    model: Any,
    prefix: TrunkCache,
    rows: Sequence[Tokens],
    parents: Sequence[int],
    *,
    consume: bool,
) -> tuple[TrunkCache, Tensor]:
    """A pass for each length of row, without padding; the caches are joined afterwards."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(len(row), []).append(index)
    if len(groups) == 1:
        return _run(model, prefix, rows, parents, keep=True, consume=consume)
    trunks, hidden = [], []
    for members in groups.values():
        own = [rows[index] for index in members]
        trunk, hidden_B_L_H = _run(
            model, prefix, own, [parents[index] for index in members], keep=True, consume=False
        )
        trunks.append(trunk)
        hidden.append(_pad_columns(hidden_B_L_H, max(groups), at_left=False))
    places = {index: place for place, index in enumerate(chain(*groups.values()))}
    order_B = torch.tensor([places[index] for index in range(len(rows))])
    columns = max(trunk.mask_B_T.shape[1] for trunk in trunks)
    masks = [_pad_columns(trunk.mask_B_T[..., None], columns, at_left=True) for trunk in trunks]
    order = upload(order_B, model.device)
    cache = join_caches([t.cache for t in trunks if t.cache is not None], order, columns)
    mask_B_T = torch.cat(masks)[order_B][..., 0]
    return TrunkCache(cache, mask_B_T, None), torch.cat(hidden).index_select(0, order)


def _pad_columns(values_B_T_X: Tensor, size: int, *, at_left: bool) -> Tensor:
    missing = size - values_B_T_X.shape[1]
    return torch.nn.functional.pad(
        values_B_T_X, (0, 0, missing, 0) if at_left else (0, 0, 0, missing)
    )


def _last(hidden_B_L_H: Tensor, rows: Sequence[Tokens]) -> Tensor:
    """The hidden state of each row's last token, shape (B, H)."""
    if all(len(row) == hidden_B_L_H.shape[1] for row in rows):
        return hidden_B_L_H[:, -1]
    device = hidden_B_L_H.device
    last_B = tensor_on(device, [len(row) - 1 for row in rows])
    return hidden_B_L_H[torch.arange(len(rows), device=device), last_B]


def _after(hidden_B_K_H: Tensor, starts: Sequence[int], size: int) -> Tensor:
    """`size` columns of each row from its `starts`; those past the end repeat the last one."""
    columns_B_L = torch.tensor(starts)[:, None] + torch.arange(size)
    device = hidden_B_K_H.device
    columns_B_L = upload(columns_B_L.clamp(max=hidden_B_K_H.shape[1] - 1), device)
    return hidden_B_K_H[torch.arange(len(starts), device=device)[:, None], columns_B_L]


def _pad(rows: Sequence[Tokens], size: int) -> tuple[Tensor, Tensor]:
    """Tokens padded at the right and a mask of the real ones, both (B, size)."""
    tokens = [[*row] + [0] * (size - len(row)) for row in rows]
    real = [[1] * len(row) + [0] * (size - len(row)) for row in rows]
    return torch.tensor(tokens), torch.tensor(real)
