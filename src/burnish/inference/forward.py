"""One forward pass over new tokens of many rows, each with its own adapter, or none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from burnish.inference.attention import NAME, RaggedBatch, RowSlice, masks_are_windows
from burnish.inference.kv_cache import KVRow, Segment
from burnish.inference.lora import AdapterPool
from burnish.inference.packed_linear import PackedLinears
from burnish.inference.probe import FAILURES, Probe, describe, not_servable
from burnish.inference.rows import Row
from burnish.models.branches import Network
from burnish.models.devices import tensor_on
from burnish.models.layers import backbone_of


@dataclass(frozen=True, slots=True)
class NewTokens:
    """A computed row and the tokens to compute behind it, at least one."""

    row: Row
    tokens: Sequence[int]


class ModelRunner:
    """Computes rows side by side with one set of base weights.

    Args:
        network: the base, in evaluation mode; its attention and linear layers are exchanged until
            `close`.
        adapters: what rows of other adapters than 0, the base, add to the base's layers.

    Raises:
        ModelError: the model's layers are such that rows side by side would not be exact.
    """

    def __init__(self, network: Network, adapters: AdapterPool) -> None:
        self.network, self.adapters = network, adapters
        self.reads_whole = False
        self._usual = network.config._attn_implementation
        self._packed: PackedLinears | None = None
        self._check()

    def close(self) -> None:
        """Restore the model."""
        self.adapters.close()
        self._restore()

    def new_row(self, adapter: int, room: int, project: str | None = None) -> KVRow:
        """Return a row without tokens that has room for so many."""
        return KVRow(adapter, own=Segment(room), project=project)

    def slots(self, room: int, shared: int = 0) -> int:
        """Slots that a new row takes, of whose tokens `shared` are another row's."""
        return room - shared

    def run(self, new: Sequence[NewTokens]) -> list[Tensor]:
        """Hidden states (L, H) of each row's new tokens, which count as computed afterwards.

        After an error nothing counts, and the same may be tried again.
        """
        result: dict[int, Tensor] = {}
        parts: list[tuple[RowSlice, Sequence[int]]] = []
        for group in self._passes(new):
            order = sorted(group, key=lambda index: _place(new[index]))
            slices, hidden_N_H = self._compute([new[index] for index in order])
            for index, part in zip(order, slices, strict=True):
                parts.append((part, new[index].tokens))
                result[index] = hidden_N_H[part.start : part.start + part.size]
        for part, tokens in parts:
            part.row.own.advance(part.size)
            part.row.tokens.extend(tokens)
        return [result[index] for index in range(len(new))]

    def _passes(self, new: Sequence[NewTokens]) -> list[list[int]]:
        """Indices by pass: all in one, but for adapters that need passes of their own."""
        groups: dict[int | None, list[int]] = {}
        for index, each in enumerate(new):
            number = each.row.adapter
            groups.setdefault(number if self.adapters.is_alone(number) else None, []).append(index)
        return list(groups.values())

    def _compute(self, new: Sequence[NewTokens]) -> tuple[list[RowSlice], Tensor]:
        """Hidden states (N, H) of all new tokens, and where each row's are."""
        parts, start = [], 0
        for each in new:
            row, size = _kv_row(each), len(each.tokens)
            row.own = row.own.with_room(size)
            parts.append(RowSlice(row, start, size))
            start += size
        rows = RaggedBatch(
            [part for part in parts if part.size == 1],
            [part for part in parts if part.size > 1],
            self.network.device,
        )
        return parts, self._forward(new, parts, rows)

    def logits(self, hidden_N_H: Tensor, adapters: Sequence[int]) -> Tensor:
        """Vocabulary projection (N, V) in float32; each position names the adapter of its row."""
        padded = functional.pad(hidden_N_H, (0, 0, 0, self._padding(len(hidden_N_H))))
        with self.adapters.applied([(number, 1) for number in adapters]):
            return self.network.logits(padded)[: len(hidden_N_H)]

    def _forward(
        self, new: Sequence[NewTokens], parts: Sequence[RowSlice], rows: RaggedBatch
    ) -> Tensor:
        device = self.network.device
        tokens = [token for each in new for token in each.tokens]
        positions = [place for p in parts for place in range(p.before, p.before + p.size)]
        padding = [0] * self._padding(len(tokens))
        applied = self.adapters.applied([(part.row.adapter, part.size) for part in parts])
        if self.adapters.is_alone(adapter := parts[0].row.adapter):
            applied = self.adapters.applied_to_all(adapter)
        with applied, masks_are_windows():
            hidden_1_N_H: Tensor = backbone_of(self.network.model)(
                input_ids=tensor_on(device, [tokens + padding]),
                position_ids=tensor_on(device, [positions + padding]),
                use_cache=False,
                burnish_rows=rows,
            ).last_hidden_state
        return hidden_1_N_H[0, : len(tokens)]

    def _padding(self, rows: int) -> int:
        return 0 if self._packed is None else self._packed.padding(rows)

    def _check(self) -> None:
        """Compares rows side by side with the model's own forward pass."""
        reason: str | None = None
        try:
            with torch.inference_mode():
                probe = Probe(self.network)
                self.network.model.set_attn_implementation(NAME)
                for only in (None, probe.called):  # some layers' weights are read without a call
                    self._unpack()
                    self._packed = PackedLinears(self.network.model, only=only)
                    if (reason := self._difference(probe)) is None:
                        return
        except FAILURES as error:
            self._restore()
            raise not_servable(self.network, describe(error)) from error
        self._restore()
        raise not_servable(self.network, str(reason))

    def _difference(self, probe: Probe) -> str | None:
        """How the states differ of tokens read in two pieces and two single ones, then the single
        ones of another row that shares what is before them; both rows at once."""
        first, end = KVRow(0), len(probe.tokens) - 2
        parts = [
            self.run([NewTokens(first, probe.tokens[:4])])[0],
            self.run([NewTokens(first, probe.tokens[4:end])])[0],
        ]
        second, others = first.branch(end, end), []
        for token in probe.tokens[end:]:
            one, other = self.run([NewTokens(first, [token]), NewTokens(second, [token])])
            parts.append(one)
            others.append(other)
        states_N_H, places = torch.cat(parts + others), [*range(end + 2), end, end + 1]
        if probe.agrees(states_N_H, places):
            return None
        return f"hidden states differ by {probe.difference(states_N_H, places):.2g}"

    def _unpack(self) -> None:
        if self._packed is not None:
            self._packed.close()
            self._packed = None

    def _restore(self) -> None:
        self._unpack()
        self.network.model.set_attn_implementation(self._usual)


def _kv_row(new: NewTokens) -> KVRow:
    assert isinstance(new.row, KVRow)
    return new.row


def _place(new: NewTokens) -> tuple[bool, int, int]:
    """Rows of one token come first, those of one adapter together, and in them those of a trunk."""
    row = _kv_row(new)
    return len(new.tokens) > 1, row.adapter, 0 if row.trunk is None else id(row.trunk)
