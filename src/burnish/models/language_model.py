"""A transformers language model; base and tuned model share one set of weights."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.conversation import Conversation
from burnish.data.answer_text import plain_answer
from burnish.data.chat_templates import stop_tokens_hash
from burnish.data.render import render_prompt
from burnish.data.tool_calls import offered_tools
from burnish.errors import ModelError
from burnish.models.adapt import adapters_disabled, has_adapter, load_weights
from burnish.models.adapter_files import safetensors_errors
from burnish.models.adapter_scale import AdapterScale
from burnish.models.branches import Row, branch_states, common_start, continuation_logprobs
from burnish.models.cache_kinds import cache_kind
from burnish.models.generate import Decoder
from burnish.models.interface import Choice, Generation, Sampling, Scores, Stream, TextLoss
from burnish.models.loaded import LoadedModel
from burnish.models.tokenize import token_windows, tokenize_choice
from burnish.models.trunk_cache import TrunkCache
from burnish.models.weight_snapshot import WeightSnapshot

# Tokens in one forward pass without gradient: enough to use all cores, with little memory.
_TOKENS_AT_ONCE = 2048
# Positions in the key/value cache of one forward pass, with each row's trunk repeated.
_POSITIONS_AT_ONCE = 16384
# The fixed cost of a forward pass, in tokens.
_TOKENS_PER_PASS = 16

_Window = TypeVar("_Window", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class _Branch:
    """A choice after its item's context, which is the row `parent` of the trunk batch."""

    item: int
    choice: int
    parent: int
    row: Row


class LanguageModel(LoadedModel):
    """A causal model that generates, scores and measures text loss.

    See `LoadedModel` for the arguments.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        source_sha256: str,
    ) -> None:
        super().__init__(model, tokenizer, name=name, source_sha256=source_sha256)
        self._adapter_on = True
        self._kept: WeightSnapshot | None = None
        self._scale: AdapterScale | None = None
        self._part = ""

    @property
    def fingerprint(self) -> str:
        on = self.adapter_sha256 if self._adapter_on and self.adapter_sha256 else None
        part = f"{on[:16]}{self._part}" if on else "base"
        ends = stop_tokens_hash(self.tokenizer)
        return f"{self.source_sha256[:16]}-{part}" + (f"-{ends}" if ends else "")

    @contextlib.contextmanager
    def base(self) -> Iterator["LanguageModel"]:
        """The base model, before any tuning: adapters disabled and original weights restored."""
        self._adapter_on = False
        try:
            with contextlib.ExitStack() as stack:
                if has_adapter(self.module):
                    stack.enter_context(adapters_disabled(self.module, frozen_too=True))
                if self._kept is not None:
                    stack.enter_context(self._kept.swapped_in())
                yield self
        finally:
            self._adapter_on = True

    def use_weights(self, folder: Path) -> None:
        """Loads other weights of the same training run, such as a checkpoint."""
        with safetensors_errors(folder):
            load_weights(self.module, folder)
        self.adapter_sha256 = folder_sha256(folder)
        self._scale = None

    @contextlib.contextmanager
    def at_scale(self, scale: float, slope: float = 0.0) -> Iterator["LanguageModel"]:
        """Scales the adapter within a `with` block; see `burnish.models.adapter_scale`.

        Raises:
            ModelError: the method cannot be scaled.
        """
        if self._scale is None:
            self._scale = AdapterScale(self.module, self._kept)
        whole = (scale, slope) == (1.0, 0.0)
        self._part = "" if whole else f"-x{scale:g}" + (f"-slope{slope:g}" if slope else "")
        try:
            with self._scale.at(scale, slope):
                yield self
        finally:
            self._part = ""

    @contextlib.contextmanager
    def keeping_base(self) -> Iterator[None]:
        """Saves the current weights as the base model while the `with` block changes them."""
        self._kept = WeightSnapshot(list(self.module.parameters()))
        yield
        self._kept.drop_unchanged()

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
            self._check_length(len(row) + 1)
        decoder = Decoder(self.network, self.tokenizer, sampling, stream, self.context_length)
        return [
            replace(answer, text=plain_answer(answer.text, offered, self.tokenizer, before))
            for (answer,), before, offered in zip(
                decoder.answers(tokens), tokens, map(offered_tools, prompts), strict=True
            )
        ]

    @torch.no_grad()
    def score(self, items: Sequence[Choice]) -> list[Scores]:
        self.module.eval()
        rows = [self._tokenized(item) for item in items]
        logprobs = [[0.0] * len(item.choices) for item in items]
        for branch, value in self._scored(rows):
            logprobs[branch.item][branch.choice] = value
        return [
            Scores(tuple(values), tuple(len(choice) for choice in item.choices))
            for values, item in zip(logprobs, items, strict=True)
        ]

    @torch.no_grad()
    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        """Uses windows of the context length; the first token is predicted from the start token."""
        self.module.eval()
        size, network = self.context_length, self.network
        pieces = [
            (i, w)
            for i, text in enumerate(texts)
            for w in token_windows(text, self.tokenizer, size)
        ]
        pieces.sort(key=lambda piece: len(piece[1]))
        nats, counts = [0.0] * len(texts), [0] * len(texts)
        for batch in _batches_by_tokens(pieces):
            rows = [Row(tokens, [0.0] + [1.0] * (len(tokens) - 1)) for _, tokens in batch]
            logprobs = continuation_logprobs(network, network.start(), rows, [0] * len(rows))
            sums = logprobs.sums(len(rows)).tolist()
            for (index, tokens), value in zip(batch, sums, strict=True):
                nats[index] -= value
                counts[index] += len(tokens) - 1
        return [TextLoss(loss, count) for loss, count in zip(nats, counts, strict=True)]

    @torch.no_grad()
    def divergence(self, answered: Sequence[tuple[Conversation, str]]) -> list[float]:
        """KL(base || this model) of each reply to its prompt, in nats per token of the reply.

        Exact over the vocabulary, in batches of positions; 0 for the base itself.
        """
        if not self._adapter_on:
            return [0.0] * len(answered)
        self.module.eval()
        tokenized = [self._tokenized(Choice(prompt, (reply,))) for prompt, reply in answered]
        rows = [
            (index, [*before, *reply], len(reply))
            for index, (before, (reply,)) in enumerate(tokenized)
        ]
        result = [0.0] * len(rows)
        for part in _batches_by_tokens(sorted(rows, key=lambda row: len(row[1]))):
            weighted = [
                Row(tokens, [0.0] * (len(tokens) - new) + [1.0 / new] * new)
                for _, tokens, new in part
            ]
            for (index, *_), value in zip(part, self._divergences(weighted), strict=True):
                result[index] = value
        return result

    def _divergences(self, rows: Sequence[Row]) -> list[float]:
        network = self.network
        own = branch_states(network, rows)
        with self.base():
            base_N_H = branch_states(network, rows).hidden_N_H

        def reading(logits_N_V: Tensor, _: Tensor, which: slice) -> Tensor:
            with self.base():  # after full tuning the projection differs too
                base_N_V = network.logits(base_N_H[which]).log_softmax(-1)
            own_N_V = logits_N_V.log_softmax(-1)
            return functional.kl_div(own_N_V, base_N_V, reduction="none", log_target=True).sum(-1)

        values_N = network.read(own.hidden_N_H, own.targets_N, reading)
        # Rounding may give a tiny negative number where both models agree.
        return own.sums(values_N, len(rows)).clamp(min=0).tolist()

    def _tokenized(self, item: Choice) -> tuple[list[int], list[list[int]]]:
        """The tokens of the context, and the tokens of each choice."""
        context, choices = tokenize_choice(item, self.tokenizer)
        self._check_length(len(context) + max(map(len, choices)))
        return context, choices

    def _scored(
        self, rows: Sequence[tuple[list[int], list[list[int]]]]
    ) -> Iterator[tuple[_Branch, float]]:
        """Every choice with its log-probability; contexts are computed once if they can be."""
        network = self.network
        if not network.shares_beginnings:
            yield from self._branch_sums(network.start(), _whole_branches(rows))
            return
        contexts = [context for context, _ in rows]
        root, start = common_start(network, contexts)
        order = sorted(range(len(rows)), key=lambda index: len(contexts[index]))
        lengths = [len(contexts[index]) - root for index in order]
        # Contexts that are run by length gain nothing from a batch of several lengths.
        one_pass = 0 if cache_kind(network.model).recurrent else _TOKENS_PER_PASS
        for part in _length_batches(lengths, root, one_pass):
            chosen = order[part]
            own = [contexts[index][root:] for index in chosen]
            prefix, _ = network.extend(start, own, [0] * len(own), left=True)
            branches = [
                _Branch(index, choice, parent, Row(tokens, [1.0] * len(tokens)))
                for parent, index in enumerate(chosen)
                for choice, tokens in enumerate(rows[index][1])
            ]
            yield from self._branch_sums(prefix, branches)

    def _branch_sums(
        self, prefix: TrunkCache, branches: list[_Branch]
    ) -> Iterator[tuple[_Branch, float]]:
        """Summed log-probabilities of rows after one trunk batch, in batches of similar lengths."""
        branches = sorted(branches, key=lambda branch: len(branch.row.tokens))
        lengths = [len(branch.row.tokens) for branch in branches]
        for part in _length_batches(lengths, prefix.mask_B_T.shape[1], _TOKENS_PER_PASS):
            chosen = branches[part]
            rows, parents = [b.row for b in chosen], [b.parent for b in chosen]
            logprobs = continuation_logprobs(self.network, prefix, rows, parents)
            yield from zip(chosen, logprobs.sums(len(rows)).tolist(), strict=True)

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise ModelError(
                f"a text has {length} tokens, more than the context of {self.name} "
                f"({self.context_length})",
                "shorten the text",
                code="too_many_tokens",
                tokens=length,
                limit=self.context_length,
                model=self.name,
            )


def _whole_branches(rows: Sequence[tuple[list[int], list[list[int]]]]) -> list[_Branch]:
    """Each choice with its context before it, as a row of its own."""
    return [
        _Branch(
            index, choice, 0, Row([*context, *tokens], [0.0] * len(context) + [1.0] * len(tokens))
        )
        for index, (context, choices) in enumerate(rows)
        for choice, tokens in enumerate(choices)
    ]


def _length_batches(lengths: Sequence[int], before: int, one_pass: int) -> list[slice]:
    """Splits ascending lengths into batches with the least total cost of padding and passes.

    `one_pass` is the fixed cost of a forward pass in tokens, `before` the number of positions
    before each row. Exact, by dynamic programming over where the last batch starts.
    """
    best = [(0, 0)]  # for the first n rows: tokens spent, start of the last batch
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        rows = min(_TOKENS_AT_ONCE // longest, _POSITIONS_AT_ONCE // (before + longest), end)
        starts = range(end - max(rows, 1), end)
        best.append(min((best[s][0] + (end - s) * longest + one_pass, s) for s in starts))
    cuts, end = [], len(lengths)
    while end:
        cuts.append(slice(best[end][1], end))
        end = best[end][1]
    return cuts[::-1]


def _batches_by_tokens(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Batches of windows, which are sorted by length; the second entry of each is its tokens."""
    batch: list[_Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1]) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def folder_sha256(folder: Path) -> str:
    """A hash over the weights and the configuration of an adapter or model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(json.dumps(path.name).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
