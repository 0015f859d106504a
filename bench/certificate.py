"""How often is a model over its budget released, and how much of the gain is kept?

    python bench/certificate.py --measure [--limit 100] [--scales 0.25 0.5 1]
    python bench/certificate.py [--resample 2000] [--general 1 2 3] [--text-loss 10]

`--measure` trains two adapters on the support-routing rows (at the automatic learning rate and at
four times it), asks the base model and both adapters, at each
of `--scales`, every item of the general suite and the validation rows, and keeps every answer in
the user's cache folder. What is there is not measured again.

Without it, those answers are the truth: a candidate's drop on all of them is its true drop, and it
is over budget when that is. Each of `--resample` times PROBE (30%), CERT (70%) and validation
rows are drawn from them with replacement, and each procedure releases a candidate or the base:

  point     highest validation gain of those whose estimate on all drawn items is inside
  gate      the same, of those whose 95% interval on all drawn items is inside, section by section
  gate 1    the same gate with the whole suite pooled to one benchmark
  ours      frontier and order from PROBE and validation, fixed sequence on CERT, as a first look
  bonf all  highest gain of those that pass our tests on all drawn items, alpha over all candidates
  bonf cert the same on CERT, alpha over the candidates that ours would test

The gate is NVIDIA's `nel gate`: of each benchmark a two-sided 95% Student interval of the paired
differences, which passes when its damaged end is within `max_drop`, fails when it is wholly beyond,
and is insufficient evidence between; all benchmarks must pass (NVIDIA-NeMo/Evaluator, commit
ac66aff, src/nemo_evaluator/engine/gate.py, `_paired_delta_ci` and `_apply_thresholds`; items
without categories). Its `max_drop` is the budget of the mean.

Printed are the share of draws in which a model over budget was released, that in which the base
stayed, and the gain that was kept: the true gain of what was released, over that of the best
candidate truly inside. A model over budget counts there as no gain. Ours has to release at most
5% over budget and keep more gain than Bonferroni.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import log1p, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from burnish.certification.budgets import Budgets, Evidence, all_pass, budget_tests, text_rise
from burnish.certification.fixed_sequence import certify
from burnish.certification.forecast import Forecast
from burnish.certification.ordering import order_of_testing
from burnish.evaluation.statistics import macro_paired, paired_outcomes
from burnish.runs.atomic import write_atomic
from burnish.runs.candidates import Candidate
from burnish.runs.directory import read_results
from burnish.runs.json_lines import from_json

SCALES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25]
PROBE = 0.3
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """Results of the base (row 0) and of each candidate: arrays [1 + candidates, items]."""

    sections: dict[str, Array]  # bool
    texts: dict[str, Array]  # nats a token
    target: Array  # bool, validation rows

    def evidence(self, place: int) -> Evidence:
        row = place + 1
        return Evidence(
            {name: (values[0], values[row]) for name, values in self.sections.items()},
            {name: (values[0], values[row]) for name, values in self.texts.items()},
        )

    def gains(self) -> Array:
        """Points of validation accuracy that each candidate has more than the base."""
        means = 100 * self.target.mean(axis=1)
        return means[1:] - means[0]

    def drops(self) -> Array:
        """Points of the suite mean that each candidate has less than the base."""
        means = 100 * np.mean([values.mean(axis=1) for values in self.sections.values()], axis=0)
        return means[0] - means[1:]

    def rises(self) -> Array:
        """Nats a token on prose that each candidate has more than the base."""
        if not self.texts:
            return np.full(len(self.target) - 1, -np.inf)
        means = np.mean([values.mean(axis=1) for values in self.texts.values()], axis=0)
        return means[1:] - means[0]

    def inside(self, budgets: Budgets) -> Array:
        """Which candidates are inside, taking these items for all there are."""
        most = np.inf if budgets.text_loss is None else log1p(budgets.text_loss / 100)
        return (self.drops() < budgets.general) & (self.rises() < most)


@dataclass(frozen=True, eq=False)
class Draw:
    """What a procedure may see: `everything` is PROBE and CERT together."""

    probe: Answers
    cert: Answers
    everything: Answers


Procedure = Callable[[Draw, Sequence[Candidate], Budgets], int | None]


def draw(answers: Answers, rng: np.random.Generator) -> Draw:
    """Samples of the items with replacement, the same for the base and all candidates."""

    def chosen(values: Array, share: float) -> Array:
        count = max(2, round(share * values.shape[1]))
        return values[:, rng.integers(values.shape[1], size=count)]

    target = chosen(answers.target, 1.0)

    def part(share: float) -> Answers:
        return Answers(
            {name: chosen(values, share) for name, values in answers.sections.items()},
            {name: chosen(values, share) for name, values in answers.texts.items()},
            target,
        )

    probe, cert = part(PROBE), part(1 - PROBE)

    def joined(first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
        return {name: np.concatenate([first[name], second[name]], axis=1) for name in first}

    everything = Answers(
        joined(probe.sections, cert.sections), joined(probe.texts, cert.texts), target
    )
    return Draw(probe, cert, everything)


def by_point(drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets) -> int | None:
    return best(drawn, drawn.everything.inside(budgets).__getitem__)


def by_gate(drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets) -> int | None:
    seen = drawn.everything
    return best(drawn, lambda place: gate(seen, place, list(seen.sections.values()), budgets))


def by_pooled_gate(drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets) -> int | None:
    seen = drawn.everything
    pooled = [np.concatenate(list(seen.sections.values()), axis=1)]
    return best(drawn, lambda place: gate(seen, place, pooled, budgets))


def by_certificate(drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets) -> int | None:
    measured = measured_candidates(drawn, candidates, budgets)
    places = {candidate.key: place for place, candidate in enumerate(measured)}
    order = order_of_testing(measured, Forecast(measured, budgets))
    found = certify(order, lambda chosen: drawn.cert.evidence(places[chosen.key]), budgets)
    return places[found.released.key] if found.released is not None else None


def by_bonferroni(drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets) -> int | None:
    level = 1 - (1 - budgets.confidence) / len(candidates)
    seen = drawn.everything
    return best(drawn, lambda place: all_pass(budget_tests(seen.evidence(place), budgets, level)))


def by_bonferroni_on_cert(
    drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets
) -> int | None:
    measured = measured_candidates(drawn, candidates, budgets)
    tested = {
        candidate.key for candidate in order_of_testing(measured, Forecast(measured, budgets))
    }
    level = 1 - (1 - budgets.confidence) / max(1, len(tested))
    return best(
        drawn,
        lambda place: (
            measured[place].key in tested
            and all_pass(budget_tests(drawn.cert.evidence(place), budgets, level))
        ),
    )


PROCEDURES: dict[str, Procedure] = {
    "point": by_point,
    "gate": by_gate,
    "gate 1": by_pooled_gate,
    "ours": by_certificate,
    "bonf all": by_bonferroni,
    "bonf cert": by_bonferroni_on_cert,
}


def best(drawn: Draw, passes: Callable[[int], bool]) -> int | None:
    """The candidate with the highest validation gain that passes; none without a gain."""
    gains = drawn.probe.gains()
    for place in np.argsort(-gains, kind="stable").tolist():
        if gains[place] > 0 and passes(place):
            return int(place)
    return None


def gate(seen: Answers, place: int, benchmarks: Sequence[Array], budgets: Budgets) -> bool:
    """Whether every benchmark's two-sided 95% interval is within the budget."""
    row = place + 1
    damages = [values[0].astype(float) - values[row] for values in benchmarks]
    if not all(damage_end(damage) <= budgets.general / 100 for damage in damages):
        return False
    if budgets.text_loss is None:
        return True
    rises = [values[row] - values[0] for values in seen.texts.values()]
    return all(damage_end(rise) <= log1p(budgets.text_loss / 100) for rise in rises)


def damage_end(damages: Array) -> float:
    """The upper end of the two-sided 95% Student interval of their mean."""
    half = float(student.ppf(0.975, len(damages) - 1)) * damages.std(ddof=1) / sqrt(len(damages))
    return float(damages.mean() + half)


def measured_candidates(
    drawn: Draw, candidates: Sequence[Candidate], budgets: Budgets
) -> list[Candidate]:
    """Candidates with what PROBE and validation say of them."""
    return [measured_one(drawn.probe, place, found) for place, found in enumerate(candidates)]


def measured_one(probe: Answers, place: int, candidate: Candidate) -> Candidate:
    evidence = probe.evidence(place)
    suite = macro_paired(evidence.sections)
    gain = paired_outcomes(probe.target[0], probe.target[place + 1])
    return replace(
        candidate,
        gain=100 * gain.delta,
        gain_range=(100 * gain.interval.low, 100 * gain.interval.high),
        drop=-100 * suite.delta,
        drop_range=(-100 * suite.interval.high, -100 * suite.interval.low),
        text_loss=text_rise(evidence.texts, 0.95)[0] if evidence.texts else None,
    )


@dataclass
class Tally:
    """Draws of one procedure."""

    over: int = 0
    base: int = 0
    gain: float = 0.0


def compare(
    answers: Answers,
    candidates: Sequence[Candidate],
    budgets: Budgets,
    *,
    resample: int,
    seed: int = 0,
) -> dict[str, Tally]:
    """Each procedure on the same draws; `gain` is the sum of true gains of what was inside."""
    truly, gains = answers.inside(budgets), answers.gains()
    rng = np.random.default_rng(seed)
    tallies = {name: Tally() for name in PROCEDURES}
    for _ in range(resample):
        drawn = draw(answers, rng)
        for name, procedure in PROCEDURES.items():
            place = procedure(drawn, candidates, budgets)
            tallies[name].base += place is None
            if place is not None:
                tallies[name].over += not truly[place]
                tallies[name].gain += float(gains[place]) if truly[place] else 0.0
    return tallies


def print_table(answers: Answers, budgets: Budgets, tallies: dict[str, Tally], draws: int) -> None:
    truly = answers.inside(budgets)
    possible = max(answers.gains()[truly], default=0.0)
    prose = "" if budgets.text_loss is None else f" and {budgets.text_loss:g}% on prose"
    print(f"\nbudget {budgets.general:g} points{prose}")
    print(f"{truly.sum()} of {len(truly)} candidates inside, the best gains {possible:.1f} points")
    print(f"{'':10}{'over budget':>13}{'base stays':>13}{'gain kept':>13}")
    for name, tally in tallies.items():
        shares = [tally.over / draws, tally.base / draws]
        kept = f"{100 * tally.gain / draws / possible:12.1f}%" if possible > 0 else f"{'–':>13}"
        print(f"{name:10}" + "".join(f"{100 * share:12.2f}%" for share in shares) + kept)


def measure(folder: Path, steps: int, scales: Sequence[float], limit: int | None) -> None:
    """Answers of the base and of every scale of both adapters, kept in `folder`."""
    from validity import trained

    from burnish.evaluation.runner import run_task
    from burnish.evaluation.suite import load_suite
    from burnish.evaluation.tasks import label_task
    from burnish.pipeline.verbs import open_tuned
    from burnish.runs.directory import RunDirectory

    suite = load_suite("core")
    index: dict[str, Any] = {
        "sections": [task.name for task in suite.sections],
        "texts": [task.name for task in suite.texts],
        "candidates": {},
    }
    for times in (1, 4):
        run = folder.parent / "runs" / str(steps) / f"times-{times}"
        if not (run / "adapter").exists():
            shutil.rmtree(run, ignore_errors=True)
            trained(run.parent, run.name, steps, times)
        model, directory = open_tuned(run), RunDirectory.open(run)
        labels = sorted({str(e.label) for e in directory.split("train")})
        rows = label_task("validation", directory.split("validation"), labels)
        tasks = [Part(task, limit) for task in (rows, *suite.sections, *suite.texts)]
        with model.base() as base:
            for task in tasks:
                run_task(base, task, folder / "base" / f"{task.name}.jsonl")
        for scale in scales:
            label = f"times-{times}-scale-{scale:g}"
            with model.at_scale(scale) as scaled:
                for task in tasks:
                    run_task(scaled, task, folder / label / f"{task.name}.jsonl")
            index["candidates"][label] = asdict(Candidate(str(model.adapter_sha256), steps, scale))
            print(f"measured {label}", flush=True)
    write_atomic(folder / "index.json", json.dumps(index, indent=2))


@dataclass(frozen=True)
class Part:
    """The first `limit` items of a task."""

    task: Any
    limit: int | None

    @property
    def name(self) -> str:
        return str(self.task.name)

    @property
    def hash(self) -> str:
        return f"{self.task.hash}-{len(self)}"

    def __len__(self) -> int:
        return min(len(self.task), self.limit or len(self.task))

    def answer(self, model: Any, start: int, stop: int) -> list[Any]:
        return list(self.task.answer(model, start, stop))


def load(folder: Path) -> tuple[Answers, list[Candidate]]:
    """What `measure` kept."""
    if not (folder / "index.json").exists():
        raise SystemExit(f"Nothing was measured in {folder} yet; run it with --measure first.")
    index = json.loads((folder / "index.json").read_text())
    labels = ["base", *index["candidates"]]

    def scores(task: str) -> Array:
        found = [read_results(folder / label / f"{task}.jsonl") for label in labels]
        ids = [[result.id for result in results] for results in found]
        assert all(row == ids[0] for row in ids), f"{task} was not measured on the same items"
        return np.array([[result.score for result in results] for results in found])

    answers = Answers(
        {name: scores(name) > 0.5 for name in index["sections"]},
        {name: scores(name) for name in index["texts"]},
        scores("validation") > 0.5,
    )
    return answers, [from_json(Candidate, row) for row in index["candidates"].values()]


def print_truth(answers: Answers, candidates: Sequence[Candidate], labels: Sequence[str]) -> None:
    print(f"{'points':26}{'gain':>8}{'drop':>8}{'prose %':>12}{'changed %':>11}")
    rises = 100 * np.expm1(answers.rises())
    for place, label in enumerate(labels):
        sections = answers.sections.values()
        changed = 100 * np.mean([(v[0] != v[place + 1]).mean() for v in sections])
        values = (answers.gains()[place], answers.drops()[place])
        row = "".join(f"{value:8.2f}" for value in values)
        print(f"{label:26}{row}{rises[place]:12.2f}{changed:11.1f}")


def main() -> None:
    from burnish.models.cache import cache_folder

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--limit", type=int, help="items of each section, all by default")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--resample", type=int, default=2000)
    parser.add_argument("--general", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--text-loss", type=float, default=10.0, help="percent of perplexity")
    given = parser.parse_args()
    folder = cache_folder() / "certificate" / f"items-{given.limit or 'all'}"
    if given.measure:
        measure(folder, given.steps, given.scales, given.limit)
    answers, candidates = load(folder)
    labels = list(json.loads((folder / "index.json").read_text())["candidates"])
    print_truth(answers, candidates, labels)
    for general in given.general:
        budgets = Budgets(general, text_loss=given.text_loss)
        tallies = compare(answers, candidates, budgets, resample=given.resample)
        print_table(answers, budgets, tallies, given.resample)


if __name__ == "__main__":
    main()
