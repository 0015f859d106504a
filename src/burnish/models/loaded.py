"""What every loaded model has, whether it writes, labels or rewards."""

from typing import Any

from burnish.models.architecture import context_tokens
from burnish.models.branches import Network


class LoadedModel:
    """A transformers model and its tokenizer.

    Args:
        module: the model, a PEFT model around it.
        tokenizer: its tokenizer.
        name: the name in reports.
        source_sha256: hash of the base weights.
    """

    def __init__(self, module: Any, tokenizer: Any, *, name: str, source_sha256: str) -> None:
        self.module: Any = module
        self.tokenizer: Any = tokenizer
        self.name = name
        self.source_sha256 = source_sha256
        self.adapter_sha256: str | None = None

    @property
    def network(self) -> Network:
        """Backbone and vocabulary projection, the adapter's layers inside."""
        return Network(self.module)

    @property
    def fingerprint(self) -> str:
        """Differs between models that could give different results."""
        return f"{self.source_sha256[:16]}-{(self.adapter_sha256 or 'fresh')[:16]}"

    @property
    def context_length(self) -> int:
        """Tokens that the model was built for."""
        return context_tokens(self.network.config)
