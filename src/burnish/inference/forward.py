"""One forward pass over new tokens of many rows, each with its own adapter, or none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from burnish.errors import ModelError
from burnish.inference.attention import NAME, RaggedBatch, RowSlice
from burnish.inference.kv_cache import KVRow
from burnish.inference.lora import AdapterPool
from burnish.inference.packed_linear import PackedLinears
from burnish.models.branches import Network

# Enough to be read in two pieces and continued, by two rows that share a beginning.
_PROBE = 40


@dataclass(frozen=True, slots=True)
class NewTokens:
    """A computed row and the tokens to compute behind it, at least one."""

    row: KVRow
    tokens: Sequence[int]


class ModelRunner:
    """Computes rows with one set of base weights.

    Args:
        network: the base, in evaluation mode; its attention and linear layers are exchanged until
            `close`.
        adapters: what rows of other adapters than 0, the base, add to the base's layers.

    Raises:
        ModelError: the model's layers are such that rows side by side would not be exact.
    """

    def __init__(self, network: Network, adapters: AdapterPool) -> None:
        self.network, self.adapters = network, adapters
        self._usual = network.config._attn_implementation
        self._packed: PackedLinears | None = None
        self._check()

    def close(self) -> None:
        """The model is as it was."""
        self.adapters.close()
        if self._packed is not None:
            self._packed.close()
        self.network.model.set_attn_implementation(self._usual)

    def run(self, new: Sequence[NewTokens]) -> list[Tensor]:
        """Hidden states (L, H) of each row's new tokens, which count as computed afterwards.

        After an error nothing counts, and the same may be tried again.
        """
        order = sorted(range(len(new)), key=lambda index: _place(new[index]))
        parts, start = [], 0
        for index in order:
            size = len(new[index].tokens)
            new[index].row.own = new[index].row.own.with_room(size)
            parts.append(RowSlice(new[index].row, start, size))
            start += size
        rows = RaggedBatch(
            [part for part in parts if part.size == 1],
            [part for part in parts if part.size > 1],
            self.network.device,
        )
        hidden_N_H = self._forward([new[index] for index in order], parts, rows)
        result: dict[int, Tensor] = {}
        for index, part in zip(order, parts, strict=True):
            part.row.own.advance(part.size)
            part.row.tokens.extend(new[index].tokens)
            result[index] = hidden_N_H[part.start : part.start + part.size]
        return [result[index] for index in range(len(new))]

    def logits(self, hidden_N_H: Tensor, adapters: Sequence[int]) -> Tensor:
        """Vocabulary projection (N, V) in float32; each position names the adapter of its row."""
        padded = functional.pad(hidden_N_H, (0, 0, 0, self._padding(len(hidden_N_H))))
        with self.adapters.applied([(number, 1) for number in adapters]):
            return self.network.logits(padded)[: len(hidden_N_H)]

    def _forward(
        self, new: Sequence[NewTokens], parts: Sequence[RowSlice], rows: RaggedBatch
    ) -> Tensor:
        device = self.network.device
        tokens = [token for each in new for token in each.tokens]
        positions = [place for p in parts for place in range(p.before, p.before + p.size)]
        padding = [0] * self._padding(len(tokens))
        with self.adapters.applied([(part.row.adapter, part.size) for part in parts]):
            hidden_1_N_H: Tensor = self.network.model.base_model(
                input_ids=torch.tensor([tokens + padding], device=device),
                position_ids=torch.tensor([positions + padding], device=device),
                # Four dimensions are taken for a finished mask; the rows know what they see.
                attention_mask=torch.zeros(1, 1, 1, 1, device=device),
                use_cache=False,
                burnish_rows=rows,
            ).last_hidden_state
        return hidden_1_N_H[0, : len(tokens)]

    def _padding(self, rows: int) -> int:
        return 0 if self._packed is None else self._packed.padding(rows)

    def _check(self) -> None:
        """Compares rows side by side with the model's own forward pass."""
        tokens = [place % min(self.network.config.vocab_size, 97) for place in range(_PROBE)]
        try:
            with torch.inference_mode():
                given = torch.tensor([tokens], device=self.network.device)
                plain_N_H = self.network.model.base_model(input_ids=given).last_hidden_state[0]
                plain_N_H = torch.cat([plain_N_H, plain_N_H[-2:]])
                self.network.model.set_attn_implementation(NAME)
                self._packed = PackedLinears(self.network.model)
                ours_N_H = self._probe(tokens)
                size_N = plain_N_H.norm(dim=-1).clamp(min=1e-6)
                apart = float(((ours_N_H - plain_N_H).norm(dim=-1) / size_N).max())
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            self.close()
            raise self._unsupported(str(error).partition("\n")[0][:120]) from error
        # A dropped mask or a shifted position is far above both.
        if not apart < (1e-3 if plain_N_H.dtype == torch.float32 else 0.1):
            self.close()
            raise self._unsupported(f"hidden states differ by {apart:.2g}")

    def _probe(self, tokens: list[int]) -> Tensor:
        """The tokens read in two pieces and two single ones, then the single ones of another row
        that shares what is before them; both rows at once."""
        first, end = KVRow(0), len(tokens) - 2
        parts = [
            self.run([NewTokens(first, tokens[:4])])[0],
            self.run([NewTokens(first, tokens[4:end])])[0],
        ]
        second, others = first.branch(end, end), []
        for token in tokens[end:]:
            one, other = self.run([NewTokens(first, [token]), NewTokens(second, [token])])
            parts.append(one)
            others.append(other)
        return torch.cat(parts + others)

    def _unsupported(self, reason: str) -> ModelError:
        name = type(self.network.model).__name__
        return ModelError(
            f"{name} does not support batched generation in this process ({reason})",
            "serve the model with `--backend vllm`",
            code="not_batchable",
            model=name,
            reason=reason,
        )


def _place(new: NewTokens) -> tuple[bool, int, int]:
    """Rows of one token come first, those of one adapter together, and in them those of a trunk."""
    row = new.row
    return len(new.tokens) > 1, row.adapter, 0 if row.trunk is None else id(row.trunk)
