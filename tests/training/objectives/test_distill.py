"""Distillation: TRL's divergence on the same logits, teachers of three kinds, sampled text."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.conversation import Example, Message
from burnish.errors import ModelError
from burnish.models.branches import Network, Row
from burnish.models.endpoint import ServedTeacher
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.distill import (
    Distill,
    LocalTeacher,
    OwnBase,
    Twin,
    forward_kl,
    reverse_kl,
    with_system,
)
from tests.json_server import answering
from tests.refused import refused

EXAMPLE = Example("1", (Message("user", "yes"), Message("assistant", "no")))


def test_divergences_by_hand() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(forward_kl(teacher, student)) == pytest.approx(0.143841, abs=1e-5)
    assert float(reverse_kl(teacher, student)) == pytest.approx(0.130812, abs=1e-5)
    assert float(forward_kl(torch.tensor([[0.0, -torch.inf]]), student)) == pytest.approx(1.386294)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("direction", "beta"), [("forward", 0), ("reverse", 1)])
def test_loss_and_gradient_equal_trl(
    adapted: Any, draw: Callable[..., list[Row]], direction: Any, beta: int
) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd", reason="TRL is the oracle")
    rows = draw(5, [4, 4, 4])
    tokens = torch.tensor([list(row.tokens) for row in rows])
    labels = torch.tensor([[t if w else -100 for t, w in zip(r.tokens, r.weights)] for r in rows])  # noqa: B905
    adapted.train()
    with adapted.disable_adapter(), torch.no_grad():
        teacher = adapted(tokens).logits[:, :-1]
    student = adapted(tokens).logits[:, :-1]
    expected = gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher, labels[:, 1:], beta=beta, reduction="batchmean"
    )
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    objective = Distill(OwnBase(), None, kl_direction=direction)
    items = [Twin(row, row) for row in rows]
    loss = objective.loss(Network(adapted), items).total / objective.units(items)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    for name, value in wanted.items():
        grad = dict(adapted.named_parameters())[name].grad
        torch.testing.assert_close(grad, value, atol=1e-5, rtol=1e-3)


def test_teacher_reads_another_prompt(tiny_tokenizer: Any) -> None:
    taught = with_system(EXAMPLE, "tent")
    assert [turn.role for turn in taught.messages] == ["system", "user", "assistant"]
    assert with_system(taught, "red").messages[0].content == "red"
    (twin,) = Distill(OwnBase(), tiny_tokenizer, system="tent").items(
        [EXAMPLE], tiny_tokenizer, 512
    )
    assert "tent" in tiny_tokenizer.decode(twin.teacher.tokens)
    assert "tent" not in tiny_tokenizer.decode(twin.student.tokens)
    assert twin.student.learnt == twin.teacher.learnt


@pytest.mark.parametrize("on_policy", [False, True])
def test_student_comes_to_answer_as_the_teacher(
    adapted: Any, llama: Any, tiny_tokenizer: Any, tmp_path: Path, on_policy: bool
) -> None:
    torch.manual_seed(8)
    teacher = llama
    for parameter in teacher.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.config.vocab_size = len(tiny_tokenizer)
    objective = Distill(LocalTeacher(lambda: Network(teacher)), tiny_tokenizer, on_policy=on_policy)
    chance = torch.Generator().manual_seed(2)
    drawn = torch.randint(3, 61, (16, 9), generator=chance).tolist()
    rows = [Row(row, [0.0] * 4 + [1.0] * 5) for row in drawn]
    if on_policy:
        rows = [Row(row.tokens[:4], [0.0] * 4) for row in rows]
    items = [Twin(row, row) for row in rows]
    network = Network(adapted)
    before = objective.validate(network, items)["loss"]
    settings = Settings(2e-2, evaluations=0, checkpoints=1)
    Loop(
        adapted,
        Batches({"train": items}, 8, 1, 8, 0),
        objective,
        settings,
        {},
        tmp_path,
        lambda *_: None,
    ).run()
    assert objective.validate(network, items)["loss"] < 0.7 * before


@contextlib.contextmanager
def server(model: Any, tokenizer: Any) -> Iterator[str]:
    """A real HTTP server that answers legacy completions with echo and log-probabilities."""

    def reply(_: str, asked: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            logits = model(torch.tensor([asked["prompt"]])).logits[0, :-1]
        top = logits.log_softmax(-1).topk(asked["logprobs"])
        places = [
            {f"token_id:{i}": v for i, v in zip(ids, values, strict=True)}
            for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        if asked["model"] == "other":
            places.pop()
        return {"choices": [{"logprobs": {"top_logprobs": [None, *places]}}]}

    with answering(reply) as url:
        yield url


def test_served_teacher(
    adapted: Any, llama: Any, draw: Callable[..., list[Row]], tiny_tokenizer: Any
) -> None:
    llama.eval()
    rows = draw(4, [3, 5])
    with server(llama, tiny_tokenizer) as url:
        teacher = ServedTeacher(url, "base", tiny_tokenizer)
        read = teacher.logprobs(Network(adapted), rows)
        found = read(slice(0, 8))
        other = ServedTeacher(url, "other", tiny_tokenizer)
        with refused("tokens_differ", ModelError) as caught:
            other.logprobs(Network(adapted), rows)
        assert re.search(r"\b6\b.*\b7\b", str(caught.value))
    expected = LocalTeacher(lambda: Network(llama)).logprobs(Network(adapted), rows)(slice(0, 8))
    said = found.isfinite()
    assert said.sum(-1).tolist() == [20] * 8
    torch.testing.assert_close(found[said], expected[said], atol=1e-5, rtol=1e-5)
    again = teacher.logprobs(Network(adapted), rows)(slice(0, 8))  # the server is gone, they stay
    assert torch.equal(again, found)
    gone = ServedTeacher(url, "base", tiny_tokenizer)
    with refused("bad_reply", ModelError):
        gone.logprobs(Network(adapted), rows)
