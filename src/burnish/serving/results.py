"""What a job leaves: checkpoints on the way, and at its end a model, two files and a verdict."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from burnish.agreement import Parity, read_parity
from burnish.data.sample import LIMIT
from burnish.errors import DataError, GraderError
from burnish.run_directory import Finding, RunDirectory, Verdict
from burnish.serving import recipes
from burnish.serving.following import Line, measures, table
from burnish.serving.preparing import Prepared
from burnish.serving.state.content import Content
from burnish.serving.state.events import Event, Level
from burnish.serving.state.files import described
from burnish.serving.state.leases import Result
from burnish.serving.state.names import checkpoint_name, new_id
from burnish.serving.state.tables import JobRow, ModelRow

_PURPOSE = "fine-tune-results"
# How a row of a job's own copy is called, and how many of them an error names.
_ROW, _TOLD = re.compile(r"\b(?:train|validation)\.jsonl:(\d+)"), 3
# Lines of a recipe that name columns, and one that gives a column the name it has.
_COLUMNS = re.compile(
    r"(?:set|name its columns in data\.columns, such as) data: \{columns: \{(.*?)\}\}"
)
_AS_IT_IS = re.compile(r"set data: \{columns: \{(\w+): \1\}\}, or ")
_UNNAMED = "name its columns in data.columns, or "
# How many rows a line of an error stands for besides its own.
_ALIKE = re.compile(r"; and (\d+) more like it")
# What a run advises, in the words of who knows the API and no recipe.
_UPLOADED = {
    "name other files for them, or none to split them off": "give one of other rows, or none",
    "add rows, or name a file as data.test": "upload one with more rows that differ",
    "give rows with prompt, chosen and rejected": (
        "upload rows with input, preferred_output and non_preferred_output"
    ),
    ", or raise training.max_length": "",
    ", or name the column that has it in data.columns": "",
    "train.jsonl": "the training file",
    "validation.jsonl": "the validation file",
}
# Of what is wrong with rows, that which the validation file is to blame for.
_VALIDATION = (
    "validation.jsonl",
    "(validation is read as",
    "since test and validation ask them all",
)


def checkpoint(job: JobRow, prepared: Prepared, folder: str, lines: Sequence[Line]) -> ModelRow:
    """A checkpoint that can be asked; `lines` are those of its step."""
    step = lines[0]["step"]
    metrics: dict[str, Any] = {"step": step}
    for line in lines:
        if line["phase"] == "train":
            metrics |= measures(line, "train")
        elif line["phase"] == "validation":
            metrics |= measures(line, "valid")
    return ModelRow(
        name=checkpoint_name(prepared.tuned, step),
        base=prepared.base,
        job_id=job.id,
        folder=folder,
        created_at=int(time.time()),
        step=step,
        checkpoint_id=new_id("ftckpt_"),
        metrics=metrics,
    )


def snapshot(made: ModelRow) -> Event:
    said = f"Checkpoint created at step {made.step} with Snapshot ID: {made.name}"
    return Event(said, place=f"checkpoint {made.step}")


def result_of(
    job: JobRow, prepared: Prepared, directory: RunDirectory, folder: str, content: Content
) -> Result:
    """The result of a run that has its verdict; `folder` is that of the adapter.

    The files are received and not kept yet: who does not keep them drops them.
    """
    manifest, verdict = directory.manifest(), directory.verdict()
    model = ModelRow(
        name=prepared.tuned,
        base=prepared.base,
        job_id=job.id,
        folder=folder,
        created_at=int(time.time()),
        decision=verdict.decision,
    )
    texts = {
        "step_metrics.csv": table(directory.events()),
        "verdict.json": (directory.path / "verdict.json").read_text(encoding="utf-8"),
    }
    received = {name: content.receive([text.encode()]) for name, text in texts.items()}
    return Result(
        model,
        [(found, described(found, _PURPOSE, name)) for name, found in received.items()],
        manifest.training.get("tokens"),
        recipes.resolved(job, prepared.recipe, _multiplier(manifest.training)),
        _last_words(prepared.tuned, verdict, read_parity(directory.path)),
    )


def learnt_from(counts: Mapping[str, Any]) -> Event:
    """What becomes of the rows that were uploaded, since a part of them is learnt from."""
    parts = {name: int(counts.get(name, 0)) for name in ("train", "validation", "test")}
    train, validation, test = parts.values()
    said = f"Learns from {train} rows; {validation} others validate and {test} test what is learnt"
    return Event(said, data=parts, place="rows")


def warnings(found: Iterable[Finding]) -> list[Event]:
    """What was seen in the rows and is no error; remedies are those of recipes, and left out.

    Columns that nothing uses keep theirs, which is to rename them. Rows that a limit of the
    installation leaves out are reported, too.
    """
    return [
        Event(
            f"In the files: {_remedied(one)}",
            "warn" if one.severity == "warning" else "info",
            data={"kind": one.kind, "rows": one.count, "where": [*map(_line, one.where)]},
            place=f"finding {one.kind} {number}",
        )
        for number, one in enumerate(found)
        if one.severity == "warning" or one.kind == LIMIT
    ]


def _remedied(one: Finding) -> str:
    return _renaming(one.message) if one.kind == "unused" else one.message.partition(";")[0]


def _renaming(message: str) -> str:
    """A line of a recipe's columns in the words of who uploads files and has no recipe."""

    def rename(line: re.Match[str]) -> str:
        pairs = (pair.partition(": ") for pair in line[1].split(", "))
        changed = [f"{column} to {field}" for field, _, column in pairs if column != field]
        return "rename " + " and ".join(changed)

    return _COLUMNS.sub(rename, _AS_IT_IS.sub("", message).replace(_UNNAMED, ""))


def _line(source: str) -> str:
    """Where a row of a job's own copy stands, without the folder."""
    return _ROW.sub(r"line \1", source.rpartition("/")[2])


def error_of(error: dict[str, str], folder: str) -> dict[str, Any]:
    """A UserError as the API has it; paths of this machine are left out of the sentence.

    Args:
        error: its `kind`, the name of the class, and its `message`.
        folder: the job's.
    """
    message = error["message"].replace(f"{folder}/", "")
    if error["kind"] == recipes.TooFewRowsError.__name__:
        return {"code": "invalid_n_examples", "message": message, "param": "training_file"}
    if error["kind"] == GraderError.__name__:
        param = "method.reinforcement.grader"
        return {"code": "invalid_grader", "message": message, "param": param}
    if error["kind"] == DataError.__name__:
        part = "validation" if any(words in message for words in _VALIDATION) else "training"
        said = f"The job failed due to an invalid {part} file. {_of_upload(message)}"
        return {"code": f"invalid_{part}_file", "message": said, "param": f"{part}_file"}
    return {"code": _snake(error["kind"].removesuffix("Error")), "message": message, "param": None}


def _of_upload(message: str) -> str:
    """A report on rows in the words of who uploaded them: one sentence with the first few lines."""
    message = _renaming(_ROW.sub(r"line \1", message))
    for run, upload in _UPLOADED.items():
        message = message.replace(run, upload)
    first, *rows = (part.strip() for part in message.split("\n"))
    if not rows:
        return message
    told = [row for row in rows if row.startswith("line ")][:_TOLD]
    alike = sum(int(number) for row in told for number in _ALIKE.findall(row))
    count = int(found[0]) if (found := re.match(r"\d+", first)) else len(told)
    rest = count - len(told) - alike
    more = f"; and {rest} more" if rest > 0 else ""
    said = "; ".join(told)
    return f"{first} {said}{more}. Upload a file in which every line is a JSON object as described."


def _multiplier(training: dict[str, Any]) -> float | None:
    """Of the automatic rate, where the run tried several and took one."""
    screen = training.get("screen")
    return screen["chosen"] / screen["rule"] if screen else None


def _last_words(tuned: str, verdict: Verdict, parity: Parity | None) -> tuple[Event, ...]:
    """The verdict and parity in words, then what the API says at the end."""
    held = "" if verdict.decision == "release" else " It is served only by its full name."
    said = f"Verdict: {verdict.decision}.{held} {' '.join(verdict.reasons)}"
    data = {"decision": verdict.decision, "reasons": list(verdict.reasons)}
    level: Level = "info" if verdict.decision == "release" else "warn"
    return (
        Event(said, level, data=data, place="verdict"),
        *([_parity_said(parity)] if parity is not None else []),
        Event(f"New fine-tuned model created: {tuned}", place="model"),
        Event("The job has successfully completed", place="completed"),
    )


def _parity_said(parity: Parity) -> Event:
    differs = parity.difference is not None
    data = {"agrees": not differs, "prompts": len(parity.reference.said)}
    said = f"Parity: {parity.sentence}"
    return Event(said, "warn" if differs else "info", data=data, place="parity")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
