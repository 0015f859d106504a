"""Grades worked by hand, templates, formulas, and what is refused."""

import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import GraderError
from burnish.evaluation.graders import (
    GraderModels,
    Outcome,
    Sample,
    SamplingRequest,
    parse_grader,
    read_grader,
    run,
)
from burnish.evaluation.graders.formula import Formula, FormulaError
from burnish.evaluation.graders.text_similarity import LONGEST, meteor
from tests.refused import refused

ITEM = {"answer": "Paris", "names": ["Ada", {"last": "Byron"}], "n": 2, "own": "{{ item.answer }}"}


class Judge:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, said: str) -> None:
        self.said, self.asked = said, [("", [{"": ""}], SamplingRequest())][:0]

    def __call__(
        self, model: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest
    ) -> str:
        self.asked.append((model, [dict(message) for message in messages], request))
        return self.said


def graded(spec: Mapping[str, Any], text: str, models: GraderModels | None = None) -> Outcome:
    return run(parse_grader(spec, models), Sample(text, ITEM), models)


def check(operation: str, text: str, reference: str = "{{item.answer}}") -> Outcome:
    given = {"type": "string_check", "name": "c", "operation": operation}
    return graded(given | {"input": "{{ sample.output_text }}", "reference": reference}, text)


def similar(metric: str, text: str, reference: str) -> float:
    spec = {"type": "text_similarity", "name": "s", "evaluation_metric": metric}
    outcome = graded(spec | {"input": "{{sample.output_text}}", "reference": reference}, text)
    assert outcome.errors == ()
    return outcome.reward


def flags(outcome: Outcome) -> list[str]:
    return [error.flag for error in outcome.errors]


@pytest.mark.parametrize(
    ("operation", "text", "expected"),
    [
        ("eq", "Paris", 1.0),
        ("eq", "paris", 0.0),
        ("ne", "paris", 1.0),
        ("like", "It is Paris.", 1.0),
        ("like", "It is paris.", 0.0),
        ("ilike", "It is PARIS.", 1.0),
    ],
)
def test_string_checks(operation: str, text: str, expected: float) -> None:
    assert check(operation, text).reward == expected


def test_templates() -> None:
    text = json.dumps({"city": {"name": "Paris"}, "list": [1, 2]})
    for template, filled in [
        ("{{ sample.output_json.city.name }}!", "Paris!"),
        ("{{sample.output_json.list[1]}}", "2"),
        ("{{ item.names[1].last }} {{item.n}}", "Byron 2"),
        ("{{ sample.output_json.list }}", "[1, 2]"),
        ("{{ sample.choices[0].message.content }}", text),
        ("{{ item.own }}", "{{ item.answer }}"),  # a value is put in once
        ("{ item.n }", "{ item.n }"),
    ]:
        assert Sample(text, ITEM).fill(template) == filled


def test_tool_calls_are_read() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert Sample("", {}, [call]).fill("{{sample.output_tools[0].function.name}}") == "weather"


@pytest.mark.parametrize(
    ("template", "flag"),
    [
        ("{{ item.nothing }}", "invalid_variable_error"),
        ("{{ item.names[7] }}", "invalid_variable_error"),
        ("{{ item.answer.name }}", "invalid_variable_error"),
        ("{{ sample.output_json.x }}", "sample_parse_error"),
    ],
)
def test_paths_that_lead_nowhere(template: str, flag: str) -> None:
    outcome = check("eq", "no JSON", template)
    assert (outcome.reward, flags(outcome)) == (0.0, [flag])


def test_similarities_by_hand() -> None:
    text, reference = "the cat sat", "the cat lay there"
    assert similar("rouge_1", text, reference) == pytest.approx(
        2 * (2 / 3 * 2 / 4) / (2 / 3 + 1 / 2)
    )
    assert similar("rouge_2", text, reference) == pytest.approx(
        2 * (1 / 2 * 1 / 3) / (1 / 2 + 1 / 3)
    )
    assert similar("rouge_3", text, reference) == 0.0
    assert similar("rouge_l", text, reference) == pytest.approx(4 / 7)
    five = "one two three four five six"
    assert similar("rouge_4", five, five) == similar("rouge_5", five, five) == 1.0
    # 3 + 2 + 1 n-grams of the answer, 4 + 3 + 2 + 1 of the reference; 2 + 1 are shared.
    assert similar("gleu", text, reference) == pytest.approx(3 / 10)
    assert similar("bleu", five, five) == pytest.approx(1.0)
    assert 0 < similar("bleu", text, reference) < 0.5
    # Two words of three in one chunk: P = 2/3, R = 1/2, then the penalty 0.5 (1/2)^3.
    mean = (2 / 3 * 1 / 2) / (0.9 * 2 / 3 + 0.1 * 1 / 2)
    assert similar("meteor", text, reference) == pytest.approx(mean * (1 - 0.5 * 0.125))
    assert similar("meteor", "cats", "cat") == pytest.approx(0.5)  # by their stem, in one chunk
    assert similar("fuzzy_match", "New York!", "new york") == 1.0
    assert similar("fuzzy_match", "abcd", "abce") == pytest.approx(0.75)


def test_meteor_is_that_of_nltk() -> None:
    """Whose alignment looks at each word for each."""
    from nltk.translate.meteor_score import single_meteor_score

    class NoSynonyms:
        def synsets(self, word: str) -> list[object]:
            return []

    draw = random.Random(3)
    words = ["cat", "cats", "Cat", "run", "running", "runs", "the", "of", "flies", "fly", "x"]
    for _ in range(500):
        given, true = (draw.choices(words, k=draw.randrange(1, 30)) for _ in range(2))
        oracle = single_meteor_score(true, given, wordnet=NoSynonyms())
        assert meteor(" ".join(given), " ".join(true)) == pytest.approx(oracle, abs=1e-12)
    assert meteor("", "cat") == meteor("cat", "") == meteor("", "") == 0.0


METRICS = ["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_3", "rouge_5", "rouge_l"]
_DRAW = random.Random(7)
LONG = {
    "words": (" ".join(_DRAW.choices("abcdefghij", k=LONGEST // 2)) for _ in range(2)),
    "another word each": (
        " ".join(f"{_DRAW.randrange(1 << 40):x}" for _ in range(LONGEST // 12)) for _ in range(2)
    ),
    "one word": ("y" * LONGEST, "y" * LONGEST),
    "marks": (("a" + "\u0316\u0301" * 100) * (LONGEST // 201), "\u0301\u0316" * 100),
    "punctuation": ("1.,-" * (LONGEST // 4), ".1,2-" * (LONGEST // 5)),
    "spaces": (" " * LONGEST, "a" + " " * (LONGEST - 1)),
    "no spaces": ("日" * LONGEST, "本日" * (LONGEST // 2)),
    "a part": ("abc " * 97, " ".join(_DRAW.choices("abcdefghij", k=LONGEST // 2))),
}


@pytest.mark.parametrize("kind", LONG)
def test_the_longest_texts_take_no_long_time(kind: str) -> None:
    text, reference = LONG[kind]
    spec = {"type": "text_similarity", "input": "{{item.text}}", "reference": "{{item.other}}"}
    item = {"text": text[:LONGEST], "other": reference[:LONGEST]}
    for metric in METRICS:
        grader = parse_grader(spec | {"evaluation_metric": metric})
        started = time.monotonic()
        run(grader, Sample("", item))
        assert time.monotonic() - started < 4, metric


@pytest.mark.parametrize(
    ("metric", "text", "reference", "said"),
    [
        *[(metric, "a" * (LONGEST + 1), "a", f" {LONGEST + 1} ") for metric in METRICS],
        ("cosine", "a", "a" * (LONGEST + 1), f" {LONGEST}"),
        ("fuzzy_match", "a" * 2000, "b" * 4000, " 4000"),
        ("rouge_l", "a" + "\u0301" * 1000, "a", " 256 "),
    ],
)
def test_texts_too_long_to_be_compared(metric: str, text: str, reference: str, said: str) -> None:
    spec = {"type": "text_similarity", "evaluation_metric": metric}
    spec |= {"input": "{{item.text}}", "reference": "{{item.other}}"}
    models = GraderModels(embed=lambda texts: [[1.0]] * len(texts))
    outcome = run(
        parse_grader(spec, models), Sample("", {"text": text, "other": reference}), models
    )
    assert [(error.flag, error.kind) for error in outcome.errors] == [("other_error", "length")]
    assert said in outcome.errors[0].message


def test_templates_neither_explode_nor_take_long() -> None:
    quotes = "{{item.x}}" * 50_000
    outcome = run(parse_grader(EQ | {"reference": quotes}), Sample("", {"x": "y" * 100_000}))
    assert [(error.flag, error.kind) for error in outcome.errors] == [("other_error", "length")]
    parts = [{"type": "text", "text": "{{item.x}}"}] * 6
    asked = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": parts}] * 2}
    judge = Judge("1")
    outcome = run(
        parse_grader(asked, GraderModels(judge)),
        Sample("", {"x": "y" * 100_000}),
        GraderModels(judge),
    )
    assert [error.kind for error in outcome.errors] == ["length"]
    assert judge.asked == []
    started = time.monotonic()
    assert check("eq", "{{" * 400_000, "{{" * 400_000).reward == 1.0
    with unfit("reference", "template_too_long", count=1048577):
        parse_grader(EQ | {"reference": "x" * ((1 << 20) + 1)})
    with unfit("reference", "not_a_path"):
        parse_grader(EQ | {"reference": "{{" * 400_000 + "}}"})
    assert time.monotonic() - started < 2


def test_lists_of_graders_and_labels_are_bounded() -> None:
    labels = [str(number) for number in range(1000)]
    asked = {"type": "label_model", "model": "m", "input": [{"role": "user", "content": "?"}]}
    parse_grader(asked | {"labels": labels, "passing_labels": labels}, GraderModels(Judge("1")))
    with unfit("labels", "too_long", max_length=1000):
        parse_grader(
            asked | {"labels": [*labels, "x"], "passing_labels": []}, GraderModels(Judge("1"))
        )
    many = {f"g{number}": EQ | {"reference": "x"} for number in range(65)}
    with unfit("graders", "too_long", max_length=64):
        parse_grader(multi("g0", **many))


def test_cosine_needs_somebody_who_embeds() -> None:
    spec = {
        "type": "text_similarity",
        "evaluation_metric": "cosine",
        "input": "a",
        "reference": "b",
    }
    with refused("no_embedder", GraderError, value="cosine") as error:
        parse_grader(spec)
    assert error.value.fields["expected"][:5] == [
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
    ]
    assert ", ".join(error.value.fields["expected"]) in error.value.remedy
    vectors = {"a": [3.0, 4.0], "b": [4.0, 3.0]}
    models = GraderModels(embed=lambda texts: [vectors[text] for text in texts])
    assert graded(spec, "", models).reward == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    ("said", "reward", "failed"),
    [
        ('{"result": 0.75}', 0.75, []),
        ('{"steps": [{"description": "1", "conclusion": "2"}], "result": 7}', 5.0, []),
        ("0.5", 0.5, []),
        ("Score: -3", 0.0, []),
        ("1" + "0" * 400, 5.0, []),
        ("4 of 5", 0.0, ["model_grader_parse_error"]),
        ("good", 0.0, ["model_grader_parse_error"]),
        ('{"result": true}', 0.0, ["model_grader_parse_error"]),
        ('{"result": NaN}', 0.0, ["model_grader_parse_error"]),
    ],
)
def test_a_model_scores(said: str, reward: float, failed: list[str]) -> None:
    part = {"type": "input_text", "text": "{{item.answer}}? "}
    spec = {
        "type": "score_model",
        "name": "judge",
        "model": "smollm2-135m",
        "range": [0, 5],
        "input": [
            {"role": "developer", "content": "Grade from 0 to 5."},
            {"role": "user", "content": [part, "{{sample.output_text}}"]},
        ],
        "sampling_params": {"temperature": 0.0, "max_completions_tokens": 9, "seed": 4},
    }
    judge = Judge(said)
    outcome = graded(spec, "Rome", GraderModels(judge))
    assert (outcome.reward, flags(outcome), outcome.model) == (reward, failed, "smollm2-135m")
    ((model, messages, request),) = judge.asked
    assert (model, request.temperature, request.max_tokens, request.seed) == (
        "smollm2-135m",
        0.0,
        9,
        4,
    )
    assert messages == [
        {"role": "system", "content": "Grade from 0 to 5."},
        {"role": "user", "content": "Paris? Rome"},
    ]
    assert request.schema is not None
    assert request.schema["properties"] == {
        "result": {"type": "number", "minimum": 0, "maximum": 5}
    }


@pytest.mark.parametrize(
    ("said", "reward", "failed"),
    [
        ('{"result": "good"}', 1.0, []),
        ("Bad", 0.0, []),
        ("splendid", 0.0, ["model_grader_parse_error"]),
    ],
)
def test_a_model_labels(said: str, reward: float, failed: list[str]) -> None:
    spec = {
        "type": "label_model",
        "name": "judge",
        "model": "m",
        "labels": ["good", "bad"],
        "passing_labels": ["good"],
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
    outcome = graded(spec, "Rome", GraderModels(Judge(said)))
    assert (outcome.reward, flags(outcome)) == (reward, failed)


def test_a_judge_that_fails_or_is_not_there() -> None:
    spec = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "?"}]}

    def broken(model: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest) -> str:
        raise RuntimeError("out of memory")

    outcome = graded(spec, "", GraderModels(broken))
    assert flags(outcome) == ["model_grader_server_error"]
    assert outcome.errors[0].message == "RuntimeError: out of memory"
    with refused("no_judge", GraderError, model="m"):
        parse_grader(spec)


@contextlib.contextmanager
def unfit(key: str, reason: str, **details: Any) -> Iterator[pytest.ExceptionInfo[GraderError]]:
    """A grader is refused for what its field holds."""
    with refused("invalid_grader", GraderError, key=key, reason=reason) as error:
        yield error
    assert details.items() <= error.value.fields["details"].items()
    assert json.loads(json.dumps(error.value.fields)) == error.value.fields


def multi(formula: str, **graders: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}


EQ = {"type": "string_check", "operation": "eq", "input": "{{sample.output_text}}"}


def test_several_graders_make_one_grade() -> None:
    right, wrong = EQ | {"reference": "{{item.answer}}"}, EQ | {"reference": "Rome"}
    outcome = graded(multi("(3 * a + b) / 4", a=right, b=wrong), "Paris")
    assert (outcome.reward, outcome.parts) == (0.75, {"a": 1.0, "b": 0.0})
    failed = graded(multi("a + b", a=right, b=EQ | {"reference": "{{item.z}}"}), "Paris")
    assert (failed.reward, failed.parts) == (0.0, {"a": 1.0})
    assert flags(failed) == ["invalid_variable_error"]
    assert flags(graded(multi("a / b", a=right, b=wrong), "Paris")) == ["formula_parse_error"]
    alone = {"type": "multi", "graders": right | {"name": "is it"}, "calculate_output": "1 - is_it"}
    assert graded(alone, "Paris").reward == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("2 * x ^ 2", 8),
        ("2 ** 3 ** 2", 512),
        ("-x ^ 2", -4),
        ("min(x, 3, 1) + max(x, 0.5)", 3),
        ("max(x)", 2),
        ("floor(2.7) + ceil(2.1) + abs(-1)", 6),
        ("sqrt(16) + log(exp(1))", 5),
        ("(1 - 0.5) / x", 0.25),
    ],
)
def test_formulas(text: str, value: float) -> None:
    assert Formula(text).value({"x": 2.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "1 +", "__import__('os')", "x.real", "x[0]", "(lambda: 1)()", "[1]", "'a' * 9",
        "x if x else 1", "round(x)", "min(x, key=x)", "True", "1j", "x < 2", "max(*x)",
        "x := 1",
    ],
)  # fmt: skip
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(FormulaError):
        Formula(text)


@pytest.mark.parametrize("text", ["(" * 300 + "1" + ")" * 300, "-" * 1900 + "1", "x" * 3000])
def test_what_is_long_is_a_number_or_no_formula(text: str) -> None:
    """Python's parser bounds the depth, in each version another; nothing else is raised."""
    with contextlib.suppress(FormulaError):
        formula = Formula(text)
        assert abs(formula.value(dict.fromkeys(formula.names, 1.0))) == 1


def test_a_name_is_nothing_but_a_name() -> None:
    assert Formula("exec").names == {"exec"}


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0", "9 ^ 9 ^ 9 ^ 9", "(-8) ^ 0.5", "sqrt(-1)", "log(0)", "exp(1000)", "1e308 * 10",
        "sqrt(1, 2)",
    ],
)  # fmt: skip
def test_formulas_without_a_value(text: str) -> None:
    with pytest.raises(FormulaError):
        Formula(text).value({})


@pytest.mark.parametrize(
    ("spec", "key", "reason", "value"),
    [
        ("no object", "type", "model_attributes_type", ""),
        ({"type": "guess"}, "type", "union_tag_invalid", "guess"),
        (EQ, "reference", "missing", ""),
        (EQ | {"reference": "x", "operation": "equals"}, "operation", "literal_error", ""),
        (EQ | {"reference": "x", "more": 1}, "more", "extra_forbidden", ""),
        (EQ | {"reference": "{{ secret.key }}"}, "reference", "not_a_path", "'secret.key'"),
        (EQ | {"reference": "{{ sample.text }}"}, "reference", "unknown_path", "'sample.text'"),
        (EQ | {"reference": "{{ item.__class__() }}"}, "reference", "not_a_path", "__class__"),
        (multi("a + c", a=EQ | {"reference": "x"}), "type", "unknown_name", "'c'"),
        (multi("a b", a=EQ | {"reference": "x"}), "type", "invalid_formula", "'a b'"),
        (multi("a", a=multi("b", b=EQ | {"reference": "x"})), "graders.a", "union_tag_invalid", ""),
        (multi("a", a=EQ), "graders.a.reference", "missing", ""),
        ({"type": "python", "source": "#" * 300_000}, "source", "source_too_long", "262144"),
        ({"type": "score_model", "model": "m", "input": [], "range": [0, 1]},
         "input", "too_short", ""),
        ({"type": "score_model", "model": "m", "range": [1, 0],
          "input": [{"role": "user", "content": "?"}]}, "range", "reversed_range", ""),
        ({"type": "score_model", "model": "m", "input": [
            {"role": "user", "content": {"type": "input_image", "image_url": "x"}}]},
         "input.0.content", "string_type", ""),
        ({"type": "label_model", "model": "m", "labels": ["a"], "passing_labels": ["b"],
          "input": [{"role": "user", "content": "?"}]}, "passing_labels", "unknown_label", "'b'"),
    ],
)  # fmt: skip
def test_graders_that_are_none(spec: Any, key: str, reason: str, value: str) -> None:
    with unfit(key, reason) as error:
        parse_grader(spec, GraderModels(Judge("1")))
    assert value in str(error.value)


def test_a_source_that_is_no_program() -> None:
    spec = {"type": "python", "source": "def grade(a, b) return"}
    flag = "python_grader_runtime_error"
    with refused("invalid_source", GraderError, flag=flag, kind=None) as error:
        parse_grader(spec)
    assert "SyntaxError" in str(error.value)


def test_a_file_holds_a_grader(tmp_path: Path) -> None:
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(EQ | {"reference": "yes", "name": "n", "pass_threshold": 0.5}))
    assert run(read_grader(path), Sample("yes", {})).reward == 1.0
    path.write_text("{")
    with refused("not_json", GraderError, path=str(path)):
        read_grader(path)
    with refused("file_missing", GraderError, path=str(tmp_path / "none.json")):
        read_grader(tmp_path / "none.json")
