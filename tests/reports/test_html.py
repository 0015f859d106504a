"""The page says what the run directory holds, no more, and asks nothing of a network."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from burnish.errors import RunError
from burnish.reports import svg
from burnish.reports.html import OTHER, confusion, fold, write_page
from burnish.reports.model_card import write_card
from burnish.reports.read_run import duration, format_row, number, probability, signed
from burnish.runs.directory import ItemResult, LedgerRow, RunDirectory, Verdict, append_results
from burnish.runs.overlaps import ComparedSet, Leakage, Overlap
from tests.refused import refused

from .conftest import SCRIPT, items


class Page(HTMLParser):
    """Tags that are balanced, what they load, the cells of the ledger, and the text."""

    VOID = frozenset({"meta", "link", "input", "col", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def page_of(run: RunDirectory) -> str:
    return write_page(run).read_text(encoding="utf-8")


def ledger_cells(html: str) -> dict[tuple[str, str], list[str]]:
    rows = re.findall(r'<tr [^>]*data-task="(.*?)" data-metric="(.*?)">(.*?)</tr>', html)
    cells = re.compile(r'<td class="num[^"]*">(.*?)</td>')
    return {(task, metric): cells.findall(row) for task, metric, row in rows}


def test_ledger_on_the_page_is_the_ledger_of_the_run(certified: RunDirectory) -> None:
    cells = ledger_cells(page_of(certified))
    assert len(cells) == len(certified.ledger())
    for row in certified.ledger():
        shown = format_row(row)
        assert cells[row.task, row.metric] == [
            shown.n, shown.base, shown.tuned, shown.delta, shown.interval, shown.bound,
            shown.lost, shown.gained, shown.p.replace("<", "&lt;"),
        ]  # fmt: skip


def test_ledger_is_worded_in_points_by_hand(certified: RunDirectory) -> None:
    cells = ledger_cells(page_of(certified))
    mean = ["300", "71.3", "70.1", "−1.2", "−1.9 to −0.4", "−1.8", "–", "–", "–"]
    assert cells["core", "mean accuracy"] == mean
    loss = ["40", "2.914", "2.931", "+0.017", "−0.004 to +0.038", "–", "–", "–", "–"]
    assert cells["core.prose", "nats/token"] == loss


def test_page_is_balanced_and_loads_nothing(certified: RunDirectory) -> None:
    html = page_of(certified)
    page = Page(html)
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    assert not re.search(r"url\(|@import|https?://", html)
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")


def test_text_of_users_is_escaped(certified: RunDirectory) -> None:
    html = page_of(certified)
    assert SCRIPT not in html
    assert html.count("<script") == 1  # our filter
    assert SCRIPT in Page(html).text


def test_verdict_is_shown_in_words_and_numbers(certified: RunDirectory) -> None:
    text = Page(page_of(certified)).text
    for words in ("Release", "+40.12", "1.81", "95% confidence", *certified.verdict().reasons):
        assert words in text


@pytest.mark.parametrize("decision", ["hold", "inconclusive"])
def test_uncertified_numbers_are_a_dash(certified: RunDirectory, decision: str) -> None:
    verdict = Verdict(decision, ("Not shown.",), 2.0, 0.95, None, None, 412)  # type: ignore[arg-type]
    certified.write_verdict(verdict)
    html = page_of(certified)
    assert f'<div class="verdict {decision}"' in html
    assert html.count('<div class="value">–</div>') == 2
    assert '<div class="value">412</div>' in html


def test_perplexity_is_no_points_and_its_texts_are_no_flips(certified: RunDirectory) -> None:
    row = LedgerRow(
        "target",
        "target",
        "perplexity",
        40,
        21.5,
        14.25,
        -7.25,
        -8.5,
        -6.0,
        bound=-6.2,
        passed=True,
    )
    certified.write_ledger([row])
    certified.write_verdict(replace(certified.verdict(), certified_target_gain=None))
    html = page_of(certified)
    shown = ledger_cells(html)["target", "perplexity"]
    assert shown[1:5] == ["21.500", "14.250", "−7.250", "−8.500 to −6.000"]
    assert "Certified perplexity" in html
    assert "−6.20" in html
    assert 'class="num better"' in html
    assert "have not answered the same items" in html


def test_flips_name_their_total_and_show_200(certified: RunDirectory) -> None:
    html = page_of(certified)
    assert "Target: 230 gained" in html
    assert "(the first 200 are shown" in html
    assert "Target: 4 lost" in html
    assert "General ability: 13 lost" in html
    assert html.count('<td role="cell" data-label="Expected">') == 4 + 200 + 13 + 3


def test_run_that_is_trained_says_what_is_missing(trained: RunDirectory) -> None:
    html = page_of(trained)
    text = Page(html).text
    assert "Not certified yet" in text
    assert f"burnish evaluate {trained.path}" in text
    assert "Trained ✓" in text
    assert "Evaluated – not done" in text
    assert ledger_cells(html) == {}
    assert "Training and validation loss by step" in html


def test_run_that_has_only_begun_gives_a_page(created: RunDirectory) -> None:
    text = Page(page_of(created)).text
    assert "burnish run recipe.yaml --resume" in text
    assert "No training step has been recorded yet." in text
    assert "The data has not been checked yet." in text


def test_all_that_repeats_the_run_is_there(certified: RunDirectory) -> None:
    text = Page(page_of(certified)).text
    for words in (
        "burnish run recipe.yaml --seed 7", "training.learning_rate", "derived", "command line",
        "ab" * 32, "2.13.0", "bench-1", "12 min 34 s (94%)", "45.8 s (6%)",
    ):  # fmt: skip
        assert words in text


def test_a_budget_that_changed_on_the_way_is_told(certified: RunDirectory) -> None:
    change = {"key": "budget.general", "before": 2.0, "after": 5.0, "state": "trained"}
    certified.write_manifest(replace(certified.manifest(), changes=[change]))
    text = Page(page_of(certified)).text
    assert "Changed when the run was resumed" in text
    assert re.search(r"budget\.general\s+2(\.0)? → 5(\.0)?\s", text)


@pytest.mark.parametrize("name", ["ledger.json", "verdict.json"])
def test_half_written_file_is_a_run_error(certified: RunDirectory, name: str) -> None:
    path = certified.path / name
    path.write_text('[{"task": \n' + path.read_text()[:40])
    with refused("half_written", RunError, path=str(path)):
        write_page(certified)
    assert not (certified.path / "report.html").exists()


def test_a_line_that_cannot_be_read_is_a_run_error(certified: RunDirectory) -> None:
    path = certified.path / "events.jsonl"
    path.write_text('[{"task": \n' + path.read_text()[:40])
    with refused("not_json", RunError, path=str(path), line=1):
        write_page(certified)
    assert not (certified.path / "report.html").exists()


def test_file_of_another_version_is_a_run_error(certified: RunDirectory) -> None:
    (certified.path / "ledger.json").write_text('[{"task": "target"}]')
    with refused("run_unreadable", RunError, path=str(certified.path)):
        write_page(certified)


def test_certified_run_without_a_verdict_is_a_run_error(certified: RunDirectory) -> None:
    (certified.path / "verdict.json").unlink()
    with refused("run_unfinished", RunError, path=str(certified.path / "verdict.json")):
        write_page(certified)


def test_confusion_counts_by_hand() -> None:
    def item(expected: str, answer: str, score: float = 0.0) -> ItemResult:
        return ItemResult("1", "", expected, answer, score)

    answers = [
        item("a", "A.", 1.0),
        item("a", "B"),
        item("a", "b"),
        item("b", "none"),
        item("b", "b", 1),
    ]
    found = confusion(answers)
    assert found is not None
    assert found.counts == {("a", "a"): 1, ("a", "b"): 2, ("b", OTHER): 1, ("b", "b"): 1}
    assert found.columns == ["a", "b", OTHER]
    assert found.worst[0] == ("a", "b", 2)


def test_free_answers_have_no_confusion() -> None:
    assert confusion([ItemResult(str(i), "", f"answer {i}", "", 0.0) for i in range(9)]) is None
    assert confusion([]) is None


def test_many_labels_are_drawn_and_escaped() -> None:
    labels = [f"<label {index}>" for index in range(30)]
    answers = [ItemResult("1", "", label, labels[0], 0.0) for label in labels for _ in range(3)]
    found = confusion(answers)
    assert found is not None
    assert found.picture is not None
    assert "<label" not in found.picture
    assert found.picture.count("<rect") == 30
    assert len(found.worst) == 15


def test_general_items_are_paired_by_id(certified: RunDirectory) -> None:
    """A tuned item without a base twin is no flip."""
    extra = items("core.facts", 0, 0, 101)[1][100]
    append_results(certified.results_path("tuned", "core.facts"), [replace(extra, score=0.0)])
    assert "General ability: 13 lost" in page_of(certified)


def test_axis_ticks_are_round_and_inside() -> None:
    assert svg.axis([0.0, 10.0]).ticks == (0, 2, 4, 6, 8, 10)
    assert svg.axis([-0.013, 0.031]).ticks == (-0.01, 0.0, 0.01, 0.02, 0.03)
    assert svg.axis([3.0]).low < 3 < svg.axis([3.0]).high
    assert svg.axis([0.0, 10.0]).place(2.5) == 25


def test_smoothing_keeps_a_line_and_its_ends() -> None:
    line = [(float(x), 2.0 * x) for x in range(100)]
    heights = [y for _, y in svg.smoothed(line)]
    assert heights == pytest.approx([y for _, y in line])


def test_later_event_of_a_step_counts_and_nan_is_left_out(trained: RunDirectory) -> None:
    trained.log("validation", step=240, loss=0.111)
    trained.log("validation", step=241, loss=float("nan"))
    assert "0.111" in page_of(trained)


def test_numbers_in_words() -> None:
    assert signed(0.04, 1) == "0.0"
    assert signed(-0.04, 1) == "0.0"
    assert signed(-1.25, 2) == "−1.25"
    assert number(None, 1) == "–"
    assert probability(0.0004) == "<0.001"
    assert duration(3.25) == "3.2 s"
    assert duration(7260) == "2 h 1 min"


def test_long_text_folds_at_a_space_without_loss() -> None:
    text = "word " * 200
    head, rest, left = fold(text)
    assert head + rest == text
    assert len(head) <= 280
    assert left == 0
    assert fold("x" * 5000)[2] == 1000


def test_leakage_is_told_in_a_line_and_a_table(certified: RunDirectory) -> None:
    assert "Overlap with the training data" not in Page(page_of(certified)).text
    learnt = (ComparedSet("train", 130, "ab" * 32),)
    sets = [ComparedSet(name, 100, "cd" * 32, 0) for name in ("test", "core.facts", "core.prose")]
    certified.write_leakage(Leakage(learnt, tuple(sets), ()))
    assert "train, test, core: no overlap." in page_of(certified)

    twice = Overlap("test", "core.facts", "exact", 2, 2, (("facts-002", "7"),))
    certified.write_leakage(Leakage(learnt, tuple(sets), (twice,)))
    html = page_of(certified)
    assert "no overlap" not in Page(html).text
    assert (
        "No evaluation item is in the training data. Found in two evaluation sets: 2 of 100 items "
        "of core.facts are also in test." in html
    )

    sets[1] = replace(sets[1], leaked=3)
    overlap = Overlap("train", "core.facts", "13-gram", 3, 7, (("facts-001", SCRIPT),))
    certified.write_leakage(Leakage(learnt, tuple(sets), (overlap,)))
    html = page_of(certified)
    line = "In the training data, so the scores may be too high: 3 of 100 items of core.facts."
    assert line in html
    assert re.search(
        r"core\.facts\s+train\s+13-gram\s+3\s+7\s+facts-001 in <script>", Page(html).text
    )
    assert SCRIPT not in html
    assert line in write_card(certified).read_text()

    reason = "3 of its 100 items were in the training data"
    rows = [
        replace(row, excluded=reason) if row.task == "core.facts" else row
        for row in certified.ledger()
    ]
    certified.write_ledger(rows)
    assert line[:-1] + " (excluded from the suite mean)." in page_of(certified)
    assert "facts (excluded from the mean)" in page_of(certified)
