"""The certificate of a run: begun while the model is in memory, completed from the disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.errors import ModelError, RunError
from burnish.export.export import open_merged
from burnish.models.adapt import WHOLE
from burnish.models.from_run import open_tuned
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import check_trained, recipe_of, tuned_sha256
from burnish.parity.difference import Heard, difference
from burnish.parity.endpoint import Endpoint
from burnish.parity.llama_cpp import check_llama_cpp, opened, precision_of
from burnish.parity.local import answered, heard
from burnish.parity.prompts import chosen, read_prompts
from burnish.parity.record import Comparison, Parity, Reference, Voice, read_parity, write_parity
from burnish.recipe.schema import HEADS
from burnish.runs.directory import RunDirectory

# Nats by the voice and, of GGUF, by its precision; docs/how-to/parity.md has what was measured.
_TOLERANCES = {
    "reloaded": 1e-3, "merged": 1e-3, "endpoint": 1e-2, "f32": 1e-2, "f16": 0.05, "q8_0": 0.5
}  # fmt: skip
# Voices that are asked only on request.
_ASKED: tuple[Voice, ...] = ("gguf", "endpoint")
# At least, of models that compute in numbers of 16 bits.
_COARSE = 0.25

_GONE = "it is there only at the end of a run, and this run did not keep what it said"


@dataclass(frozen=True, slots=True)
class Others:
    """Who is asked besides the weights on disk.

    Attributes:
        url: a server's base URL, ending in /v1.
        model: what it calls the model.
        gguf: a file for llama.cpp.
        tolerance: nats, instead of the voice's own.
    """

    url: str | None = None
    model: str = ""
    gguf: Path | None = None
    tolerance: float | None = None


def reference_of(directory: RunDirectory, model: LanguageModel) -> Reference:
    """What the model in memory says, to be given to `begin` once its weights are saved."""
    prompts = chosen(directory, model.tokenizer, model.context_length)
    said = answered(model, prompts)
    return Reference("memory", "", _precision(model), said)


def begin(directory: RunDirectory, reference: Reference) -> None:
    """Begins the certificate anew, for the weights that the run holds now."""
    weights = tuned_sha256(directory)
    write_parity(directory.path, Parity(replace(reference, weights=weights)))


def writes_text(directory: RunDirectory) -> bool:
    """Whether there is anything to certify: heads and reward models write no text."""
    objective = recipe_of(directory.manifest()).objective
    return objective not in HEADS and objective != "reward" and directory.adapter.exists()


def certify(
    directory: RunDirectory, others: Others | None = None, prompts: Path | None = None
) -> Parity:
    """Asks the same prompts of every voice and compares it with the reference.

    The reference is what the model said in memory, where the run kept that, else the reloaded
    weights. The certificate is kept in the run; what an earlier one says of a file or an endpoint
    stays in it until another is asked, as long as the weights are the same. With `prompts`, a file,
    nothing is kept: what the model in memory would have said to them is not known.

    Raises:
        RunError: the run is not trained, or its model writes no text.
        ModelError: the GGUF file or the endpoint cannot be asked.
        DataError: the prompts cannot be read.
    """
    others = others or Others()
    check_trained(directory)
    if not writes_text(directory):
        raise RunError(
            f"{directory.path} holds a model that never writes text",
            "name a run of another objective",
            code="writes_no_text",
            path=str(directory.path),
        )
    if others.gguf is not None:
        check_llama_cpp()
    kept = None if prompts else read_parity(directory.path)
    found = _compared(directory, kept, others, prompts)
    if prompts is None:
        write_parity(directory.path, found)
    return found


def complete(directory: RunDirectory) -> Parity | None:
    """The certificate of a run that has just ended; None where its model writes no text.

    One that is complete already is only read.
    """
    if not writes_text(directory):
        return None
    kept = read_parity(directory.path)
    done = kept is not None and kept.comparisons
    return kept if done else certify(directory)


def objection(folder: Path) -> str | None:
    """Why a run's model should have no alias, as a clause; None where parity was shown.

    Raises:
        RunError: the run has a certificate that cannot be read.
    """
    parity = read_parity(folder)
    if parity is None or parity.difference:
        return None if parity is None else parity.difference
    if parity.reference.weights != tuned_sha256(RunDirectory.open(folder)):
        return "its weights on disk are not those that its certificate of parity is about"
    return None


def _compared(
    directory: RunDirectory, kept: Parity | None, others: Others, prompts: Path | None
) -> Parity:
    weights = tuned_sha256(directory)
    model = open_tuned(directory)
    tokenizer, precision = model.tokenizer, _precision(model)
    if kept is not None and kept.reference.voice == "memory":
        reference = kept.reference
        asked = heard(model, reference.said)
        found = [_comparison("reloaded", "", reference, asked, _allowed("reloaded", precision))]
    else:
        given = (
            read_prompts(prompts) if prompts else chosen(directory, tokenizer, model.context_length)
        )
        reference = Reference("reloaded", weights, precision, answered(model, given))
        found = [Comparison("memory", "", 0.0, missing=_GONE)]
    del model  # one at a time: on a GPU two may not fit
    found.append(_merged(directory, reference, precision))
    allowed = others.tolerance
    if others.gguf is not None:
        kind = precision_of(others.gguf)
        with opened(others.gguf, reference.said, tokenizer) as file:
            said = file.heard(reference.said)
        tolerance = _allowed(kind, precision) if allowed is None else allowed
        found.append(_comparison("gguf", str(others.gguf), reference, said, tolerance))
    if others.url is not None:
        with Endpoint(others.url, others.model, tokenizer) as endpoint:
            said = endpoint.heard(reference.said)
        tolerance = _allowed("endpoint", precision) if allowed is None else allowed
        name = f"{others.model} at {others.url}"
        found.append(_comparison("endpoint", name, reference, said, tolerance))
    if kept is not None and kept.reference == reference and reference.weights == weights:
        now = {one.voice for one in found}
        found += [one for one in kept.comparisons if one.voice in _ASKED and one.voice not in now]
    return Parity(reference, tuple(found))


def _merged(directory: RunDirectory, reference: Reference, precision: str) -> Comparison:
    if recipe_of(directory.manifest()).method in WHOLE:
        why = "the run keeps whole weights, so there is nothing to merge"
        return Comparison("merged", "", 0.0, missing=why)
    try:
        model = open_merged(directory)
    except (RunError, ModelError) as error:
        return Comparison("merged", "", 0.0, missing=error.seen)
    assert isinstance(model, LanguageModel)
    said = heard(model, reference.said)
    return _comparison("merged", "", reference, said, _allowed("merged", precision))


def _comparison(
    voice: Voice, name: str, reference: Reference, found: Sequence[Heard], tolerance: float
) -> Comparison:
    differences = map(difference, reference.said, found)
    return Comparison(voice, name, tolerance, tuple(differences))


def _allowed(kind: str, precision: str) -> float:
    return max(_TOLERANCES[kind], 0.0 if precision.endswith("float32") else _COARSE)


def _precision(model: LanguageModel) -> str:
    network = model.network
    return f"{network.device.type}, {str(network.model.dtype).removeprefix('torch.')}"
