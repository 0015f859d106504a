"""The answers of conversations are found again by reading the turns in order."""

import re

import pytest

from burnish.conversation import Conversation
from burnish.evaluation.levels.conversations import CONVERSATIONS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import drawn

# What is asked, and the sentence that answers it.
_SENTENCES = {
    "What is my sister's name?": r"My sister's name is (\w+)\.",
    "What colour is my car?": r"My car is (\w+)\.",
    "What is my dog called?": r"My dog is called (\w+)\.",
    "Where did I leave my bag?": r"I left my bag in the (\w+)\.",
    "What does my neighbour collect?": r"My neighbour collects (\w+)\.",
    "What colour is my front door?": r"My front door is (\w+)\.",
    "What is my teacher's name?": r"My teacher's name is (\w+)\.",
    "Where will I meet my friend?": r"I will meet my friend at the (\w+)\.",
}


def said(turns: Conversation) -> str:
    return "\n".join(turn.content for turn in turns if turn.role == "user")


def last_rule(turns: Conversation) -> str:
    return re.findall(r"From now on,(?: instead,)? (.*)\.", said(turns))[-1]


def follow(rule: str, text: str) -> str:
    """The text, written as the rule wants it."""
    if "capital" in rule:
        return text.upper()
    if "small" in rule:
        return text.lower()
    if "exclamation" in rule:
        return f"{text}!!!"
    word = re.findall('"(.*)"', rule)[0]
    return f"{text} {word}" if rule.startswith("end") else f"{word}, {text}"


@pytest.mark.parametrize("level", range(1, 6))
def test_the_last_word_on_a_fact_counts(level: int) -> None:
    for item in drawn(CONVERSATIONS, level):
        assert isinstance(item, CheckedItem)
        question = item.prompt[-1].content
        told = re.findall(_SENTENCES[question], said(item.prompt[:-1]))
        assert item.check["last_of"]["right"] == told[-1]
        assert len(told) == len(set(told)) == {3: 3, 5: 3}.get(level, 1)
        text = f"It is {told[-1]}"
        answer = follow(last_rule(item.prompt), text) if level >= 4 else text
        assert passes(answer, item.check)
        assert not passes(answer.replace(told[-1], "xyz"), item.check) or level >= 4
        if level >= 4:
            assert not passes(f"it IS {told[-1]}", item.check)  # the rule is not followed
        if level in (3, 5):
            assert not passes(
                follow(last_rule(item.prompt), told[0]) if level == 5 else told[0], item.check
            )


def test_amounts_are_added_up_turn_by_turn() -> None:
    for item in drawn(CONVERSATIONS, 6):
        assert isinstance(item, CheckedItem)
        stock: dict[str, int] = {}
        for turn in said(item.prompt[:-1]).split("\n"):
            if turn.startswith("I have"):
                stock = {thing: int(n) for n, thing in re.findall(r"(\d+) (\w+)", turn)}
            elif match := re.fullmatch(r"I gave (\d+) of the (\w+) away\.", turn):
                stock[match[2]] -= int(match[1])
            elif match := re.fullmatch(r"I now have twice as many (\w+) as before\.", turn):
                stock[match[1]] *= 2
            elif match := re.search(r"I now have (\d+) more (\w+) than (\w+)\.", turn):
                stock[match[2]] = stock[match[3]] + int(match[1])
            elif match := re.fullmatch(r"I found (\d+) more (\w+)\.", turn):
                stock[match[2]] += int(match[1])
            else:
                assert "From now on" in turn
        first, second = re.findall(r"How many (\w+) and (\w+) do", item.prompt[-1].content)[0]
        assert item.check["number"] == stock[first] + stock[second]
        total = f"You have {stock[first] + stock[second]}"
        assert passes(follow(last_rule(item.prompt), total), item.check)


@pytest.mark.parametrize("level", [4, 5, 6])
def test_the_scripted_replies_follow_the_rule_of_their_time(level: int) -> None:
    for item in drawn(CONVERSATIONS, level):
        assert isinstance(item, CheckedItem)
        for index, turn in enumerate(item.prompt):
            if turn.role == "assistant":
                rule = last_rule(item.prompt[:index])
                plain = follow(rule, turn.content)
                if "capital" in rule or "small" in rule:
                    assert turn.content == plain
                elif rule.startswith("end"):
                    assert turn.content.endswith(plain.removeprefix(turn.content).strip())
                else:
                    assert turn.content.startswith(re.findall('"(.*)"', rule)[0])
