"""Packs rows one after the other, without attention between them.

Positions restart at 0 with every row, from which transformers builds a block mask: no row
attends to another, so log-probabilities and gradients are those of the separate rows. Families
without such a mask, and those that keep states, get the rows side by side.
"""

from collections.abc import Sequence

import torch

from burnish.models.branches import Network, Row, TargetStates, branch_states
from burnish.models.cache_kinds import packs
from burnish.models.devices import tensor_on, upload
from burnish.models.layers import backbone_of


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Bins of row indices with a total length of at most `room`: first fit, longest first."""
    bins: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        bin_index = next((b for b, free in enumerate(left) if free >= lengths[index]), None)
        if bin_index is None:
            bins.append([])
            left.append(room)
            bin_index = len(bins) - 1
        bins[bin_index].append(index)
        left[bin_index] -= lengths[index]
    return bins


def packed_states(network: Network, rows: Sequence[Row]) -> TargetStates:
    """Hidden states before the weighted tokens, as `branch_states` gives them, without padding.

    Rows of equal length gain nothing from packing and are a plain batch.
    """
    lengths = [row.size for row in rows]
    bins = pack(lengths, max(lengths))
    alone = len(bins) == len(rows) or network.start().cache is not None
    if alone or not packs(network.model):
        return branch_states(network, rows)
    device, room = network.device, max(lengths)
    tokens_B_L = torch.zeros(len(bins), room, dtype=torch.long)
    positions_B_L = torch.zeros(len(bins), room, dtype=torch.long)  # padding: rows of one token
    starts: dict[int, tuple[int, int]] = {}
    for number, members in enumerate(bins):
        start = 0
        for index in members:
            end = start + lengths[index]
            tokens_B_L[number, start:end] = torch.tensor(list(rows[index].tokens))
            positions_B_L[number, start:end] = torch.arange(lengths[index])
            starts[index] = (number, start)
            start = end
    hidden_B_L_H = backbone_of(network.model)(
        input_ids=upload(tokens_B_L, device),
        position_ids=upload(positions_B_L, device),
        use_cache=False,
    ).last_hidden_state
    pairs = [(r, t) for r, row in enumerate(rows) for t, w in enumerate(row.weights) if w]
    bin_N = tensor_on(device, [starts[r][0] for r, _ in pairs])
    position_N = tensor_on(device, [starts[r][1] + t - 1 for r, t in pairs])
    return TargetStates(
        hidden_B_L_H[bin_N, position_N],
        tensor_on(device, [rows[r].tokens[t] for r, t in pairs]),
        tensor_on(device, [rows[r].weights[t] for r, t in pairs]),
        tensor_on(device, [r for r, _ in pairs]),
    )
