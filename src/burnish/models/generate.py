"""Generates greedy or sampled answers, one or several per prompt, in shrinking batches."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.data.answer_text import answer_decoder
from burnish.data.chat_templates import next_speaker_index, speaker_prefixes
from burnish.models.branches import Network, common_start
from burnish.models.devices import tensor_on
from burnish.models.interface import Generation, Sampling, Stream
from burnish.models.stop_tokens import stop_tokens
from burnish.models.trunk_cache import TrunkCache

# A step reads all weights once for all answers, but many long answers would fill the memory.
_ANSWERS_AT_ONCE, _TOKENS_AT_ONCE = 128, 32_768
# Samples depend on the batch size: with another one, a seed would give other answers.
_DRAWN_AT_ONCE = 32
# Tokens at the end of an answer that contain a next speaker's line: each has at least a byte.
_LINE = 16


class Decoder:
    """Generates answers with a network.

    Args:
        network: the model, in evaluation mode.
        tokenizer: its tokenizer.
        sampling: temperature, lengths, stop strings, seed. Answers of a model without a chat
            template also end where the next speaker's line begins.
        stream: called with (prompt index, new text).
        context_length: largest number of tokens of prompt and answer together; longer answers are
            cut off there.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Any,
        sampling: Sampling,
        stream: Stream | None = None,
        context_length: int | None = None,
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.sampling, self.stream, self.context_length = sampling, stream, context_length
        self.stops = stop_tokens(network.model, tokenizer)
        self.speakers = speaker_prefixes(tokenizer)
        self.text_of = answer_decoder(tokenizer)
        self.random = torch.Generator(network.device).manual_seed(sampling.seed)

    @torch.no_grad()
    def answers(self, prompts: Sequence[Sequence[int]], each: int = 1) -> list[list[Generation]]:
        """Returns `each` answers to every prompt, in batches of similar lengths.

        The common beginning of all prompts is computed once, and each prompt once.
        """
        root, start = common_start(self.network, prompts)
        generations: list[list[Generation]] = [[] for _ in prompts]
        for chosen in self._batches([len(prompt) for prompt in prompts], each):
            rows = [prompts[index][root:] for index in chosen]
            repeated = [index for index in chosen for _ in range(each)]
            batch = _Batch(self, repeated, [self._room(len(prompts[i])) for i in repeated])
            for number, answer in enumerate(batch.run(start, rows)):
                generations[chosen[number // each]].append(answer)
        return generations

    def _batches(self, lengths: Sequence[int], each: int) -> Iterator[list[int]]:
        """Indices of the prompts in each batch, the shortest first."""
        most = _DRAWN_AT_ONCE if self.sampling.temperature else _ANSWERS_AT_ONCE
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            answers = (len(batch) + 1) * each
            tokens = answers * (lengths[index] + self._room(lengths[index]))
            if batch and (answers > most or tokens > _TOKENS_AT_ONCE):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _room(self, prompt: int) -> int:
        """Largest number of tokens in the answer to a prompt of that length."""
        most = self.sampling.max_new_tokens
        return most if self.context_length is None else min(most, self.context_length - prompt)


class _Batch:
    """One batch of answers; finished answers are removed from it.

    `prompts` is the index of each answer's prompt, and `rooms` its largest number of tokens.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[int], rooms: Sequence[int]) -> None:
        self.decoder, self.prompts, self.rooms = decoder, prompts, rooms
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.shown = [0] * len(prompts)

    def run(self, start: TrunkCache, rows: Sequence[Sequence[int]]) -> list[Generation]:
        network = self.decoder.network
        prefix, _ = network.extend(start, rows, [0] * len(rows), left=True)
        each = len(self.prompts) // len(rows)
        alive = list(range(len(self.prompts)))
        parents = [row // each for row in alive]  # rows of the prefix
        done: dict[int, Generation] = {}
        while True:
            drawn = self._draw(prefix, parents, alive)
            keep = [row for row, answer in enumerate(alive) if not self._ended(answer, done)]
            alive = [alive[row] for row in keep]
            if not alive:
                return [done[answer] for answer in range(len(self.prompts))]
            whole = parents == list(range(len(keep)))
            prefix, _ = network.extend(
                prefix,
                [[drawn[row]] for row in keep],
                [parents[row] for row in keep],
                left=True,
                consume=whole,
            )
            parents = list(range(len(alive)))

    def _draw(self, prefix: TrunkCache, parents: Sequence[int], alive: Sequence[int]) -> list[int]:
        assert prefix.last_B_H is not None
        logits_B_V = self.decoder.network.logits(prefix.last_B_H)
        logprobs_B_V = logits_B_V.log_softmax(-1)[tensor_on(logits_B_V.device, parents)]
        drawn_B = _sample(logprobs_B_V, self.decoder.sampling, self.decoder.random)
        chosen_B = logprobs_B_V.gather(1, drawn_B[:, None])[:, 0]
        # Read together, so that the processor waits for the device once.
        drawn, chosen = torch.stack([drawn_B.double(), chosen_B.double()]).tolist()
        tokens = [int(token) for token in drawn]
        for answer, token, logprob in zip(alive, tokens, chosen, strict=True):
            self.tokens[answer].append(token)
            self.logprobs[answer].append(logprob)
        return tokens

    def _ended(self, answer: int, done: dict[int, Generation]) -> bool:
        stops = self.decoder.sampling.stop
        # Text is decoded only if it is needed, since this costs a decoding per token.
        text = self._text(answer) if stops or self.decoder.stream else ""
        ended = self.tokens[answer][-1] in self.decoder.stops or any(s in text for s in stops)
        ended = ended or self._another_speaks(answer)
        if ended or len(self.tokens[answer]) >= self.rooms[answer]:
            done[answer] = self._answer(answer, finished=ended)
            return True
        if self.decoder.stream and not text.endswith("�"):  # an unfinished character waits
            ends = (*stops, *self.decoder.speakers)
            self._show(answer, text, hold=max((len(s) - 1 for s in ends), default=0))
        return False

    def _another_speaks(self, answer: int) -> bool:
        """Whether the newest token completes the start of the next speaker's line."""
        if not self.decoder.speakers:
            return False
        tokens = self.tokens[answer]
        if len(tokens) <= _LINE:
            return next_speaker_index(self._text(answer)) is not None
        line = str(self.decoder.tokenizer.decode(tokens[-_LINE:], skip_special_tokens=True))
        return any(speaker in line for speaker in self.decoder.speakers)

    def _show(self, answer: int, text: str, hold: int = 0) -> None:
        end = len(text) - hold
        if self.decoder.stream and end > self.shown[answer]:
            self.decoder.stream(self.prompts[answer], text[self.shown[answer] : end])
            self.shown[answer] = end

    def _answer(self, answer: int, *, finished: bool) -> Generation:
        text, tokens = self._text(answer), self.tokens[answer]
        if self.decoder.speakers and (start := next_speaker_index(text)) is not None:
            tokens = tokens[: max(1, self._count_before(answer, start))]
            text = text[:start]
        cuts = [text.index(stop) for stop in self.decoder.sampling.stop if stop in text]
        text = text[: min(cuts)] if cuts else text
        self._show(answer, text)
        logprob = sum(self.logprobs[answer][: len(tokens)])
        return Generation(text, tuple(tokens), logprob, finished)

    def _count_before(self, answer: int, end: int) -> int:
        """How many tokens begin before the character `end` of the answer's text."""
        tokens, text_of = self.tokens[answer], self.decoder.text_of
        return bisect_left(range(len(tokens)), end, key=lambda n: len(text_of(tokens[:n])))

    def _text(self, answer: int) -> str:
        return self.decoder.text_of(self.tokens[answer])


def _sample(logprobs_B_V: Tensor, sampling: Sampling, random: torch.Generator) -> Tensor:
    """Temperature and nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751)."""
    if sampling.temperature == 0:
        return logprobs_B_V.argmax(-1)
    probabilities = (logprobs_B_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, tokens, ordered.masked_fill(outside, 0))
    return torch.multinomial(probabilities, 1, generator=random)[:, 0]
