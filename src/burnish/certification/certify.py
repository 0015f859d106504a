"""Certifies the candidates of a search: tests them on CERT in an order that PROBE determined.

Neither CERT nor the test set is used before.
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
from burnish.certification.run_ledger import is_refusal, leaked_items
from burnish.certification.search import ScaleSearch, counted_sections, label_of
from burnish.evaluation.contamination import texts_of
from burnish.evaluation.measure import measure
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import Task
from burnish.models.adapt import save_weights
from burnish.models.load import base_sha256
from burnish.parity.compare import record_reference, save_reference
from burnish.progress import counts_to
from burnish.recipe.methods import METHODS
from burnish.runs.atomic import new_folder, write_atomic
from burnish.runs.candidates import Candidate
from burnish.runs.directory import RunDirectory
from burnish.runs.overlaps import Leakage

# After a failed look another attempt is tested if it is expected to gain this share of the best.
_WORTH_A_LOOK = 0.1
_NOT_WORTH_IT = (
    "No healed candidate is expected to gain enough to justify another look at the certification "
    "items."
)


@counts_to("certification")
def certify_candidates(
    search: ScaleSearch, certs: Sequence[Suite], order: Sequence[Candidate] = ()
) -> tuple[Certificate, Candidate]:
    """Test the candidates of a search on CERT in a fixed order; the base is already measured there.

    `frontier.json` is written before CERT is measured, and again with the released candidate. An
    `order` that an interrupted run already fixed is used again. A candidate that passed an earlier
    look stays released unless one with a larger gain passes now. If nothing new has enough expected
    gain, the earlier look is reported again. If nothing passes and another healing attempt gained
    too, that attempt gets a look of its own.

    Returns:
        The certificate, and the candidate that the ledger describes: the released one, or the
        safest tested one if none is released.
    """
    directory, budgets = search.directory, search.budgets
    tasks = [task for cert in certs for task in cert.tasks]
    ledger = cert_ledger(directory, search.model.source_sha256, certs)
    passed = ledger.passed(budgets)
    complete = order_of_testing(list(search.candidates.values()), search.forecast)
    again = _last_look(search, ledger)
    order = order or _untested_attempts(search, ledger) or again or complete or [search.unscaled()]
    candidates = list(search.candidates.values())
    directory.write_frontier(as_frontier(candidates, order, None))

    def evidence(candidate: Candidate) -> Evidence:
        label = label_of(candidate)
        with search.at(candidate) as model:
            measure(directory, model, label, tasks, search.bars)
        return cert_evidence(directory, certs, label, search.leakage, budgets)

    certificate = certify(order, evidence, budgets, ledger)
    if certificate.released is None and (other := _untested_attempts(search, ledger)):
        order = other
        directory.write_frontier(as_frontier(candidates, order, None))
        certificate = merge_looks(certificate, certify(order, evidence, budgets, ledger))
    if order is again and len(search.runs) > 1:
        certificate = replace(certificate, reasons=(*certificate.reasons, _NOT_WORTH_IT))
    best = max((one for one in candidates if one.key in passed), key=_gain, default=None)
    if _gain(best) > _gain(certificate.released):
        assert best is not None
        certificate = certify([best], evidence, budgets, ledger)  # repeats its own look
    directory.write_frontier(as_frontier(candidates, order, certificate.released))
    shown = certificate.released or certificate.tested[0].candidate
    for task in tasks:
        _copy_results(directory, label_of(shown), "tuned", task.name)
    return certificate, shown


def _untested_attempts(search: ScaleSearch, ledger: CertLedger) -> list[Candidate]:
    """The order of testing among attempts without a candidate that failed on these items.

    A candidate that failed would also fail every later, stricter look, and so would riskier ones of
    its attempt. Empty if the expected gain is so small that the look is better saved for later.
    """
    failed = ledger.failed(search.budgets)
    attempts = {one.attempt for one in search.candidates.values() if one.key in failed}
    others = [one for one in search.candidates.values() if one.attempt not in attempts]
    order = order_of_testing(others, search.forecast)
    greatest = max(map(_gain, search.candidates.values()), default=0.0)
    return order if search.forecast.expected_gain(order) > _WORTH_A_LOOK * greatest else []


def _last_look(search: ScaleSearch, ledger: CertLedger) -> list[Candidate]:
    """The candidates of the last look, which costs no alpha to repeat.

    Empty before the first look, and if the search does not know all of its candidates.
    """
    tested = ledger.tested(search.budgets)
    known = [search.candidates[key] for key in tested if key in search.candidates]
    return known if len(known) == len(tested) else []


def release_candidate(search: ScaleSearch, candidate: Candidate) -> None:
    """Save the candidate as the run's adapter, with its scale applied to the weights.

    Its answers in memory are recorded, so that later forms of it can be compared with them.
    """
    directory = search.directory
    with new_folder(directory.adapter) as new, search.at(candidate) as model:
        save_weights(model.module, new)
        reference = record_reference(directory, model)
    save_reference(directory, reference)


def cert_hashes(certs: Sequence[Suite]) -> list[str]:
    """A short hash of each certification task, for the ledger of looks."""
    return [task.hash[:16] for cert in certs for task in cert.tasks]


def cert_ledger(directory: RunDirectory, base: str, certs: Sequence[Suite]) -> CertLedger:
    """The run's ledger of looks at the certification items of these suites.

    Items are identified by their text, so that a suite that was edited or renamed does not count as
    unseen.
    """
    texts = (text for cert in certs for task in cert.tasks for text in texts_of(task))
    hashes = (hashlib.sha256(json.dumps(text.own).encode()).hexdigest()[:10] for text in texts)
    return CertLedger(directory, base, cert_hashes(certs), tuple(hashes))


def next_look(directory: RunDirectory, certs: Sequence[Suite]) -> int:
    """The number of the next look, counting the looks that the run inherits."""
    manifest = directory.manifest()
    method = METHODS[manifest.recipe.get("method", "lora")]
    base = base_sha256(manifest.model["sha256"], four_bit=method.four_bit)
    return cert_ledger(directory, base, certs).next_number


def cert_evidence(
    directory: RunDirectory,
    certs: Sequence[Suite],
    label: str,
    leakage: Leakage,
    budgets: Budgets,
) -> Evidence:
    """Results of the base and another model on CERT: the first suite, with the others attached."""
    suites = [
        replace(_evidence(directory, cert, label, leakage), budget=budgets.of(cert.name))
        for cert in certs
    ]
    if len(suites) > 1:
        names = [cert.name.removesuffix("-cert") for cert in certs]
        suites = [replace(one, suite=name) for one, name in zip(suites, names, strict=True)]
    return replace(suites[0], other_suites=tuple(suites[1:]))


def _evidence(directory: RunDirectory, cert: Suite, label: str, leakage: Leakage) -> Evidence:
    def pair(name: str) -> Pair:
        return directory.results("base", name), directory.results(label, name)

    def unseen(task: Task) -> bool:
        return not leaked_items(task.name, leakage)

    names = counted_sections(directory, cert, leakage)
    texts = [task.name for task in cert.texts if unseen(task)]
    bias = [task.name for task in cert.bias if unseen(task)]
    refusal = [name for name in names if is_refusal(name)]
    excluded = {
        "text loss": cert.texts and not texts,
        "bias": cert.bias and not bias,
        "refusal": any(is_refusal(task.name) for task in cert.sections) and not refusal,
    }
    evidence = Evidence.of(
        {name: pair(name) for name in names},
        {name: pair(name) for name in texts},
        _concatenate([pair(name) for name in bias]),
        _concatenate([pair(name) for name in refusal]),
    )
    names_excluded = tuple(name for name, without in excluded.items() if without)
    without_mean = bool(cert.sections) and not names
    return replace(evidence, excluded=names_excluded, without_mean=without_mean)


def _gain(candidate: Candidate | None) -> float:
    return (candidate.worth or 0.0) if candidate is not None else 0.0


def _concatenate(pairs: Sequence[Pair]) -> Pair | None:
    if not pairs:
        return None
    return [r for base, _ in pairs for r in base], [r for _, own in pairs for r in own]


def _copy_results(directory: RunDirectory, label: str, other: str, task: str) -> None:
    """Copy a model's results to another label, so that nothing is measured twice."""
    for suffix in (".jsonl", ".key"):
        source = directory.results_path(label, task).with_suffix(suffix)
        target = directory.results_path(other, task).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, source.read_text(encoding="utf-8"))
