"""One worker's attempt at a job: it starts the process, reports its events, records the result."""

import json
import logging
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from burnish.errors import RunError, UserError
from burnish.runs.directory import RunDirectory
from burnish.serving.errors import ApiError
from burnish.serving.jobs import job_recipe, results
from burnish.serving.jobs.prepare import Prepared, prepare
from burnish.serving.jobs.process import LOCAL, PATIENCE, JobProcess, JobRunner, folder_lock
from burnish.serving.jobs.run_events import EventTranslator, LogTail
from burnish.serving.jobs.run_recipe import DONE, FULL, LOST, OUTCOME, REFUSED, STOPPED, outcome
from burnish.serving.state.events import Event
from burnish.serving.state.installation import Service
from burnish.serving.state.leases import Lease, LeaseLostError
from burnish.serving.state.tables import ModelRow
from burnish.training.checkpoint import saved_steps

_LOG = logging.getLogger("burnish.serving.jobs.worker")
# Seconds: between looks at the run, between heartbeats, and until another's process is looked for
# again.
_TICK, _HEARTBEAT, _LOCKED = 0.2, 1.0, 1.0
# So often a process may be killed from outside without progress before its job fails.
_KILLS = 5
_KILLED = "The job's process was killed several times; the machine may be short of memory."
_FULL = "The server's disk is full. Free space on it, then create the job again."
OURS = "The server had an error while running the job. See the server's log for details."


class Attempt:
    """What a worker does with a job that it has leased; `stop` ends it early, with a checkpoint."""

    def __init__(
        self, service: Service, held: Lease, stop: threading.Event, engine: JobRunner = LOCAL
    ) -> None:
        self.service, self.lease, self.stop, self.engine = service, held, stop, engine
        self.job = held.job
        self.folder = service.settings.job_folder(held.job.id).resolve()
        self.directory = RunDirectory(self.folder / job_recipe.RUN)
        self._beaten = time.monotonic()
        self._begun = False
        self._checkpoints: set[int] = set()

    def run(self) -> None:
        """Run the job until it ends, is paused or is taken away.

        Raises:
            LeaseLostError: the job is another worker's by now, or was cancelled.
        """
        with folder_lock(self.folder) as lock:
            if lock is None:  # the process of a worker that is slow, or gone a moment ago
                self.stop.wait(_LOCKED)
                return
            try:
                prepared = prepare(self.service, self.job)
            except ApiError as error:
                said = {"code": error.code, "message": error.message, "param": error.param}
                self.lease.fail(said)
            except UserError as error:
                self._refuse(outcome(error))
            else:
                self._conclude(self._until_end(prepared, lock), prepared)

    def _until_end(self, prepared: Prepared, lock: int) -> int:
        """The exit code of the process, begun again where something else killed it."""
        reached, kills = self._progress(), 0
        while True:
            code = self._once(prepared, lock)
            if code >= 0 or self.stop.is_set():
                return code
            now = self._progress()
            kills = 0 if now > reached else kills + 1
            reached = max(now, reached)
            if kills == _KILLS:
                return code
            _LOG.warning("the process of job %s was killed by signal %d", self.job.id, -code)

    def _progress(self) -> int:
        """What the next process need not do again: checkpoints and measured items. The log is no
        measure, since each beginning adds lines to it."""
        run = self.directory.path
        kept = sum(1 for _ in run.glob("**/checkpoints/step-*"))
        return kept + sum(
            path.read_bytes().count(b"\n") for path in run.glob("**/results/**/*.jsonl")
        )

    def _once(self, prepared: Prepared, lock: int) -> int:
        (self.folder / OUTCOME).unlink(missing_ok=True)
        with JobProcess(self.folder / "recipe.yaml", lock, self.engine) as process:
            code = self._watch(process, prepared)
        return -signal.SIGKILL if code == LOST else code

    def _watch(self, process: JobProcess, prepared: Prepared) -> int:
        """Tells what the run logs until its process has ended; returns the exit code."""
        log_tail, translator = LogTail(self.directory.path / "events.jsonl"), EventTranslator()
        deadline: float | None = None
        while True:
            code = process.code
            self._tell(log_tail, translator, prepared, ended=code == DONE)
            if code is not None:
                stopped = deadline is not None or code == -signal.SIGINT
                return STOPPED if stopped and code not in (DONE, REFUSED) else code
            if self._is_to_stop(translator) and deadline is None:
                process.interrupt()
                deadline = time.monotonic() + PATIENCE
            if deadline is not None and time.monotonic() > deadline:
                return STOPPED  # killed on the way out
            time.sleep(_TICK)

    def _is_to_stop(self, translator: EventTranslator) -> bool:
        """
        Raises:
            LeaseLostError: there is nothing to go on for.
        """
        if time.monotonic() - self._beaten >= _HEARTBEAT:
            self._beaten = time.monotonic()
            order = self.lease.heartbeat(translator.finish_time())
            if order in ("cancel", "lost"):
                raise LeaseLostError(self.job.id)
            if order == "pause":
                return True
        return self.stop.is_set()

    def _tell(
        self, log_tail: LogTail, translator: EventTranslator, prepared: Prepared, *, ended: bool
    ) -> None:
        """Steps first: what the log says of a checkpoint's step is written before it."""
        steps = [s for s in saved_steps(self.directory.checkpoints) if s not in self._checkpoints]
        self._begin(prepared)
        said = translator.events(log_tail.new(), ended=ended)
        made = self._made(steps, prepared) if steps else []
        said += [results.checkpoint_event(row) for row in made]
        if said:
            self.lease.report(said, made)
        self._checkpoints.update(steps)

    def _begin(self, prepared: Prepared) -> None:
        """Once the run has read its rows, the job runs."""
        if self._begun or not self._has_rows():
            return
        self._begun = True
        taken = job_recipe.resolved(self.job, prepared.recipe)
        said = [
            Event("Files validated, moving job to queued state", log_position="validated"),
            results.rows_event(self.directory.manifest().data),
            *results.warnings(self.directory.findings()),
            Event("Fine-tuning job started", log_position="started"),
        ]
        self.lease.report(said, status="running", resolved=taken)

    def _has_rows(self) -> bool:
        try:
            return self.directory.manifest().state != "created"
        except RunError:
            return False

    def _made(self, steps: list[int], prepared: Prepared) -> list[ModelRow]:
        lines = self.directory.events()
        result = []
        for step in steps:
            own = [line for line in lines if line.get("step") == step]
            folder = self._relative(f"{job_recipe.RUN}/checkpoints/step-{step}")
            result += [results.checkpoint(self.job, prepared, folder, own)] if own else []
        return result

    def _relative(self, name: str) -> str:
        """A path in the job's folder as rows hold it, so that the data folder may move."""
        return f"jobs/{self.job.id}/{name}"

    def _conclude(self, code: int, prepared: Prepared) -> None:
        if code == DONE:
            self._finish(prepared)
        elif code == REFUSED:
            self._refuse(json.loads((self.folder / OUTCOME).read_text(encoding="utf-8")))
        elif code > 0 and code != STOPPED:
            _LOG.error("job %s ended with %d; see %s", self.job.id, code, self.folder)
            said = _FULL if code == FULL else OURS
            self.lease.fail({"code": "server_error", "message": said, "param": None})
        elif code < 0 and not self.stop.is_set():
            self.lease.fail({"code": "server_error", "message": _KILLED, "param": None})

    def _finish(self, prepared: Prepared) -> None:
        content = self.service.content
        folder = self._relative(f"{job_recipe.RUN}/{self.directory.adapter.name}")
        result = results.result_of(self.job, prepared, self.directory, folder, content)
        try:
            self.lease.finish(content, result)
        finally:
            for received, _ in result.files:
                content.drop(received)

    def _refuse(self, error: Mapping[str, Any]) -> None:
        self.lease.fail(results.error_of(error, str(self.folder)))
