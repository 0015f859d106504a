"""A model without weights, to try a pipeline out in seconds."""

import hashlib
from collections.abc import Mapping, Sequence

from burnish.conversation import Conversation
from burnish.models.interface import Choice, Generation, Sampling, Scores, Stream, TextLoss


class MockModel:
    """Answers questions from a table, and others with `otherwise`.

    Log-probabilities are a hash of the text, so they are arbitrary but reproducible.
    """

    def __init__(self, answers: Mapping[str, str], otherwise: str = "") -> None:
        self.answers = dict(answers)
        self.otherwise = otherwise
        self.name = "mock"

    @property
    def fingerprint(self) -> str:
        table = repr((sorted(self.answers.items()), self.otherwise))
        return "mock-" + hashlib.sha256(table.encode()).hexdigest()[:16]

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, stream: Stream | None = None
    ) -> list[Generation]:
        texts = [self.answers.get(prompt[-1].content, self.otherwise) for prompt in prompts]
        for index, text in enumerate(texts):
            if stream:
                stream(index, text)
        return [Generation(text, (), _logprob(text), finished=True) for text in texts]

    def score(self, items: Sequence[Choice]) -> list[Scores]:
        return [
            Scores(
                tuple(
                    0.0 if self._answer(i) == choice else _logprob(choice) for choice in i.choices
                ),
                tuple(len(choice) for choice in i.choices),
            )
            for i in items
        ]

    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        return [TextLoss(-_logprob(text), max(1, len(text.split()))) for text in texts]

    def _answer(self, item: Choice) -> str:
        context = item.context
        question = context if isinstance(context, str) else context[-1].content
        return self.answers.get(question, self.otherwise)


def _logprob(text: str) -> float:
    return -1.0 - hashlib.sha256(text.encode()).digest()[0]
