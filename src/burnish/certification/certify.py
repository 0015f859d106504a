"""The certificate of a search: what it found, tested on CERT in an order that PROBE fixed.

CERT and the test set are not looked at before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from burnish.certification.alpha_ledger import CertLedger
from burnish.certification.budgets import Budgets, Evidence
from burnish.certification.fixed_sequence import Certificate, certify, merge_looks
from burnish.certification.ledger import Pair
from burnish.certification.ordering import as_frontier, order_of_testing
from burnish.certification.run_ledger import is_refusal, learnt_items
from burnish.certification.search import ScaleSearch, counted_sections, label_of
from burnish.evaluation.contamination import texts_of
from burnish.evaluation.measure import measure
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import Task
from burnish.models.adapt import save_weights
from burnish.models.load import base_sha256
from burnish.parity.compare import record_reference, save_reference
from burnish.progress import counts_to
from burnish.runs.candidates import Candidate
from burnish.runs.directory import RunDirectory, replace_directory, write_atomic
from burnish.runs.overlaps import Leakage

# Of the greatest gain, what an attempt has to promise for a look after another one failed.
_WORTH_A_LOOK = 0.1
_NOT_WORTH_IT = "Of what healing found, nothing promises enough to be worth another look."


@counts_to("certification")
def certify_candidates(
    search: ScaleSearch, certs: Sequence[Suite], order: Sequence[Candidate] = ()
) -> tuple[Certificate, Candidate]:
    """Tests what was found in a fixed order on CERT; the base is measured there already.

    `frontier.json` is written before CERT is asked, and again with what is released. An `order`
    that was fixed before, by a run that was stopped since, is kept. What an earlier look let pass
    stays released unless this one lets pass what gained more; where nothing new promises enough,
    the earlier look is told again. Where nothing passes and another attempt of healing gained too,
    that one gets a look of its own.

    Returns:
        The certificate, and the candidate that the ledger is about: what is released, or where
        nothing is, the safest that was tested.
    """
    directory, budgets = search.directory, search.budgets
    tasks = [task for cert in certs for task in cert.tasks]
    ledger = cert_ledger(directory, search.model.source_sha256, certs)
    passed = ledger.passed(budgets)
    every = order_of_testing(list(search.candidates.values()), search.forecast)
    again = _last_look(search, ledger)
    order = order or _untested_attempts(search, ledger) or again or every or [search.unscaled()]
    candidates = list(search.candidates.values())
    directory.write_frontier(as_frontier(candidates, order, None))

    def evidence(candidate: Candidate) -> Evidence:
        label = label_of(candidate)
        with search.at(candidate) as model:
            measure(directory, model, label, tasks, search.bars)
        return cert_evidence(directory, certs, label, search.leakage, budgets)

    found = certify(order, evidence, budgets, ledger)
    if found.released is None and (other := _untested_attempts(search, ledger)):
        order = other
        directory.write_frontier(as_frontier(candidates, order, None))
        found = merge_looks(found, certify(order, evidence, budgets, ledger))
    if order is again and len(search.runs) > 1:
        found = replace(found, reasons=(*found.reasons, _NOT_WORTH_IT))
    best = max((one for one in candidates if one.key in passed), key=_gain, default=None)
    if _gain(best) > _gain(found.released):
        assert best is not None
        found = certify([best], evidence, budgets, ledger)  # its own look over again
    directory.write_frontier(as_frontier(candidates, order, found.released))
    shown = found.released or found.tested[0].candidate
    for task in tasks:
        _copy_results(directory, label_of(shown), "tuned", task.name)
    return found, shown


def _untested_attempts(search: ScaleSearch, ledger: CertLedger) -> list[Candidate]:
    """The order of testing among attempts of which no candidate failed on these items.

    One that failed fails at every later look, which asks for more, and its riskier ones with it.
    Empty where so little is promised that the look is better left to a later model.
    """
    failed = ledger.failed(search.budgets)
    attempts = {one.attempt for one in search.candidates.values() if one.key in failed}
    others = [one for one in search.candidates.values() if one.attempt not in attempts]
    order = order_of_testing(others, search.forecast)
    greatest = max(map(_gain, search.candidates.values()), default=0.0)
    return order if search.forecast.expected_gain(order) > _WORTH_A_LOOK * greatest else []


def _last_look(search: ScaleSearch, ledger: CertLedger) -> list[Candidate]:
    """The candidates of the last look: telling it again costs none, and nothing else is promising.

    Empty before the first look, and where the search does not know all of them.
    """
    tested = ledger.tested(search.budgets)
    known = [search.candidates[key] for key in tested if key in search.candidates]
    return known if len(known) == len(tested) else []


def release_candidate(search: ScaleSearch, candidate: Candidate) -> None:
    """Makes the candidate the run's adapter in the method's own format, the scale worked in.

    What it says in memory is kept, so that what is loaded later can be compared with it.
    """
    directory = search.directory
    new = directory.adapter.with_name(f".{directory.adapter.name}.new")
    with search.at(candidate) as model:
        new.mkdir(exist_ok=True)
        save_weights(model.module, new)
        said = record_reference(directory, model)
    replace_directory(new, directory.adapter)
    save_reference(directory, said)


def cert_hashes(certs: Sequence[Suite]) -> list[str]:
    """A short hash of each certifying task, for the ledger of looks."""
    return [task.hash[:16] for cert in certs for task in cert.tasks]


def cert_ledger(directory: RunDirectory, base: str, certs: Sequence[Suite]) -> CertLedger:
    """The run's ledger of looks at these suites' certifying items.

    Each item is known by how it reads, so a suite that was edited or renamed since does not count
    as one that nobody has seen.
    """
    texts = (text for cert in certs for task in cert.tasks for text in texts_of(task))
    asked = (hashlib.sha256(json.dumps(text.own).encode()).hexdigest()[:10] for text in texts)
    return CertLedger(directory, base, cert_hashes(certs), tuple(asked))


def next_look(directory: RunDirectory, certs: Sequence[Suite]) -> int:
    """The number of the next look, after those that the run inherits."""
    manifest = directory.manifest()
    four_bit = manifest.recipe.get("method") == "qlora"
    base = base_sha256(manifest.model["sha256"], four_bit=four_bit)
    return cert_ledger(directory, base, certs).next_number


def cert_evidence(
    directory: RunDirectory,
    certs: Sequence[Suite],
    label: str,
    leakage: Leakage,
    budgets: Budgets,
) -> Evidence:
    """What base and another model did on CERT: the first suite, the others beside it."""
    found = [
        replace(_evidence(directory, cert, label, leakage), budget=budgets.of(cert.name))
        for cert in certs
    ]
    if len(found) > 1:
        names = [cert.name.removesuffix("-cert") for cert in certs]
        found = [replace(one, suite=name) for one, name in zip(found, names, strict=True)]
    return replace(found[0], beside=tuple(found[1:]))


def _evidence(directory: RunDirectory, cert: Suite, label: str, leakage: Leakage) -> Evidence:
    def pair(name: str) -> Pair:
        return directory.results("base", name), directory.results(label, name)

    def unseen(task: Task) -> bool:
        return not learnt_items(task.name, leakage)

    names = counted_sections(directory, cert, leakage)
    texts = [task.name for task in cert.texts if unseen(task)]
    bias = [task.name for task in cert.bias if unseen(task)]
    refusal = [name for name in names if is_refusal(name)]
    left = {
        "text loss": cert.texts and not texts,
        "bias": cert.bias and not bias,
        "refusal": any(is_refusal(task.name) for task in cert.sections) and not refusal,
    }
    found = Evidence.of(
        {name: pair(name) for name in names},
        {name: pair(name) for name in texts},
        _concatenate([pair(name) for name in bias]),
        _concatenate([pair(name) for name in refusal]),
    )
    left_out = tuple(name for name, out in left.items() if out)
    return replace(found, left_out=left_out, without_mean=bool(cert.sections) and not names)


def _gain(candidate: Candidate | None) -> float:
    return (candidate.worth or 0.0) if candidate is not None else 0.0


def _concatenate(pairs: Sequence[Pair]) -> Pair | None:
    if not pairs:
        return None
    return [r for base, _ in pairs for r in base], [r for _, own in pairs for r in own]


def _copy_results(directory: RunDirectory, label: str, other: str, task: str) -> None:
    """The same model's results under another label, so that nothing is measured twice."""
    for suffix in (".jsonl", ".key"):
        source = directory.results_path(label, task).with_suffix(suffix)
        target = directory.results_path(other, task).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, source.read_text(encoding="utf-8"))
