"""What a job produces: checkpoints while it runs; a model, two files and a verdict at its end."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.data.checks.unused_columns import yaml_quoted
from burnish.data.sample import LIMIT
from burnish.errors import DataError, GraderError, quantity
from burnish.parity.record import Parity, read_parity
from burnish.runs.directory import Finding, RunDirectory, Verdict
from burnish.serving.jobs import job_recipe
from burnish.serving.jobs.prepare import Prepared
from burnish.serving.jobs.run_events import Line, metric_fields, metrics_csv
from burnish.serving.state.blobs import BlobStore
from burnish.serving.state.events import Event, Level
from burnish.serving.state.files import file_row
from burnish.serving.state.ids import checkpoint_name, new_id
from burnish.serving.state.leases import Result
from burnish.serving.state.tables import JobRow, ModelRow

_PURPOSE = "fine-tune-results"
# How many rows an error names.
_ROWS = 3
# Remedies in terms of uploaded files, by code; the other remedies of a run fit both.
REMEDIES = {
    "all_disliked": "upload rows with answers that are not marked as disliked",
    "answers_too_long": "shorten the answers",
    "bad_rows": "Upload a file in which every line is a JSON object in a documented format",
    "column_missing": "add this field",
    "empty_answers": "fill in each of them",
    "nothing_left": "use a validation file with other rows, or none",
    "no_rejected_answer": "upload rows with input, preferred_output and non_preferred_output",
    "starts_with_assistant": "put a user turn before it",
    "too_few_test_rows": "upload a file with more distinct rows",
    "too_many_tokens": "shorten the conversation",
}


def checkpoint(job: JobRow, prepared: Prepared, folder: str, lines: Sequence[Line]) -> ModelRow:
    """Return the row of a checkpoint that can answer requests; `lines` are the log lines of its
    step."""
    step = lines[0]["step"]
    metrics: dict[str, Any] = {"step": step}
    for line in lines:
        if line["phase"] == "train":
            metrics |= metric_fields(line, "train")
        elif line["phase"] == "validation":
            metrics |= metric_fields(line, "valid")
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


def checkpoint_event(made: ModelRow) -> Event:
    """Return the event that announces a checkpoint."""
    message = f"Checkpoint created at step {made.step} with Snapshot ID: {made.name}"
    return Event(message, log_position=f"checkpoint {made.step}")


def result_of(
    job: JobRow, prepared: Prepared, directory: RunDirectory, folder: str, content: BlobStore
) -> Result:
    """Return the result of a run that has a verdict; `folder` is the adapter's folder.

    The files are received but not yet kept: the caller keeps or drops them.
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
        "step_metrics.csv": metrics_csv(directory.events()),
        "verdict.json": (directory.path / "verdict.json").read_text(encoding="utf-8"),
    }
    received = {name: content.receive([text.encode()]) for name, text in texts.items()}
    return Result(
        model,
        [(result, file_row(result, _PURPOSE, name)) for name, result in received.items()],
        manifest.training.get("tokens"),
        job_recipe.resolved(job, prepared.recipe, _multiplier(manifest.training)),
        final_events(prepared.tuned, verdict, read_parity(directory.path)),
    )


def rows_event(counts: Mapping[str, Any]) -> Event:
    """Return the event that says how the uploaded rows were split."""
    parts = {name: int(counts.get(name, 0)) for name in ("train", "validation", "test")}
    train, validation, test = parts.values()
    rows = quantity(train, "row")
    message = f"Training on {rows}, {validation} for validation, {test} for testing"
    return Event(message, data=parts, log_position="rows")


def warnings(findings: Iterable[Finding]) -> list[Event]:
    """Return an event for each warning about the rows, without the remedies that name recipe keys.

    Columns that nothing uses keep theirs, which is to rename them. Rows that a limit of the
    installation leaves out are reported, too.
    """
    return [
        Event(
            "; ".join(("Uploaded files: " + one.seen, *_advice(one.fields))),
            "warn" if one.severity == "warning" else "info",
            data={"kind": one.kind, "rows": one.count, "where": [*map(_place, one.where)]},
            log_position=f"finding {one.kind} {number}",
        )
        for number, one in enumerate(findings)
        if one.severity == "warning" or one.kind == LIMIT
    ]


def error_of(error: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return a user's error in the API's format; paths of this machine are left out of the message.

    Args:
        error: as `run_recipe.outcome` writes it.
        folder: the job's.
    """
    message = _uploaded(error, folder)
    if error["code"] == "too_few_rows":
        return {"code": "invalid_n_examples", "message": message, "param": "training_file"}
    if error["kind"] == GraderError.__name__:
        param = "method.reinforcement.grader"
        return {"code": "invalid_grader", "message": message, "param": param}
    if error["kind"] == DataError.__name__:
        file = job_recipe.FILES[_blamed(error)]
        said, code = f"The job failed due to an invalid {file}. {message}", file.replace(" ", "_")
        return {"code": f"invalid_{code}", "message": said, "param": code}
    return {"code": _snake(error["kind"].removesuffix("Error")), "message": message, "param": None}


def _blamed(error: Mapping[str, Any]) -> str:
    """Which of the job's files has the mistake: of several bad rows, that of the first."""
    fields = error["fields"]
    return _part(fields["rows"][0] if error["code"] == "bad_rows" else fields)


def _part(fields: Mapping[str, Any]) -> str:
    """Which of the job's files is meant; the training file where none is named."""
    part = fields.get("part") or _file_and_line(str(fields.get("source")))[0]
    part = part or Path(str(fields.get("path"))).stem
    return part if part in job_recipe.FILES else "train"


def _uploaded(error: Mapping[str, Any], folder: str) -> str:
    """The sentence in terms of the uploaded files, by the names that the request gave them."""
    fields, seen = error["fields"], error["seen"]
    if error["code"] == "bad_rows":
        rows = quantity(fields["total"], "row")
        message = f"{fields['count']} of {rows} cannot be used: {_bad_rows(error)}"
        return f"{_named(message, folder)}. {REMEDIES['bad_rows']}."
    if source := fields.get("source"):
        seen = seen.replace(source, _place(source))
    remedy = _remedy(error["code"], error["remedy"], fields)
    end = "" if remedy.endswith("?") else "."
    return f"{_named(f'{seen}: {remedy}', folder)}{end}"


def _named(text: str, folder: str) -> str:
    """A text with the files of the job's folder as the request calls them."""
    for name, file in job_recipe.FILES.items():
        text = text.replace(f"{folder}/{name}.jsonl", f"the {file}")
    return text.replace(f"{folder}/", "")


def _bad_rows(error: Mapping[str, Any]) -> str:
    """The first few rows, each with its mistake, and how many more there are."""
    rows, count = error["fields"]["rows"][:_ROWS], error["fields"]["count"]
    said = [_bad_row(row, blamed=_blamed(error)) for row in rows]
    rest = count - sum(row["count"] for row in rows)
    return "; ".join([*said, *([f"and {rest} more"] if rest else [])])


def _bad_row(row: Mapping[str, Any], blamed: str) -> str:
    part = _part(row)
    of = "" if part == blamed else f" of the {job_recipe.FILES[part]}"
    remedy = _remedy(row["code"], row["remedy"], row["fields"])
    said = f"line {row['line']}{of} {row['reason']} ({remedy})"
    more, lines = row["count"] - 1, ", ".join(row["more_lines"])
    if not more:
        return said
    dots = ", …" if more > len(row["more_lines"]) else ""
    plural = "s" * (more > 1)
    return f"{said}; and {more} more such row{plural}, on line{plural} {lines}{dots}"


def _remedy(code: str, usual: str, fields: Mapping[str, Any]) -> str:
    """What to do about a mistake without a recipe."""
    if "suggested" in fields:
        renames = [_rename(fields["suggested"])] if fields["suggested"] else []
        return ", or ".join([*renames, f"use the fields of a format ({fields['known']})"])
    if advice := _advice(fields):
        return "; ".join(advice)
    return REMEDIES.get(code, usual)


def _advice(fields: Mapping[str, Any]) -> list[str]:
    """What to do with columns that nothing uses."""
    return [
        ", ".join((hint["aim"], *([way] if (way := _way(hint)) else [])))
        for hint in fields.get("hints", ())
    ]


def _way(hint: Mapping[str, Any]) -> str:
    return str(hint["instead"]) or _rename(hint["columns"])


def _rename(columns: Mapping[str, str]) -> str:
    changed = [(column, field) for field, column in columns.items() if column != field]
    pairs = " and ".join(f"{yaml_quoted(column)} to {field}" for column, field in changed)
    return f"rename {pairs}" if pairs else ""


def _file_and_line(source: str) -> tuple[str, str]:
    """Which file of the job a row stands in, empty where in none, and its line."""
    path, _, line = source.rpartition(":")
    name = Path(path).name.removesuffix(".jsonl")
    return (name, line) if name in job_recipe.FILES else ("", line)


def _place(source: str) -> str:
    """Where a row of a job's own copy stands, without the folder."""
    part, line = _file_and_line(source)
    return f"line {line}" if part else Path(source).name


def _multiplier(training: dict[str, Any]) -> float | None:
    """Of the automatic rate, where the run tried several and took one."""
    screen = training.get("screen")
    return screen["chosen"] / screen["rule"] if screen else None


def final_events(tuned: str, verdict: Verdict, parity: Parity | None) -> tuple[Event, ...]:
    """Return the last events of a job: the verdict, parity and the new model's name."""
    held = "" if verdict.decision == "release" else " It can only be used by its full model name."
    message = f"Verdict: {verdict.decision}.{held} {' '.join(verdict.reasons)}"
    data = {"decision": verdict.decision, "reasons": list(verdict.reasons)}
    level: Level = "info" if verdict.decision == "release" else "warn"
    return (
        Event(message, level, data=data, log_position="verdict"),
        *([parity_event(parity)] if parity is not None else []),
        Event(f"New fine-tuned model created: {tuned}", log_position="model"),
        Event("The job has successfully completed", log_position="completed"),
    )


def parity_event(parity: Parity) -> Event:
    """Return the event that says whether all forms of the model agree."""
    differs = parity.difference is not None
    data = {"agrees": not differs, "prompts": len(parity.reference.answers)}
    message = f"Parity: {parity.sentence}"
    return Event(message, "warn" if differs else "info", data=data, log_position="parity")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
