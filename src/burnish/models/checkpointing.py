"""Activation checkpointing: each layer is computed again in the backward pass.

Only the input of each layer is kept, so a step needs a fraction of the memory and about a third
more time (Chen et al. 2016, arXiv 1604.06174). A layer that is computed again would write its keys
and values twice, so rows share no trunk; results and gradients are the same.
"""

from burnish.errors import ModelError
from burnish.models.adapt import learned_prefix
from burnish.models.branches import Network


def can_checkpoint(network: Network) -> bool:
    """Whether the model's layers can be computed again, which a learned prefix does not allow."""
    supported = getattr(network.model, "supports_gradient_checkpointing", False)
    return bool(supported) and learned_prefix(network.wrapped) is None


def checkpoint_activations(network: Network) -> None:
    """Switches activation checkpointing on for training with this network.

    Raises:
        ModelError: the model or the method does not allow it.
    """
    if not can_checkpoint(network):
        raise ModelError(
            f"{type(network.model).__name__} cannot compute its layers again in the backward pass "
            "with this method",
            "train without activation checkpointing, with shorter rows or a smaller batch",
            code="cannot_checkpoint",
            model=type(network.model).__name__,
        )
    network.model.activation_checkpointing_enable({"use_reentrant": False})
    network.may_share = False
