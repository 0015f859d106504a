"""Any two models on one run's test rows and certifying items: what the first gained and lost.

A comparison is a run directory of its own inside the run's, `comparisons/<other>/`, in which the
other model stands as the base. So the ledger, the verdict and the report are those of any run.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from burnish.candidates import Candidate
from burnish.choosing import cert_evidence, cert_hashes
from burnish.errors import RunError
from burnish.evaluation.general import load_suites
from burnish.evaluation.suite import Suite, split_suite
from burnish.evaluation.tasks import Task
from burnish.lineage import recipe_of
from burnish.measurement import budgets_of, fill_ledger, measure, target_task
from burnish.models.language_model import LanguageModel
from burnish.models.load import context_length, load_model, load_tokenizer
from burnish.models.remote import RemoteModel
from burnish.models.sources import resolve
from burnish.opening import open_tuned
from burnish.progress import Bars
from burnish.recipe import Recipe
from burnish.retention.budgets import Evidence
from burnish.retention.certify import certify
from burnish.retention.looks import CertLedger
from burnish.retention.verdict import decide
from burnish.run_directory import RunDirectory, remove_directory


def compare(
    run: Path | str,
    against: Path | str,
    *,
    served_name: str | None = None,
    quiet: bool = False,
) -> RunDirectory:
    """Measures the run's model against another one and decides by the run's own budgets.

    Args:
        run: a certified run of a model that writes text.
        against: another run's folder, a model by name, or the base URL of a server whose model has
            the run's tokenizer.
        served_name: what the server calls the model; the run's base model if None.
        quiet: no progress bars.

    Raises:
        RunError: the run is not measured yet, or its recipe names no general suite.
    """
    directory = RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    if directory.manifest().state != "certified" or not recipe.evaluate.general:
        raise RunError(
            f"{directory.path} has no certificate to compare with",
            "finish it with `burnish evaluate`, with a general suite in its recipe",
        )
    bars = Bars(quiet=quiet)
    other = _open(against, recipe, served_name)
    targets = [target_task(recipe, directory, other, name) for name in ("", *recipe.tasks)]
    leakage = directory.leakage()
    if leakage is None:
        raise RunError(f"{directory.path} has no leakage.json", "copy the run with all its files")
    found = _begin(directory, other)
    certs = [split_suite(suite)[1] for suite in load_suites(recipe.evaluate.general)]
    certs = [_comparable(cert, other, directory) for cert in certs]
    tasks: list[Task] = [task for cert in certs for task in cert.tasks]
    measure(found, other, "base", [*targets, *tasks], bars)
    ledger = CertLedger(directory, _whose(other), cert_hashes(certs))
    if isinstance(other, RemoteModel):
        other.close()
    del other
    model = open_tuned(directory)

    def evidence(_: Candidate) -> Evidence:
        measure(found, model, "tuned", tasks, bars)
        return cert_evidence(found, certs, "tuned", leakage, budgets_of(recipe))

    itself = Candidate(str(model.adapter_sha256), _last_step(directory), 1.0)
    certificate = certify([itself], evidence, budgets_of(recipe), ledger, "The run's model")
    measure(found, model, "tuned", targets, bars)
    rows = fill_ledger(found, recipe, certs, leakage, certificate.look.confidence)
    found.write_ledger(rows)
    found.write_verdict(decide(rows, recipe.budget.general, None, certificate))
    manifest = found.manifest()
    manifest.state = "certified"
    found.write_manifest(manifest)
    return found


def _open(
    against: Path | str, recipe: Recipe, served_name: str | None
) -> LanguageModel | RemoteModel:
    if str(against).startswith(("http://", "https://")):
        source = resolve(recipe.model)
        name = served_name or source.name
        return RemoteModel(str(against), name, load_tokenizer(source), context_length(source))
    if (Path(against) / "manifest.json").exists():
        return open_tuned(against)
    return load_model(str(against))


def _begin(directory: RunDirectory, other: LanguageModel | RemoteModel) -> RunDirectory:
    """The comparison's own folder, with the run's data; an earlier one of the same is continued."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{other.name}-{other.fingerprint[-16:]}").strip("-")
    path = directory.path / "comparisons" / name
    if (path / "manifest.json").exists():
        return RunDirectory(path)
    hidden = path.with_name(f".{path.name}.new")
    remove_directory(hidden)
    manifest = directory.manifest()
    made = RunDirectory.create(
        hidden,
        replace(
            manifest,
            name=f"{manifest.name} against {other.name}",
            state="trained",
            model={"name": other.name, "origin": "compared", "sha256": other.fingerprint},
            times={},
        ),
    )
    shutil.copytree(directory.path / "data", made.path / "data")
    shutil.copy2(directory.path / "leakage.json", made.path / "leakage.json")
    hidden.rename(path)  # whole or absent
    return RunDirectory(path)


def _whose(other: LanguageModel | RemoteModel) -> str:
    """The model that is compared with: an untuned one is the base of other looks, too."""
    untuned = isinstance(other, LanguageModel) and not other.adapter_sha256
    return other.source_sha256 if untuned else other.fingerprint


def _last_step(directory: RunDirectory) -> int:
    return max((int(event["step"]) for event in directory.events("train")), default=0)


def _comparable(cert: Suite, other: LanguageModel | RemoteModel, directory: RunDirectory) -> Suite:
    """Without distances from a base, and without text loss where a token is not the same thing."""
    recipe = recipe_of(directory.manifest())
    alike = other.source_sha256 == directory.manifest().model["sha256"] or (
        other.name == recipe.model
    )
    alike |= isinstance(other, RemoteModel)  # it was asked with the run's own tokens
    return replace(cert, openings=(), texts=cert.texts if alike else ())
