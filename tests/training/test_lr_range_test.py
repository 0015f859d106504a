"""The screen corrects a bad rate, costs a tenth at most, and leaves nothing but the rate."""

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

import burnish
from burnish.errors import InterruptedRunError
from burnish.models.adapt import add_lora
from burnish.models.branches import Row
from burnish.pipeline import train as pipeline
from burnish.pipeline import verbs
from burnish.runs.directory import RunDirectory
from burnish.training import lr_range_test as screening
from burnish.training.anchor import Anchored, anchors
from burnish.training.batches import Batches
from burnish.training.data_parallel import parameters_of
from burnish.training.loop import Loop, Settings
from burnish.training.lr_range_test import Trial, choose, design, screen
from burnish.training.objectives.base import Loss
from burnish.training.objectives.distill import Distill
from burnish.training.objectives.grpo import Grpo
from burnish.training.objectives.kto import Kto
from burnish.training.objectives.sft import Sft
from tests.rows import labelled, write_rows

# A rate that suits the tiny model below, found by trying.
SANE = 1e-2


def rows(count: int, seed: int) -> list[Row]:
    """Texts that count on by one: what is learnt from some holds for others."""
    chance = random.Random(seed)
    starts = [chance.randrange(3, 50) for _ in range(count)]
    lengths = [4 + chance.randrange(5) for _ in range(count)]
    return [
        Row([1, 2, *range(start, start + length)], [0.0] * 3 + [1.0] * (length - 1))
        for start, length in zip(starts, lengths, strict=True)
    ]


def loop(llama: Any, folder: Path, rate: float = SANE, **changes: Any) -> Loop:
    model = add_lora(llama, rank=4, alpha=8, dropout=0.1, seed=0)
    batches = Batches({"train": rows(32, seed=1)}, 4, 1, changes.pop("epochs", 20), seed=0)
    validation = changes.pop("validation", {"validation": rows(24, seed=2)})
    objective = changes.pop("objective", Sft())
    settings = Settings(rate)
    return Loop(model, batches, objective, settings, validation, folder, lambda *_: None)


def test_choice_by_hand() -> None:
    # Behind the best by 0.1 and 0.3: 0.2 on average, 0.1 x sqrt(2) / sqrt(2) = 0.1 the error.
    low, best, high = Trial(1.0, (1.1, 1.3)), Trial(2.0, (1.0, 1.0)), Trial(4.0, (1.2, 0.85))
    assert low.error(best) == pytest.approx(0.1)
    assert choose([low, best], 1.0) == 2.0  # 0.2 behind, more than one error
    assert choose([best, high], 2.0) == 2.0
    assert choose([best, high], 4.0) == 4.0  # 0.025 behind with an error of 0.175: the rule stays
    even = [Trial(rate, (1.0, 1.0)) for rate in (1.0, 4.0)]
    assert choose(even, 2.0) == 1.0  # of two as near the lower
    assert choose([low, Trial(8.0, ())], 8.0) == 1.0
    assert choose([Trial(1.0, ()), Trial(2.0, ())], 2.0) == 1.0


@pytest.mark.parametrize(
    ("epochs", "rates", "each"), [(9, 0, 0), (10, 2, 4), (15, 3, 4), (20, 4, 4), (400, 4, 16)]
)
def test_at_most_a_tenth_of_the_steps(
    llama: Any, tmp_path: Path, epochs: int, rates: int, each: int
) -> None:
    made = loop(llama, tmp_path, epochs=epochs)  # 8 steps an epoch
    found = design(made)
    assert (len(found.factors), len(found.numbers)) == (rates, each)
    assert rates * each <= 0.1 * made.batches.steps
    assert (found.reason is None) == bool(rates)
    if rates:
        assert 1.0 in found.factors
        gaps = {b - a for a, b in zip(found.numbers, found.numbers[1:], strict=False)}
        assert max(gaps) - min(gaps) <= 1  # spread evenly, as far from both ends
        assert abs(made.batches.steps - 1 - found.numbers[-1] - found.numbers[0]) <= 1
        held = sum(map(len, found.groups))
        assert held <= min(32, sum(len(i) for n in found.numbers for i in made.batches.step(n)))


def test_a_short_run_takes_the_rule_and_says_so(llama: Any, tmp_path: Path) -> None:
    found = screen(loop(llama, tmp_path, epochs=1))
    assert found.chosen == found.rule == SANE
    assert found.sentence() == (
        "learning rate 0.01 by the rule: trying others takes a run of 80 steps, this one has 8"
    )


def test_objectives_without_a_steady_loss_take_the_rule(llama: Any, tmp_path: Path) -> None:
    made = loop(llama, tmp_path)
    for objective in (Grpo, Distill):
        made.objective = object.__new__(objective)
        assert "samples new answers" in str(design(made).reason)
    made.objective = Kto()
    assert "depends on the other rows" in str(design(made).reason)


def test_without_validation_rows_that_no_trial_reads_judge(llama: Any, tmp_path: Path) -> None:
    made = loop(llama, tmp_path, validation={})
    found = design(made)
    read = {id(i) for n in found.numbers for items in made.batches.step(n) for i in items}
    held = [item for group in found.groups for item in group]
    assert held
    assert not read & {id(item) for item in held}
    assert {id(item) for item in held} <= {id(item) for item in made.batches.sets["train"]}


@pytest.mark.parametrize("times", [30.0, 1 / 30])
def test_a_bad_rate_is_corrected_towards_a_sane_one(
    llama: Any, tmp_path: Path, times: float
) -> None:
    found = screen(loop(llama, tmp_path, SANE * times))
    assert (found.chosen < found.rule) == (times > 1)
    assert found.chosen != found.rule
    assert found.chosen in [trial.rate for trial in found.trials]


def test_a_sane_rate_stays_within_a_factor_of_two(llama: Any, tmp_path: Path) -> None:
    found = screen(loop(llama, tmp_path, SANE))
    assert 0.5 <= found.chosen / SANE <= 2


def test_a_diverged_trial_is_never_chosen(llama: Any, tmp_path: Path) -> None:
    class Fragile(Sft):
        """Its loss is not finite once a weight has gone far."""

        def loss(self, network: Any, items: Any) -> Loss:
            far = max(float(p.detach().abs().max()) for p in parameters_of(made.optimizer))
            return Loss(super().loss(network, items).total * (math.nan if far > 0.9 else 1.0))

    made = loop(llama, tmp_path, 0.4, objective=Fragile())
    found = screen(made)
    assert [trial.loss is None for trial in found.trials] == [False, False, True, True]
    assert found.chosen in (0.1, 0.2)
    assert found.as_dict()["losses"][2:] == found.as_dict()["errors"][2:] == [None, None]
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert "0.4 diverged" in found.sentence()


def test_a_trial_begins_with_what_the_run_carries(llama: Any, tmp_path: Path) -> None:
    """Not with what the trial before it left, here the weight of an anchor."""
    plain = loop(llama, tmp_path)
    held = anchors(plain.network, rows(8, seed=3))
    seen: list[float] = []

    class Watched(Anchored):
        def loss(self, network: Any, items: Any) -> Loss:
            seen.append(self.carried["anchor_weight"])
            return super().loss(network, items)

    plain.objective = Watched(Sft(), tolerated=1e-9, share=1.0)
    plain.batches.beside = held
    plain.batches.beside_each = 2
    before = dict(plain.objective.carried)
    assert len(screen(plain).trials) > 1
    assert plain.objective.carried == before
    assert max(seen) > before["anchor_weight"]
    starts = [now for then, now in itertools.pairwise(seen) if now < then]
    assert starts
    assert set(starts) == {before["anchor_weight"]}


def test_nothing_is_left_of_a_screen(llama: Any, tmp_path: Path) -> None:
    made = loop(llama, tmp_path)
    made.model.eval()

    def state() -> tuple[Any, ...]:
        numbers = torch.rand(3).tolist(), random.random(), float(numpy.random.rand())
        return numbers, {k: v.clone() for k, v in made.model.state_dict().items()}

    def seeded() -> None:
        torch.manual_seed(4)
        random.seed(4)
        numpy.random.seed(4)

    seeded()
    numbers, before = state()
    seeded()
    found = screen(made)
    after_numbers, after = state()
    assert len({trial.losses for trial in found.trials}) == 4  # the rates did differ
    assert numbers == after_numbers
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not made.optimizer.state
    assert made.progress.step == 0
    assert not made.model.training
    assert all(parameter.grad is None for parameter in parameters_of(made.optimizer))
    assert list(tmp_path.iterdir()) == []


def test_a_stop_during_the_screen(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loop(llama, tmp_path)

    def stopped(*_: Any) -> None:
        raise InterruptedRunError("stopped at step 2 of 4")

    monkeypatch.setattr(Loop, "_after_step", stopped)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(InterruptedRunError) as caught:
        screen(made)
    assert "2 of 4" not in str(caught.value)  # no step of the run was taken
    after = made.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """24 rows to learn from in batches of 3, ten epochs: 80 steps, so two rates of 4 steps."""
    folder = tmp_path_factory.mktemp("screen")
    write_rows(folder / "rows.jsonl", labelled(18))
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\n"
        "data: {train: rows.jsonl, system: Say red or green}\n"
        "training: {epochs: 10, batch_size: 3, preflight: false}\nlora: {dropout: 0.1}\n"
        f"evaluate: {{general: null}}\noutput: {folder / 'runs'}\n"
    )
    return path


@pytest.fixture(scope="module")
def straight(recipe: Path) -> RunDirectory:
    return burnish.train(recipe, quiet=True, name="straight")


class KilledError(Exception):
    """As a kill would, nothing is written after it."""


def same_weights(one: RunDirectory, other: RunDirectory) -> bool:
    first, second = (load_file(r.adapter / "adapter_model.safetensors") for r in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_that_with_the_chosen_rate_and_a_killed_one_keeps_it(
    recipe: Path, straight: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = straight.manifest().training
    assert kept["steps"] >= 80
    assert kept["screen"]["steps"] * len(kept["screen"]["rates"]) <= 0.1 * kept["steps"]
    assert kept["learning_rate"] == kept["screen"]["chosen"] in kept["screen"]["rates"]
    (event,) = straight.events("screen")
    assert {key: event[key] for key in kept["screen"]} == kept["screen"]
    plain = burnish.train(
        recipe, quiet=True, name="plain", training={"learning_rate": kept["learning_rate"]}
    )
    assert "screen" not in plain.manifest().training
    assert same_weights(straight, plain)

    for last in (3, 30):  # before the first checkpoint, and after it

        def kill(phase: str, values: dict[str, Any], last: int = last) -> None:
            if phase == "train" and values["step"] == last:
                raise KilledError

        name = f"killed-{last}"
        with pytest.raises(KilledError):
            burnish.train(recipe, quiet=True, name=name, on_event=kill)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "screen", lambda _: pytest.fail("screened twice"))
            killed = burnish.train(recipe, quiet=True, name=name, resume=True)
        assert killed.manifest().training == kept
        assert same_weights(straight, killed)


def test_killed_in_the_screen_it_is_screened_anew(
    recipe: Path, straight: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = screening._trial

    def trial(*arguments: Any) -> Trial:
        if arguments[1] == straight.manifest().training["screen"]["rates"][1]:
            raise KilledError
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(screening, "_trial", trial)
        with pytest.raises(KilledError):
            burnish.train(recipe, quiet=True, name="killed")
    killed = RunDirectory.open(recipe.parent / "runs" / "killed")
    assert killed.manifest().training == {}
    burnish.train(recipe, quiet=True, name="killed", resume=True)
    assert killed.manifest().training == straight.manifest().training
    assert same_weights(straight, killed)


def test_rule_takes_the_rule_alone(recipe: Path) -> None:
    run = burnish.train(recipe, quiet=True, training={"learning_rate": "rule", "epochs": 1})
    assert "screen" not in run.manifest().training
    assert run.events("screen") == []
    # 10 x 5e-5 x (2000 / 48) ** 0.781
    assert run.manifest().training["learning_rate"] == pytest.approx(0.00921, abs=1e-5)


def test_plan_counts_the_screen(recipe: Path) -> None:
    auto = verbs.plan(recipe, quiet=True).seconds
    rule = verbs.plan(recipe, quiet=True, training={"learning_rate": "rule"}).seconds
    assert auto is not None
    assert rule is not None
    assert "learning rate" not in rule
    # 8 of 80 steps, and 2 x 3 held-out rows forwards: 12% of the training at most.
    assert 0.05 < auto["learning rate"] / auto["training"] < 0.15
