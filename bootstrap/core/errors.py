"""The error classes: what happened, why, a remedy, and the exit code.

Every expected failure is a ``PetalError``. Its ``code`` is stable (docs/errors.md lists all codes), and its ``remedy``
is a tuple of lines that an operator can run or follow, commands first. Any other exception is a bug.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from .text import quoted


class ExitCode(IntEnum):
    """The exit code of a verb. A hook exits 0 in all cases, unless ``--strict`` is given."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DEGRADED = 3
    NO_PYTHON = 69
    BUG = 70
    TRY_AGAIN = 75
    NOT_ROOT = 77
    CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143


# Names of parameters whose values are secrets: signatures of presigned URLs, tokens, passwords.
_WORDS = "signature|token|credential|passw|secret|access.?key|api.?key"
SHORTEST_SECRET = 12  # characters of a variable's value; a shorter one could be a part of any word
SECRET_NAME = re.compile(rf"(?i){_WORDS}|^sig$|^auth")
_NAME = r"[^=&?\s]{0,100}"  # bounded, because output of programs may be hostile
_SECRETS = (
    # A password may have every character, although some should be encoded; digits before a path are a port.
    (re.compile(r"(?<=://)[^/\s@:]{1,100}:(?!\d{1,5}[/?#])\S{0,300}@"), "***@"),
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), "***@"),
    (re.compile(rf"(?i)([?&](?:{_NAME}(?:{_WORDS}){_NAME}|sig|auth{_NAME})=)[^&\s'\"]+"), r"\1***"),
)


def redacted(text: str) -> str:
    """``text`` without the secrets of its URLs and of the environment, for records, logs and terminals."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and not name.endswith("_FILE") and len(value.strip()) >= SHORTEST_SECRET:
            text = text.replace(value.strip(), "***")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class PetalError(Exception):
    """An expected failure.

    Args:
        what: one sentence that names what failed.
        why: the cause, or an empty string if it is unknown.
        remedy: lines to run or follow.
        code: a stable code instead of that of the class.
    """

    code = "failed"
    exit = ExitCode.FAILED

    def __init__(self, what: str, *, why: str = "", remedy: Iterable[str] | str = (), code: str = "") -> None:
        super().__init__(redacted(what))
        self.what = redacted(what)
        self.why = redacted(why)
        self.remedy = tuple(map(redacted, (remedy,) if isinstance(remedy, str) else remedy))
        self.code = code or type(self).code

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def to_dict(self) -> dict[str, object]:
        """The error, as records and the JSON envelope contain it."""
        return {"code": self.code, "what": self.what, "why": self.why, "remedy": list(self.remedy)}


class UsageError(PetalError):
    """The command line is invalid."""

    code = "usage"
    exit = ExitCode.USAGE


class NotRoot(PetalError):
    """The verb needs root."""

    code = "not-root"
    exit = ExitCode.NOT_ROOT


class Problem(NamedTuple):
    """A mistake of a configuration: the path of its key, the mistake, and FILE:LINE if it is from a file."""

    path: str
    message: str
    place: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.path, self.message) if part)


class ConfigError(PetalError):
    """The configuration is invalid; ``problems`` has every mistake.

    ``stack``: URI, checksum and place of its stack, if these keys are right: that file may have mistakes too.
    """

    code = "config-invalid"
    exit = ExitCode.CONFIG
    stack: tuple[str, str | None, str] | None = None

    def __init__(
        self,
        what: str,
        problems: Iterable[tuple[str, str] | Problem] = (),
        *,
        why: str = "",
        remedy: Iterable[str] | str = (),
        code: str = "",
    ) -> None:
        self.problems = tuple(Problem(*map(redacted, problem)) for problem in problems)
        why = why or "; ".join(map(str, self.problems))
        super().__init__(what, why=why, remedy=remedy, code=code)

    def to_dict(self) -> dict[str, object]:
        problems = [problem._asdict() for problem in self.problems]
        return {**super().to_dict(), "problems": problems}


class FetchError(PetalError):
    """An object could not be fetched; codes start with ``fetch-``.

    Args:
        may_be_missing: the server gives the same answer for an object that is missing.
    """

    code = "fetch-unreachable"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        remedy: Iterable[str] | str = (),
        code: str = "",
        may_be_missing: bool = False,
    ) -> None:
        super().__init__(what, why=why, remedy=remedy, code=code)
        self.may_be_missing = may_be_missing or self.code == "fetch-missing"


class StorageError(PetalError):
    """Shared storage, or its mount at /opt/petal, is missing, unsafe, in use, or does not answer."""


class StateError(PetalError):
    """A document on disk cannot be read, or must not be written."""

    code = "state-corrupt"


class PackageError(PetalError):
    """A binary package cannot be installed; codes start with ``package-``."""

    code = "package-failed"


class SpackError(PetalError):
    """Spack, its recipes or one of its packages failed."""

    code = "spack-failed"


class JobError(SpackError):
    """A build job did not start or did not finish; codes start with ``job-``."""

    code = "job-ended"


class CacheError(PetalError):
    """A build cache or its content cannot be used; codes start with ``cache-``. It never stops an install."""


class ModulesError(PetalError):
    """The module tree cannot be made; codes start with ``modules-``."""


class ReleaseError(PetalError):
    """A release cannot be published again or removed; codes start with ``release-``."""


class LmodError(PetalError):
    """The release's Lmod cannot be built or unpacked; codes start with ``lmod-``."""

    code = "lmod-incomplete"


class ProofError(PetalError):
    """A compute node cannot use the software."""

    code = "proof-failed"
    exit = ExitCode.DEGRADED


class ProcessFailed(PetalError):
    """A program could not be started, or its exit code was not accepted."""

    code = "process-failed"


class AllocationRefused(ProcessFailed):
    """Slurm allocated no nodes to a job step in time."""

    code = "job-not-started"


class ProcessTimeout(PetalError):
    """A program was killed at its deadline."""

    code = "process-failed"


class DeadlineExceeded(PetalError):
    """An operation did not finish before its deadline."""

    code = "deadline-exceeded"
    exit = ExitCode.TRY_AGAIN


class LockTimeout(PetalError):
    """Another process held the lock until the deadline."""

    code = "lock-timeout"
    exit = ExitCode.TRY_AGAIN


class LockLost(PetalError):
    """The lock was lost: this node was cut off from shared storage, and another process took it."""

    code = "lock-lost"
    exit = ExitCode.TRY_AGAIN


class WaitTimeout(PetalError):
    """A wait reached its deadline."""

    code = "wait-timeout"
    exit = ExitCode.TRY_AGAIN


class Bug(PetalError):
    """An unexpected exception."""

    code = "bug"
    exit = ExitCode.BUG


class NotConverged(PetalError):
    """A step was applied, and its probe still reports a change: a bug in the step."""

    code = "not-converged"
    exit = ExitCode.BUG


NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# Faults of a file system, not of the written data.
DISK_ERRORS = NO_SPACE | {errno.EROFS, errno.EIO, errno.ESTALE}


# The words of strerror(3), Python and unzip.
_FULL = {
    "file-quota": re.compile(r"disk quota exceeded|\bErrno 122\b", re.IGNORECASE),
    "file-no-space": re.compile(r"no space left on device|\bErrno 28\b|\(disk full\?\)", re.IGNORECASE),
}


def full_disk_code(text: str) -> str:
    """The code for a write that a full quota or disk refused, by the output of a program; empty if it names none."""
    return next((code for code, words in _FULL.items() if words.search(text)), "")


def full_disk_remedy(code: str, *paths: Path) -> str:
    """The command that shows which disk or quota is full; ``code`` is a result of ``full_disk_code``."""
    look = " ".join(("df -h", *map(quoted, paths)))
    return f"quota -v; {look}" if code == "file-quota" else f"{look}; {look.replace('-h', '-i', 1)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean X?`` if a known word is close to ``word``, else an empty string."""
    close = nearest(word, known)
    return f", did you mean {close!r}?" if close else ""


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that is close to ``word``, or an empty string."""
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), "")


STATUS = "petal-node status"
_QUOTA = "quota -v; df -h {mount}; lsof {mount} | wc -l    # EFS limits the open files and locks of a client"
_DENIED = "id; ls -ld {mount}/petal; an export with root_squash refuses root"
_NO_PROCESS = "ulimit -u; ulimit -v    # the limits of this user for processes and memory"
ROOT = Path("/opt/petal")  # backed by shared storage in most layouts
# errno -> code, remedy for a path on shared storage, remedy for another path.
_OS_ERRORS = {
    errno.ENOENT: ("file-missing", "ls -ld {mount} {mount}/petal", "ls -ld {path} {parent}"),
    errno.ENOSPC: ("file-no-space", "df -h {mount}; df -i {mount}", "df -h {parent}; df -i {parent}"),
    errno.EDQUOT: ("file-quota", _QUOTA, "quota -v; df -h {parent}"),
    errno.EROFS: ("file-read-only", "findmnt {mount}; mount -o remount,rw {mount}", "findmnt --target {parent}"),
    errno.EACCES: ("file-permission", _DENIED, "id; ls -ld {path}"),
    errno.EPERM: ("file-permission", _DENIED, "id; ls -ld {path}"),
    errno.EAGAIN: ("process-failed", _NO_PROCESS, _NO_PROCESS),
    errno.ENOTDIR: ("file-failed", "ls -ld {path} {parent}", "ls -ld {path} {parent}"),
    errno.ESTALE: ("file-stale", "umount -l {mount} && mount {mount}", "findmnt --target {parent}"),
    **dict.fromkeys(
        (errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOLCK, errno.EHOSTDOWN),
        ("file-failed", "dmesg | tail; findmnt {mount}", "dmesg | tail; findmnt --target {parent}"),
    ),
}


# The names of files that are not complete yet (host/atomic.py).
_PRIVATE = re.compile(r"\.(.+)\.[^.]+-\d+\.part")


def from_error(error: PetalError | OSError, mount: Path | None) -> PetalError:
    """``error`` itself, or an ``OSError`` as ``from_os_error`` converts it."""
    return error if isinstance(error, PetalError) else from_os_error(error, mount)


def from_os_error(error: OSError, mount: Path | None) -> PetalError:
    """The error for a refused file operation, with a code ``file-...`` and a remedy for its path.

    Args:
        mount: the mount point of shared storage, None if the configuration was not read, which may name another one.
            The remedy names it if the path is below it, below ``/opt/petal`` (which it backs), or unknown.
    """
    code, on_mount, elsewhere = _OS_ERRORS.get(error.errno or 0, ("file-failed", STATUS, STATUS))
    name = error.filename2 if error.errno in NO_SPACE and error.filename2 else error.filename  # the target of a copy
    path = Path(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else None
    private = _PRIVATE.fullmatch(path.name) if path else None
    if path and private:  # the error is of the file that should be replaced: the private one is gone
        path = path.with_name(private[1])
    if mount is not None and (path is None or {mount, ROOT} & {path, *path.parents}):
        remedy = on_mount
    else:
        remedy = elsewhere if path or code == "process-failed" else STATUS
    return PetalError(
        f"a file operation failed{f': {path}' if path else ''}",
        why=os.strerror(error.errno) if error.errno else str(error),
        remedy=remedy.format(mount=quoted(mount), path=quoted(path), parent=quoted(path.parent if path else "")),
        code=code,
    )
