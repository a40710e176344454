"""Programs and the kernel's view of this machine. Every program has a timeout and its own environment and session."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.deadlines import FLUSH
from ..core.errors import PetalError, ProcessFailed, ProcessTimeout, full_disk_code, full_disk_remedy
from ..core.facts import Mount
from .atomic import flush_filesystem
from .deadline import on_storage, with_deadline
from .log import LOG
from .processes import age_of_init, end_marked, end_tree, other_runs, run_mark

if TYPE_CHECKING:
    import pwd

T = TypeVar("T")

# ParallelCluster starts custom actions with a PATH without Slurm, and perhaps without HOME and LANG.
PATH = "/opt/slurm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DRAIN_SECONDS = 1.0  # for output that is still in a pipe after its program has ended
USERS_OUTPUT = 1 << 20  # bytes of output of a user's program
# Not waited for; kept because Popen warns if it is collected while its process runs.
_running: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Completed:
    """A program that has ended. Bytes of its output that are not UTF-8 are replaced."""

    returncode: int
    stdout: str
    stderr: str

    def tail(self, lines: int = 12) -> str:
        """The last lines of stderr, or of stdout if stderr is empty."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-lines:])


class System:
    """Runs programs and reads the state of the machine. Tests use a subclass."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        ok: Sequence[int] | None = (0,),
        on_line: Callable[[str], None] | None = None,
        each_second: Callable[[], None] | None = None,
        given: int | None = None,
        most: int | None = None,
    ) -> Completed:
        """Runs a program in ``/`` and waits for its end.

        Args:
            argv: the program and its arguments; never a shell string.
            timeout: seconds until the program and all its descendants are killed.
            env: the whole environment; the default is ``base_env``.
            user: the user to run as, with the groups of that user.
            ok: the accepted exit codes, None for all.
            on_line: called with each line of output when it arrives; stderr is then part of stdout.
            each_second: with ``on_line``: called about once a second, whatever the program prints.
            given: a descriptor that the program and its descendants keep open.
            most: bytes of output after which the program is ended; by default ``USERS_OUTPUT`` with ``user``, else
                unlimited.

        Raises:
            ProcessFailed: the program cannot be started, prints too much, or its exit code is not accepted.
            ProcessTimeout: the program did not end within ``timeout`` seconds.
        """
        started = time.monotonic()
        LOG.debug("run %s", " ".join(argv))
        process = _start(argv, env, user, merged=on_line is not None, given=given)
        limit = most or (USERS_OUTPUT if user else None)
        try:
            stdout, stderr = _collect(process, started + timeout, limit, on_line, each_second)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            what = f"{argv[0]} did not end within {timeout:.0f} s and was stopped"
            raise ProcessTimeout(what, why=" ".join(argv)) from error
        except BaseException:
            _kill(process)
            raise
        finally:
            for stream in filter(None, (process.stdout, process.stderr)):
                stream.close()
        if process.returncode < 0:  # a signal killed it; its descendants still run
            end_tree(process.pid)
        done = Completed(process.returncode, stdout, stderr)
        LOG.debug("%s ended with %d after %.1f s", argv[0], done.returncode, time.monotonic() - started)
        if ok is not None and done.returncode not in ok:
            full = full_disk_code(done.tail())
            remedy = full_disk_remedy(full) if full else ()
            raise ProcessFailed(f"{argv[0]} ended with {done.returncode}", why=done.tail(), remedy=remedy, code=full)
        return done

    def flush(self, path: Path) -> None:
        """Writes the file system of ``path`` to disk, with a deadline because shared storage may not answer.

        Raises:
            StorageError: ``storage-hangs``, the deadline passed.
            OSError: data could not be written.
        """
        self.on_storage(lambda: flush_filesystem(path), path, FLUSH)

    def which(self, name: str) -> str | None:
        """The full path of a program on the PATH that ``run`` uses."""
        return shutil.which(name, path=PATH)

    def new_session(self, argv: Sequence[str], env: Mapping[str, str], output: Path) -> None:
        """Starts a program in its own session; it outlives this process and writes to ``output``."""
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": descriptor, "stderr": descriptor}
            _running.append(subprocess.Popen(list(argv), env=env, cwd="/", start_new_session=True, **streams))
        finally:
            os.close(descriptor)

    def end_run(self, run_id: str) -> int:
        """Ends the processes that are left of a run whose main process has ended; returns their number."""
        return end_marked(run_id)

    def other_runs(self, run_id: str) -> frozenset[str]:
        """The other runs that have a process on this machine; only root sees those of other users."""
        return other_runs(run_id)

    def has_systemd(self) -> bool:
        """True if systemd runs this machine (sd_booted(3))."""
        return Path("/run/systemd/system").is_dir()

    def on_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T:
        """Calls ``action`` with a deadline; see ``deadline.on_storage``."""
        return on_storage(action, where, seconds)

    def try_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T | None:
        """As ``on_storage``; None if the storage does not answer, or ``action`` fails."""
        try:
            return self.on_storage(action, where, seconds)
        except (PetalError, OSError) as error:
            LOG.debug("%s: %s", where, error)
            return None

    def with_deadline(self, action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:
        """Calls ``action`` with a deadline; see ``deadline.with_deadline``."""
        return with_deadline(action, seconds, error)

    def mounts(self) -> tuple[Mount, ...]:
        """The mounts of this mount namespace."""
        return parse_mounts(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace"))

    def addresses(self, host: str) -> frozenset[str]:
        """The addresses of a host, empty if its name is unknown. Waits as long as the resolver does."""
        try:
            return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError:
            return frozenset()

    def hostname(self) -> str:
        """The host name without its domain: on a compute node, the name of the node in Slurm."""
        return socket.gethostname().split(".", 1)[0]

    def boot_id(self) -> str:
        """The kernel's id of this boot (random(4))."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def uptime(self) -> float:
        """The age of process 1 in seconds: the time since boot, in a container too."""
        return age_of_init()

    def clock(self) -> float:
        """Seconds since the machine booted (proc_uptime(5)); the hook script reads the same clock."""
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])

    def available_memory(self) -> int:
        """Bytes that a new process can use: available memory (proc_meminfo(5)) and free swap."""
        import psutil

        return int(psutil.virtual_memory().available) + int(psutil.swap_memory().free)

    def is_root(self) -> bool:
        """True if this process runs as root."""
        return os.geteuid() == 0


def base_env(user: str | None = None) -> dict[str, str]:
    """The environment of a program: a PATH with Slurm, a UTF-8 locale, and the home of the user that runs it."""
    return clean_env(passwd_entry(user).pw_dir)


def passwd_entry(user: str | None = None) -> pwd.struct_passwd:
    """The entry of a user, by default of this process; one in its place if this process has only a user id."""
    import pwd

    if user is not None:
        return pwd.getpwnam(user)
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid)
    except KeyError:  # for example of a container, or the directory service does not answer
        home = os.environ.get("HOME") or "/"
        return pwd.struct_passwd((str(uid), "x", uid, os.getegid(), "", home, "/bin/sh"))


def clean_env(home: Path | str, **more: str) -> dict[str, str]:
    """The environment of every program that gets nothing from this process, with ``more`` variables."""
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(home), **more}


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The mounts in the text of /proc/mounts, where blanks in names are octal escapes (proc_mounts(5))."""
    mounts = []
    for line in text.splitlines():
        fields = [re.sub(r"\\(040|011|012|134)", lambda code: chr(int(code[1], 8)), part) for part in line.split()]
        if len(fields) >= 4:
            source, point, kind, options = fields[:4]
            mounts.append(Mount(source, point, kind, tuple(options.split(","))))
    return tuple(mounts)


def _start(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    user: str | None,
    *,
    merged: bool,
    given: int | None,
) -> subprocess.Popen[bytes]:
    identity: dict[str, Any] = {}
    if user is not None:
        entry = passwd_entry(user)
        groups = os.getgrouplist(user, entry.pw_gid)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    try:
        return subprocess.Popen(
            list(argv),
            env={**(base_env(user) if env is None else env), **run_mark()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if given is None else (given,),
            **identity,
        )
    except (OSError, ValueError) as error:  # ValueError: an argument with a NUL or a lone surrogate
        raise ProcessFailed(f"{argv[0]} cannot be started", why=str(error)) from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its descendants; does not wait for one that hangs in the kernel, on a dead mount."""
    end_tree(process.pid)  # waits for the end
    if process.poll() is None:
        LOG.warning("process %d does not end on SIGKILL", process.pid)
        _running.append(process)


def _collect(
    process: subprocess.Popen[bytes],
    deadline: float,
    most: int | None,
    on_line: Callable[[str], None] | None,
    each_second: Callable[[], None] | None,
) -> tuple[str, str]:
    """What the program prints until it ends, to stdout and to stderr."""
    blocks: dict[Any, list[bytes]] = {process.stdout: [], process.stderr: []}
    rest = b""
    for stream, block in _blocks(process, deadline, each_second):
        blocks[stream].append(block)
        if most is not None and (most := most - len(block)) < 0:
            raise ProcessFailed("the program printed more output than is accepted, and was stopped")
        if on_line is not None:
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                on_line(line.decode(errors="replace"))
    if on_line is not None and rest:
        on_line(rest.decode(errors="replace"))
    process.wait(timeout=max(0.1, deadline - time.monotonic()))
    stdout, stderr = (b"".join(blocks[stream]).decode(errors="replace") for stream in (process.stdout, process.stderr))
    return stdout, stderr


def _blocks(
    process: subprocess.Popen[bytes], deadline: float, each_second: Callable[[], None] | None
) -> Iterator[tuple[Any, bytes]]:
    """Yields output with its stream until the program ends and no descendant keeps a pipe open.

    A program whose lines are passed on ends with its own process, whatever its descendants keep open.
    """
    merged = process.stderr is None
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    end: float | None = None
    called = time.monotonic()
    while streams:
        now = time.monotonic()
        if now >= deadline:
            raise subprocess.TimeoutExpired(process.args, 0)
        if merged and end is None and process.poll() is not None:
            end = now + DRAIN_SECONDS
        ready, _, _ = select.select(streams, [], [], 0 if end else min(deadline - now, 1.0))
        if end is not None and (not ready or now > end):
            break
        if each_second is not None and time.monotonic() - called >= 1.0:
            called = time.monotonic()
            each_second()
        for stream in ready:
            block = os.read(stream.fileno(), 65536)
            if block:
                yield stream, block
            else:
                streams.remove(stream)
