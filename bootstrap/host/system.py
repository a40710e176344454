"""The door to processes: every program has a timeout, a clean environment and a session of its own."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import PetalError, ProcessFailed, ProcessTimeout
from ..core.facts import Mount
from .atomic import flush_filesystem
from .deadline import on_storage, with_deadline
from .log import LOG
from .processes import end_marked, end_tree, other_runs, run_mark

T = TypeVar("T")

# Custom actions get a PATH without Slurm, and may have neither HOME nor LANG (facts of ParallelCluster's executor).
PATH = "/opt/slurm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DRAIN_SECONDS = 1.0
KILL_SECONDS = 2.0
FLUSH_SECONDS = 900.0
# Nobody waits for these; kept, so that their handles do not complain when they are collected.
_detached: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Completed:
    """A program that has ended. Output is text; bytes that are not UTF-8 are replaced."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def tail(self, lines: int = 12) -> str:
        """The last lines of what it said, stderr first where there is any."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-lines:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it started; does not wait for a process that SIGKILL does not end (a dead mount)."""
    end_tree(process.pid)
    try:
        process.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        LOG.warning("process %d does not end on SIGKILL and is left behind", process.pid)


class System:
    """Processes and the kernel's view of this node. Tests put a subclass in its place."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        ok: Sequence[int] | None = (0,),
        on_line: Callable[[str], None] | None = None,
        on_idle: Callable[[], None] | None = None,
        given: int | None = None,
    ) -> Completed:
        """Runs a program to its end.

        Args:
            argv: the program and its arguments; never a shell string.
            timeout: seconds until its whole process group is ended.
            env: its whole environment; the default is PATH with Slurm, LANG and HOME.
            cwd: where it runs; the default is ``/``.
            user: run it as this user, with that user's groups.
            ok: exit codes that are fine, None for all.
            on_line: called with each line of its output as it comes (stderr is then part of stdout).
            on_idle: with ``on_line``: called about once a second while no output comes.
            given: a descriptor that it keeps open, and whatever it forks.

        Raises:
            ProcessFailed: it cannot be started, or ended with another code.
            ProcessTimeout: it was still running after ``timeout`` seconds.
        """
        started = time.monotonic()
        LOG.debug("run %s", " ".join(argv))
        process = _start(argv, env, cwd, user, merged=on_line is not None, given=given)
        try:
            stdout, stderr = _collect(process, started + timeout, on_line, on_idle)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            what = f"{argv[0]} did not end within {timeout:.0f} s and was stopped"
            raise ProcessTimeout(what, why=" ".join(argv)) from error
        except BaseException:
            _kill(process)
            raise
        finally:
            _close_streams(process)
        if process.returncode < 0:  # what it started does not know that it died
            end_tree(process.pid)
        done = Completed(tuple(argv), process.returncode, stdout, stderr, time.monotonic() - started)
        LOG.debug("%s ended with %d after %.1f s", argv[0], done.returncode, done.seconds)
        if ok is not None and done.returncode not in ok:
            raise ProcessFailed(f"{argv[0]} ended with {done.returncode}", why=done.tail())
        return done

    def flush(self, path: Path) -> None:
        """Writes the file system of ``path`` to disk, with a deadline because shared storage may hang.

        Raises:
            StorageError: ``storage-hangs``, the deadline passed.
            OSError: data could not be written.
        """
        self.on_storage(lambda: flush_filesystem(path), path, FLUSH_SECONDS)

    def which(self, name: str) -> str | None:
        """The full path of a program on the PATH that ``run`` uses."""
        return shutil.which(name, path=PATH)

    def new_session(self, argv: Sequence[str], env: Mapping[str, str], output: Path) -> None:
        """Starts a program in a session of its own, which outlives this process and writes to ``output``."""
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            process = subprocess.Popen(
                list(argv),
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
            _detached.append(process)
        finally:
            os.close(descriptor)

    def end_run(self, run_id: str) -> int:
        """Ends what is left of a run whose own process is gone, and says how many processes that were."""
        return end_marked(run_id)

    def other_runs(self, run_id: str) -> frozenset[str]:
        """The runs of which a process lives here; of other users' only root sees them."""
        return other_runs(run_id)

    def has_systemd(self) -> bool:
        """True when systemd runs this machine (sd_booted(3))."""
        return Path("/run/systemd/system").is_dir()

    def on_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T:
        """Calls ``action`` with a deadline; see ``deadline.on_storage``."""
        return on_storage(action, where, seconds)

    def with_deadline(self, action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:
        """Calls ``action`` with a deadline; see ``deadline.with_deadline``."""
        return with_deadline(action, seconds, error)

    def mounts(self) -> tuple[Mount, ...]:
        """What is mounted in this mount namespace."""
        return parse_mounts(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace"))

    def addresses(self, host: str) -> frozenset[str]:
        """The addresses of a host, none where its name is not known. May take as long as the resolver does."""
        try:
            return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError:
            return frozenset()

    def hostname(self) -> str:
        """The node's name without its domain; on a compute node that is its Slurm name."""
        return socket.gethostname().split(".", 1)[0]

    def boot_id(self) -> str:
        """The kernel's id of this boot (random(4))."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def uptime(self) -> float:
        """Seconds since the machine, or the container that plays one, booted: the age of its first process."""
        import psutil

        return time.time() - float(psutil.Process(1).create_time())

    def clock(self) -> float:
        """Seconds since the machine booted, as the hook scripts read them too (proc_uptime(5))."""
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])

    def available_memory(self) -> int:
        """Bytes that a new process can use: what the kernel calls available (proc_meminfo(5)), and free swap."""
        import psutil

        return int(psutil.virtual_memory().available) + int(psutil.swap_memory().free)

    def is_root(self) -> bool:
        """True when this process may change the machine."""
        return os.geteuid() == 0


def base_env(user: str | None = None) -> dict[str, str]:
    """The environment of a program of ours: Slurm in the PATH, a locale, and the home of whom it runs as."""
    import pwd

    entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": entry.pw_dir}


def timestamp(seconds: float | None = None) -> str:
    """A UTC time as records hold it: ``2026-11-24T08:14:05Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def new_run_id() -> str:
    """An id that sorts by time: ``20261124T081405.123Z-1a2b3c``."""
    now = time.time()
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z-{secrets.token_hex(3)}"


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The lines of /proc/mounts; blanks in names are octal escapes there (proc_mounts(5))."""
    mounts = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4:
            source, point, kind, options = (_unescape(part) for part in fields[:4])
            mounts.append(Mount(source, point, kind, tuple(options.split(","))))
    return tuple(mounts)


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _start(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    user: str | None,
    *,
    merged: bool,
    given: int | None,
) -> subprocess.Popen[bytes]:
    identity: dict[str, Any] = {}
    if user is not None:
        import pwd

        entry = pwd.getpwnam(user)
        groups = os.getgrouplist(user, entry.pw_gid)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    try:
        return subprocess.Popen(
            list(argv),
            env={**(base_env(user) if env is None else env), **run_mark()},
            cwd=str(cwd or "/"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if given is None else (given,),
            **identity,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL, or what no locale can encode
        raise ProcessFailed(f"{argv[0]} cannot be started", why=str(error)) from error


def _close_streams(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _collect(
    process: subprocess.Popen[bytes],
    deadline: float,
    on_line: Callable[[str], None] | None,
    on_idle: Callable[[], None] | None,
) -> tuple[str, str]:
    if on_line is None:
        stdout, stderr = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        return stdout.decode(errors="replace"), stderr.decode(errors="replace")
    lines: list[str] = []
    for line in _lines(process, deadline, on_idle):
        lines.append(line)
        on_line(line)
    process.wait(timeout=max(0.1, deadline - time.monotonic()))
    return "\n".join(lines), ""


def _lines(process: subprocess.Popen[bytes], deadline: float, on_idle: Callable[[], None] | None) -> Any:
    """The output line by line until its end or the deadline; a descendant that keeps the pipe open holds nobody."""
    stream = process.stdout
    assert stream is not None
    rest = b""
    end: float | None = None
    while True:
        now = time.monotonic()
        if now >= deadline:
            raise subprocess.TimeoutExpired(process.args, 0)
        if end is None and process.poll() is not None:
            end = now + DRAIN_SECONDS
        ready, _, _ = select.select([stream], [], [], 0 if end else min(deadline - now, 1.0))
        if end is not None and (not ready or now > end):
            break
        if not ready:
            if on_idle is not None:
                on_idle()
            continue
        block = os.read(stream.fileno(), 65536)
        if not block:
            break
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
