"""Tokens that a request read and wrote."""

from openai.types import CompletionUsage


class Usage:
    """Counts while answers come."""

    def __init__(self, prompt: int) -> None:
        self.prompt, self.written = prompt, 0

    def count(self, tokens: int) -> None:
        self.written += tokens

    @property
    def counted(self) -> CompletionUsage:
        """As the API says it."""
        return CompletionUsage(
            prompt_tokens=self.prompt,
            completion_tokens=self.written,
            total_tokens=self.prompt + self.written,
        )
