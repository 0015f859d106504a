"""Decoding: greedy or sampled answers, one or several a prompt, in batches that shrink."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.models.branches import Network, common_start
from burnish.models.prefix import Prefix
from burnish.models.verbs import Generation, Sampling, Stream

# A step reads all weights once for all its answers; what many long ones keep would fill the memory.
_ANSWERS_AT_ONCE, _TOKENS_AT_ONCE = 128, 32_768
# What is drawn depends on the batch: with another size a recipe's seed would mean another run.
_DRAWN_AT_ONCE = 32


def stop_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and those of the generation settings."""
    named = getattr(module.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset({tokenizer.eos_token_id, *listed} - {None})


class Decoder:
    """Writes answers with a network.

    Args:
        network: the model, in evaluation mode.
        tokenizer: its tokenizer.
        sampling: temperature, lengths, stop strings, seed.
        stream: called with (prompt index, new text).
        places: tokens of prompt and answer together, at which an answer is cut.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Any,
        sampling: Sampling,
        stream: Stream | None = None,
        places: int | None = None,
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.sampling, self.stream, self.places = sampling, stream, places
        self.stops = stop_tokens(network.model, tokenizer)
        self.random = torch.Generator(network.device).manual_seed(sampling.seed)

    @torch.no_grad()
    def answers(self, prompts: Sequence[Sequence[int]], each: int = 1) -> list[list[Generation]]:
        """`each` answers to every prompt; prompts of like length are one batch.

        What all prompts begin with is computed once, and a prompt once for all its answers.
        """
        root, start = common_start(self.network, prompts)
        found: list[list[Generation]] = [[] for _ in prompts]
        for chosen in self._batches([len(prompt) for prompt in prompts], each):
            rows = [prompts[index][root:] for index in chosen]
            asked = [index for index in chosen for _ in range(each)]
            batch = _Batch(self, asked, [self._room(len(prompts[index])) for index in asked])
            for place, answer in enumerate(batch.run(start, rows)):
                found[chosen[place // each]].append(answer)
        return found

    def _batches(self, lengths: Sequence[int], each: int) -> Iterator[list[int]]:
        """Prompts to answer together, by their places; the shortest come first."""
        most = _DRAWN_AT_ONCE if self.sampling.temperature else _ANSWERS_AT_ONCE
        batch: list[int] = []
        for place in sorted(range(len(lengths)), key=lengths.__getitem__):
            answers = (len(batch) + 1) * each
            tokens = answers * (lengths[place] + self._room(lengths[place]))
            if batch and (answers > most or tokens > _TOKENS_AT_ONCE):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _room(self, prompt: int) -> int:
        """Tokens that the answer to a prompt of that length may have."""
        most = self.sampling.max_new_tokens
        return most if self.places is None else min(most, self.places - prompt)


class _Batch:
    """One batch of answers; finished ones leave it.

    `prompts` names the prompt of each answer, and `rooms` tells how many tokens it may have.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[int], rooms: Sequence[int]) -> None:
        self.decoder, self.prompts, self.rooms = decoder, prompts, rooms
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.logprobs = [0.0] * len(prompts)
        self.shown = [0] * len(prompts)

    def run(self, start: Prefix, rows: Sequence[Sequence[int]]) -> list[Generation]:
        network = self.decoder.network
        prefix, _ = network.extend(start, rows, [0] * len(rows), left=True)
        each = len(self.prompts) // len(rows)
        alive = list(range(len(self.prompts)))
        parents = [place // each for place in alive]  # rows of the prefix
        done: dict[int, Generation] = {}
        while True:
            drawn = self._draw(prefix, parents, alive)
            keep = [place for place, answer in enumerate(alive) if not self._ended(answer, done)]
            alive = [alive[place] for place in keep]
            if not alive:
                return [done[answer] for answer in range(len(self.prompts))]
            whole = parents == list(range(len(keep)))
            prefix, _ = network.extend(
                prefix,
                [[drawn[place]] for place in keep],
                [parents[place] for place in keep],
                left=True,
                consume=whole,
            )
            parents = list(range(len(alive)))

    def _draw(self, prefix: Prefix, parents: Sequence[int], alive: Sequence[int]) -> list[int]:
        assert prefix.last_B_H is not None
        logits_B_V = self.decoder.network.logits(prefix.last_B_H)
        logprobs_B_V = logits_B_V.log_softmax(-1)[torch.tensor(parents, device=logits_B_V.device)]
        drawn_B = _sample(logprobs_B_V, self.decoder.sampling, self.decoder.random)
        chosen = logprobs_B_V.gather(1, drawn_B[:, None])[:, 0].tolist()
        for answer, token, logprob in zip(alive, drawn_B.tolist(), chosen, strict=True):
            self.tokens[answer].append(token)
            self.logprobs[answer] += logprob
        return [int(token) for token in drawn_B.tolist()]

    def _ended(self, answer: int, done: dict[int, Generation]) -> bool:
        stops = self.decoder.sampling.stop
        # Text is only made where somebody looks at it: a long answer costs a decoding a token.
        text = self._text(answer) if stops or self.decoder.stream else ""
        ended = self.tokens[answer][-1] in self.decoder.stops or any(s in text for s in stops)
        if ended or len(self.tokens[answer]) >= self.rooms[answer]:
            done[answer] = self._answer(answer, finished=ended)
            return True
        if self.decoder.stream and not text.endswith("�"):  # an unfinished character waits
            self._show(answer, text, hold=max((len(s) - 1 for s in stops), default=0))
        return False

    def _show(self, answer: int, text: str, hold: int = 0) -> None:
        end = len(text) - hold
        if self.decoder.stream and end > self.shown[answer]:
            self.decoder.stream(self.prompts[answer], text[self.shown[answer] : end])
            self.shown[answer] = end

    def _answer(self, answer: int, *, finished: bool) -> Generation:
        text = self._text(answer)
        cuts = [text.index(stop) for stop in self.decoder.sampling.stop if stop in text]
        text = text[: min(cuts)] if cuts else text
        self._show(answer, text)
        return Generation(text, tuple(self.tokens[answer]), self.logprobs[answer], finished)

    def _text(self, answer: int) -> str:
        return str(self.decoder.tokenizer.decode(self.tokens[answer], skip_special_tokens=True))


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
