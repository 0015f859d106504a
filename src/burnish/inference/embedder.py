"""Sentence embeddings of an encoder: the mean of its last states, of length 1.

Mean pooling over real tokens and normalisation, as Sentence-BERT (Reimers and Gurevych 2019, arXiv
1908.10084) has it and the built-in encoder was trained with. Shapes: B texts, T tokens, H hidden.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from burnish.errors import ModelError
from burnish.inference.lengths import tokens_within
from burnish.models.head_inputs import length_batches
from burnish.models.load import DeviceChoice, context_length, load_tokenizer, pick_device
from burnish.models.registry import resolve

# Padded tokens of one forward pass.
_TOKENS_AT_ONCE = 4096


class Embedder:
    """An encoder, loaded by name; it computes one batch at a time for all threads.

    Raises:
        ModelError: the model does not exist, or is not an encoder.
    """

    def __init__(self, name: str, device: DeviceChoice = "auto") -> None:
        source, placement = resolve(name), pick_device(device)
        self.name, self.tokenizer = source.name, load_tokenizer(source)
        self.context = context_length(source)
        try:
            module = AutoModel.from_pretrained(
                str(source.path), dtype=placement.dtype, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{name} is not an encoder ({str(error).splitlines()[0][:120]})",
                "choose an encoder such as all-minilm-l6-v2",
                code="not_an_encoder",
                model=name,
            ) from error
        self.module = module.to(placement.device).eval()
        self._one_at_a_time = threading.Lock()

    @property
    def size(self) -> int:
        """Numbers in an embedding."""
        return int(self.module.config.hidden_size)

    def encoded(self, text: str) -> list[int]:
        """Tokens with the marks that the encoder puts around a text.

        Raises:
            TooLongError: it is so much longer than the context that nobody counted its tokens.
        """
        text.encode()  # what is no text is refused here, by its own name
        return tokens_within(self.tokenizer, text, self.context)

    def embed(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """An embedding for each row of tokens, in their order; rows fit the context."""
        result: list[list[float]] = [[] for _ in rows]
        with self._one_at_a_time, torch.inference_mode():
            for part in length_batches(list(map(len, rows)), _TOKENS_AT_ONCE):
                for index, own in zip(part, self._pooled([rows[i] for i in part]), strict=True):
                    result[index] = own.tolist()
        return result

    def _pooled(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(len(row) for row in rows)
        padding = self.tokenizer.pad_token_id or 0
        tokens_B_T = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
        real_B_T = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = self.module.device
        real_B_T = real_B_T.to(device)
        states_B_T_H = self.module(tokens_B_T.to(device), attention_mask=real_B_T).last_hidden_state
        real_B_T_1 = real_B_T[..., None].to(states_B_T_H.dtype)
        mean_B_H = (states_B_T_H * real_B_T_1).sum(1) / real_B_T_1.sum(1)
        return functional.normalize(mean_B_H.float(), dim=-1).cpu()
