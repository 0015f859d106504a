"""Temporary changes to a model, which is restored exactly afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch

from burnish.training.checkpoint import save_tensors


@contextmanager
def restored_afterwards(model: Any, carried: dict[str, float], folder: Path) -> Iterator[None]:
    """Restore trained weights, mode, random states and the objective's state after a `with` block.

    Gradients are cleared. The weights are stored on disk, so that full fine-tuning does not need
    memory for a second copy.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    save_tensors({name: p.detach() for name, p in trainable.items()}, folder / "before.pt")
    training, states, before_carried = model.training, _random_states(), dict(carried)
    try:
        yield
    finally:
        before = torch.load(folder / "before.pt", weights_only=True, mmap=True)
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(before[name])
                parameter.grad = None
        del before
        carried.clear()
        carried.update(before_carried)
        model.train(training)
        _restore_random(states)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, random.getstate(), numpy.random.get_state()


def _restore_random(states: tuple[Any, ...]) -> None:
    cpu, cuda, python, of_numpy = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    random.setstate(python)
    numpy.random.set_state(of_numpy)
