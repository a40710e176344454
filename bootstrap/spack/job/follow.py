"""Follows one build job from its submission to its end, as the worker that holds the lock sees it."""

from __future__ import annotations

import time

from ... import batch
from ...context import Context
from ...errors import JobError, PetalError, StateError
from ...log import LOG
from .capacity import not_started
from .order import DONE, RENEW_SECONDS, RUNNING, JobDirectory, JobState

ENDING_SECONDS = 15.0  # of a job that has said how it ended
FOLLOW_SECONDS = 1.0
ASK_SECONDS = 5.0
# A job that has ended has written its state before; NFS may show it later.
LATE_SECONDS = 60.0


class Follower:
    """One job from its submission to its end, as the worker sees it."""

    def __init__(self, ctx: Context, directory: JobDirectory, queue: str, minutes: int) -> None:
        self._ctx = ctx
        self._directory = directory
        self._queue = queue
        self._beat = 0
        self._renewed = self._asked = float("-inf")
        self._said = ""
        self._job: batch.Job | None = None
        self._ended: float | None = None
        self._submitted = time.monotonic()
        self._minutes = minutes

    def run(self) -> JobState:
        """Submits the job and goes with it; the state that it left.

        Raises:
            JobError: ``job-refused``, ``job-not-started``, ``job-ended``.
        """
        directory, name = self._directory, self._directory.name
        number = batch.submit(
            self._ctx.system,
            directory.script,
            name=name,
            queue=self._queue,
            minutes=self._minutes,
            output=directory.output,
        )
        LOG.info("job %s on queue %s builds", number, self._queue, extra={"step": "spack"})
        while True:
            now = time.monotonic()
            self._renew(now)
            state = self._state()
            if state.stage == DONE:
                batch.end(self._ctx.system, name, ENDING_SECONDS, cancel=False)
                return state
            self._look(now)
            self._tell(number, state)
            self._check(now, state)
            time.sleep(FOLLOW_SECONDS)

    def _renew(self, now: float) -> None:
        if now - self._renewed >= RENEW_SECONDS:
            self._ctx.confirm()
            self._renewed, self._beat = now, self._beat + 1
            self._directory.renew(self._beat)

    def _state(self) -> JobState:
        try:
            return self._directory.state()
        except StateError as error:
            raise JobError("the build job's state cannot be read", why=str(error), remedy=error.remedy) from error

    def _look(self, now: float) -> None:
        """Asks Slurm now and then. While it does not answer, the job may well go on."""
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        try:
            jobs = batch.look(self._ctx.system, self._directory.name)
        except PetalError as error:
            LOG.warning("squeue: %s", error)
            return
        self._job = jobs[-1] if jobs else self._job
        if not jobs or self._job is None or self._job.ended:
            self._ended = self._ended or now

    def _tell(self, number: str, state: JobState) -> None:
        if state.stage == RUNNING:
            text = f"job {number} on {state.node}: {state.text or 'it begins'}"
        else:
            text = f"{self._job or f'job {number} is submitted'}, on queue {self._queue}"
        if text != self._said:
            self._said = text
            self._ctx.progress(text)

    def _check(self, now: float, state: JobState) -> None:
        """Whether it is still worth waiting."""
        if self._ended is not None and now - self._ended > (0 if self._is_lost else LATE_SECONDS):
            raise self._lost()
        waits = state.stage != RUNNING and not (self._job and (self._job.started or self._job.ended))
        if waits and now - self._submitted > self._ctx.config.install.wait:
            raise not_started(self._ctx, self._queue, str(self._job or "Slurm does not tell"))

    @property
    def _is_lost(self) -> bool:
        """It ended in a way in which nothing more is written."""
        return self._job is not None and self._job.ended and self._job.state not in ("COMPLETED", "FAILED")

    def _lost(self) -> JobError:
        queue, output = self._queue, self._ctx.paths.run_logs(self._ctx.run_id) / self._directory.output.name
        return JobError(
            f"the build job on queue {queue} ended before it was done",
            why=str(self._job or "Slurm knows it no more"),
            remedy=(f"less {output}", "petal-node bootstrap    (what is built stays)", *batch.elsewhere(queue)),
        )
