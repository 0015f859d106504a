"""Sequence classification: the loss is transformers' own, and a run keeps its head."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoConfig, AutoModelForSequenceClassification

import burnish
from burnish.conversation import Example, Message
from burnish.errors import DataError, RecipeError, RunError
from burnish.models.branches import Network
from burnish.models.classifier import load_classifier
from burnish.runs.directory import RunDirectory
from burnish.training.objectives.classify import (
    Classify,
    LabelledText,
    class_weights,
    weighted_cross_entropy,
)
from tests.refused import refused
from tests.rows import write_rows

LABELS = ["green", "red"]
TEXTS = ["the parcel", "a tent is torn", "red", "where is my parcel"]
GOLD = ["red", "green", "red", "green"]


def example(text: str, label: str | None, source: str = "f:1") -> Example:
    turns = Message("user", text), Message("assistant", label or "")
    return Example(text, turns, label, source=source)


EXAMPLES = [example(text, label) for text, label in zip(TEXTS, GOLD, strict=True)]


def test_weighted_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    found = weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    assert float(found) == pytest.approx(np.log(2) + 2 * np.log(4))


def test_balanced_weights_by_hand_and_as_scikit_learn_has_them() -> None:
    assert class_weights({"a": 3, "b": 1}, "balanced") == {"a": 4 / 6, "b": 2.0}
    labels = ["x"] * 7 + ["y"] * 2 + ["z"]
    oracle = compute_class_weight("balanced", classes=np.array(["x", "y", "z"]), y=labels)
    assert list(class_weights(Counter(labels), "balanced").values()) == pytest.approx(list(oracle))
    assert class_weights({"a": 3, "b": 1}, "none") == {"a": 1.0, "b": 1.0}
    assert class_weights({"a": 3, "b": 1}, {"b": 5.0}) == {"a": 1.0, "b": 5.0}


@pytest.mark.parametrize("body", ["tiny_encoder", "tiny_folder"])
@pytest.mark.parametrize("weights", ["none", {"red": 3.0}])
def test_loss_and_gradient_are_those_of_transformers(
    body: str, weights: Any, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(body))
    ours, plain = (load_classifier(folder, "cpu", "classify", LABELS, seed=4) for _ in range(2))
    objective, network = Classify(weights), Network(ours.module)
    items = objective.prepare(network, objective.items(EXAMPLES, ours.tokenizer, 512))
    loss = objective.loss(network, items).total / objective.units(items)
    loss.backward()  # type: ignore[no-untyped-call]
    batch = plain.tokenizer(TEXTS, return_tensors="pt", padding=True)
    targets = torch.tensor([LABELS.index(label) for label in GOLD])
    found = plain.module(**batch, labels=targets)
    by_class = torch.tensor([class_weights(dict.fromkeys(LABELS, 1), weights)[x] for x in LABELS])
    expected = (
        found.loss
        if weights == "none"
        else torch.nn.CrossEntropyLoss(weight=by_class)(found.logits, targets)
    )
    expected.backward()
    torch.testing.assert_close(loss, expected)
    gradients = {name: p.grad for name, p in plain.module.named_parameters()}
    assert sum(grad is not None for grad in gradients.values()) > 10
    for name, parameter in ours.module.named_parameters():
        if parameter.grad is None or gradients[name] is None:
            assert parameter.grad is gradients[name] is None
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-3)


def test_validation_weighs_all_rows_alike_and_tells_accuracy(tiny_encoder: Path) -> None:
    model = load_classifier(str(tiny_encoder), "cpu", "classify", LABELS, seed=4)
    network = Network(model.module.eval())
    items = Classify("balanced").items(EXAMPLES[:3], model.tokenizer, 64)
    found = Classify("balanced").validate(network, items)
    assert found == Classify("none").validate(network, items)
    right = [p.text == gold for p, gold in zip(model.predict(TEXTS[:3]), GOLD, strict=False)]
    assert found["accuracy"] == pytest.approx(sum(right) / 3)


def test_an_item_is_one_decision(word_tokenizer: Any) -> None:
    item = Classify().items(EXAMPLES[:1], word_tokenizer, 64)[0]
    assert item == LabelledText(word_tokenizer(TEXTS[0])["input_ids"], "red")
    assert (item.size, item.learnt) == (len(item.tokens), 1)


def test_rows_without_labels_and_weights_without_rows_are_sentences() -> None:
    with refused("no_label", DataError, row="f:9", count=1) as caught:
        Classify().check([*EXAMPLES, example("q", None, "f:9")])
    assert "f:9" in str(caught.value)
    with refused("no_label", DataError, row=None, count=2, rows=2):
        Classify().check([example("q", None, "f:1"), example("r", None, "f:2")])
    with refused("unknown_label", RecipeError, key="classify.weights", value="blue") as error:
        Classify({"blue": 2.0}).check(EXAMPLES)
    assert "'blue'" in str(error.value)


def test_too_long_texts_are_left_out_and_told(word_tokenizer: Any, tiny_tokenizer: Any) -> None:
    rows = [*EXAMPLES, example("red " * 70, "red", "f:7")]
    kept, finding = Classify().render(rows, word_tokenizer, 64)
    assert [row.id for row in kept] == TEXTS
    assert finding is not None
    assert (finding.severity, finding.where) == ("warning", ("f:7",))
    assert "more than 64 tokens (the longest has 72)" in finding.message
    with refused("nothing_learnt", DataError, count=1, longest=64):
        Classify().render(rows[-1:], word_tokenizer, 64)
    # The token that the head reads is the one that is marked: [CLS], or a decoder's last.
    assert [row.weights.index(1.0) for row in kept] == [0] * 4
    read = [row.weights for row in Classify().render(EXAMPLES, tiny_tokenizer, 64)[0]]
    assert [weights.index(1.0) for weights in read] == [len(weights) - 1 for weights in read]


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path) -> Path:
    words = (("tent", "red"), ("parcel", "green"), ("parcel so", "green"))
    rows = [
        {"text": f"{word} number {i}{' please' * (i % 3)}", "label": label}
        for i in range(16)
        for word, label in words
    ]
    rows.append({"text": "tent " * 80, "label": "red"})
    write_rows(tmp_path / "rows.jsonl", rows)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: sorted\nmodel: {tiny_encoder}\nobjective: classify\ndata: {{train: rows.jsonl}}\n"
        f"training: {{epochs: 12, learning_rate: 0.01, batch_size: 8}}\n"
        f"output: {tmp_path / 'runs'}\n"
    )
    return path


@pytest.mark.parametrize(
    ("body", "change"),
    [
        ("tiny_encoder", {}),
        ("tiny_encoder", {"method": "full", "classify.weights": "balanced"}),
        ("tiny_folder", {}),
    ],
)
def test_from_rows_to_a_verdict(
    body: str, change: dict[str, Any], recipe: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(body)
    run = burnish.run(recipe, quiet=True, model=str(folder), **change)
    target, macro = run.ledger()
    assert (target.metric, macro.metric) == ("accuracy", "macro_f1")
    assert {item.answer for item in run.results("base", "target")} == {"green"}
    assert target.tuned > 0.9 > target.base
    verdict = run.verdict()
    assert verdict.decision == ("release" if target.passed else "inconclusive")
    body_name = "an encoder" if body == "tiny_encoder" else "a decoder"
    assert verdict.reasons[1:] == (
        "The baseline is the most frequent training label, 'green', because there is no base model "
        "with a trained head.",
        f"General ability was not measured: the model is {body_name} with a head and does not "
        "generate text.",
    )
    assert run.manifest().recipe["evaluate"]["general"] is None
    assert run.manifest().origins["evaluate.general"] == "derived"
    too_long = [finding for finding in run.findings() if finding.kind == "too long"]
    assert len(too_long) == (1 if body == "tiny_encoder" else 0)
    assert any("labels to be trained on: train" in f.message for f in run.findings())
    assert "Loss by step (nats per label)" in (run.path / "report.html").read_text()
    assert "AutoModelForSequenceClassification" in (run.path / "card.md").read_text()
    reopened = burnish.open_classifier(run)
    results = run.results("tuned", "target")
    found = reopened.predict([item.prompt for item in results])
    assert [prediction.text for prediction in found] == [item.answer for item in results]
    with refused("writes_no_text", RunError):
        burnish.open_tuned(run)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = reopened.module.eval()(input_ids=tokens).logits
        assert torch.equal(plain(run, folder)(input_ids=tokens).logits, expected)


def plain(run: RunDirectory, base: Path) -> Any:
    """The model as transformers and PEFT open it, without us."""
    if run.adapter.name == "model":
        return AutoModelForSequenceClassification.from_pretrained(run.adapter).eval()
    config = AutoConfig.from_pretrained(run.adapter)
    module = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    with pytest.warns(FutureWarning):
        return PeftModel.from_pretrained(module, run.adapter).eval()


def test_killed_head_training_goes_on_bit_identically(recipe: Path) -> None:
    from safetensors.torch import load_file

    from burnish.errors import InterruptedRunError
    from burnish.training.loop import Loop

    straight = burnish.train(recipe, quiet=True, name="straight")
    original = Loop._after_step

    def interrupt(self: Loop, steps: int) -> None:
        original(self, steps)
        if self.progress.step == 20:
            self._save()
            raise InterruptedRunError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_after_step", interrupt)
        with pytest.raises(InterruptedRunError):
            burnish.train(recipe, quiet=True, name="broken")
    broken = burnish.train(recipe, quiet=True, name="broken", resume=True)
    weights = [load_file(run.adapter / "adapter_model.safetensors") for run in (straight, broken)]
    assert any("classifier" in name for name in weights[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate.general": "core"},
        {"data.system": "Say red or green"},
        {"evaluate.answer": "likelihood"},
        {"evaluate.max_new_tokens": 9},
    ],
)
def test_what_a_head_cannot_do_is_a_sentence(recipe: Path, change: dict[str, Any]) -> None:
    key, value = next(iter(change.items()))
    with refused("not_for_head", RecipeError, key=key, value=value, objective="classify") as caught:
        burnish.train(recipe, quiet=True, **change)
    assert f"{key} is {value!r}" in str(caught.value)


def test_weights_of_labels_with_full_stops(recipe: Path) -> None:
    from burnish.recipe.schema import load_recipe

    loaded = load_recipe(recipe, {"classify": {"weights": {"v1.0": 2, "red": 0.5}}})
    assert loaded.classify.weights == {"v1.0": 2.0, "red": 0.5}
    assert loaded.origins["classify.weights"] == "command line"
    with refused("unknown_label", RecipeError, value="v1.0"):
        burnish.train(loaded, quiet=True)


def test_chat_says_the_label(recipe: Path) -> None:
    run = burnish.train(recipe, quiet=True)
    arguments = ["chat", str(run.path), "--message", "tent number 3", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "burnish.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"question": "tent number 3", "base": "green", "tuned": "red"}
