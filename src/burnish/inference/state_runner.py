"""The forward pass of models that keep states of their own kind: recurrent, convolutional, mixed.

Each row keeps what transformers keeps for it. Rows that continue by one token are computed together
where their states can be joined; prompts are read one by one. What a model can do is tried out when
it is opened, by comparing it with its own plain pass.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, get_layer_types_and_kwargs

from burnish.inference.forward import NewTokens
from burnish.inference.lora import AdapterPool
from burnish.inference.packed_linear import PackedLinears
from burnish.inference.probe import FAILURES, Probe, describe, not_servable
from burnish.inference.state_row import StateCost, StateRow, batch_of, groups_of_rows
from burnish.inference.states import NotJoinableError, forgets_nothing, state_bytes
from burnish.models.branches import Network
from burnish.models.devices import tensor_on, upload
from burnish.models.layers import backbone_of

# Names under which a model takes and returns its states.
_STATES = ("past_key_values", "cache_params", "state")
# Tokens of one pass where a lost state is computed again.
_AT_ONCE = 512
# A pass over so many tokens takes as long as one over a single token; rows that cannot go on by
# several tokens start again rather than take more passes.
_WORTH_A_START = 8


@dataclass(slots=True)
class Abilities:
    """What a model computes exactly.

    Attributes:
        keeps: a row goes on from its state; otherwise rows are computed from their first token.
        continues: several tokens are read from a state; otherwise they are read one by one.
        joins: rows of one length are computed together.
        joins_unequal: rows of any lengths are computed together.
    """

    keeps: bool = False
    continues: bool = False
    joins: bool = False
    joins_unequal: bool = False


class StateRunner:
    """Computes rows with one set of base weights, each from its own state.

    Args:
        network: the base, in evaluation mode; its linear layers are exchanged until `close`.
        adapters: what rows of other adapters than 0, the base, add to the base's layers.

    Raises:
        ModelError: the model does not even compute a row in one piece as it does alone.
    """

    def __init__(self, network: Network, adapters: AdapterPool) -> None:
        self.network, self.adapters = network, adapters
        self._backbone = backbone_of(network.model)
        self._parameters = inspect.signature(self._backbone.forward).parameters
        self._name = next((name for name in _STATES if name in self._parameters), None)
        self._packed: PackedLinears | None = None
        self.can = Abilities()
        self.cost = StateCost(grows=True, fixed=0, can_be_cut=False)
        self._try_out()

    def close(self) -> None:
        """Restore the model."""
        self.adapters.close()
        self._unpack()

    @property
    def reads_whole(self) -> bool:
        """Whether a prompt has to be read in one pass."""
        return not self.can.continues

    def new_row(self, adapter: int, room: int, project: str | None = None) -> StateRow:
        """Return a row without tokens that has room for so many."""
        return StateRow(adapter, self.cost, project, self.slots(room))

    def slots(self, room: int, shared: int = 0) -> int:
        """Slots that a new row takes; it shares none of them."""
        return max(self.cost.slots(0), self.cost.fixed + (room if self.cost.grows else 0))

    def run(self, new: Sequence[NewTokens]) -> list[Tensor]:
        """Hidden states (L, H) of each row's new tokens, which count as computed afterwards.

        After an error nothing counts, and the same may be tried again; the rows' states are lost,
        so it takes as long as their beginnings do.
        """
        try:
            result = self._run({_state_row(each): each.tokens for each in new})
        except BaseException:
            for each in new:
                _state_row(each).forget()
            raise
        for each in new:
            each.row.tokens.extend(each.tokens)
        return [result[_state_row(each)] for each in new]

    def logits(self, hidden_N_H: Tensor, adapters: Sequence[int]) -> Tensor:
        """Vocabulary projection (N, V) in float32; each position names the adapter of its row."""
        with self.adapters.applied([(number, 1) for number in adapters]):
            return self.network.logits(hidden_N_H)

    def _run(self, new: dict[StateRow, Sequence[int]]) -> dict[StateRow, Tensor]:
        result: dict[StateRow, Tensor] = {}
        together = (
            [row for row, tokens in new.items() if len(tokens) == 1 and row.has_state]
            if self.can.joins
            else []
        )
        for group in groups_of_rows(together, unequal=self.can.joins_unequal):
            if len(group) > 1:
                hidden_B_H = self._continue(group, [new[row][0] for row in group])
                result |= {row: hidden_B_H[i : i + 1] for i, row in enumerate(group)}
        for row, tokens in new.items():
            if row not in result:
                result[row] = self._read(row, tokens)
        return result

    def _read(self, row: StateRow, tokens: Sequence[int]) -> Tensor:
        """Hidden states (L, H) of tokens of one row."""
        state = row.leave_batch()
        if not self.can.continues and 1 < len(tokens) > len(row.tokens) / _WORTH_A_START:
            state = None
        start = 0 if state is None else len(row.tokens)
        todo = [*row.tokens[start:], *tokens]
        parts = []
        with self.adapters.applied_to_all(row.adapter):
            for size in self._pieces(row, start, start + len(todo)):
                piece, todo = todo[:size], todo[size:]
                hidden_1_L_H, state = self._pass([piece], [start], state)
                parts.append(hidden_1_L_H[0])
                start += size
                row.keep_snapshot(start, state)
        row.state = state
        return torch.cat(parts)[-len(tokens) :]

    def _pieces(self, row: StateRow, start: int, count: int) -> Iterator[int]:
        """Sizes of the passes over a row of `count` tokens, of which `start` are computed."""
        if not self.can.continues:
            yield from [1] * (count - start) if start else [count]
            return
        ends = sorted({*row.wanted, count} & {*range(start + 1, count + 1)})
        for end in ends:
            while start < end:
                yield (size := min(end - start, _AT_ONCE))
                start += size

    def _continue(self, rows: Sequence[StateRow], tokens: Sequence[int]) -> Tensor:
        """Hidden states (B, H) of one token of each row, all of one adapter."""
        batch = batch_of(rows)
        lengths = batch.lengths
        mask = _left_mask(lengths) if len({*lengths}) > 1 and self.cost.grows else None
        with self.adapters.applied_to_all(rows[0].adapter):
            hidden_B_1_H, batch.state = self._pass(
                [[token] for token in tokens], lengths, batch.state, mask
            )
        return hidden_B_1_H[:, 0]

    def _pass(
        self,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        state: Any,
        mask_B_T: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Hidden states (B, L, H) of the tokens behind the states of their rows; the new states."""
        device, size = self.network.device, len(tokens[0])
        positions = [[*range(start, start + size)] for start in starts]
        given: dict[str, Any] = {
            "position_ids": tensor_on(device, positions),
            "attention_mask": None if mask_B_T is None else upload(mask_B_T, device),
        }
        given = {key: x for key, x in given.items() if key in self._parameters and x is not None}
        if self.can.keeps:
            given |= {str(self._name): state, "use_cache": True}
        elif "use_cache" in self._parameters:
            given["use_cache"] = False
        output = self._backbone(input_ids=tensor_on(device, tokens), **given)
        state = getattr(output, str(self._name)) if self.can.keeps else None
        return output.last_hidden_state, state

    # What the model can do

    def _try_out(self) -> None:
        """Finds the fastest way that is exact."""
        try:
            with torch.inference_mode():
                self._find_abilities(Probe(self.network))
        except FAILURES as error:
            self.close()
            raise not_servable(self.network, describe(error)) from error

    def _find_abilities(self, probe: Probe) -> None:
        model = self.network.model
        if not probe.is_stable:  # then nothing can be compared, and a pass from the start is right
            return
        for packed in (True, False):  # a layer may be called and its weights be read besides
            self._unpack()
            if packed:
                only = {*probe.called, model.get_output_embeddings()}
                self._packed = PackedLinears(model, pads=True, only=only)
            for keeps in (True, False) if self._name else (False,):
                self.can = Abilities(keeps=keeps)
                if self._exact(self._one_by_one, probe):
                    self._find_more(probe)
                    return
        raise ValueError("hidden states differ from those of its own forward pass")

    def _find_more(self, probe: Probe) -> None:
        if not self.can.keeps:
            return
        self.cost = self._measure(probe)
        hidden, places = zip(*self._one_by_one(probe), strict=True)
        least = probe.difference(torch.stack(hidden), places)
        self.can.continues = True
        self.can.continues = self._exact(self._in_pieces, probe, least)
        self.cost = replace(self.cost, stops_anywhere=self.can.continues)
        self.can.joins = True
        self.can.joins = self._exact(self._joined, probe, least)
        self.can.joins_unequal = self.can.joins and not self._counts_places()
        if self.can.joins_unequal:
            self.can.joins_unequal = self._exact(self._joined_unequal, probe, least)

    def _exact(
        self,
        way: Callable[[Probe], list[tuple[Tensor, int]]],
        probe: Probe,
        least: float | None = None,
    ) -> bool:
        try:
            hidden, places = zip(*way(probe), strict=True)
            return probe.agrees(torch.stack(hidden), places, least)
        except (*FAILURES, NotJoinableError):
            return False

    def _one_by_one(self, probe: Probe) -> list[tuple[Tensor, int]]:
        row, end = self.new_row(0, 0), len(probe.tokens) - 2
        states = [self.run([NewTokens(row, probe.tokens[:end])])[0]]
        states += [self.run([NewTokens(row, [token])])[0] for token in probe.tokens[end:]]
        return [(state, place) for place, state in enumerate(torch.cat(states))]

    def _in_pieces(self, probe: Probe) -> list[tuple[Tensor, int]]:
        row, end = self.new_row(0, 0), len(probe.tokens)
        cuts, part = (0, end // 10, end // 2, end), end * 3 // 4
        row.wanted = {part}
        states = [
            self.run([NewTokens(row, probe.tokens[start:end])])[0] for start, end in pairwise(cuts)
        ]
        again = self.run([NewTokens(row.branch(part, 0), probe.tokens[part:])])[0]
        result = [(state, place) for place, state in enumerate(torch.cat(states))]
        return result + [(state, part + place) for place, state in enumerate(again)]

    def _joined(self, probe: Probe) -> list[tuple[Tensor, int]]:
        return self._beside(probe, [len(probe.tokens) * 2 // 3] * 3)

    def _joined_unequal(self, probe: Probe) -> list[tuple[Tensor, int]]:
        end = len(probe.tokens)
        return self._beside(probe, (end * 2 // 3, end // 10, end // 3))

    def _beside(self, probe: Probe, lengths: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Rows of these lengths that continue together, then the later ones without the first."""
        rows = [self.new_row(0, 0) for _ in lengths]
        for row, length in zip(rows, lengths, strict=True):
            self.run([NewTokens(row, probe.tokens[:length])])
        result = []
        for step, alive in enumerate((rows, rows, rows[1:], rows)):
            if step == 1 and any(row.batch is None for row in rows):
                raise NotJoinableError
            new = [NewTokens(row, [probe.tokens[len(row.tokens)]]) for row in alive]
            places = [len(row.tokens) for row in alive]
            states = self.run(new)
            result += [(state[0], place) for state, place in zip(states, places, strict=True)]
        return result

    def _counts_places(self) -> bool:
        """Whether layers attend by the number of a place, which padding would shift."""
        return "chunked_attention" in get_layer_types_and_kwargs(self.network.config)[0]

    def _measure(self, probe: Probe) -> StateCost:
        """What a row takes; a slot is at least a token's keys and values if all layers had some."""
        row, sizes = self.new_row(0, 0), []
        for token in probe.tokens[:2]:
            self.run([NewTokens(row, [token])])
            sizes.append(state_bytes(row.state))
        (before, _), (after, fixed) = sizes
        unit = max(after - before, _dense_bytes(self.network))
        layers = getattr(row.state, "layers", ())
        windows = [layer for layer in layers if isinstance(layer, DynamicLayer)]
        return StateCost(
            grows=after > before,
            fixed=-(-fixed // unit),
            can_be_cut=forgets_nothing(row.state),
            copies_places=any(type(layer) is not DynamicLayer for layer in windows),
        )

    def _unpack(self) -> None:
        if self._packed is not None:
            self._packed.close()
            self._packed = None


def _dense_bytes(network: Network) -> int:
    """Bytes of a token's keys and values, if every layer of the model were attention."""
    config = network.config
    heads, size = (getattr(config, name, None) for name in ("num_key_value_heads", "head_dim"))
    if not isinstance(heads, int) or not isinstance(size, int):
        heads, size = 1, int(config.hidden_size)
    return 2 * int(config.num_hidden_layers) * heads * size * int(network.model.dtype.itemsize)


def _left_mask(lengths: Sequence[int]) -> Tensor:
    """The real tokens (B, T) of rows that are padded at the left, each with its new one."""
    longest = max(lengths) + 1
    place = torch.arange(longest)
    return (place >= longest - 1 - torch.tensor(lengths)[:, None]).long()


def _state_row(new: NewTokens) -> StateRow:
    assert isinstance(new.row, StateRow)
    return new.row
