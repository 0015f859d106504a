"""The turn that a row is measured on."""

import pytest

from burnish.conversation import Example, Message
from burnish.data.checks.dataset import normalised_question
from burnish.data.render import with_answer


def row(*weights: float) -> Example:
    turns = [Message("system", "be brief")]
    for number, weight in enumerate(weights):
        turns += [Message("user", f"q{number}"), Message("assistant", f"a{number}", weight)]
    return Example("x", tuple(turns))


@pytest.mark.parametrize(
    ("weights", "answer"),
    [((1, 1), 1), ((1, 0), 0), ((0, 0.5, 0, 0), 1), ((0, 1), 1), ((0, 0), 1), ((1,), 0)],
)
def test_the_last_turn_that_is_learnt_is_expected(weights: tuple[float, ...], answer: int) -> None:
    example = row(*weights)
    assert example.expected == f"a{answer}"
    assert example.question == f"q{answer}"
    assert example.prompt == example.messages[: 2 * answer + 2]
    assert example.masked is (sum(weights) == 0)
    assert f"q{answer}" in normalised_question(example)
    assert f"q{answer + 1}" not in normalised_question(example)
    assert Example.from_row(example.to_row()).expected == example.expected
    assert with_answer(example, "other").messages[:-1][-1].content == f"q{answer}"


def test_prompts_and_documents() -> None:
    prompt = Example("x", (Message("user", "q"),))
    assert (prompt.expected, prompt.prompt, prompt.masked) == ("", prompt.messages, False)
    document = Example("x", (Message("document", "text"),))
    assert (document.expected, document.prompt, document.masked) == ("text", (), False)
