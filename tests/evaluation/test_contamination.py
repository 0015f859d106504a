"""Overlaps made by hand, of each kind and of none; the order of rows and sets changes nothing."""

import hashlib
import json
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest

from burnish.conversation import Conversation, Example, Message
from burnish.evaluation.contamination import Text, find_leakage, text_of, texts_of
from burnish.evaluation.suite import load_suite
from burnish.evaluation.tasks import BiasTask, ChoiceItem, ChooseTask, TextLossTask, chat_context
from burnish.runs.overlaps import Leakage, Overlap

# 13 words; the passages around them share nothing else.
LONG = "the old keeper of the northern lighthouse counts seven grey seals every morning"
BEFORE = "my aunt told us once that"
AFTER = "before he has his tea"
THAI = "เมื่อวานนี้ฉันไปตลาดกับแม่เพื่อ"


def row(name: str, user: str, answer: str = "yes", system: str | None = None) -> Text:
    turns = (Message("user", user), Message("assistant", answer))
    return text_of(Example(name, (Message("system", system), *turns) if system else turns))


def item(name: str, question: str, answer: str = " Paris") -> ChoiceItem:
    return ChoiceItem(name, question, (answer, " another"), 0)


def section(*items: ChoiceItem, name: str = "facts") -> dict[str, list[Text]]:
    return {name: texts_of(ChooseTask(name, items))}


def only(found: Leakage) -> Overlap:
    (overlap,) = found.overlaps
    return overlap


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("The capital of France is", "exact"),
        ("the  CAPITAL of\nFrance, is…", "normalised"),
        ("Ｔｈｅ capital of France is", "normalised"),  # full-width letters
        ("The capital of Spain is", None),
        ("Say it: The capital of France is", None),  # fewer than 13 words: equality alone
    ],
)
def test_a_question_is_found_by_equality(said: str, kind: str | None) -> None:
    judging = section(item("f1", "The capital of France is"), item("f2", "Snow is", " white"))
    found = find_leakage({"train": [row("a", "hello"), row("b", said)]}, judging)
    if kind is None:
        assert found.overlaps == ()
        assert found.leaked == {}
        assert found.judging[0].leaked == 0
    else:
        assert only(found) == Overlap("train", "facts", kind, 1, 1, (("f1", "b"),))  # type: ignore[arg-type]
        assert found.leaked == {"facts": 1}


def test_a_question_with_its_answer_is_found_in_a_document_and_in_turns() -> None:
    document = text_of(Example("d", (Message("document", "The capital of France is Paris."),)))
    judging = section(item("f1", "The capital of France is"))
    assert only(find_leakage({"train": [document]}, judging)).kind == "normalised"
    sentence = section(item("g1", "", "He has only a little time."))
    rows = [row("a", "He has only", "a little time.")]
    assert only(find_leakage({"train": rows}, sentence)).kind == "normalised"


@pytest.mark.parametrize(("words", "shared"), [(13, True), (12, False)])
def test_thirteen_words_in_a_row_are_shared_or_not(words: int, shared: bool) -> None:
    part = " ".join(LONG.split()[:words])
    judging = section(item("r1", f"{part} said nobody at all", " ever"), item("r2", "Snow is"))
    rows = [row("a", f"{BEFORE} {part.upper()}, {AFTER}"), row("b", "hello")]
    found = find_leakage({"train": rows}, judging)
    if shared:
        assert only(found) == Overlap("train", "facts", "13-gram", 1, 1, (("r1", "a"),))
    else:
        assert found.overlaps == ()


def test_each_item_and_row_counts_under_its_strongest_kind() -> None:
    judging = section(item("f1", LONG), item("f2", "Snow is", " white"))
    rows = [row("a", LONG), row("b", LONG.upper()), row("c", f"{BEFORE} {LONG} {AFTER}")]
    rows += [row(f"d{n}", "snow is") for n in range(3)]
    found = find_leakage({"train": rows, "validation": [row("v", LONG)]}, judging)
    assert [(o.seen, o.kind, o.items, o.rows) for o in found.overlaps] == [
        ("train", "exact", 1, 1),
        ("train", "normalised", 1, 4),  # f2 by three rows; b held f1, which a has exactly
        ("train", "13-gram", 0, 1),
        ("validation", "exact", 1, 1),
    ]
    assert found.overlaps[1].examples == (("f2", "d0"),)
    assert found.leaked == {"facts": 2}


def test_examples_are_five_and_the_first_ones() -> None:
    names = [f"f{n}" for n in range(9)]
    judging = section(*(item(name, f"Question {name} is", f" {name}") for name in names))
    rows = [row(f"row {name}", f"question {name} is") for name in reversed(names)]
    overlap = only(find_leakage({"train": rows}, judging))
    assert overlap.items == overlap.rows == 9
    assert overlap.examples == tuple((name, f"row {name}") for name in names[:5])


@pytest.mark.parametrize(
    ("question", "said", "kind"),
    [
        ("法国的首都是哪一座城市", "法国的首都是哪一座城市？", "normalised"),
        ("法国的首都是哪一座城市", "法国的首都是哪一座城市吗", None),
        # 13 characters are shared, then 12.
        ("小明昨天下午在学校门口等他的妹妹回家", "听说小明昨天下午在学校门口等他", "13-gram"),
        ("小明昨天下午在学校门口等他的妹妹回家", "听说小明昨天下午在学校门口等人", None),
        ("わたしは毎朝六時に起きて犬と散歩します", "昨日もわたしは毎朝六時に起きて犬", "13-gram"),
        # Thai: more than the 52 letters that count as 13 words are shared, then fewer.
        (f"{THAI}ซื้อผลไม้และผักสดหลายชนิด", f"ก็{THAI}ซื้อผลไม้และผักสดหลาย", "13-gram"),
        (f"{THAI}ซื้อผลไม้และผักสดหลายชนิด", f"ก็{THAI}น", None),
    ],
)  # fmt: skip
def test_scripts_without_spaces_are_not_one_word(
    question: str, said: str, kind: str | None
) -> None:
    judging = section(item("z1", question, "答"), item("z2", "雪是", "白"))
    found = find_leakage({"train": [row("a", said)]}, judging)
    assert [overlap.kind for overlap in found.overlaps] == ([kind] if kind else [])


def test_a_template_is_no_item() -> None:
    asked = (
        "Which of these two sentences would a careful teacher of English call correct, my friend"
    )
    items = [item(f"g{n}", f"{asked} {n}", f" sentence {n}") for n in range(30)]
    same = [item(f"h{n}", "Which sentence is right?", f" sentence {n}") for n in range(30)]
    judging = section(*items) | section(*same, name="same")
    rows = [row("a", f"{asked} asks so"), row("b", "which sentence is right")]
    assert find_leakage({"train": rows}, judging).overlaps == ()
    rows = [row("c", "Which sentence is right?", "sentence 7")]
    assert only(find_leakage({"train": rows}, judging)).examples == (("h7", "c"),)


def test_a_system_prompt_is_neither_in_the_way_nor_an_overlap() -> None:
    system = " ".join(f"word{n}" for n in range(12))
    judging = {"test": [row(f"t{n}", f"where is parcel {n}", system=system) for n in range(30)]}
    judging |= section(item("f1", "Snow is", " white"))
    rows = [row("a", "where is my tent", system=system), row("b", "Snow is", system=system)]
    assert only(find_leakage({"train": rows}, judging)).judging == "facts"
    # The text that is asked about may stand in the system turn: these ask different things.
    held = {"test": [row("t", "Is it good?", system="A fine tent")]}
    other = [row("a", "Is it good?", system="A torn tent")]
    assert find_leakage({"train": other}, held).overlaps == ()
    assert only(find_leakage({"train": [row("b", "Is it good?", system="a fine tent")]}, held))


def test_thirteen_words_do_not_reach_across_the_system_prompt() -> None:
    """Most rows share it, and seven words after it are no text that was learnt."""
    system = "Answer with one queue: gear rental, repair warranty, account login or human agent."
    begun = "How many days do I have to"
    judging = {"test": [row("t", f"{begun} switch a helmet?", system=system)]}
    judging["test"] += [row(f"o{n}", f"other {n}", system=system) for n in range(30)]
    learnt = {"train": [row("a", f"{begun} bring back a jacket?", system=system)]}
    assert find_leakage(learnt, judging).leaked == {}
    held = {"train": [row("b", f"{BEFORE} {LONG}", system=system)]}
    judging["test"].append(row("l", LONG, system=system))
    assert find_leakage(held, judging).leaked == {"test": 1}


def test_a_question_inside_a_conversation_is_found() -> None:
    turns = tuple(
        Message(role, text)  # type: ignore[arg-type]
        for role, text in zip(
            ("user", "assistant") * 2, ("Snow is", "white", "And grass?", "green"), strict=True
        )
    )
    found = find_leakage({"train": [text_of(Example("a", turns))]}, section(item("f1", "Snow is")))
    assert only(found).kind == "exact"


def test_what_judges_is_compared_with_itself_by_equality_alone() -> None:
    probe = section(item("p1", "Snow is", " white"), item("p2", f"{LONG} one"), name="probe")
    cert = section(item("c1", "snow IS", " white"), item("c2", f"{LONG} two"), name="cert")
    test = {"test": [row("t1", "Snow is", system="Answer in one word")]}
    found = find_leakage({"train": []}, test | probe | cert)
    assert {(o.seen, o.judging, o.kind) for o in found.overlaps} == {
        ("test", "probe", "exact"),
        ("test", "cert", "normalised"),
        ("probe", "cert", "normalised"),
    }
    assert found.leaked == {}


def test_order_changes_nothing_but_the_digests() -> None:
    shuffled = random.Random(0)
    words = LONG.split()
    items = [item(f"f{n}", " ".join(shuffled.choices(words, k=16))) for n in range(12)]
    rows = [row(f"r{n}", items[n % 12].question + " so" * (n % 3)) for n in range(40)]
    one = find_leakage({"train": rows, "replay": rows[:9]}, section(*items) | section(name="none"))
    shuffled.shuffle(rows)
    shuffled.shuffle(items)
    two = find_leakage(
        {"replay": [r for r in rows if int(r.id[1:]) < 9], "train": rows},
        section(name="none") | section(*items),
    )
    assert one.overlaps == two.overlaps
    assert len(one.overlaps) == 4  # two sets, both exact and by 13 words
    assert one.leaked == two.leaked
    assert {found.name: found.rows for found in one.learnt} == {"train": 40, "replay": 9}


def test_the_digest_is_of_the_rows_as_they_were_compared() -> None:
    train = [row("a", "Snow is", "white"), row("b", "Grass is", "green")]
    lines = [
        ["a", [["Snow is"], ["Snow is", "white"]], []],
        ["b", [["Grass is"], ["Grass is", "green"]], []],
    ]
    written = "".join(json.dumps(line) + "\n" for line in lines)
    found = find_leakage({"train": train}, {}).learnt[0]
    assert (found.rows, found.sha256) == (2, hashlib.sha256(written.encode()).hexdigest())


def test_learnt_rows_are_read_once_as_a_stream() -> None:
    stream = (row(str(n), "Snow is") for n in range(3))
    assert only(find_leakage({"train": stream}, section(item("f1", "Snow is")))).rows == 3


def test_every_kind_of_item_is_read() -> None:
    @dataclass(frozen=True)
    class Written:
        id: str
        prompt: Conversation

    @dataclass(frozen=True)
    class Writing:
        items: Any

    chat = ChooseTask("chat", [ChoiceItem("c", chat_context("Why?"), ("So.", "No."), 1)])
    assert texts_of(chat) == [Text("c", (("Why?",), ("Why?", "No."), ("Why?No.",)))]
    assert texts_of(TextLossTask("prose", [("p", "Snow fell.")])) == [Text("p", (("Snow fell.",),))]
    assert texts_of(Writing([Written("w", chat_context("Why?"))])) == [Text("w", (("Why?",),))]


def test_the_built_in_suite_holds_nothing_twice() -> None:
    suite = load_suite("core")
    judging = {task.name: texts_of(task) for task in (*suite.sections, *suite.texts)}
    assert find_leakage({}, judging).overlaps == ()
    facts = judging["core.facts"]
    learnt = [replace(facts[3], id="row")]
    assert find_leakage({"train": learnt}, judging).leaked == {"core.facts": 1}


def test_both_sentences_of_a_pair_identify_it() -> None:
    pair = BiasTask("bias", [ChoiceItem("p", "", ("The nurse is she.", "The nurse is he."), 1)])
    for said in pair.items[0].choices:
        learnt = {"train": [Text("row", ((said,),))]}
        assert find_leakage(learnt, {"bias": texts_of(pair)}).leaked == {"bias": 1}
    other = {"train": [Text("row", (("The pilot is she.",),))]}
    assert find_leakage(other, {"bias": texts_of(pair)}).leaked == {}
