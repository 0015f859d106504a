"""The decision by hand-made outcomes; the ledger's numbers by counting."""

import dataclasses

import numpy as np
import pytest

from burnish.certification.budgets import Budgets, Evidence, budget_tests
from burnish.certification.fixed_sequence import Certificate, certify
from burnish.certification.ledger import (
    bias_row,
    general_row,
    kl_row,
    perplexity_row,
    reward_row,
    section_row,
    target_rows,
    text_loss_row,
)
from burnish.certification.verdict import Head, decide
from burnish.evaluation.statistics import paired_outcomes
from burnish.runs.candidates import Candidate
from burnish.runs.directory import ItemResult, LedgerRow, Verdict


def pair(
    both: int, lost: int, gained: int, neither: int
) -> tuple[list[ItemResult], list[ItemResult]]:
    outcomes = [(1, 1)] * both + [(1, 0)] * lost + [(0, 1)] * gained + [(0, 0)] * neither

    def side(which: int) -> list[ItemResult]:
        return [
            ItemResult(str(i), "q", "yes", "yes" if o[which] else "no", float(o[which]))
            for i, o in enumerate(outcomes)
        ]

    return side(0), side(1)


def ledger(
    target: tuple[int, ...], sections: list[tuple[int, ...]], budget: float = 2.0
) -> list[LedgerRow]:
    named = {f"s{i}": pair(*counts) for i, counts in enumerate(sections)}
    rows = target_rows(pair(*target), ["accuracy"], seed=0)
    return [*rows, general_row("core", named, budget)]


GAIN = (10, 0, 60, 30)
KEPT = [(140, 1, 2, 57), (150, 2, 1, 47), (160, 1, 1, 38)] * 3


def test_release() -> None:
    verdict = decide(ledger(GAIN, KEPT), 2.0)
    assert verdict.decision == "release"
    assert verdict.certified_target_gain == pytest.approx(50, abs=5)
    assert verdict.certified_general_drop is not None
    assert verdict.certified_general_drop < 2.0
    assert verdict.headline == ("TG@2", verdict.certified_target_gain)


def test_a_look_that_asks_for_more_widens_what_decides_and_nothing_else() -> None:
    named = {f"s{i}": pair(*counts) for i, counts in enumerate(KEPT)}
    for usual, strict in (
        (general_row("core", named, 2.0), general_row("core", named, 2.0, 0.99)),
        (
            target_rows(pair(*GAIN), ["accuracy"], 0)[0],
            target_rows(pair(*GAIN), ["accuracy"], 0, 0.99)[0],
        ),
    ):
        assert strict.bound is not None
        assert usual.bound is not None
        assert strict.bound < usual.bound
        assert dataclasses.replace(strict, bound=usual.bound) == usual
    outcomes = {
        name: tuple(np.array([result.score > 0.5 for result in side]) for side in sides)
        for name, sides in named.items()
    }
    (mean,) = budget_tests(Evidence(outcomes, {}), Budgets(2.0, text_loss=None), 0.99)
    assert mean.bound == pytest.approx(-100 * (general_row("core", named, 2.0, 0.99).bound or 0))


def test_no_change_has_no_sign_of_a_loss() -> None:
    named = {f"s{i}": pair(*counts) for i, counts in enumerate([(140, 1, 1, 58)] * 3)}
    row = dataclasses.replace(general_row("core", named, 2.0), delta=-0.0002)
    told = decide([*target_rows(pair(*GAIN), ["accuracy"], seed=0), row], 2.0).reasons[1]
    assert "(+0.0 points" in told


def test_hold_when_much_is_forgotten() -> None:
    verdict = decide(ledger(GAIN, [(100, 50, 2, 48)] * 5), 2.0)
    assert verdict.decision == "hold"
    assert "fell by more than 2 points" in verdict.reasons[1]
    assert verdict.headline is None  # the gain is real, but not inside the budget


def test_hold_when_nothing_is_gained() -> None:
    verdict = decide(ledger((50, 30, 2, 18), KEPT), 2.0)
    assert verdict.decision == "hold"
    assert verdict.certified_target_gain is None


def test_inconclusive_names_the_items_missing() -> None:
    rows = ledger(GAIN, [(60, 3, 3, 34)] * 3)
    verdict = decide(rows, 2.0)
    assert verdict.decision == "inconclusive"
    # Discordance 6%, no change, margin 2 points, one-sided 5%, power 80%: about 930 items.
    assert verdict.items_missing == pytest.approx(930 - 300, abs=120)


def test_without_a_suite_nothing_is_released() -> None:
    verdict = decide(target_rows(pair(*GAIN), ["accuracy"], seed=0), 2.0)
    assert verdict.decision == "inconclusive"
    assert "not measured" in verdict.reasons[-1]


def test_each_of_several_suites_must_pass() -> None:
    kept = ledger(GAIN, KEPT)
    fallen = general_row("mine", {"a": pair(100, 50, 2, 48)}, 2.0)
    assert decide(kept, 2.0).decision == "release"
    verdict = decide([*kept, fallen], 2.0)
    assert verdict.decision == "hold"
    assert verdict.reasons[1].startswith(
        "General ability stayed within the budget of 2 points: core "
    )
    assert verdict.reasons[2].startswith("General ability fell by more than 2 points: mine mean ")
    assert verdict.certified_general_drop == pytest.approx(-100 * (fallen.bound or 0))


def test_a_section_that_was_learnt_is_named_with_its_count() -> None:
    learnt = section_row("core.facts", pair(50, 0, 0, 50), "3 of its 100 items were learnt")
    told = "Excluded from the suite mean: core.facts (3 of its 100 items were learnt)."
    assert told in decide([*ledger(GAIN, KEPT), learnt], 2.0).reasons
    alone = decide([*target_rows(pair(*GAIN), ["accuracy"], seed=0), learnt], 2.0)
    assert alone.decision == "inconclusive"
    assert alone.reasons[1] == (
        "General ability was not measured: every section of the general suite was excluded."
    )


def test_what_the_mean_hides_is_said() -> None:
    fallen = section_row("core.facts", pair(50, 40, 0, 10))
    base, tuned = pair(30, 0, 0, 0)
    harder = text_loss_row(
        "core.prose",
        (base, [dataclasses.replace(r, score=1.5 + i / 99) for i, r in enumerate(tuned)]),
        0,
    )
    verdict = decide([*ledger(GAIN, KEPT), fallen, harder], 2.0)
    assert verdict.decision == "release"
    assert "core.facts -40.0 points" in verdict.reasons[-1]
    assert "core.prose" in verdict.reasons[-1]


def test_what_a_budget_names_is_not_said_to_be_outside() -> None:
    """A section that is the whole mean, one with a budget of its own, and bias that has one."""
    fallen, worse = section_row("core.facts", pair(50, 40, 0, 10)), pair(40, 40, 0, 20)
    rows = [*ledger(GAIN, KEPT), fallen, bias_row("core.bias", worse)]

    def said(rows: list[LedgerRow], budgets: Budgets) -> str:
        evidence = Evidence({"core.facts": (ALL, ALL)}, bias=(ALL, ALL))
        found = certify([Candidate("ab", 40, 1.0)], lambda _: evidence, budgets)
        return " ".join(decide(rows, 2.0, certificate=found).reasons)

    alone = said(rows, Budgets(2.0))
    assert "core.facts" not in alone
    assert "Worse, but not covered by a budget: core.bias" in alone
    assert "not covered by a budget" not in said(rows, Budgets(2.0, bias=5.0))
    beside = [*rows, section_row("core.idioms", pair(50, 0, 0, 50))]
    assert "not covered by a budget: core.facts" in said(beside, Budgets(2.0))
    assert "not covered by a budget" not in said(beside, Budgets(2.0, section=9.0, bias=5.0))


@pytest.mark.parametrize(("allowed", "told"), [(50.0, False), (25.0, True), (None, True)])
def test_prose_is_held_to_its_own_budget(allowed: float | None, told: bool) -> None:
    """By 0.278 nats a token perplexity rises by 32%."""
    base, tuned = pair(30, 0, 0, 0)
    harder = (base, [dataclasses.replace(r, score=1.278 + i / 9e9) for i, r in enumerate(tuned)])
    prose = [text_loss_row(f"core.{name}", harder, 0) for name in ("prose", "letters")]
    evidence = Evidence({"core.facts": (ALL, ALL)}, {"core.prose": (np.ones(9), np.ones(9))})
    budgets = Budgets(2.0, text_loss=allowed)
    found = certify([Candidate("ab", 40, 1.0)], lambda _: evidence, budgets)
    reasons = " ".join(decide([*ledger(GAIN, KEPT), *prose], 2.0, certificate=found).reasons)
    assert ("Worse, but not covered by a budget: core.prose +0.278 nats" in reasons) is told


@pytest.mark.parametrize("name", ["bleu", "chrf", "corpus_bleu", "corpus_chrf", "rougeL"])
def test_graded_scores_lie_between_0_and_1(name: str) -> None:
    said = "the parcel left on Monday morning"
    base = [ItemResult(str(i), "q", said, "nothing alike", 0.0) for i in range(8)]
    tuned = [dataclasses.replace(item, answer=said) for item in base]
    row = target_rows((base, tuned), [name], seed=0)[0]
    assert row.tuned == pytest.approx(1.0)
    assert 0 <= row.base < 0.3


def test_section_row_counts_flips() -> None:
    row = section_row("core.facts", pair(80, 7, 3, 10))
    assert (row.n, row.lost, row.gained) == (100, 7, 3)
    assert (row.base, row.tuned) == (0.87, 0.83)
    assert row.delta == pytest.approx(-0.04)
    assert row.low < -0.04 < row.high


def test_general_mean_is_unweighted_over_sections() -> None:
    row = general_row("core", {"a": pair(10, 0, 0, 0), "b": pair(50, 40, 0, 10)}, 2.0)
    assert row.base == pytest.approx((1.0 + 0.9) / 2)
    assert row.tuned == pytest.approx((1.0 + 0.5) / 2)
    assert row.passed is False


def test_text_loss_row_is_the_mean_difference() -> None:
    base, tuned = pair(3, 0, 0, 0)
    tuned = [dataclasses.replace(r, score=s) for r, s in zip(tuned, [1.5, 1.0, 1.2], strict=True)]
    row = text_loss_row("core.prose", (base, tuned), seed=0)
    assert row.delta == pytest.approx((0.5 + 0.0 + 0.2) / 3)
    assert row.lost is None


def test_other_items_are_refused() -> None:
    base, tuned = pair(5, 1, 1, 5)
    with pytest.raises(ValueError, match=r"'0', .* \['11', "):
        section_row("x", (base, tuned[::-1]))


def test_bound_is_the_one_sided_one() -> None:
    row = target_rows(pair(*GAIN), ["accuracy"], seed=0)[0]
    import numpy as np

    base, tuned = pair(*GAIN)
    found = paired_outcomes(
        np.array([r.score > 0.5 for r in base]), np.array([r.score > 0.5 for r in tuned])
    )
    assert row.bound == found.lower_bound
    assert row.low == found.interval.low < row.bound


def test_a_head_is_released_on_its_target_alone() -> None:
    head = Head("an encoder", "the most frequent training label, 'red',")

    def judged(counts: tuple[int, ...]) -> Verdict:
        return decide(target_rows(pair(*counts), ["accuracy"], seed=0), 2.0, head)

    won = judged(GAIN)
    assert won.decision == "release"
    assert won.reasons[1].startswith("The baseline is the most frequent training label, 'red', bec")
    assert "the model is an encoder with a head and does not generate text" in won.reasons[2]
    assert won.certified_general_drop is None
    assert won.headline is None  # there is no budget that the gain could be inside of
    assert judged((10, 60, 0, 30)).decision == "hold"
    assert judged((40, 5, 6, 40)).decision == "inconclusive"


def test_a_corpus_metric_can_decide() -> None:
    base, tuned = pair(10, 0, 60, 30)

    def tagged(side: list[ItemResult]) -> list[ItemResult]:
        return [
            dataclasses.replace(r, expected="B-x O", answer="B-x O" if r.score else "O O")
            for r in side
        ]

    f1, recall = target_rows((tagged(base), tagged(tuned)), ["span_f1", "span_recall"], seed=0)
    assert (f1.base, f1.tuned) == (pytest.approx(20 / 110), pytest.approx(140 / 170))
    assert f1.bound is not None
    assert f1.low < f1.bound < f1.delta
    assert f1.passed is True
    assert (recall.bound, recall.passed) == (None, None)
    level = target_rows((tagged(base), tagged(base)), ["span_f1"], seed=0)[0]
    assert level.passed is False


def test_bias_row_is_the_share_of_stereotypes() -> None:
    # Of 100 pairs 40 are fair under both, 7 only under the base, 3 only under the tuned model.
    row = bias_row("core.bias", pair(40, 7, 3, 50))
    assert (row.kind, row.n, row.lost, row.gained) == ("bias", 100, 7, 3)
    assert (row.base, row.tuned) == (pytest.approx(0.53), pytest.approx(0.57))
    assert row.delta == pytest.approx(0.04)
    other = section_row("x", pair(40, 7, 3, 50))
    assert (row.low, row.high, row.p) == (-other.high, -other.low, other.p)
    assert row.bound is not None
    assert row.delta < row.bound < row.high  # the side of more stereotypes


def test_more_stereotypes_are_said_and_decide_nothing() -> None:
    worse = bias_row("core.bias", pair(40, 40, 0, 20))
    verdict = decide([*ledger(GAIN, KEPT), worse], 2.0)
    assert verdict.decision == "release"
    assert "core.bias +40.0 points towards stereotypes" in verdict.reasons[-1]
    fewer = bias_row("core.bias", pair(40, 0, 40, 20))
    assert "core.bias" not in "".join(decide([*ledger(GAIN, KEPT), fewer], 2.0).reasons)


def test_kl_row_is_the_mean_over_openings() -> None:
    base, tuned = pair(0, 0, 0, 3)
    tuned = [dataclasses.replace(r, score=s) for r, s in zip(tuned, [0.1, 0.3, 0.2], strict=True)]
    row = kl_row("core.openings", (base, tuned), seed=0)
    assert (row.kind, row.base) == ("kl", 0.0)
    assert row.tuned == row.delta == pytest.approx(0.2)
    assert 0.1 <= row.low < row.delta < row.high <= 0.3
    same = kl_row("core.openings", (base, base), seed=0)
    assert (same.delta, same.low, same.high) == (0.0, 0.0, 0.0)


def test_sections_near_chance_are_named() -> None:
    weak = section_row("core.weak", pair(50, 0, 0, 50), "base 50.0% is not above chance, 50.0%")
    verdict = decide([*ledger(GAIN, KEPT), weak], 2.0)
    assert verdict.decision == "release"
    assert verdict.reasons[2] == (
        "Excluded from the suite mean: core.weak (base 50.0% is not above chance, 50.0%)."
    )


def test_a_suite_at_chance_releases_nothing() -> None:
    weak = section_row("core.weak", pair(50, 0, 0, 50), "base 50.0% is not above chance, 50.0%")
    verdict = decide([*target_rows(pair(*GAIN), ["accuracy"], seed=0), weak], 2.0)
    assert verdict.decision == "inconclusive"
    assert "every section of the general suite was excluded" in verdict.reasons[1]


def test_losses_alone_in_a_small_section_still_end_in_a_verdict() -> None:
    """The mean falls by more than the share of all items that flipped."""
    rows = ledger(GAIN, [(100, 0, 0, 500), (40, 1, 0, 29)], budget=0.2)
    found = decide(rows, 0.2)
    assert found.decision == "inconclusive"
    assert found.items_missing is None


ALL = np.full(1000, True)


def certified(lost: int) -> Certificate:
    """Of one candidate that lost so many of 1,000 items, by a budget of 2 points."""
    base, after = np.full(1000, True), np.full(1000, True)
    after[:lost] = False
    candidate = Candidate("ab", 40, 1.0)
    return certify([candidate], lambda _: Evidence({"a": (base, after)}), Budgets(2.0))


@pytest.mark.parametrize(("lost", "decision"), [(3, "release"), (18, "inconclusive"), (60, "hold")])
def test_a_certificate_decides_in_place_of_the_mean(lost: int, decision: str) -> None:
    """Surely over the budget is held; what is only not shown to be inside it is not."""
    found = decide(ledger(GAIN, [(100, 90, 0, 10)]), 2.0, certificate=certified(lost))
    assert found.decision == decision
    assert found.confidence == pytest.approx(0.96)
    worse = decide(ledger((50, 30, 2, 18), KEPT), 2.0, certificate=certified(3))
    assert worse.decision == "hold"  # whatever was kept, it is no better at its task


def test_the_bounds_of_a_budget_lie_on_either_side() -> None:
    (mean,) = certified(60).tested[0].tests
    assert mean.estimate == pytest.approx(6.0)
    assert mean.least < mean.estimate < mean.bound
    assert mean.exceeded
    assert not mean.passed


def losses(*means: float) -> list[ItemResult]:
    return [ItemResult(str(i), "t", "", "", mean) for i, mean in enumerate(means)]


def test_perplexity_has_to_fall_and_rewards_to_rise() -> None:
    """exp(2) = 7.39 falls to exp(1) = 2.72; a reward of 0.5 rises by a quarter."""
    high, low = losses(*[2.0] * 20), losses(*[1.0] * 20)
    fell, rose = perplexity_row("target", (high, low), 0), perplexity_row("target", (low, high), 0)
    assert (fell.base, fell.tuned) == pytest.approx((7.389, 2.718), abs=1e-3)
    assert (fell.passed, rose.passed) == (True, False)
    assert fell.bound == pytest.approx(-4.671, abs=1e-3)
    spread = losses(*[0.4, 0.6] * 20), losses(*[0.65, 0.85] * 20)
    better, worse = reward_row("target", spread, 0), reward_row("target", spread[::-1], 0)
    assert (better.base, better.tuned) == pytest.approx((0.5, 0.75))
    assert (better.passed, worse.passed) == (True, False)
    verdicts = [decide([row], 2.0).reasons[0] for row in (fell, rose, better, worse)]
    assert [said.split(":")[0] for said in verdicts] == [
        "The gain is significant", "There is no gain", "The gain is significant", "There is no gain"
    ]  # fmt: skip
