"""Follows one build job from its submission to its end, as the worker that holds the lock sees it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...cluster import slurm
from ...core.errors import JobError, PetalError, StateError
from ...host.log import LOG
from ...state.context import Context
from ..install import LOG_SECONDS
from .capacity import elsewhere, not_started
from .order import DONE, RENEW_SECONDS, RUNNING, JobDirectory, JobState

ENDING_SECONDS = 15.0  # of a job that has said how it ended
FOLLOW_SECONDS = 1.0
ASK_SECONDS = 5.0
# A job that has ended has written its state before; NFS may show it later.
LATE_SECONDS = 60.0


class Follower:
    """One job from its submission to its end, as the worker sees it.

    Args:
        minutes: the job's time limit.
        deadline: when a job that has not begun is given up, by ``time.monotonic``.
        say: gets each note of the job's.
    """

    def __init__(
        self,
        ctx: Context,
        directory: JobDirectory,
        queue: str,
        minutes: int,
        deadline: float,
        say: Callable[[str], None],
    ) -> None:
        self._ctx = ctx
        self._directory = directory
        self._queue = queue
        self._minutes = minutes
        self._deadline = deadline
        self._say = say
        self._beat = self._heard = 0
        self._renewed = self._asked = self._logged = float("-inf")
        self._said = self._number = ""
        self._job: slurm.Job | None = None
        self._ended: float | None = None

    def run(self) -> JobState:
        """Submits the job and goes with it; the state that it left.

        Raises:
            JobError: ``job-refused``, ``job-not-started``, ``job-ended``.
        """
        directory, name = self._directory, self._directory.name
        self._number = slurm.submit(
            self._ctx.system,
            directory.script,
            name=name,
            queue=self._queue,
            minutes=self._minutes,
            output=directory.output,
            options=("--exclusive", "--mem=0", "--open-mode=append"),
        )
        LOG.info("job %s on queue %s builds", self._number, self._queue, extra={"step": "spack"})
        while True:
            now = time.monotonic()
            self._renew(now)
            state = self._state()
            self._hear(state)
            if state.stage == DONE:
                slurm.wait_until_gone(self._ctx.system, name, ENDING_SECONDS, cancelling=False)
                return state
            self._look(now)
            self._tell(now, state)
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

    def _hear(self, state: JobState) -> None:
        for note in state.notes[self._heard :]:
            self._say(note)
        self._heard = max(self._heard, len(state.notes))

    def _look(self, now: float) -> None:
        """Asks Slurm now and then. While it does not answer, the job may well go on.

        Slurm remembers jobs that have ended for a while, and a run that is begun again after a kill has a job of the
        same name: this one is told by its id. squeue sorts by the states' names, FAILED behind CONFIGURING.
        """
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        try:
            jobs = slurm.jobs(self._ctx.system, self._directory.name)
        except PetalError as error:
            LOG.warning("squeue: %s", error)
            return
        job = next((job for job in jobs if job.id == self._number), None)
        self._job = job or self._job
        if job is not None and not job.ended:
            self._ended = None
        elif self._ended is None:
            self._ended = now

    def _tell(self, now: float, state: JobState) -> None:
        """The second line says where to look, from any node while the job runs."""
        if state.stage == RUNNING:
            text = f"job {self._number} on {state.node}, queue {self._queue}: {state.text or 'it begins'}"
            more = f"\nlog  {self._directory.said}"
        else:
            text, more = f"{self._job or f'job {self._number} is submitted'}, on queue {self._queue}", ""
        if text == self._said:
            return
        self._said = text
        self._ctx.progress(text + more)
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            LOG.info("%s", text, extra={"step": "spack"})

    def _check(self, now: float, state: JobState) -> None:
        """Whether it is still worth waiting."""
        if self._ended is not None and now - self._ended > (0 if self._is_lost else LATE_SECONDS):
            raise self._lost()
        waits = state.stage != RUNNING and not (self._job and (self._job.started or self._job.ended))
        if waits and now > self._deadline:
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
            remedy=(f"less {output}", "petal-node bootstrap    (what is built stays)", *elsewhere(queue)),
        )
