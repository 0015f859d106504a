"""The parity check of a run: record the model in memory, then compare the saved forms with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.errors import ModelError, RunError
from burnish.export.export import open_merged
from burnish.models.from_run import open_tuned
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import check_trained, recipe_of, tuned_sha256
from burnish.parity.difference import ProbeResult, difference
from burnish.parity.endpoint import ServedForm
from burnish.parity.llama_cpp import check_llama_cpp, precision_of, serve_gguf
from burnish.parity.local import generate_reference, probe
from burnish.parity.prompts import choose_prompts, read_prompts
from burnish.parity.record import Comparison, Form, Parity, Reference, read_parity, write_parity
from burnish.progress import counts_to
from burnish.runs.directory import RunDirectory

# Nats, by form, and by precision for GGUF; docs/how-to/parity.md has the measurements.
_TOLERANCES = {
    "reloaded": 1e-3, "merged": 1e-3, "endpoint": 1e-2, "f32": 1e-2, "f16": 0.05, "q8_0": 0.5
}  # fmt: skip
# Forms that are compared only on request.
_ON_REQUEST: tuple[Form, ...] = ("gguf", "endpoint")
# The least tolerance of models that compute in 16-bit precision.
_COARSE = 0.25

_GONE = "it exists only at the end of a run, and this run did not record its answers"


@dataclass(frozen=True, slots=True)
class OtherForms:
    """The forms to compare in addition to the weights on disk.

    Attributes:
        url: base URL of a server, ending in /v1.
        model: the model's name on that server.
        gguf: a GGUF file, run with llama.cpp.
        tolerance: in nats, for both; None for the default of each form.
    """

    url: str | None = None
    model: str = ""
    gguf: Path | None = None
    tolerance: float | None = None


def record_reference(directory: RunDirectory, model: LanguageModel) -> Reference:
    """Record the answers of the model in memory; pass them to `save_reference` after saving it."""
    prompts = choose_prompts(directory, model.tokenizer, model.context_length)
    return Reference("memory", "", _precision(model), generate_reference(model, prompts))


def save_reference(directory: RunDirectory, reference: Reference) -> None:
    """Start a new certificate for the weights that the run contains now."""
    weights = tuned_sha256(directory)
    write_parity(directory.path, Parity(replace(reference, weights=weights)))


def generates_text(directory: RunDirectory) -> bool:
    """Whether the run's model generates text; classifiers, taggers and reward models do not."""
    settings = recipe_of(directory.manifest()).objective_settings
    return settings.writes_text and directory.adapter.exists()


def check_parity(
    directory: RunDirectory, others: OtherForms | None = None, prompts: Path | None = None
) -> Parity:
    """Run the same prompts through every form of the model and compare it with the reference.

    The reference is the model in memory if the run recorded its answers, else the reloaded
    weights. The result is saved in the run. Earlier results for a GGUF file or an endpoint are
    retained until another one is compared, as long as the weights are the same. With `prompts`, a
    file, nothing is saved, because the answers of the model in memory are not known for them.

    Raises:
        RunError: the run is not trained, or its model does not generate text.
        ModelError: the GGUF file or the endpoint cannot be used.
        DataError: the prompts cannot be read.
    """
    others = others or OtherForms()
    check_trained(directory)
    if not generates_text(directory):
        raise RunError(
            f"{directory.path} contains a model that does not generate text",
            "choose a run with another objective",
            code="writes_no_text",
            path=str(directory.path),
        )
    if others.gguf is not None:
        check_llama_cpp()
    earlier = None if prompts else read_parity(directory.path)
    parity = _compare(directory, earlier, others, prompts)
    if prompts is None:
        write_parity(directory.path, parity)
    return parity


@counts_to("parity")
def ensure_parity(directory: RunDirectory) -> Parity | None:
    """Return the parity certificate of a finished run, checking parity if it has none yet.

    None if the model does not generate text.
    """
    if not generates_text(directory):
        return None
    certificate = read_parity(directory.path)
    done = certificate is not None and certificate.comparisons
    return certificate if done else check_parity(directory)


def alias_blocker(folder: Path) -> str | None:
    """Why a run's model should not get an alias, as a clause; None if nothing is against it.

    A run without a certificate is not blocked.

    Raises:
        RunError: the run's certificate cannot be read.
    """
    parity = read_parity(folder)
    if parity is None or parity.difference:
        return None if parity is None else parity.difference
    if parity.reference.weights != tuned_sha256(RunDirectory.open(folder)):
        return "its weights on disk have changed since its parity was checked"
    return None


def _compare(
    directory: RunDirectory, saved: Parity | None, others: OtherForms, prompts: Path | None
) -> Parity:
    weights = tuned_sha256(directory)
    model = open_tuned(directory)
    tokenizer, precision = model.tokenizer, _precision(model)
    if saved is not None and saved.reference.form == "memory":
        reference = saved.reference
        results = probe(model, reference.answers)
        comparisons = [
            _comparison("reloaded", "", reference, results, _allowed("reloaded", precision))
        ]
    else:
        questions = (
            read_prompts(prompts)
            if prompts
            else choose_prompts(directory, tokenizer, model.context_length)
        )
        reference = Reference("reloaded", weights, precision, generate_reference(model, questions))
        comparisons = [Comparison("memory", "", 0.0, missing=_GONE)]
    del model  # one at a time: on a GPU two may not fit
    comparisons.append(_merged(directory, reference, precision))
    allowed = others.tolerance
    if others.gguf is not None:
        kind = precision_of(others.gguf)
        with serve_gguf(others.gguf, reference.answers, tokenizer) as file:
            results = file.probe(reference.answers)
        tolerance = _allowed(kind, precision) if allowed is None else allowed
        comparisons.append(_comparison("gguf", str(others.gguf), reference, results, tolerance))
    if others.url is not None:
        results = ServedForm(others.url, others.model, tokenizer).probe(reference.answers)
        tolerance = _allowed("endpoint", precision) if allowed is None else allowed
        name = f"{others.model} at {others.url}"
        comparisons.append(_comparison("endpoint", name, reference, results, tolerance))
    if saved is not None and saved.reference == reference and reference.weights == weights:
        earlier = [one for one in saved.comparisons if one.form in _ON_REQUEST]
        comparisons += [one for one in earlier if one.form not in {new.form for new in comparisons}]
    return Parity(reference, tuple(comparisons))


def _merged(directory: RunDirectory, reference: Reference, precision: str) -> Comparison:
    if not recipe_of(directory.manifest()).method_traits.is_adapter:
        reason = "the run saved full weights, so there is no adapter to merge"
        return Comparison("merged", "", 0.0, missing=reason)
    try:
        model = open_merged(directory)
    except (RunError, ModelError) as error:
        return Comparison("merged", "", 0.0, missing=error.seen)
    assert isinstance(model, LanguageModel)
    results = probe(model, reference.answers)
    return _comparison("merged", "", reference, results, _allowed("merged", precision))


def _comparison(
    form: Form, name: str, reference: Reference, results: Sequence[ProbeResult], tolerance: float
) -> Comparison:
    differences = map(difference, reference.answers, results)
    return Comparison(form, name, tolerance, tuple(differences))


def _allowed(kind: str, precision: str) -> float:
    return max(_TOLERANCES[kind], 0.0 if precision.endswith("float32") else _COARSE)


def _precision(model: LanguageModel) -> str:
    network = model.network
    return f"{network.device.type}, {str(network.model.dtype).removeprefix('torch.')}"
