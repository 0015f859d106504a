"""The ledger of CERT: what counts as a look, what it may err, and that it stays with the model."""

from pathlib import Path

import numpy as np
import pytest

from burnish.certification.alpha_ledger import CertLedger, inherit_looks, look_alpha
from burnish.certification.budgets import Budgets, Evidence
from burnish.certification.certify import cert_hashes, cert_ledger, next_look
from burnish.certification.fixed_sequence import Certificate, certify
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import ChoiceItem, ChooseTask
from burnish.models.lineage import copy_earlier_run
from burnish.recipe.schema import load_recipe
from burnish.runs.candidates import Candidate
from burnish.runs.directory import Manifest, RunDirectory

BUDGETS = Budgets(2.0)
KEPT = Evidence({"a": (np.full(1000, True), np.full(1000, True))})
LOST = Evidence({"a": (np.full(1000, True), np.arange(1000) > 200)})


def run_at(path: Path) -> RunDirectory:
    run = RunDirectory.create(
        path, Manifest(path.name, "trained", {"method": "lora"}, {}, model={"name": "tiny"})
    )
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}")
    return run


def models(*scales: float, weights: str = "ab") -> list[Candidate]:
    return [Candidate(weights, 40, scale) for scale in scales]


def looked(
    run: RunDirectory,
    order: list[Candidate],
    budgets: Budgets = BUDGETS,
    suite: str = "core",
    bad: float = 9.0,
) -> Certificate:
    ledger = CertLedger(run, "base", [suite])
    return certify(order, lambda c: LOST if c.scale >= bad else KEPT, budgets, ledger)


def test_all_looks_together_err_at_most_alpha() -> None:
    spent = [look_alpha(number, 0.95) for number in range(1, 60)]
    assert spent[:3] == pytest.approx([0.04, 0.008, 0.0016])
    assert sum(spent) == pytest.approx(0.05)
    assert sum(spent[:10]) < 0.05
    with pytest.raises(ValueError, match=r"\b0\b"):
        look_alpha(0, 0.95)


def test_other_weights_are_another_look(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    first, second = looked(run, models(0.5, 1.0)), looked(run, models(0.5, weights="cd"))
    assert (first.look.number, second.look.number) == (1, 2)
    assert second.look.confidence == pytest.approx(0.992)
    assert "look 2 at the certification items, tested at 99.2% confidence" in second.reasons[-1]
    # What fails at the second look may have passed at the first: its bound lies further out.
    bounds = [found.tested[0].tests[0].bound for found in (first, second)]
    assert bounds[0] < bounds[1]


def test_the_same_evidence_is_no_new_look(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    order = models(0.25, 0.5, 0.75, 1.0)
    first = looked(run, order, bad=0.75)
    assert looked(run, order, bad=0.75) == first
    assert looked(run, order[:2]).look == first.look  # both were tested then
    assert looked(run, order[2:3], bad=0.75).look == first.look  # also the one that failed
    # The one behind the failure was never reached: to test it now is another chance.
    assert looked(run, order[3:]).look.number == 2


def test_other_budgets_are_another_look(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    looked(run, models(1.0))
    assert looked(run, models(1.0), Budgets(3.0)).look.number == 2
    assert looked(run, models(1.0), Budgets(2.0)).look.number == 1


def test_other_items_are_unseen(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    looked(run, models(1.0))
    assert looked(run, models(0.5), suite="other").look.number == 1
    assert CertLedger(run, "another base", ["core"]).look(["x"], BUDGETS).number == 1


def test_a_look_is_spent_before_its_evidence_is_seen(tmp_path: Path) -> None:
    run, order = run_at(tmp_path / "run"), models(0.5, 1.0)
    ledger = CertLedger(run, "base", ["core"])

    def killed(candidate: Candidate) -> Evidence:
        if candidate.scale == 1.0:
            raise KeyboardInterrupt
        return KEPT

    with pytest.raises(KeyboardInterrupt):
        certify(order, killed, BUDGETS, ledger)
    assert [(use.candidate, use.passed) for use in ledger.uses()] == [
        ("ab-0.5-0", None),
        ("ab-0.5-0", True),
        ("ab-1-0", None),
    ]
    assert looked(run, order).look.number == 1  # the interrupted look goes on
    assert looked(run, models(0.75)).look.number == 2


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    looked(run, models(1.0))
    text = run.cert_uses.read_text()
    run.cert_uses.write_text(text + '{"base": "ba')
    assert len(CertLedger(run, "base", ["core"]).uses()) == 2
    looked(run, models(0.5))
    assert len(CertLedger(run, "base", ["core"]).uses()) == 4


def test_looks_stay_with_the_model(tmp_path: Path) -> None:
    """A run that starts from another one inherits its looks, and those of the one before."""
    (tmp_path / "recipe.yaml").write_text("data: {train: rows.jsonl}\n")
    runs = [run_at(tmp_path / name) for name in ("first", "second", "third")]
    for number, (before, after) in enumerate(zip([None, *runs], runs, strict=False), 1):
        if before is not None:
            recipe = load_recipe(tmp_path / "recipe.yaml", {"init_from": str(before.path)})
            copy_earlier_run(after, recipe)
        assert looked(after, models(1.0, weights=after.path.name)).look.number == number
    looked(runs[0], models(0.5))  # what the first does later is no business of the third
    assert looked(runs[2], models(1.0, weights="third")).look.number == 3
    assert [use.look for use in CertLedger(runs[2], "base", ["core"]).uses()] == [
        1,
        1,
        2,
        2,
        3,
        3,
        3,
        3,
    ]


@pytest.mark.parametrize(("method", "base"), [("lora", "base"), ("qlora", "nf4-base")])
def test_the_next_look_of_a_run_counts_those_that_it_inherits(
    method: str, base: str, tmp_path: Path
) -> None:
    """Of its own base: where that is rounded to four bits, it is known by another name."""
    run = run_at(tmp_path / "run")
    suite = Suite("own", [ChooseTask("own.a", [ChoiceItem("1", "Is it", ("yes", "no"), 0)])])
    manifest = run.manifest()
    manifest.model, manifest.recipe = {"sha256": "base"}, {"method": method}
    run.write_manifest(manifest)
    assert next_look(run, [suite]) == 1
    ledger = CertLedger(RunDirectory(run.earlier), base, cert_hashes([suite]))
    run.earlier.mkdir()
    ledger.record(ledger.look(["a"], Budgets(2.0)), ["a"], "a", Budgets(2.0), False)
    assert next_look(run, [suite]) == 2


def test_without_a_ledger_it_is_the_first_look() -> None:
    assert certify(models(1.0), lambda _: KEPT, BUDGETS).look.number == 1


def test_an_item_is_looked_at_whatever_was_asked_beside_it(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    looked(run, models(0.5))
    wider = CertLedger(run, "base", ["core", "mine"])
    assert wider.look(["new"], BUDGETS).number == 2
    assert CertLedger(run, "base", ["mine"]).look(["new"], BUDGETS).number == 1
    # Of the candidates that passed, only by all of the items that are asked now.
    assert CertLedger(run, "base", ["core"]).passed(BUDGETS) == {models(0.5)[0].key}
    assert wider.passed(BUDGETS) == set()
    assert CertLedger(run, "base", ["core"]).failed(BUDGETS) == set()


def test_a_suite_that_was_edited_or_renamed_is_looked_at_again(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    manifest = run.manifest()
    manifest.model = {"sha256": "base"}
    run.write_manifest(manifest)

    def suite(name: str, *questions: str) -> Suite:
        items = [ChoiceItem(f"{name} {q}", q, ("yes", "no"), 0) for q in questions]
        return Suite(name, [ChooseTask(f"{name}.a", items)])

    ledger = cert_ledger(run, "base", [suite("own", "Is it", "Was it")])
    order = [one.key for one in models(0.5)]
    ledger.record(ledger.look(order, BUDGETS), order, order[0], BUDGETS)
    ledger.record(ledger.look(order, BUDGETS), order, order[0], BUDGETS, True)
    assert next_look(run, [suite("own", "Is it", "Was it", "Will it")]) == 2
    assert next_look(run, [suite("other", "Was it")]) == 2
    assert next_look(run, [suite("other", "Will it")]) == 1
    # What passed by the old items did not pass by the new ones.
    assert cert_ledger(run, "base", [suite("own", "Is it", "Will it")]).passed(BUDGETS) == set()
    assert ledger.look(order, BUDGETS).number == 1


def test_looks_of_a_held_stage_count_for_the_next(tmp_path: Path) -> None:
    held = run_at(tmp_path / "stages" / "2-b")
    looked(held, models(0.5))
    folder = RunDirectory(tmp_path / "stages")
    inherit_looks(held, folder)
    inherit_looks(held, folder)  # gone on with after a stop
    assert len(folder.cert_uses.read_text().splitlines()) == 2
    following = run_at(tmp_path / "stages" / "3-c")
    assert looked(following, models(0.5, weights="ef")).look.number == 2
