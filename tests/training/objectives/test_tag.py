"""Token classification: the loss is transformers' own, and a run finds its spans again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForTokenClassification

import burnish
from burnish.conversation import Example, Message
from burnish.data.tags import all_tags
from burnish.errors import DataError
from burnish.models.branches import Network
from burnish.models.classifier import load_classifier
from burnish.training.objectives.tag import Tag
from tests.refused import refused
from tests.rows import write_rows

ROWS = [
    ("my parcel is torn", ("O", "B-thing", "O", "O")),
    ("green tent", ("B-colour", "B-thing")),
    ("the red parcel", ("O", "B-colour", "B-thing")),
]
EXAMPLES = [
    Example(text, (Message("user", text), Message("assistant", " ".join(tags))), tags=tags)
    for text, tags in ROWS
]


def test_every_type_has_both_tags() -> None:
    assert all_tags(EXAMPLES) == ["O", "B-colour", "I-colour", "B-thing", "I-thing"]


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("body", ["tiny_encoder", "tiny_folder"])
def test_loss_and_gradient_are_those_of_transformers(
    body: str, weights: Any, request: pytest.FixtureRequest
) -> None:
    folder, names = str(request.getfixturevalue(body)), all_tags(EXAMPLES)
    ours, plain = (load_classifier(folder, "cpu", "tag", names, seed=4) for _ in range(2))
    objective, network = Tag(weights), Network(ours.module)
    items = objective.prepare(network, objective.items(EXAMPLES, ours.tokenizer, 64))
    loss = objective.loss(network, items).total / objective.units(items)
    loss.backward()  # type: ignore[no-untyped-call]
    batch = plain.tokenizer([text for text, _ in ROWS], return_tensors="pt", padding=True)
    targets = torch.full_like(batch["input_ids"], -100)
    for index, item in enumerate(items):
        for place, tag in zip(item.row.positions, item.tags, strict=True):
            targets[index, place] = names.index(tag)
    found = plain.module(**batch, labels=targets)
    expected = found.loss
    if weights == "balanced":  # nine tags: O four times, B-thing three times, B-colour twice
        by_class = torch.tensor([9 / 12, 9 / 6, 0.0, 9 / 9, 0.0])
        cross_entropy = torch.nn.CrossEntropyLoss(weight=by_class)
        expected = cross_entropy(found.logits.flatten(0, 1), targets.flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected)
    gradients = {name: p.grad for name, p in plain.module.named_parameters()}
    assert sum(grad is not None for grad in gradients.values()) > 10
    for name, parameter in ours.module.named_parameters():
        if parameter.grad is None or gradients[name] is None:
            assert parameter.grad is gradients[name] is None
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-3)


def test_an_item_is_one_decision_a_word(word_tokenizer: Any) -> None:
    item = Tag().items(EXAMPLES, word_tokenizer, 64)[0]
    assert item.learnt == 4
    assert item.size == len(word_tokenizer(ROWS[0][0])["input_ids"])
    kept, finding = Tag().render(EXAMPLES, word_tokenizer, 64)
    assert [sum(row.weights) for row in kept] == [4, 2, 3]
    assert finding is None


def test_too_long_texts_are_left_out_and_told(word_tokenizer: Any) -> None:
    kept, finding = Tag().render(EXAMPLES, word_tokenizer, 10)
    assert [row.id for row in kept] == ["green tent", "the red parcel"]
    assert finding is not None
    assert "1 row was left out for having more than 10 tokens" in finding.message
    assert len(Tag().items(EXAMPLES, word_tokenizer, 10)) == 2


def test_rows_without_tags_are_a_sentence() -> None:
    bare = Example("x", (Message("user", "q"), Message("assistant", "a")), source="f:3")
    with refused("no_tags", DataError, row="f:3", count=1):
        Tag().check([*EXAMPLES, bare])
    with refused("no_tags", DataError, row="f:3", count=2, rows=len(EXAMPLES) + 2) as caught:
        Tag().check([*EXAMPLES, bare, bare])
    assert "f:3" in str(caught.value)
    with refused("no_tags", DataError, row=None, count=2, rows=2):
        Tag().check([bare, bare])


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path) -> Path:
    shapes = (
        (["the", "red", "tent"], ["O", "B-thing", "I-thing"]),
        (["a", "green", "x"], ["O", "B-colour", "O"]),
        (["my", "parcel", "q"], ["O", "B-thing", "O"]),
    )
    rows = [
        {"tokens": [*words, f"{i}", *["b"] * (i % 4)], "tags": [*tags, "O", *["O"] * (i % 4)]}
        for i in range(16)
        for words, tags in shapes
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    test = [{"tokens": [*words, "z"], "tags": [*tags, "O"]} for words, tags in shapes]
    test.append({"tokens": ["my", "parcel", "mr"], "tags": ["O", "B-thing", "B-person"]})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: spans\nmodel: {tiny_encoder}\nobjective: tag\n"
        f"data: {{train: rows.jsonl, test: test.jsonl}}\n"
        f"training: {{epochs: 12, learning_rate: 0.01, batch_size: 8}}\n"
        f"output: {tmp_path / 'runs'}\n"
    )
    return path


@pytest.mark.parametrize("body", ["tiny_encoder", "tiny_folder"])
def test_from_rows_to_a_verdict(body: str, recipe: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(body)
    run = burnish.run(recipe, quiet=True, model=str(folder))
    ledger = run.ledger()
    assert [row.metric for row in ledger] == ["span_f1", "span_precision", "span_recall"]
    assert {tag for item in run.results("base", "target") for tag in item.answer.split()} == {"O"}
    assert ledger[0].base == 0.0
    assert ledger[0].tuned > 0.5
    assert ledger[0].low <= ledger[0].delta <= ledger[0].high
    assert ledger[0].passed is (ledger[0].bound is not None and ledger[0].bound > 0)
    assert ledger[1].bound is None
    assert run.verdict().reasons[1].startswith("The baseline is the tag O for every word")
    assert any(
        (finding.count, finding.message.rpartition(": ")[2]) == (1, "person")
        for finding in run.findings()
    )
    assert (run.path / "report.html").exists()
    assert "AutoModelForTokenClassification" in (run.path / "card.md").read_text()
    reopened = burnish.open_classifier(run)
    config = AutoConfig.from_pretrained(run.adapter)
    module = AutoModelForTokenClassification.from_pretrained(folder, config=config)
    with pytest.warns(FutureWarning):
        plain = PeftModel.from_pretrained(module, run.adapter).eval()
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = reopened.module.eval()(input_ids=tokens).logits
        assert torch.equal(plain(input_ids=tokens).logits, expected)
