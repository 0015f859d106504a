"""The worker: it takes one job at a time, runs it in a process of its own and reports its events.

It may be killed at any moment. What it tells is written under its lease and told once, and the run
goes on from its last checkpoint under whoever takes the job over.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import replace

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from burnish.evaluation.graders.sandbox import sweep
from burnish.serving.jobs.attempt import OURS, Attempt
from burnish.serving.jobs.process import LOCAL, JobRunner
from burnish.serving.state import files
from burnish.serving.state.disk import is_full
from burnish.serving.state.installation import Service
from burnish.serving.state.leases import Lease, LeaseLostError, lease

_LOG = logging.getLogger("burnish.serving.jobs.worker")
# Seconds between looks for a job, and after a database that did not answer.
_IDLE, _AFTER_ERROR = 0.5, 5.0
# Seconds between looks for files whose time is over, and for bytes that nobody needs.
_EXPIRY, _SWEEP = 60.0, 24 * 3600.0


class Worker:
    """Runs the jobs of a service one after the other.

    `run` has to be called in the thread that lives as long as the worker does: the process of a job
    ends when the thread that started it ends.

    Args:
        service: whose jobs.
        engine: where the jobs run.
    """

    def __init__(self, service: Service, engine: JobRunner = LOCAL) -> None:
        self.engine = engine
        plain = f"{socket.gethostname()}-{os.getpid()}"
        self.name = f"{plain[:100]}-{secrets.token_hex(4)}"
        self.service = replace(service, database=service.database.as_actor(f"worker {self.name}"))
        self._stop = threading.Event()
        self._expired = self._swept = float("-inf")

    def run(self) -> None:
        """Run jobs until `stop` is called; if the database does not answer, try again later."""
        sweep()
        while not self._stop.is_set():
            try:
                worked = self.step()
                self._tidy()
            except SQLAlchemyError as error:
                full = is_full(error)
                _LOG.exception("disk full" if full else "the database does not answer")
                self._stop.wait(_AFTER_ERROR)
                continue
            if not worked:
                self._stop.wait(_IDLE)

    def stop(self) -> None:
        """Let a running job write a checkpoint, give it back, and make `run` return."""
        self._stop.set()

    def step(self) -> bool:
        """Run one job, if there is one, until it ends, is paused or is taken away; return whether
        there was one."""
        held = lease(self.service.database, self.name, self.service.settings.lease)
        if held is None:
            return False
        _LOG.info("job %s taken", held.job.id)
        self._work(held)
        return True

    def _work(self, held: Lease) -> None:
        try:
            Attempt(self.service, held, self._stop, self.engine).run()
        except LeaseLostError:
            _LOG.warning("job %s is not this worker's any more", held.job.id)
        except (DataError, IntegrityError):  # it does answer, and takes no such row
            self._give_up(held)
        except SQLAlchemyError:
            raise  # the lease ends, and another goes on
        except Exception:  # the next worker would meet it too, and the next
            self._give_up(held)
        finally:
            held.release()

    def _give_up(self, held: Lease) -> None:
        _LOG.exception("job %s", held.job.id)
        with contextlib.suppress(LeaseLostError):
            held.fail({"code": "server_error", "message": OURS, "param": None})

    def _tidy(self) -> None:
        database, content, now = self.service.database, self.service.content, time.monotonic()
        if now - self._expired > _EXPIRY:
            self._expired = now
            files.expire(database, content)
        if now - self._swept > _SWEEP:
            self._swept = now
            files.sweep(database, content)
