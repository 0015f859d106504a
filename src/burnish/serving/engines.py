"""The models that are served: an engine for each base, and what each name stands for."""

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from openai.types import Model

from burnish.evaluation.graders import Wish
from burnish.models.load import DeviceChoice, load_model
from burnish.models.sources import ENCODER
from burnish.serving.api.errors import invalid, model_not_found
from burnish.serving.engine.batch import Limits
from burnish.serving.engine.embedding import Embedder
from burnish.serving.engine.engine import Engine
from burnish.serving.engine.grammar import schema_grammar
from burnish.serving.engine.requests import Draw
from burnish.serving.prompts import prompt_tokens
from burnish.serving.state import models
from burnish.serving.state.database import Database
from burnish.serving.state.tables import AliasRow, ModelRow
from burnish.serving.targets import Target
from burnish.serving.wording import Wording

# The built-in encoder: it embeds and does not chat.
EMBEDDER = ENCODER
_OWNER = "burnish"
# Tokens of a grader's answer where it names no bound.
_MOST = 1024


class Engines:
    """Loads a base when it is first asked for, and keeps it.

    Args:
        database: knows the tuned models.
        folder: tuned models' folders are relative to it.
        bases: the name in the API to a Burnish name.
        device: where the bases compute.
        limits: of each engine.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        bases: Mapping[str, str],
        device: DeviceChoice = "auto",
        limits: Limits | None = None,
    ) -> None:
        self.database, self.folder, self.device = database, folder, device
        self.bases = {name: source for name, source in bases.items() if name != EMBEDDER}
        self.limits = limits or Limits()
        self._started = int(time.time())
        self._loading = threading.Lock()
        self._bases: dict[str, Target] = {}
        self._embedders: dict[str, Embedder] = {}

    def target(self, name: str) -> Target:
        """The model of that name, or that an alias stands for; loads its base, which takes seconds.

        Raises:
            ApiError: there is none.
        """
        if name in self.bases:
            return self._base(name)
        if name == EMBEDDER:
            raise invalid(f"{name} embeds text and does not write any.", "model")
        row = models.find(self.database, name)
        if row is None or row.base not in self.bases:
            raise model_not_found(name)
        base = self._base(row.base)
        mark = hashlib.sha256(f"{base.fingerprint} {row.name}".encode()).hexdigest()[:10]
        return Target(
            base.engine,
            base.tokenizer,
            base.wording,
            f"fp_{mark}",
            adapter=str(self.folder / row.folder),
        )

    def embedder(self, name: str) -> Embedder:
        """The encoder of that name.

        Raises:
            ApiError: there is none.
        """
        if name != EMBEDDER:
            if name in self.bases or models.find(self.database, name) is not None:
                raise invalid(f"{name} writes text; {EMBEDDER} embeds it.", "model")
            raise model_not_found(name)
        with self._loading:
            if name not in self._embedders:
                self._embedders[name] = Embedder(EMBEDDER, self.device)
            return self._embedders[name]

    def listed(self) -> list[Model]:
        """Base models and the encoder, then tuned ones, the oldest first, then aliases."""
        found = [self._shown(name) for name in (*self.bases, EMBEDDER)]
        found += [_tuned(row, row.name) for row in models.listed(self.database)]
        aliases = ((alias.name, models.find(self.database, alias.name)) for alias in self._aliases)
        return found + [_tuned(row, name) for name, row in aliases if row is not None]

    def named(self, name: str) -> Model | None:
        """One model, a checkpoint too."""
        if name in self.bases or name == EMBEDDER:
            return self._shown(name)
        row = models.find(self.database, name)
        return _tuned(row, name) if row is not None else None

    def delete(self, name: str) -> None:
        """Serves a tuned model no more.

        Raises:
            ApiError: there is none, or it is a base model.
        """
        if name in self.bases or name == EMBEDDER:
            raise invalid(f"{name} is a base model and cannot be deleted.", "model")
        models.delete(self.database, name)

    @property
    def waiting(self) -> int:
        """Answers that wait to begin."""
        return sum(target.engine.counters().waiting for target in list(self._bases.values()))

    def ask(self, name: str, messages: Sequence[Mapping[str, str]], wish: Wish) -> str:
        """A whole answer, for graders that ask a model; it waits, so ask it from a thread."""
        target = self.target(name)
        prompt = prompt_tokens(messages, (), target.tokenizer)
        grammar = schema_grammar(target.tokenizer, wish.schema) if wish.schema else None
        draw = Draw(
            max_tokens=min(wish.max_tokens or _MOST, target.engine.context - len(prompt)),
            temperature=1.0 if wish.temperature is None else wish.temperature,
            top_p=1.0 if wish.top_p is None else wish.top_p,
            grammar=grammar,
        )
        with target.engine.submit(target.ask(prompt, draw, wish.seed, 0)) as answer:
            return "".join(piece.text for piece in answer)

    def close(self, seconds: float | None = None) -> None:
        """Finishes the answers that are under way, those that take longer are given up."""
        for target in self._bases.values():
            target.engine.close(seconds)

    def _base(self, name: str) -> Target:
        with self._loading:
            if name not in self._bases:
                model = load_model(self.bases[name], self.device)
                engine = Engine(model, self.limits)
                mark = f"fp_{model.fingerprint[:10]}"
                wording = Wording(model.tokenizer)
                self._bases[name] = Target(engine, model.tokenizer, wording, mark)
            return self._bases[name]

    @property
    def _aliases(self) -> Sequence[AliasRow]:
        return models.aliases(self.database)

    def _shown(self, name: str) -> Model:
        return Model(id=name, created=self._started, object="model", owned_by=_OWNER)


def _tuned(row: ModelRow, name: str) -> Model:
    return Model(id=name, created=row.created_at, object="model", owned_by=_OWNER)
