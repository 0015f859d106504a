"""The three verbs on a transformers model; base and tuned are one set of weights, switched."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.chat import Conversation
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.models.branches import Network, Prefix, Row, cut, finish, shared
from burnish.models.verbs import Choice, Generation, Sampling, Scores, Stream, TextLoss

# Tokens in one forward pass without gradient: enough to fill the cores, little memory.
_TOKENS_AT_ONCE = 2048
_ROWS_AT_ONCE = 32
# A trunk may be padded by this share before another batch is better.
_PADDING = 0.1


@dataclass(frozen=True, slots=True)
class _Continuation:
    """The tokens of a choice behind those of its context, the choice asked for."""

    item: int
    row: Row


class LanguageModel:
    """A causal model that generates, scores and measures text loss.

    Args:
        network: a transformers model, a PEFT model included.
        tokenizer: its tokenizer, with a chat template.
        name: how reports call it.
        source_sha256: hash of the base weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        source_sha256: str,
    ) -> None:
        self.module: Any = model
        self.tokenizer: Any = tokenizer
        self.name = name
        self.source_sha256 = source_sha256
        self.adapter_sha256: str | None = None
        self._adapter_on = True
        self._base_weights: dict[str, Tensor] | None = None

    @property
    def network(self) -> Network:
        """Backbone and vocabulary projection, the adapter's layers inside."""
        return Network(self.module)

    @property
    def fingerprint(self) -> str:
        on = self.adapter_sha256 if self._adapter_on and self.adapter_sha256 else "base"
        return f"{self.source_sha256[:16]}-{on[:16]}"

    @property
    def context_length(self) -> int:
        """Tokens that the model was built for."""
        return int(getattr(self.network.config, "max_position_embeddings", 2048))

    @contextlib.contextmanager
    def base(self) -> Iterator["LanguageModel"]:
        """The same weights with the adapter switched off."""
        self._adapter_on = False
        try:
            with self._switched_off():
                yield self
        finally:
            self._adapter_on = True

    def keep_base(self) -> None:
        """Remembers today's weights as the base, before fully tuned ones are put in."""
        self._base_weights = {k: v.clone() for k, v in self.module.state_dict().items()}

    @contextlib.contextmanager
    def _switched_off(self) -> Iterator[None]:
        if isinstance(self.module, PeftModel):
            with self.module.disable_adapter():
                yield
        elif self._base_weights is None:
            yield
        else:
            tuned = {k: v.clone() for k, v in self.module.state_dict().items()}
            self.module.load_state_dict(self._base_weights)
            try:
                yield
            finally:
                self.module.load_state_dict(tuned)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Conversation],
        sampling: Sampling,
        stream: Stream | None = None,
    ) -> list[Generation]:
        self.module.eval()
        tokens = [render_prompt(prompt, self.tokenizer) for prompt in prompts]
        for row in tokens:
            self._check_length(len(row) + sampling.max_new_tokens)
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        root, start = self._root(tokens)
        answers: dict[int, Generation] = {}
        random = torch.Generator(self.module.device).manual_seed(sampling.seed)
        for chosen in _batches(order, _ROWS_AT_ONCE):
            rows = [tokens[index][root:] for index in chosen]
            decoding = _Decoding(self, sampling, random, stream, list(chosen))
            answers |= decoding.run(start, rows)
        return [answers[index] for index in range(len(tokens))]

    @torch.no_grad()
    def score(self, items: Sequence[Choice]) -> list[Scores]:
        self.module.eval()
        rows = [c for index, item in enumerate(items) for c in self._continuations(index, item)]
        groups = _by_item(rows, len(items))
        root, start = self._root([c.row.tokens[: _asked_from(c.row)] for c in rows])
        sums: dict[int, list[float]] = {}
        for batch in self._trunk_batches(groups, root):
            sums |= self._score_batch(start, root, batch)
        return [
            Scores(tuple(sums[index]), tuple(len(choice) for choice in item.choices))
            for index, item in enumerate(items)
        ]

    @torch.no_grad()
    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        """Windows of the context length; the first token is predicted from the start token."""
        self.module.eval()
        windows = [(i, w) for i, text in enumerate(texts) for w in self._windows(text)]
        windows.sort(key=lambda window: len(window[1]))
        nats, counts = [0.0] * len(texts), [0] * len(texts)
        for batch in _batches_by_tokens(windows):
            rows = [Row(tokens, [0.0] + [1.0] * (len(tokens) - 1)) for _, tokens in batch]
            found = finish(self.network, self.network.start(), rows, [0] * len(rows))
            for (index, tokens), value in zip(batch, found.sums(len(rows)).tolist(), strict=True):
                nats[index] -= value
                counts[index] += len(tokens) - 1
        return [TextLoss(loss, count) for loss, count in zip(nats, counts, strict=True)]

    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's and those of the generation settings."""
        named = getattr(self.module.generation_config, "eos_token_id", None)
        listed = named if isinstance(named, list) else [named]
        return frozenset({self.tokenizer.eos_token_id, *listed} - {None})

    def _root(self, rows: Sequence[Sequence[int]]) -> tuple[int, Prefix]:
        """The beginning that all rows share, run once; every row keeps at least one token."""
        network = self.network
        if len(rows) < 2:
            return 0, network.start()
        root = shared(*(row[: len(row) - 1] for row in rows))
        if not root:
            return 0, network.start()
        prefix, _ = network.extend(network.start(), [rows[0][:root]], [0], left=True)
        return root, prefix

    def _continuations(self, index: int, item: Choice) -> list[_Continuation]:
        context = self._context_tokens(item.context)
        rows = []
        for choice in item.choices:
            behind = self._choice_tokens(item.context, context, choice)
            tokens = [*context, *behind]
            if not behind or not context:
                raise ModelError(f"the choice {choice!r} has no tokens", "give it some text")
            self._check_length(len(tokens))
            rows.append(
                _Continuation(index, Row(tokens, [0.0] * len(context) + [1.0] * len(behind)))
            )
        return rows

    def _context_tokens(self, context: Conversation | str) -> list[int]:
        if not isinstance(context, str):
            return render_prompt(context, self.tokenizer)
        if not context:
            return [self._start_token()]
        return list(self.tokenizer(context.rstrip(), add_special_tokens=True)["input_ids"])

    def _choice_tokens(
        self, context: Conversation | str, before: list[int], choice: str
    ) -> list[int]:
        """Context and choice are encoded together, as lm-eval-harness does, and cut apart."""
        if not isinstance(context, str) or not context:
            return list(self.tokenizer(choice, add_special_tokens=False)["input_ids"])
        whole = self.tokenizer(context + choice, add_special_tokens=True)["input_ids"]
        return list(whole[len(before) :])

    def _start_token(self) -> int:
        token = self.tokenizer.bos_token_id
        return int(token if token is not None else self.tokenizer.eos_token_id)

    def _windows(self, text: str) -> list[list[int]]:
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        size = self.context_length - 1
        pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        before = [self._start_token()] + [piece[-1] for piece in pieces[:-1]]
        return [[first, *piece] for first, piece in zip(before, pieces, strict=False)]

    def _trunk_batches(
        self, groups: list[list[_Continuation]], root: int
    ) -> Iterator[list[tuple[int, list[_Continuation]]]]:
        """Items of like trunk length together: (trunk length, its continuations)."""
        slack = 0.0 if self.network.window is not None else _PADDING
        trunks = [
            (shared(*(c.row.tokens[: _asked_from(c.row)] for c in group)), group)
            for group in groups
        ]
        # The root's last hidden state predicts the first token of an item with no trunk of its own.
        trunks.sort(key=lambda pair: (pair[0], sum(len(c.row.tokens) for c in pair[1])))
        batch: list[tuple[int, list[_Continuation]]] = []
        work = 0
        for length, group in trunks:
            cost = length - root + sum(len(c.row.tokens) - length for c in group)
            padded = bool(batch) and (length - batch[0][0]) > slack * (length - root)
            if batch and (padded or work + cost > _TOKENS_AT_ONCE):
                yield batch
                batch, work = [], 0
            batch.append((length, group))
            work += cost
        if batch:
            yield batch

    def _score_batch(
        self, start: Prefix, root: int, batch: list[tuple[int, list[_Continuation]]]
    ) -> dict[int, list[float]]:
        network, prefix = self.network, start
        own = [group[0].row.tokens[root:length] for length, group in batch]
        parents = [0 for _ in batch]
        if all(own):
            prefix, _ = network.extend(start, own, [0] * len(own), left=True)
            parents = list(range(len(batch)))
        rows = [cut(c.row, length) for length, group in batch for c in group]
        places = [p for p, (_, group) in zip(parents, batch, strict=True) for _ in group]
        values = iter(finish(network, prefix, rows, places).sums(len(rows)).tolist())
        return {group[0].item: [next(values) for _ in group] for _, group in batch}

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise ModelError(
                f"{length} tokens exceed the {self.context_length} that {self.name} reads at once",
                "shorten the text, or lower max_new_tokens",
            )


class _Decoding:
    """Greedy or sampled decoding of one batch; finished rows leave it."""

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        random: torch.Generator,
        stream: Stream | None,
        indices: list[int],
    ) -> None:
        self.model, self.sampling, self.random, self.stream = model, sampling, random, stream
        self.indices = indices
        self.tokens: dict[int, list[int]] = {index: [] for index in indices}
        self.logprobs = dict.fromkeys(indices, 0.0)
        self.shown = dict.fromkeys(indices, 0)
        self.stops = model.stop_tokens()

    def run(self, start: Prefix, rows: Sequence[Sequence[int]]) -> dict[int, Generation]:
        network, alive = self.model.network, list(self.indices)
        prefix, _ = network.extend(start, rows, [0] * len(rows), left=True)
        done: dict[int, Generation] = {}
        for _ in range(self.sampling.max_new_tokens):
            drawn = self._draw(prefix, alive)
            keep = [place for place, index in enumerate(alive) if not self._finish(index, done)]
            alive = [alive[place] for place in keep]
            if not alive:
                return done
            new = [[drawn[place]] for place in keep]
            prefix, _ = network.extend(prefix, new, keep, left=True)
        return done | {index: self._answer(index, finished=False) for index in alive}

    def _draw(self, prefix: Prefix, alive: list[int]) -> list[int]:
        assert prefix.last_B_H is not None
        logprobs_B_V = self.model.network.logits(prefix.last_B_H).log_softmax(-1)
        drawn_B = _sample(logprobs_B_V, self.sampling, self.random)
        chosen = logprobs_B_V.gather(1, drawn_B[:, None])[:, 0].tolist()
        for index, token, logprob in zip(alive, drawn_B.tolist(), chosen, strict=True):
            self.tokens[index].append(token)
            self.logprobs[index] += logprob
        return [int(token) for token in drawn_B.tolist()]

    def _finish(self, index: int, done: dict[int, Generation]) -> bool:
        text = self._text(index)
        stopped = self.tokens[index][-1] in self.stops or any(s in text for s in self.sampling.stop)
        if stopped:
            done[index] = self._answer(index, finished=True)
        elif self.stream and not text.endswith("�"):  # an unfinished character waits
            self._show(index, text, hold=max((len(s) - 1 for s in self.sampling.stop), default=0))
        return stopped

    def _show(self, index: int, text: str, hold: int = 0) -> None:
        end = len(text) - hold
        if self.stream and end > self.shown[index]:
            self.stream(index, text[self.shown[index] : end])
            self.shown[index] = end

    def _answer(self, index: int, *, finished: bool) -> Generation:
        text = self._text(index)
        cuts = [text.index(stop) for stop in self.sampling.stop if stop in text]
        text = text[: min(cuts)] if cuts else text
        self._show(index, text)
        return Generation(text, tuple(self.tokens[index]), self.logprobs[index], finished)

    def _text(self, index: int) -> str:
        return str(self.model.tokenizer.decode(self.tokens[index], skip_special_tokens=True))


def _sample(logprobs_B_V: Tensor, sampling: Sampling, random: torch.Generator) -> Tensor:
    """Temperature and nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751)."""
    if sampling.temperature == 0:
        return logprobs_B_V.argmax(-1)
    probabilities = (logprobs_B_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, places, ordered.masked_fill(outside, 0))
    return torch.multinomial(probabilities, 1, generator=random)[:, 0]


def _asked_from(row: Row) -> int:
    return next(place for place, weight in enumerate(row.weights) if weight)


def _by_item(rows: list[_Continuation], count: int) -> list[list[_Continuation]]:
    groups: list[list[_Continuation]] = [[] for _ in range(count)]
    for row in rows:
        groups[row.item].append(row)
    return groups


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _batches_by_tokens(
    windows: list[tuple[int, list[int]]],
) -> Iterator[list[tuple[int, list[int]]]]:
    batch: list[tuple[int, list[int]]] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1]) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def folder_sha256(folder: Path) -> str:
    """One hash over the weights and the configuration of an adapter or model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(json.dumps(path.name).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
