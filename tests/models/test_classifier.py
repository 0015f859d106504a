"""A head's truths: read where transformers reads, batched = alone, saved = reopened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from burnish.errors import ModelError
from burnish.models.adapt import add_lora, load_adapter, save_weights
from burnish.models.classifier import Classifier, ConstantBaseline, load_classifier
from burnish.models.head_inputs import encode_words, iob2, label_logits, length_batches, tag_logits
from tests.refused import refused

LABELS = ["red", "green", "blue"]
TAGS = ["O", "B-thing", "I-thing"]
TEXTS = ["the parcel", "a tent is torn", "red", "where is my parcel and when will it come", ""]
SENTENCES = ["my parcel is torn", "tent", "the green parcel of mr. o'neil", "a b"]


@pytest.fixture(params=["encoder", "decoder"])
def folder(request: pytest.FixtureRequest, tiny_encoder: Path, tiny_folder: Path) -> Path:
    return {"encoder": tiny_encoder, "decoder": tiny_folder}[request.param]


@pytest.fixture(scope="session")
def distilbert(word_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distilbert")
    config = DistilBertConfig(
        vocab_size=len(word_tokenizer), dim=32, hidden_dim=48, n_layers=2, n_heads=4
    )
    DistilBertModel(config).save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def roberta(word_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roberta")
    config = RobertaConfig(
        vocab_size=len(word_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


def adapted(model: Classifier) -> Any:
    """With a LoRA whose B is no longer zero, so that the adapter says something."""
    module = add_lora(model.module, rank=4, alpha=8, seed=1, whole=model.fresh)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_labels_are_those_of_plain_transformers_one_by_one(folder: Path) -> None:
    model = load_classifier(str(folder), "cpu", "classify", LABELS, seed=3)
    found = model.predict(TEXTS[:4])
    for text, prediction in zip(TEXTS, found, strict=False):
        with torch.no_grad():
            logits = model.module(**model.tokenizer(text, return_tensors="pt")).logits[0]
        best = int(logits.argmax())
        assert prediction.text == LABELS[best]
        assert prediction.logprob == pytest.approx(float(logits.log_softmax(-1)[best]), abs=1e-5)


def test_batched_logits_are_those_of_plain_transformers_batched(folder: Path) -> None:
    model = load_classifier(str(folder), "cpu", "classify", LABELS, seed=3)
    encoded = model.tokenizer(TEXTS[:4], return_tensors="pt", padding=True)
    rows = [model.tokenizer(text)["input_ids"] for text in TEXTS[:4]]
    with torch.no_grad():
        torch.testing.assert_close(label_logits(model.module, rows), model.module(**encoded).logits)


def test_tags_in_a_batch_are_those_of_each_sentence_alone(folder: Path) -> None:
    model = load_classifier(str(folder), "cpu", "tag", TAGS, seed=3)
    words = [sentence.split() for sentence in SENTENCES]
    rows = encode_words(words, model.tokenizer)
    with torch.no_grad():
        together = tag_logits(model.module, rows)
        alone = [
            model.module(input_ids=torch.tensor([row.tokens])).logits[0, list(row.positions)]
            for row in rows
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    found = model.predict(SENTENCES)
    assert [len(p.text.split()) for p in found] == [len(w) for w in words]
    first = together[: len(words[0])].argmax(-1).tolist()
    assert found[0].text.split() == iob2([TAGS[index] for index in first])


def test_an_encoder_reads_a_word_at_its_first_token(word_tokenizer: Any) -> None:
    words = [sentence.split() for sentence in SENTENCES]
    for row, sentence in zip(encode_words(words, word_tokenizer), words, strict=True):
        oracle = word_tokenizer(sentence, is_split_into_words=True)
        numbers = oracle.word_ids()
        assert list(row.tokens) == oracle["input_ids"]
        assert list(row.words) == list(range(len(sentence)))
        assert list(row.positions) == [numbers.index(word) for word in range(len(sentence))]


def test_a_decoder_reads_a_word_at_its_last_token(tiny_tokenizer: Any) -> None:
    words = ["the", "parcel", "xyz", "is", "torn"]
    row = encode_words([words], tiny_tokenizer)[0]
    ends = [len(tiny_tokenizer(" ".join(words[: n + 1]))["input_ids"]) - 1 for n in range(5)]
    assert list(row.positions) == ends
    assert ends[2] > ends[1] + 1  # a word of several tokens is among them


def test_a_word_without_tokens_is_outside(tiny_encoder: Path) -> None:
    model = load_classifier(str(tiny_encoder), "cpu", "tag", TAGS[1:], seed=3)
    words = ["tent", "\u200d", "red"]
    row = encode_words([words], model.tokenizer)[0]
    assert (row.words, row.positions) == ((0, 2), (1, 2))
    assert model.predict([" ".join(words)])[0].text.split()[1] == "O"


def test_an_empty_text_has_a_label(folder: Path) -> None:
    model = load_classifier(str(folder), "cpu", "classify", LABELS)
    assert model.predict(TEXTS)[-1].text in LABELS


def test_text_beyond_the_models_places_is_a_sentence(tiny_encoder: Path) -> None:
    model = load_classifier(str(tiny_encoder), "cpu", "classify", LABELS)
    assert model.predict(["red " * 62])[0].text in LABELS
    with refused("too_many_tokens", ModelError, tokens=65, limit=64):
        model.predict(["red", "red " * 63])


@pytest.mark.parametrize("kind", ["classify", "tag"])
@pytest.mark.parametrize("family", ["tiny_encoder", "tiny_folder", "distilbert", "roberta"])
def test_a_saved_head_opens_in_plain_peft(
    kind: Any, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(family)
    model = load_classifier(str(base), "cpu", kind, TAGS, seed=5)
    module = adapted(model).eval()
    tokens = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        expected = module(input_ids=tokens).logits
    save_weights(module, tmp_path)
    model.network.model.config.save_pretrained(tmp_path)
    again = load_classifier(str(base), "cpu", kind, TAGS, seed=6)  # another fresh head
    ours = load_adapter(again.module, tmp_path).eval()
    auto = {
        "classify": AutoModelForSequenceClassification,
        "tag": AutoModelForTokenClassification,
    }[kind]
    torch.manual_seed(99)
    plain_base = auto.from_pretrained(base, config=AutoConfig.from_pretrained(tmp_path))
    with pytest.warns(FutureWarning):
        plain = PeftModel.from_pretrained(plain_base, tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, expected)
        assert torch.equal(plain(input_ids=tokens).logits, expected)
    assert plain_base.config.id2label == dict(enumerate(TAGS))


def test_what_the_checkpoint_lacks_learns_whole(
    tiny_encoder: Path, tiny_folder: Path, distilbert: Path, roberta: Path
) -> None:
    fresh = {
        path: set(load_classifier(str(path), "cpu", "classify", LABELS).fresh)
        for path in (tiny_encoder, tiny_folder, distilbert, roberta)
    }
    assert fresh[tiny_encoder] == {"classifier"}  # BertModel brought its pooler
    assert fresh[tiny_folder] == {"score"}
    assert fresh[distilbert] == {"pre_classifier", "classifier"}
    assert fresh[roberta] == {"classifier"}  # as a whole, not layer by layer
    module = adapted(load_classifier(str(distilbert), "cpu", "classify", LABELS))
    learnt = {name for name, p in module.named_parameters() if p.requires_grad}
    assert any("pre_classifier.modules_to_save" in name for name in learnt)
    assert not any("classifier" in name and "lora" in name for name in learnt)


def test_no_gradient_below_the_lowest_adapted_layer(tiny_encoder: Path) -> None:
    model = load_classifier(str(tiny_encoder), "cpu", "classify", LABELS)
    module = adapted(model).train()
    for name, parameter in module.named_parameters():
        if ".layer.0." in name:
            parameter.requires_grad_(False)
    seen: list[Any] = []
    for layer in model.network.model.bert.encoder.layer:
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    label_logits(model.network.model, [[2, 7, 8, 3]]).sum().backward()
    outputs = [out[0] if isinstance(out, tuple) else out for out in seen]
    assert [out.requires_grad for out in outputs] == [False, True]
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_an_orphaned_inside_begins_a_span() -> None:
    tags = ["I-a", "I-a", "O", "I-b", "B-b", "I-a", "I-a"]
    assert iob2(tags) == ["B-a", "I-a", "O", "B-b", "B-b", "B-a", "I-a"]


def test_batches_hold_every_text_once_with_little_padding() -> None:
    lengths = [3, 9, 4, 30, 3, 8, 2, 5]
    parts = list(length_batches(lengths, 20))
    assert sorted(index for part in parts for index in part) == list(range(8))
    assert all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= 20 for p in parts)


def test_the_constant_answers_alike() -> None:
    assert [p.text for p in ConstantBaseline("classify", "red").predict(["a b", ""])] == [
        "red",
        "red",
    ]
    assert [p.text for p in ConstantBaseline("tag", "O").predict(["a b c", "d"])] == ["O O O", "O"]
    assert ConstantBaseline("tag", "O").fingerprint != ConstantBaseline("classify", "O").fingerprint
