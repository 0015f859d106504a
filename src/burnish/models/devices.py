"""Copies from the processor's memory to a GPU that nobody waits for.

torch synchronises the stream behind a copy from ordinary memory, so that each small tensor of
indices would make the processor wait until the GPU has computed everything before it. A copy from
pinned memory is queued like any other work.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the CPU to the device without waiting for the work queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def tensor_on(
    device: torch.device, values: Sequence[Any], dtype: torch.dtype | None = None
) -> Tensor:
    """Makes a tensor of Python numbers on the device without waiting for the work queued there."""
    return upload(torch.tensor(values, dtype=dtype), device)
