"""Attention of rows of any length side by side: no padding, and shared places are read once.

All new tokens of a step are one sequence for the model; only attention knows the rows. Rows that
continue by one token are computed together: their scores lie side by side in one tensor, and what
they share, the trunk, is one matrix product for all of them, because reading keys and values is
what a step of many rows spends its time on. Rows that read several tokens, parts of prompts, are
computed one by one.

A layer may see a window only, cap its scores (Gemma 2), or give weight to a sink, a learned score
that stands beside the places of a row and reads nothing (gpt-oss). Values may be narrower than keys
(multi-head latent attention of DeepSeek); they are padded with zeros.

Shapes: N new tokens of all rows, B rows of one token, Q query heads, H heads of keys and values,
R = Q / H query heads a head, D head size, P places, L new tokens of one row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from burnish.inference.kv_cache import KVRow, Segment
from burnish.models.devices import upload

NAME = "burnish_rows"
# Arguments of a layer's attention that change nothing here, or that are honoured.
_KNOWN = frozenset({
    "scaling", "sliding_window", "softcap", "s_aux", "dropout", "is_causal", "deterministic",
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits", "return_dict",
})  # fmt: skip
_masks_are_windows: ContextVar[bool] = ContextVar("masks_are_windows", default=False)


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How a layer attends.

    Attributes:
        scale: factor of the products of queries and keys.
        window: tokens that a token sees, itself included; None for all before it.
        softcap: scores stay below it: `softcap * tanh(score / softcap)`.
        sinks_Q: a learned score for each query head that takes part in the softmax.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks_Q: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether torch's own attention computes it."""
        return self.softcap is None and self.sinks_Q is None

    def of_head(self, head: int, heads: int) -> "AttentionKind":
        """The kind with the sinks of the queries of one head of keys and values."""
        if self.sinks_Q is None:
            return self
        return replace(self, sinks_Q=self.sinks_Q.view(heads, -1)[head])

    def capped(self, scores: Tensor) -> Tensor:
        """The scores, capped in place."""
        if self.softcap is not None:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        return scores

    def softmax(self, scores_X_H_R_P: Tensor) -> Tensor:
        """The weights of the places; with a sink their sum is below 1."""
        if self.sinks_Q is None:
            return scores_X_H_R_P.softmax(-1)
        shape = scores_X_H_R_P.shape
        sinks = self.sinks_Q.to(scores_X_H_R_P.dtype).view(1, *shape[1:3], 1)
        return torch.cat([scores_X_H_R_P, sinks.expand(*shape[:3], 1)], -1).softmax(-1)[..., :-1]


@dataclass(frozen=True, slots=True)
class RowSlice:
    """New tokens of one row, at places [start, start + size) of the step's one sequence."""

    row: KVRow
    start: int
    size: int

    @property
    def before(self) -> int:
        """Tokens of the row that are computed."""
        return self.row.shared + self.row.own.length


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring rows [first, end) with one trunk, of which the longest sees `length` places."""

    trunk: Segment
    first: int
    end: int
    length: int


class RaggedBatch:
    """The rows of one step: `single` read one token each and come first, `several` read more."""

    def __init__(
        self, single: Sequence[RowSlice], several: Sequence[RowSlice], device: Any
    ) -> None:
        self.single, self.several, self.device = list(single), list(several), device
        self.groups = list(_groups(self.single))
        self.trunk_size = max((group.length for group in self.groups), default=0)
        self._hidden: dict[int | None, Tensor | None] = {}
        self._seen: dict[tuple[int, int | None], Tensor] = {}

    def attend(
        self, layer: int, q_Q_N_D: Tensor, kv_2_H_N_D: Tensor, kind: AttentionKind
    ) -> Tensor:
        """What every new token reads, (Q, N, D); its keys and values are written on the way."""
        out_Q_N_D = torch.zeros_like(q_Q_N_D)  # what pads the step belongs to no row
        for part in (*self.single, *self.several):
            part.row.own.write(layer, kv_2_H_N_D[:, :, part.start : part.start + part.size])
        if self.single:
            out_Q_N_D[:, : len(self.single)] = self._decode(
                layer, q_Q_N_D[:, : len(self.single)] * kind.scale, kv_2_H_N_D.shape[1], kind
            )
        for part in self.several:
            which = slice(part.start, part.start + part.size)
            out_Q_N_D[:, which] = self._read(layer, part, q_Q_N_D[:, which], kind)
        return out_Q_N_D

    def _decode(self, layer: int, q_Q_B_D: Tensor, heads: int, kind: AttentionKind) -> Tensor:
        queries, count, size = q_Q_B_D.shape
        q_B_H_R_D = q_Q_B_D.transpose(0, 1).reshape(count, heads, queries // heads, size)
        own = [self._own(part, layer, kind.window) for part in self.single]
        trunk = self.trunk_size
        width = trunk + max(places.shape[2] for places in own)
        scores_B_H_R_P = torch.full(
            (*q_B_H_R_D.shape[:3], width), -torch.inf, dtype=torch.float32, device=self.device
        )
        for group in self.groups:
            keys_H_P_D = group.trunk.layers[layer][0, :, : group.length]
            product = _grouped(q_B_H_R_D[group.first : group.end]) @ keys_H_P_D.mT
            chosen = scores_B_H_R_P[group.first : group.end, :, :, : group.length]
            chosen.copy_(_ungrouped(kind.capped(product.float()), group))
        for row, places in enumerate(own):
            product = torch.bmm(q_B_H_R_D[row], places[0].mT)
            chosen = scores_B_H_R_P[row, :, :, trunk : trunk + places.shape[2]]
            chosen.copy_(kind.capped(product.float()))
        if (hidden_B_P := self._hidden_places(kind.window)) is not None:
            scores_B_H_R_P[..., :trunk].masked_fill_(hidden_B_P[:, None, None], -torch.inf)
        weights = kind.softmax(scores_B_H_R_P).to(q_Q_B_D.dtype)
        out_B_H_R_D = torch.empty_like(q_B_H_R_D)
        for row, places in enumerate(own):
            seen = weights[row, :, :, trunk : trunk + places.shape[2]]
            torch.bmm(seen, places[1], out=out_B_H_R_D[row])
        for group in self.groups:
            values_H_P_D = group.trunk.layers[layer][1, :, : group.length]
            seen = weights[group.first : group.end, :, :, : group.length]
            out_B_H_R_D[group.first : group.end] += _ungrouped(_grouped(seen) @ values_H_P_D, group)
        return out_B_H_R_D.reshape(count, queries, size).transpose(0, 1)

    def _own(self, part: RowSlice, layer: int, window: int | None) -> Tensor:
        """The row's own places that its one new token sees, itself included."""
        end = part.row.own.length + 1
        first = 0 if window is None else max(0, end - window)
        return part.row.own.layers[layer][:, :, first:end]

    def _hidden_places(self, window: int | None) -> Tensor | None:
        """Places (B, P) of trunks that a row does not see, because they are not its own or too
        far back; None where all see all."""
        if window not in self._hidden:
            self._hidden[window] = self._find_hidden(window)
        return self._hidden[window]

    def _find_hidden(self, window: int | None) -> Tensor | None:
        ends = torch.tensor([part.row.shared for part in self.single])
        first = torch.zeros_like(ends)
        if window is not None:
            first = torch.tensor([part.before + 1 - window for part in self.single])
        place = torch.arange(self.trunk_size)
        hidden_B_P = (place >= ends[:, None]) | (place < first[:, None])
        return upload(hidden_B_P, self.device) if bool(hidden_B_P.any()) else None

    def _read(self, layer: int, part: RowSlice, q_Q_L_D: Tensor, kind: AttentionKind) -> Tensor:
        """Several tokens of one row; query heads that share keys count as more queries."""
        row = part.row
        places = row.own.layers[layer][:, :, : row.own.length + part.size]
        if row.trunk is not None:
            places = torch.cat([row.trunk.layers[layer][:, :, : row.shared], places], dim=2)
        heads = places.shape[1]
        each = q_Q_L_D.shape[0] // heads
        seen_RL_P = self._seen_places(part, each, kind.window)
        if not kind.plain:
            return _read_by_head(q_Q_L_D, places, seen_RL_P[: part.size], kind)
        read = functional.scaled_dot_product_attention(
            q_Q_L_D.reshape(1, heads, -1, q_Q_L_D.shape[-1]),
            places[:1],
            places[1:],
            attn_mask=seen_RL_P,
            scale=kind.scale,
        )
        return read.reshape(q_Q_L_D.shape)

    def _seen_places(self, part: RowSlice, each: int, window: int | None) -> Tensor:
        """Which places every new token sees, (R L, P)."""
        key = (part.start, window)
        if key not in self._seen:
            own = torch.arange(part.before, part.before + part.size)[:, None]
            place = torch.arange(part.before + part.size)
            seen_L_P = place <= own
            if window is not None:
                seen_L_P &= place > own - window
            self._seen[key] = upload(seen_L_P, self.device).repeat(each, 1)
        return self._seen[key]


def _read_by_head(
    q_Q_L_D: Tensor, places_2_H_P_D: Tensor, seen_L_P: Tensor, kind: AttentionKind
) -> Tensor:
    """The same with capped scores or sinks: head by head, since the scores of all are large."""
    heads = places_2_H_P_D.shape[1]
    q_H_R_L_D = (q_Q_L_D * kind.scale).reshape(heads, -1, *q_Q_L_D.shape[1:])
    out_H_R_L_D = torch.empty_like(q_H_R_L_D)
    for head, (keys_P_D, values_P_D) in enumerate(places_2_H_P_D.transpose(0, 1)):
        scores_R_L_P = kind.capped((q_H_R_L_D[head] @ keys_P_D.mT).float())
        scores_R_L_P.masked_fill_(~seen_L_P, -torch.inf)
        weights_R_L_P = kind.of_head(head, heads).softmax(scores_R_L_P.transpose(0, 1)[:, None])
        out_H_R_L_D[head] = weights_R_L_P[:, 0].transpose(0, 1).to(q_Q_L_D.dtype) @ values_P_D
    return out_H_R_L_D.reshape(q_Q_L_D.shape)


def _groups(single: Sequence[RowSlice]) -> Iterator[_Group]:
    first = 0
    while first < len(single):
        trunk, end = single[first].row.trunk, first + 1
        while end < len(single) and single[end].row.trunk is trunk:
            end += 1
        if trunk is not None:
            length = max(part.row.shared for part in single[first:end])
            yield _Group(trunk, first, end, length)
        first = end


def _grouped(rows_B_H_R_X: Tensor) -> Tensor:
    """(H, B R, X): the rows of a group as more queries of the same heads."""
    return rows_B_H_R_X.transpose(0, 1).flatten(1, 2)


def _ungrouped(product_H_BR_X: Tensor, group: _Group) -> Tensor:
    heads, _, size = product_H_BR_X.shape
    return product_H_BR_X.view(heads, group.end - group.first, -1, size).transpose(0, 1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; without rows it is the usual attention."""
    rows: RaggedBatch | None = options.pop("burnish_rows", None)
    kind = _kind(query.shape[-1], attention_mask, options)
    if rows is None:
        if not kind.plain:
            raise ValueError("its attention is computed for rows only")
        usual: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return usual
    if unknown := sorted(name for name in {*options} - _KNOWN if options[name] is not None):
        raise ValueError(f"its attention depends on {unknown[0]}")
    size = max(query.shape[-1], value.shape[-1])
    kv_2_H_N_D = torch.stack((_widened(key[0], size), _widened(value[0], size)))
    out_Q_N_D = rows.attend(module.layer_idx, _widened(query[0], size), kv_2_H_N_D, kind)
    out_Q_N_D = out_Q_N_D[..., : value.shape[-1]]
    return out_Q_N_D.transpose(0, 1)[None].contiguous(), None


def _kind(size: int, mask: Tensor | None, options: Mapping[str, Any]) -> AttentionKind:
    scale, window = options.get("scaling"), options.get("sliding_window")
    if _masks_are_windows.get() and mask is not None:
        window = mask.shape[2] or None
    return AttentionKind(
        scale=size**-0.5 if scale is None else scale,
        window=window,
        softcap=options.get("softcap"),
        sinks_Q=options.get("s_aux"),
    )


def _widened(x_H_N_D: Tensor, size: int) -> Tensor:
    return functional.pad(x_H_N_D, (0, size - x_H_N_D.shape[-1]))


@contextmanager
def masks_are_windows() -> Iterator[None]:
    """Within it the model makes no masks: what stands for a mask has the window's size.

    The mask is what a layer obeys; the window that it names beside it may be for other kernels.
    """
    token = _masks_are_windows.set(True)
    try:
        yield
    finally:
        _masks_are_windows.reset(token)


def _mask(*args: Any, **options: Any) -> Tensor | None:
    """What transformers calls for the masks of a pass."""
    if _masks_are_windows.get():
        # The size is in the shape, so that reading it waits for no device.
        return torch.empty(1, 1, options.get("local_size") or 0, 1)
    mask: Tensor | None = sdpa_mask(*args, **options)
    return mask


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
