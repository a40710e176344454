"""What worker and build job tell each other on shared storage that is really full."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bootstrap.core.errors import JobError
from bootstrap.spack.job.order import DONE, LOOK_SECONDS, RUNNING, JobDirectory, JobState, Lease
from tests.disks import mounted

ERRORS = ({"code": "file-no-space", "what": "w", "why": "y" * 20_000, "remedy": []},)
BLOCK = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[JobDirectory]:
    """A job's directory on a disk with 2 MiB."""
    with mounted(tmp_path / "shared", 2, "1777") as mount:
        (mount / "petal").mkdir(mode=0o755)
        made = JobDirectory(mount / "petal" / "build" / "run-1", mount)
        made.open()
        yield made


def fill(directory: JobDirectory) -> None:
    """To the last block."""
    with (directory.mount / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(BLOCK))
    assert os.statvfs(directory.mount).f_bavail == 0


def test_how_a_job_ended_has_room_that_was_kept_for_it(directory: JobDirectory) -> None:
    directory.write_state(JobState(RUNNING, "q1-st-c5-1", "installing 1 of 2"))
    fill(directory)
    with pytest.raises(OSError, match="No space left") as caught:
        directory.write_state(JobState(RUNNING, "q1-st-c5-1", "installing 2 of 2"))
    assert caught.value.errno == errno.ENOSPC
    assert directory.state().text == "installing 1 of 2"  # whole, and the one before
    directory.write_end(JobState(DONE, "q1-st-c5-1", "", ERRORS, ("built instead",)))
    state = directory.state()
    assert (state.stage, state.errors, state.notes) == (DONE, ERRORS, ("built instead",))


def test_a_lease_lives_on_and_can_be_taken_away(directory: JobDirectory) -> None:
    fill(directory)
    for beat in (1, 2):
        seen, deadline = directory.beat(), time.monotonic() + 5
        while directory.beat() == seen and time.monotonic() < deadline:  # a file's time has steps of some milliseconds
            directory.renew(beat)
        assert directory.beat() not in (seen, None)
    now = [0.0]
    lease = Lease(directory, lambda: now[0])
    directory.revoke()
    now[0] += LOOK_SECONDS
    with pytest.raises(JobError, match="told to end"):
        lease.check()
