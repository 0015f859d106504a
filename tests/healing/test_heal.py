"""Healing of a tiny model: remedies are tried in turn, measured on PROBE, and end in a verdict."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import burnish
from burnish.certification import certify
from burnish.certification.budgets import Evidence
from burnish.certification.search import ScaleSearch
from burnish.errors import DivergedError, RunError, UserError
from burnish.healing import heal
from burnish.pipeline import verbs
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.training.replay import Replayed, replayed
from tests.certification.test_certify import recipe
from tests.certification.test_certify import suite as suite  # the fixture
from tests.refused import refused


@pytest.fixture(autouse=True)
def conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model writes no questions that end, so these stand for what the base writes."""

    def written(model: Any, count: int, seed: int, cache: Path) -> list[Replayed]:
        chance = torch.Generator().manual_seed(seed)
        rows = []
        for number in range(count):
            tokens = torch.randint(4, 300, (24,), generator=chance).tolist()
            rows.append(Replayed(f"r{number}", f"question {number}", "answer", (*tokens,), 4, 8))
        return rows

    monkeypatch.setattr("burnish.training.replay.replayed", written)
    monkeypatch.setattr("burnish.healing.heal.replayed", written)


@pytest.fixture(scope="module")
def ruined(tiny_folder: Path, suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that forgot too much at every scale that was tried."""
    folder = tmp_path_factory.mktemp("ruined")
    made = burnish.run(
        recipe(folder, tiny_folder, suite, 0.1, 6), quiet=True, scale_search={"bisection_steps": 1}
    )
    assert made.verdict().decision != "release"
    return made.path


@pytest.fixture
def run(ruined: Path, tmp_path: Path) -> Path:
    shutil.copytree(ruined, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two remedies, because the others would only take time."""
    monkeypatch.setattr(heal, "REMEDIES", heal.REMEDIES[:2])
    monkeypatch.setattr(heal, "_SLOPES", ())


def attempts(directory: RunDirectory) -> list[str]:
    """Those that trained."""
    told = [event["attempt"] for event in directory.events("heal")]
    return [name for name in told if not name.startswith("slope")]


def test_remedies_are_tried_in_turn_until_one_is_enough(run: Path) -> None:
    healed = burnish.heal(run, 10, quiet=True)
    tried = attempts(healed)
    names = [f"{number}-{remedy.name}" for number, remedy in enumerate(heal.REMEDIES, 1)]
    assert tried
    assert [e["attempt"] for e in healed.events("heal")][:2] == ["slope-0.5", "slope-1"]
    found = healed.frontier()
    assert {one.attempt for one in found.candidates} >= {"", *tried}
    assert {one.slope for one in found.candidates} >= {0.0, 0.5, 1.0}
    last = healed.events("heal")[-1]
    assert tried == (names[: len(tried)] if last["healed"] else names)
    uses = (healed.path / "cert-uses.jsonl").read_text()
    told = " ".join(healed.verdict().reasons)
    assert ('"look": 2' in uses, "look 2" in told) == (last["healed"], last["healed"])
    assert ("justify another look" in told) is not last["healed"]


@pytest.mark.usefixtures("few")
def test_the_rows_of_an_attempt_are_those_of_the_run(run: Path) -> None:
    rows = RunDirectory.open(run).split("train")
    healed = burnish.heal(run, 10, quiet=True)
    first = RunDirectory.open(next((healed.path / "heal").glob("1-*")))
    assert first.split("train") == rows
    assert first.split("test") == healed.split("test")
    assert first.manifest().recipe["init"] == "continue"


@pytest.mark.usefixtures("few")
def test_what_is_released_is_what_the_files_hold(run: Path) -> None:
    healed = burnish.heal(run, 10, quiet=True)
    found = healed.frontier()
    shown = found.candidates[found.order[0] if found.released is None else found.released]
    folder = healed.path / "heal" / shown.attempt if shown.attempt else healed.path
    model = burnish.open_tuned(healed)
    tokens = torch.tensor([[5, 6, 7, 8, 3, 2]])
    with torch.no_grad():
        saved = model.module.eval()(input_ids=tokens).logits
        model.use_weights(folder / "checkpoints" / f"step-{shown.step}")
        with model.at_scale(shown.scale, shown.slope):
            torch.testing.assert_close(model.module(input_ids=tokens).logits, saved)


def test_without_time_nothing_is_trained(run: Path) -> None:
    healed = burnish.heal(run, 0.0001, quiet=True)
    assert attempts(healed) == []
    assert not (healed.path / "heal").exists()


@pytest.mark.usefixtures("few")
def test_an_attempt_that_was_begun_is_gone_on_with(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("burnish.pipeline.train._train_run", stop)
        with pytest.raises(KeyboardInterrupt):
            burnish.heal(run, 10, quiet=True)
    begun = next((run / "heal").glob("*")).name
    assert RunDirectory.open(run / "heal" / begun).manifest().state == "training"
    healed = burnish.heal(run, 10, quiet=True)
    assert attempts(healed)[0] == begun
    # What an earlier heal trained needs no time for training: it is looked at again.
    manifest = healed.manifest()
    manifest.times["training"] = 1e6
    healed.write_manifest(manifest)
    names = {path.name for path in (run / "heal").glob("[0-9]*")}
    again = burnish.heal(run, 10, quiet=True)
    assert {one.attempt for one in again.frontier().candidates} == {"", *names}


def test_a_healthy_run_is_left_as_it_is(tmp_path: Path, tiny_folder: Path, suite: Path) -> None:
    made = burnish.run(recipe(tmp_path, tiny_folder, suite, 0.02, 99), quiet=True)
    before = made.verdict()
    healed = burnish.heal(made.path, 10, quiet=True)
    assert attempts(healed) == []
    assert healed.verdict().decision == before.decision == "release"
    assert "look 1" in " ".join(healed.verdict().reasons)
    assert not any(change["key"] == "heal.minutes" for change in healed.manifest().changes)
    with refused("setting_not_for_run", RunError, key="data", value="x.jsonl"):
        burnish.heal(made.path, 10, data="x.jsonl", quiet=True)


@pytest.mark.usefixtures("few")
def test_a_remedy_that_fails_is_reported_and_skipped(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = heal._train_attempt

    def broken(search: Any, attempt: Recipe, *rest: Any) -> None:
        if attempt.name == "1-continue":
            raise DivergedError(
                "the loss became nan", "lower training.learning_rate", code="loss_not_finite"
            )
        pull(search, attempt, *rest)

    monkeypatch.setattr(heal, "_train_attempt", broken)
    healed = burnish.heal(run, 10, quiet=True)
    told = {event["attempt"]: event["failed"] for event in healed.events("heal")}
    assert "the loss became nan" in told["1-continue"]
    assert told["2-anchor"] is None
    assert healed.manifest().state == "certified"
    assert "the loss became nan" in (burnish.report(healed)).read_text()


def test_a_base_that_writes_no_questions_is_asked_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(*given: Any) -> list[Replayed]:
        asked.append(given[1:3])
        return replayed(*given)

    monkeypatch.setattr(heal, "replayed", counted)
    monkeypatch.setattr(heal, "_SLOPES", ())
    needing = [one for one in heal.REMEDIES if one.name not in ("rate", "entropy", "likely")]
    monkeypatch.setattr(heal, "REMEDIES", needing)
    healed = burnish.heal(run, 10, quiet=True)
    told = {event["attempt"]: event["failed"] for event in healed.events("heal")}
    assert list(told) == ["1-continue", "2-anchor", "3-replay", "4-on-policy"]
    assert asked == [(64, 0)]
    assert {event["code"] for event in healed.events("heal")} == {"too_few_questions"}
    (said,) = set(told.values())
    assert "replay.data" in said
    assert not (healed.path / "heal").exists()


def test_what_was_released_stays_where_a_later_look_finds_nothing(
    tmp_path: Path, tiny_folder: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = burnish.run(recipe(tmp_path, tiny_folder, suite, 0.02, 99), quiet=True)
    kept = (made.adapter / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr(verbs, "is_release_healed", lambda _: False)
    monkeypatch.setattr(ScaleSearch, "best_within_budget", lambda _: None)
    monkeypatch.setattr(heal, "_SLOPES", (0.5,))
    monkeypatch.setattr(heal, "REMEDIES", ())
    strict = certify.certify

    def nothing(order: Any, *rest: Any) -> Any:
        found = strict(order, *rest)
        return replace(found, released=None) if len(order) > 1 or order[0].slope else found

    monkeypatch.setattr(certify, "certify", nothing)
    monkeypatch.setattr(
        certify, "order_of_testing", lambda found, _: [one for one in found if one.slope]
    )
    healed = burnish.heal(made.path, 10, quiet=True)
    assert healed.verdict().decision == "release"
    assert "look 1" in " ".join(healed.verdict().reasons)
    assert (healed.adapter / "adapter_model.safetensors").read_bytes() == kept


def test_no_look_is_spent_where_nothing_new_was_found(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "REMEDIES", ())
    monkeypatch.setattr(heal, "_SLOPES", ())
    asked = RunDirectory.open(run)
    before = asked.cert_uses.read_text()
    monkeypatch.setattr(
        certify, "order_of_testing", lambda found, _: [replace(one, scale=0.5) for one in found]
    )
    told = burnish.heal(run, 10, quiet=True).verdict()
    uses = [json.loads(line) for line in asked.cert_uses.read_text().splitlines()]
    assert asked.cert_uses.read_text().startswith(before)
    assert {use["look"] for use in uses} == {1}
    assert told.decision != "release"
    assert "look 1" in " ".join(told.reasons)


@pytest.mark.usefixtures("few")
def test_where_one_attempt_fails_another_one_gets_a_look(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained failed at the first look, and no attempt that failed is asked again."""
    monkeypatch.setattr(heal, "is_healed", lambda _: False)
    monkeypatch.setattr(certify, "_WORTH_A_LOOK", -1.0)
    monkeypatch.setattr(ScaleSearch, "_gain", lambda *_: (50.0, (40.0, 60.0)))
    asked: list[str] = []
    measured = certify.cert_evidence

    def evidence(directory: Any, certs: Any, label: str, *rest: Any) -> Evidence:
        asked.append(label.partition("-step")[0])
        found = measured(directory, certs, label, *rest)
        if asked[-1] != asked[0]:
            return replace(found, sections={n: (b, b) for n, (b, _) in found.sections.items()})
        return replace(found, sections={n: (b, ~b & b) for n, (b, _) in found.sections.items()})

    monkeypatch.setattr(certify, "cert_evidence", evidence)
    healed = burnish.heal(run, 10, quiet=True)
    assert set(asked) == {"1-continue", "2-anchor"}
    released = healed.frontier().candidates[healed.frontier().released or 0]
    assert released.attempt == asked[-1]
    kept, failed, last = healed.verdict().reasons[1:4]
    assert "stays within every budget" in kept
    assert "could not be certified within every budget" in failed
    assert "look 3" in last
    again = burnish.heal(run, 10, quiet=True)
    assert again.verdict() == healed.verdict()


@pytest.mark.parametrize("gone", ["checkpoints", "known.jsonl"])
def test_what_cannot_be_healed_keeps_its_verdict(run: Path, suite: Path, gone: str) -> None:
    lost = suite if gone == suite.name else run / gone
    verdict = RunDirectory.open(run).verdict()
    aside = lost.rename(lost.with_name("aside"))
    try:
        with pytest.raises(UserError):
            burnish.heal(run, quiet=True)
    finally:
        aside.rename(lost)
    kept = RunDirectory.open(run)
    assert (kept.verdict(), kept.manifest().state) == (verdict, "certified")
    assert (run / "ledger.json").exists()


def test_a_run_without_a_suite_says_so(tmp_path: Path, tiny_folder: Path, suite: Path) -> None:
    path = recipe(tmp_path, tiny_folder, suite, 0.02, 99)
    made = burnish.run(path, quiet=True, evaluate={"general": None})
    with refused("no_general_suite", RunError, path=str(made.path)):
        burnish.heal(made.path, 1, quiet=True)
