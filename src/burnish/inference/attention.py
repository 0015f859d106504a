"""Attention of rows of any length side by side: no padding, and shared places are read once.

All new tokens of a step are one sequence for the model; only attention knows the rows. Rows that
continue by one token are computed together: their scores lie side by side in one tensor, and what
they share, the trunk, is one matrix product for all of them, because reading keys and values is
what a step of many rows spends its time on. Rows that read several tokens, parts of prompts, are
computed one by one.

Shapes: N new tokens of all rows, B rows of one token, Q query heads, H heads of keys and values,
R = Q / H query heads a head, D head size, P places, L new tokens of one row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from burnish.inference.kv_cache import KVRow, Segment

NAME = "burnish_rows"


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
        self, layer: int, q_Q_N_D: Tensor, kv_2_H_N_D: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """What every new token reads, (Q, N, D); its keys and values are written on the way."""
        out_Q_N_D = torch.zeros_like(q_Q_N_D)  # what pads the step belongs to no row
        for part in (*self.single, *self.several):
            part.row.own.write(layer, kv_2_H_N_D[:, :, part.start : part.start + part.size])
        if self.single:
            out_Q_N_D[:, : len(self.single)] = self._decode(
                layer, q_Q_N_D[:, : len(self.single)] * scale, kv_2_H_N_D.shape[1], window
            )
        for part in self.several:
            which = slice(part.start, part.start + part.size)
            out_Q_N_D[:, which] = self._read(layer, part, q_Q_N_D[:, which], scale, window)
        return out_Q_N_D

    def _decode(self, layer: int, q_Q_B_D: Tensor, heads: int, window: int | None) -> Tensor:
        queries, count, size = q_Q_B_D.shape
        q_B_H_R_D = q_Q_B_D.transpose(0, 1).reshape(count, heads, queries // heads, size)
        own = [self._own(part, layer, window) for part in self.single]
        trunk = self.trunk_size
        width = trunk + max(places.shape[2] for places in own)
        scores_B_H_R_P = torch.full(
            (*q_B_H_R_D.shape[:3], width), -torch.inf, dtype=torch.float32, device=self.device
        )
        for group in self.groups:
            keys_H_P_D = group.trunk.layers[layer][0, :, : group.length]
            product = _grouped(q_B_H_R_D[group.first : group.end]) @ keys_H_P_D.mT
            chosen = scores_B_H_R_P[group.first : group.end, :, :, : group.length]
            chosen.copy_(_ungrouped(product, group))
        if (hidden_B_P := self._hidden_places(window)) is not None:
            scores_B_H_R_P[..., :trunk].masked_fill_(hidden_B_P[:, None, None], -torch.inf)
        for row, places in enumerate(own):
            product = torch.bmm(q_B_H_R_D[row], places[0].mT)
            scores_B_H_R_P[row, :, :, trunk : trunk + places.shape[2]] = product
        weights = scores_B_H_R_P.softmax(-1).to(q_Q_B_D.dtype)
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
        return hidden_B_P.to(self.device) if bool(hidden_B_P.any()) else None

    def _read(
        self, layer: int, part: RowSlice, q_Q_L_D: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Several tokens of one row; query heads that share keys count as more queries."""
        row = part.row
        places = row.own.layers[layer][:, :, : row.own.length + part.size]
        if row.trunk is not None:
            places = torch.cat([row.trunk.layers[layer][:, :, : row.shared], places], dim=2)
        heads = places.shape[1]
        read = functional.scaled_dot_product_attention(
            q_Q_L_D.reshape(1, heads, -1, q_Q_L_D.shape[-1]),
            places[:1],
            places[1:],
            attn_mask=self._seen_places(part, q_Q_L_D.shape[0] // heads, window),
            scale=scale,
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
            self._seen[key] = seen_L_P.repeat(each, 1).to(self.device)
        return self._seen[key]


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
    if rows is None:
        usual: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return usual
    scale = options.get("scaling")
    if options.get("softcap") is not None or options.get("s_aux") is not None:
        raise ValueError("its attention is more than scaled products")
    out_Q_N_D = rows.attend(
        module.layer_idx,
        query[0],
        torch.stack((key[0], value[0])),
        query.shape[-1] ** -0.5 if scale is None else scale,
        options.get("sliding_window"),
    )
    return out_Q_N_D.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
