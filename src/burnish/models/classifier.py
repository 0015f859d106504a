"""An encoder or decoder with a head: one label per text, or one IOB2 tag per word.

The modules are transformers' own for sequence and token classification, so a saved head opens
there too. Shapes: B texts, T tokens, N words, C labels.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.utils import logging

from burnish.errors import ModelError
from burnish.models.head_inputs import (
    OUTSIDE,
    TaggedTokens,
    encode_texts,
    encode_words,
    iob2,
    label_logits,
    length_batches,
    tag_logits,
)
from burnish.models.load import DeviceChoice, load_tokenizer, pick_device
from burnish.models.loaded import LoadedModel
from burnish.models.onednn import use_onednn
from burnish.models.registry import Source, first_line, resolve

HeadKind = Literal["classify", "tag"]
_AUTO: dict[HeadKind, Any] = {
    "classify": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
}
_TOKENS_AT_ONCE = 4096
# Encoders that number their positions from the padding token's on: 514 have room for 512 tokens.
_POSITIONS_AFTER_PADDING = re.compile("roberta|camembert|data2vec-text|longformer|mpnet|xmod")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label, or the tags of all words separated by spaces, and the log-probability (nats)."""

    text: str
    logprob: float | None


class Classifier(LoadedModel):
    """A model with a head, its tokenizer and its labels.

    Args:
        kind: the task of the head.
        fresh: names of newly initialised modules, which must be trained and saved.

    See `LoadedModel` for the others.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        kind: HeadKind,
        *,
        fresh: Sequence[str] = (),
        **names: str,
    ) -> None:
        super().__init__(module, tokenizer, **names)
        self.kind = kind
        self.fresh = tuple(fresh)
        self.baseline: ConstantBaseline | None = None

    @property
    def body(self) -> str:
        """`encoder` or `decoder`."""
        return "decoder" if self.tokenizer.cls_token_id is None else "encoder"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the head's outputs."""
        named = self.network.model.config.id2label
        return tuple(named[index] for index in sorted(named))

    @property
    def context_length(self) -> int:
        """Number of tokens in the longest text that the model can read."""
        return _max_tokens(self.network.model.config, self.tokenizer)

    @contextlib.contextmanager
    def base(self) -> Iterator["ConstantBaseline"]:
        """The baseline to compare with: a constant answer, since a new head knows nothing.

        Raises:
            ModelError: no baseline was set.
        """
        if self.baseline is None:
            raise ModelError(
                f"{self.name} has no baseline to compare with",
                "open it with burnish.open_classifier",
                code="no_baseline",
                model=self.name,
            )
        yield self.baseline

    @torch.no_grad()
    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The most likely label of each text, or the tags of its words, separated by spaces.

        Raises:
            ModelError: a text is longer than the model can read.
        """
        self.module.eval()
        module = self.network.model
        rows = [TaggedTokens(tuple(row), (), ()) for row in encode_texts(texts, self.tokenizer)]
        if self.kind == "tag":
            rows = encode_words([text.split() for text in texts], self.tokenizer)
        self._check_length(rows)
        predictions: dict[int, Prediction] = {}
        for part in length_batches([len(row.tokens) for row in rows], _TOKENS_AT_ONCE):
            batch = [rows[index] for index in part]
            if self.kind == "classify":
                answers = self._labels(label_logits(module, [row.tokens for row in batch]))
            else:
                counts = [len(texts[index].split()) for index in part]
                answers = self._tags(tag_logits(module, batch), batch, counts)
            predictions |= dict(zip(part, answers, strict=True))
        return [predictions[index] for index in range(len(texts))]

    def _labels(self, logits_B_C: Tensor) -> list[Prediction]:
        best = logits_B_C.log_softmax(-1).max(-1)
        labels = self.labels
        values = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(labels[index], value) for index, value in values]

    def _tags(
        self, logits_N_C: Tensor, rows: Sequence[TaggedTokens], counts: Sequence[int]
    ) -> list[Prediction]:
        best = logits_N_C.log_softmax(-1).max(-1)
        labels = self.labels
        drawn = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers = []
        for row, count in zip(rows, counts, strict=True):
            tags, total = [OUTSIDE] * count, 0.0
            for word in row.words:
                index, value = next(drawn)
                tags[word], total = labels[index], total + value
            answers.append(Prediction(" ".join(iob2(tags)), total))
        return answers

    def _check_length(self, rows: Sequence[TaggedTokens]) -> None:
        longest = max((len(row.tokens) for row in rows), default=0)
        if longest > self.context_length:
            raise ModelError(
                f"a text has {longest} tokens, but {self.name} reads at most {self.context_length}",
                "shorten the text, or split it",
                code="too_many_tokens",
                tokens=longest,
                limit=self.context_length,
                model=self.name,
            )


class ConstantBaseline:
    """Gives every text the same label, or every word the same tag."""

    def __init__(self, kind: HeadKind, answer: str) -> None:
        self.kind, self.answer = kind, answer

    @property
    def name(self) -> str:
        if self.kind == "tag":
            return f"the tag {self.answer} for every word"
        return f"the most frequent training label, {self.answer!r},"

    @property
    def fingerprint(self) -> str:
        return f"constant-{hashlib.sha256(f'{self.kind} {self.answer}'.encode()).hexdigest()[:16]}"

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        if self.kind == "tag":
            return [Prediction(" ".join([self.answer] * len(t.split())), None) for t in texts]
        return [Prediction(self.answer, None) for _ in texts]


def load_classifier(
    name: str, device: DeviceChoice, kind: HeadKind, labels: Sequence[str], seed: int = 0
) -> Classifier:
    """Loads a model with a head for `labels`; missing weights are initialised with `seed`.

    Raises:
        ModelError: the model cannot be loaded, or its architecture has no such head.
    """
    source, placement = resolve(name), pick_device(device)
    torch.manual_seed(seed)
    try:
        with quiet_transformers():
            module, info = _AUTO[kind].from_pretrained(
                str(source.path),
                dtype=placement.dtype,
                use_safetensors=True,
                id2label=dict(enumerate(labels)),
                label2id={label: index for index, label in enumerate(labels)},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} does not support a head for the objective {kind} ({first_line(error)[:120]})",
            "choose an encoder such as all-minilm-l6-v2",
            code="head_not_supported",
            model=name,
            objective=kind,
            reason=first_line(error),
        ) from error
    use_onednn(module)
    module.config.architectures = [type(module).__name__]  # saved with the adapter, too
    tokenizer = load_tokenizer(source)
    if module.config.pad_token_id is None:  # plain transformers needs one to find a text's end
        module.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    missing = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    return Classifier(
        module.to(placement.device),
        tokenizer,
        kind,
        name=source.name,
        source_sha256=source.sha256,
        fresh=_new_modules(module, missing),
    )


def max_text_tokens(source: Source) -> int:
    """Tokens in the longest text that a model can read, without loading its weights."""
    return _max_tokens(AutoConfig.from_pretrained(str(source.path)), load_tokenizer(source))


def _new_modules(module: Any, missing: set[str]) -> list[str]:
    """The outermost modules without any parameter in the checkpoint."""
    names: list[str] = []
    for name, inner in module.named_modules():
        own = {f"{name}.{key}" for key, _ in inner.named_parameters()}
        inside = any(name.startswith(f"{other}.") for other in names)
        if name and own and own <= missing and not inside:
            names.append(name)
    return names


def _max_tokens(config: Any, tokenizer: Any) -> int:
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    if _POSITIONS_AFTER_PADDING.search(config.model_type):
        positions -= (config.pad_token_id or 0) + 1
    return int(min(tokenizer.model_max_length, positions))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the warnings of transformers about a newly initialised head."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
