"""Checks against scikit-learn, sacrebleu and rouge-score themselves, and by hand."""

import string

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from burnish.errors import DataError
from burnish.evaluation.scorers import (
    SCORERS,
    CorpusScorer,
    accuracy,
    bleu,
    chrf,
    corpus_bleu,
    corpus_chrf,
    exact_match,
    json_fields,
    json_valid,
    rouge1,
    rouge2,
    rouge_l,
    scorer,
)
from tests.refused import refused

macro_precision, macro_recall, macro_f1 = (
    SCORERS[f"macro_{figure}"].corpus for figure in ("precision", "recall", "f1")
)
micro_precision, micro_recall, micro_f1 = (
    SCORERS[f"micro_{figure}"].corpus for figure in ("precision", "recall", "f1")
)
TRUE = ["cat", "cat", "dog", "bird", "dog", "cat"]
GIVEN = ["cat", "dog", "dog", "dog", "dog", "cat"]
SENTENCES = ["The cat sat on the mat.", "It rained all day, sadly."]
REFERENCES = ["The cat sat on a mat.", "It rained the whole day."]


class TestText:
    def test_exact_match(self) -> None:
        assert exact_match(" Paris\n", "Paris") == 1.0
        assert exact_match("paris", "Paris") == 0.0

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("paris.", "Paris"),
            ("  New\t York ", "new york!"),
            ("北京。", "北京"),
            ("STRASSE", "straße"),
            ("cafe\u0301", "café"),
            ("yes .", "Yes"),
        ],
    )
    def test_accuracy_overlooks(self, answer: str, expected: str) -> None:
        assert accuracy(answer, expected) == 1.0

    @pytest.mark.parametrize(
        ("answer", "expected"), [("C", "C#"), ("?", "!"), ("50", "50%"), ("1.5", "15"), ("", ".")]
    )
    def test_accuracy_tells_apart(self, answer: str, expected: str) -> None:
        assert accuracy(answer, expected) == 0.0


class TestTranslation:
    @pytest.mark.parametrize(("answer", "expected"), list(zip(SENTENCES, REFERENCES, strict=True)))
    def test_sentences(self, answer: str, expected: str) -> None:
        metric = sacrebleu.BLEU(effective_order=True)
        assert bleu(answer, expected) == metric.sentence_score(answer, [expected]).score
        assert chrf(answer, expected) == sacrebleu.CHRF().sentence_score(answer, [expected]).score

    def test_corpus(self) -> None:
        by_hand = sacrebleu.BLEU().corpus_score(SENTENCES, [REFERENCES]).score
        assert corpus_bleu(SENTENCES, REFERENCES) == by_hand
        by_hand = sacrebleu.CHRF().corpus_score(SENTENCES, [REFERENCES]).score
        assert corpus_chrf(SENTENCES, REFERENCES) == by_hand

    def test_scale(self) -> None:
        assert bleu("a b c d", "a b c d") == pytest.approx(100)
        assert bleu("yes", "yes") == pytest.approx(100)  # effective order: no 2-grams to miss
        assert chrf("我爱北京", "我爱北京") == pytest.approx(100)
        assert bleu("", "a b c d") == chrf("", "a b c d") == 0.0


class TestRouge:
    @settings(deadline=None)
    @given(st.text(string.printable), st.text(string.printable))
    def test_ascii_as_rouge_score(self, answer: str, expected: str) -> None:
        oracle = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(expected, answer)
        assert rouge1(answer, expected) == oracle["rouge1"].fmeasure
        assert rouge2(answer, expected) == oracle["rouge2"].fmeasure
        assert rouge_l(answer, expected) == oracle["rougeL"].fmeasure

    def test_cyrillic(self) -> None:
        """Two of three words; one of two pairs; a common subsequence of two words."""
        answer, expected = "Кошка сидит дома.", "кошка сидит тихо"
        assert rouge1(answer, expected) == pytest.approx(2 / 3)
        assert rouge2(answer, expected) == pytest.approx(1 / 2)
        assert rouge_l(answer, expected) == pytest.approx(2 / 3)

    def test_chinese_by_character(self) -> None:
        """我 爱 of four characters; one of three pairs."""
        assert rouge1("我爱北京", "我爱上海") == pytest.approx(1 / 2)
        assert rouge2("我爱北京", "我爱上海") == pytest.approx(1 / 3)
        assert rouge_l("我爱北京。", "我爱北京") == 1.0

    def test_marks_belong_to_their_word(self) -> None:
        """Hindi vowel signs are marks; split there, these different words would share tokens."""
        assert rouge1("हिन्दी", "हिन्दू") == 0.0
        assert rouge1("हिन्दी भाषा", "हिन्दी") == pytest.approx(2 / 3)

    def test_composed_and_decomposed_letters(self) -> None:
        assert rouge1("cafe\u0301", "café") == 1.0


class TestJson:
    @pytest.mark.parametrize("answer", ["{}", " [1, null]\n", '"text"', "-1.5e3", "true"])
    def test_valid(self, answer: str) -> None:
        assert json_valid(answer, "") == 1.0

    @pytest.mark.parametrize(
        "answer", ["", "{'a': 1}", "NaN", "[-Infinity]", "{} {}", "```json\n{}\n```", "[" * 99_999]
    )
    def test_invalid(self, answer: str) -> None:
        assert json_valid(answer, "") == 0.0

    @pytest.mark.parametrize(
        ("answer", "share"),
        [
            ('{"name": "Ann", "born": {"year": 1990, "place": "Bonn"}, "tags": ["a", 1]}', 1),
            ('{"name": "Ann", "born": {"year": 1990.0, "place": "Köln"}, "tags": ["a", 1]}', 3 / 4),
            ('{"name": "Ann", "born": 1990, "tags": ["a"], "extra": 0}', 1 / 4),
            ('{"tags": ["a", true]}', 0),
            ("[]", 0),
            ("Ann was born in 1990.", 0),
            ("[" * 99_999, 0),
        ],
    )
    def test_fields(self, answer: str, share: float) -> None:
        expected = '{"name": "Ann", "born": {"year": 1990, "place": "Bonn"}, "tags": ["a", 1]}'
        assert json_fields(answer, expected) == pytest.approx(share)

    @pytest.mark.parametrize(
        ("answer", "expected", "share"),
        [
            ('{"a": 1}', '{"a": true}', 0),
            ('{"a": null}', '{"a": null, "b": null}', 1 / 2),
            ('{"a.b": 1}', '{"a": {"b": 1}}', 0),
            ('{"a": {}}', '{"a": {}}', 1),
            ('{"a": [{"b": 1}]}', '{"a": [{"b": 1.0}]}', 1),
            ("{}", "{}", 1),
            ("[1, 2]", "[1, 2]", 1),
        ],
    )
    def test_values(self, answer: str, expected: str, share: float) -> None:
        assert json_fields(answer, expected) == pytest.approx(share)

    def test_expected_is_not_json(self) -> None:
        with refused("not_json", DataError, value="Ann"):
            json_fields("{}", "Ann")


class TestClassification:
    def test_hand_worked(self) -> None:
        """cat: 2 of 2 answered, of 3 true; dog: 2 of 4, of 2; bird: none answered, of 1."""
        assert macro_precision(GIVEN, TRUE) == pytest.approx((1 + 1 / 2 + 0) / 3)
        assert macro_recall(GIVEN, TRUE) == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert macro_f1(GIVEN, TRUE) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)

    @pytest.mark.parametrize(
        ("figure", "oracle", "average"),
        [
            (macro_precision, precision_score, "macro"),
            (macro_recall, recall_score, "macro"),
            (macro_f1, f1_score, "macro"),
            (micro_precision, precision_score, "micro"),
            (micro_recall, recall_score, "micro"),
            (micro_f1, f1_score, "micro"),
        ],
    )
    def test_as_scikit_learn(self, figure: CorpusScorer, oracle: object, average: str) -> None:
        assert callable(oracle)
        chance, words = np.random.default_rng(3), ["cat", "dog", "bird", "none at all"]
        drawn = [[words[p] for p in chance.integers(4, size=40)] for _ in range(2)]
        for answers, expected in ((GIVEN, TRUE), drawn):
            assert figure(answers, expected) == pytest.approx(
                oracle(expected, answers, average=average, zero_division=0)
            )

    def test_unknown_label_is_a_wrong_class(self) -> None:
        """a: precision 1, recall 1/2; b: 1, 1. The refusal adds no third class to the mean."""
        given, true = ["a", "I cannot say", "b"], ["a", "a", "b"]
        assert macro_precision(given, true) == pytest.approx(1.0)
        assert macro_recall(given, true) == pytest.approx(3 / 4)
        assert macro_f1(given, true) == pytest.approx((2 / 3 + 1) / 2)
        for figure in (micro_precision, micro_recall, micro_f1):
            assert figure(given, true) == pytest.approx(accuracy_score(true, given))

    def test_labels_are_normalised_as_by_accuracy(self) -> None:
        assert macro_f1(["Cat.", " DOG"], ["cat", "dog"]) == 1.0

    def test_mostly_different_answers(self) -> None:
        """scikit-learn would take them for a regression in some calls, and warn."""
        given = [f"answer {k}" for k in range(50)]
        assert macro_f1(given, ["yes"] * 50) == micro_f1(given, ["yes"] * 50) == 0.0

    @pytest.mark.parametrize("figure", [macro_f1, micro_recall, corpus_bleu, corpus_chrf])
    def test_refused(self, figure: CorpusScorer) -> None:
        with pytest.raises(ValueError, match=r"^0 .* 0 "):
            figure([], [])
        with pytest.raises(ValueError, match=r"^1 .* 2 "):
            figure(["a"], ["a", "b"])


class TestResampled:
    """An interval scores many resamples: counted once, the figures are those of the lists."""

    NAMES = [name for name, entry in SCORERS.items() if entry.counted]  # noqa: RUF012

    def test_all_of_labels_and_spans_are_counted(self) -> None:
        assert len(self.NAMES) == 9

    @pytest.mark.parametrize("name", NAMES)
    def test_as_the_lists(self, name: str) -> None:
        entry, chance = SCORERS[name], np.random.default_rng(3)
        assert entry.corpus is not None
        words = ["cat", "dog ", "Dog", "bird.", "none at all"]
        if name.startswith("span"):
            words = ["O B-a I-a", "B-a O O", "O O O", "B-b I-b I-b"]
        given, true = ([words[p] for p in chance.integers(len(words), size=40)] for _ in range(2))
        measure = entry.resampled(given, true)
        for size in (1, 2, 5, 40, 40, 40, 40):  # with few, labels are missing
            places = chance.integers(40, size=size)
            expected = entry.corpus([given[p] for p in places], [true[p] for p in places])
            assert measure(places) == pytest.approx(expected, abs=1e-12)

    def test_others_score_the_lists(self) -> None:
        measure = SCORERS["corpus_chrf"].resampled(["one two", "three"], ["one two", "four"])
        assert measure(np.array([0, 0])) == 100.0
        assert measure(np.array([0, 1])) == corpus_chrf(["one two", "three"], ["one two", "four"])

    @pytest.mark.parametrize("name", NAMES)
    def test_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"^1 .* 2 "):
            SCORERS[name].resampled(["a"], ["a", "b"])


class TestRegistry:
    def test_each_entry_is_one_kind_under_its_name(self) -> None:
        for name, entry in SCORERS.items():
            assert entry.name == name
            assert (entry.item is None) != (entry.corpus is None)
            assert scorer(name) is entry

    @settings(deadline=None, max_examples=50)
    @given(st.text(), st.text())
    def test_binary_scores_are_0_or_1(self, answer: str, expected: str) -> None:
        binary = [entry.item for entry in SCORERS.values() if entry.binary]
        assert len(binary) == 3
        assert all(item is not None and item(answer, expected) in (0, 1) for item in binary)

    @pytest.mark.parametrize("name", [n for n, entry in SCORERS.items() if not entry.binary])
    def test_perfect_answers_reach_the_stated_maximum(self, name: str) -> None:
        entry = SCORERS[name]
        text = "O B-a I-a" if name.startswith("span_") else '{"a": "one two three four"}'
        item, corpus = entry.item, entry.corpus
        best = item(text, text) if item else corpus([text], [text]) if corpus else None
        assert best == pytest.approx(float(entry.description.rsplit(" ", 1)[1]))

    @pytest.mark.parametrize(
        ("name", "closest"), [("acuracy", "accuracy"), ("Macro-F1", "macro_f1"), ("zzz", None)]
    )
    def test_unknown(self, name: str, closest: str | None) -> None:
        with refused("unknown_scorer", scorer=name, closest=closest) as error:
            scorer(name)
        assert repr(name) in error.value.seen
        assert (repr(closest) if closest else ", ".join(SCORERS)) in error.value.remedy
