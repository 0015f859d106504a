"""The registry of served models: an engine per base model, and what each model name refers to."""

import copy
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openai.types import Model

from burnish.data.answer_text import kept_marks
from burnish.data.chat_templates import set_stop_tokens, set_thinking, speaker_prefixes
from burnish.evaluation.graders import SamplingRequest
from burnish.inference.embedder import Embedder
from burnish.inference.engine import Engine
from burnish.inference.grammar import schema_grammar
from burnish.inference.scheduler import EngineLimits
from burnish.inference.types import SamplingSettings, TokenCounts
from burnish.inference.vllm import VllmBackend
from burnish.models.load import DeviceChoice, load_model, load_tokenizer
from burnish.models.registry import ENCODER, resolve
from burnish.runs.directory import RunDirectory
from burnish.serving.catalog.served_model import (
    ServedModel,
    TokenText,
    answer_room,
    prompt_tokens,
    reject_too_long_prompt,
)
from burnish.serving.errors import ApiError, invalid, model_not_found
from burnish.serving.state import models, permissions
from burnish.serving.state.database import Database
from burnish.serving.state.tables import ModelRow

# The built-in encoder: it embeds and does not chat.
EMBEDDER = ENCODER
_OWNER = "burnish"
# Tokens of a grader's answer where it names no bound.
_MOST = 1024


# A base by its Burnish name, opened.
Open = Callable[[str], ServedModel]


def open_in_process(device: DeviceChoice = "auto", limits: EngineLimits | None = None) -> Open:
    """Return a function that loads a base model into this process, with an engine of its own."""

    def opened(source: str) -> ServedModel:
        """Load the model and start its engine."""
        model = load_model(source, device)
        engine = Engine(model, limits)
        mark = f"fp_{model.fingerprint[:10]}"
        return ServedModel(engine, model.tokenizer, TokenText(model.tokenizer), mark)

    return opened


def open_on_vllm(url: str, source: str) -> ServedModel:
    """Connect to a vLLM server at the URL, whose base model must be the same as `source` here.

    Raises:
        UserError: the server does not answer as vLLM does.
    """
    found = resolve(source)
    tokenizer = load_tokenizer(found)
    engine = VllmBackend(url, len(tokenizer), marked=bool(kept_marks(tokenizer)))
    mark = hashlib.sha256(f"{engine.name} {found.sha256}".encode()).hexdigest()[:10]
    return ServedModel(engine, tokenizer, TokenText(tokenizer), f"fp_{mark}")


def with_model_settings(
    stops: Sequence[str | int], opened: Open, *, thinking: bool | None = None
) -> Open:
    """Return a function that opens base models whose answers also end at these tokens, and which
    are asked to think first or not; None leaves that to the chat template."""

    def also(source: str) -> ServedModel:
        """Open the base model and declare what its own files leave out."""
        target = opened(source)
        set_stop_tokens(target.tokenizer, stops)
        set_thinking(target.tokenizer, thinking)
        return target

    return also


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a run says of its model: further stop tokens, and whether prompts ask for a thought."""

    stops: tuple[str | int, ...] = ()
    thinking: bool | None = None


class ModelRegistry:
    """Finds models by name; a base model is loaded at its first request and stays in memory.

    Args:
        database: knows the tuned models.
        folder: tuned models' folders are relative to it.
        bases: the name in the API to a Burnish name.
        device: where the bases compute.
        opened: opens a base by its Burnish name; in memory if None.
        embedders: names of the built-in encoder.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        bases: Mapping[str, str],
        device: DeviceChoice = "auto",
        opened: Open | None = None,
        embedders: Collection[str] = (EMBEDDER,),
    ) -> None:
        self.database, self.folder, self.device = database, folder, device
        self._open = opened or open_in_process(device)
        self.bases = {name: source for name, source in bases.items() if name != EMBEDDER}
        self.embedders = tuple(embedders)
        self._started = int(time.time())
        self._loading = threading.Lock()
        self._bases: dict[str, ServedModel] = {}
        self._embedder: Embedder | None = None
        self._recorded: dict[Path, _Recorded] = {}
        self._tokenizers: dict[tuple[int, _Recorded], Any] = {}

    def target(self, name: str, project: str | None = None) -> ServedModel:
        """Return the model with this name or alias; its base model is loaded first if needed, which
        takes seconds.

        Raises:
            ApiError: the model does not exist, or the project may not use it.
        """
        if name in self.bases:
            return replace(self._base(name), project=project)
        if name in self.embedders:
            raise invalid(
                f"{name} only embeds text and cannot generate it.", "model", "model_not_generative"
            )
        row = self.tuned(name, project)
        if row is None or row.base not in self.bases:
            raise model_not_found(name)
        base = self._base(row.base)
        folder = self.folder / row.folder
        mark = hashlib.sha256(f"{base.fingerprint} {row.name}".encode()).hexdigest()[:10]
        return ServedModel(
            base.engine,
            self._tokenizer(base, folder),
            base.token_text,
            f"fp_{mark}",
            adapter=str(folder),
            project=project,
        )

    def embedder(self, name: str, project: str | None = None) -> Embedder:
        """Return the encoder with this name.

        Raises:
            ApiError: the encoder does not exist; forbidden models are not revealed.
        """
        if name not in self.embedders:
            if self.named(name, project) is not None:
                raise invalid(
                    f"{name} generates text; use {EMBEDDER} for embeddings.",
                    "model",
                    "model_not_embedding",
                )
            raise model_not_found(name)
        if self._embedder is None:
            with self._loading:
                if self._embedder is None:
                    self._embedder = Embedder(EMBEDDER, self.device)
        return self._embedder

    def tuned(self, name: str, project: str | None = None) -> ModelRow | None:
        """Return the tuned model or checkpoint of this name or alias, if the project may use it."""
        row = models.find(self.database, name)
        return row if row and permissions.may_use(self.database, row, project) else None

    def listed(self, project: str | None = None) -> list[Model]:
        """Return the base models and the encoder, then tuned models (the oldest first), then
        aliases."""
        result = [self._shown(name) for name in (*self.bases, *self.embedders)]
        tuned = models.listed(self.database, permissions.usable(project))
        return result + [_tuned(row, name) for name, row in tuned]

    def named(self, name: str, project: str | None = None) -> Model | None:
        """Return the description of one model or checkpoint, None if the project may use none of
        this name."""
        if self.is_base(name):
            return self._shown(name)
        row = self.tuned(name, project)
        return _tuned(row, name) if row is not None else None

    def is_base(self, name: str) -> bool:
        """Whether the name is that of a base model or of the encoder."""
        return name in self.bases or name in self.embedders

    @property
    def waiting(self) -> int:
        """Number of answers that wait to start."""
        return sum(target.engine.counters().waiting for target in list(self._bases.values()))

    def ask(
        self,
        name: str,
        messages: Sequence[Mapping[str, str]],
        request: SamplingRequest,
        project: str | None = None,
    ) -> tuple[str, TokenCounts]:
        """Return a complete answer for a grader that asks a model; the call blocks, so run it in a
        thread.

        Raises:
            ApiError: there is no such model, the project may not use it, or the prompt leaves no
                room for an answer.
        """
        target = self.target(name, project)
        with reject_too_long_prompt(target, None, "messages"):
            prompt = prompt_tokens(messages, (), target.tokenizer, target.engine.context)
        room = answer_room(target, prompt, None)
        grammar = schema_grammar(target.tokenizer, request.schema) if request.schema else None
        draw = SamplingSettings(
            max_tokens=min(request.max_tokens or _MOST, room),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            grammar=grammar,
            speakers=speaker_prefixes(target.tokenizer),
        )
        with target.engine.submit(target.ask(prompt, draw, request.seed, 0)) as answer:
            pieces = []
            for piece in answer:
                if request.stop is not None and request.stop.is_set():
                    raise ApiError(
                        499, "The client closed the connection.", code="client_closed_request"
                    )
                pieces.append(piece)
        used = pieces[-1].used or TokenCounts(len(prompt), 0, 0)
        return "".join(piece.text for piece in pieces), used

    def close(self, seconds: float | None = None) -> None:
        """Finish the running answers, and cancel those that take longer than `seconds`."""
        for target in self._bases.values():
            target.engine.close(seconds)

    def _base(self, name: str) -> ServedModel:
        if name not in self._bases:  # what is loaded does not wait for another that is not yet
            with self._loading:
                if name not in self._bases:
                    self._bases[name] = self._open(self.bases[name])
        return self._bases[name]

    def _tokenizer(self, base: ServedModel, folder: Path) -> Any:
        """The base's tokenizer; where the tuned model's run names other tokens as the end of an
        answer, or asks for answers with or without a thought, a copy that does so too."""
        if folder not in self._recorded:
            self._recorded[folder] = _recorded(folder)
        recorded = self._recorded[folder]
        if recorded == _Recorded():
            return base.tokenizer
        key = (id(base.tokenizer), recorded)
        if key not in self._tokenizers:
            own = copy.copy(base.tokenizer)
            if recorded.stops:
                set_stop_tokens(own, recorded.stops)
            if recorded.thinking is not None:
                set_thinking(own, recorded.thinking)
            self._tokenizers[key] = own
        return self._tokenizers[key]

    def _shown(self, name: str) -> Model:
        return Model(id=name, created=self._started, object="model", owned_by=_OWNER)


def _recorded(folder: Path) -> _Recorded:
    """What the run around an adapter's folder was made with; nothing where there is no run."""
    for run in folder.parents:
        if (run / "manifest.json").is_file():
            recipe = RunDirectory.open(run).manifest().recipe
            settings = recipe.get("model_settings", {})
            return _Recorded(tuple(settings.get("stop_tokens", ())), settings.get("thinking"))
    return _Recorded()


def _tuned(row: ModelRow, name: str) -> Model:
    return Model(id=name, created=row.created_at, object="model", owned_by=_OWNER)
