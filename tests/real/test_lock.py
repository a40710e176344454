"""Real locks between real processes: one holder at a time, a dead holder frees it, waiting runs know the holder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bootstrap.core.errors import LockLost, LockTimeout
from bootstrap.core.model import plain
from bootstrap.host import locks as lock
from bootstrap.host.atomic import write_json
from bootstrap.host.lock_owners import owners
from bootstrap.host.system import System
from bootstrap.spack.driver import LOCKS, Spack
from bootstrap.spack.program import SpackInstall
from bootstrap.spack.scope import Places

TOP = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from bootstrap.host import locks as lock
path, marks = Path(sys.argv[1]), Path(sys.argv[2])
with lock.Lock(path, lock.own_holder("other", "boot", "run-x"), timeout=60, waiting=lambda _: None):
    print("held", flush=True)
    time.sleep(1000)
"""
COUNT = """
import sys, time
from pathlib import Path
from bootstrap.host import locks as lock
path, total = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(20):
    with lock.Lock(path, lock.own_holder("h", "b", "r"), timeout=60, waiting=lambda _: None):
        value = int(total.read_text() or 0)
        time.sleep(0.001)
        total.write_text(str(value + 1))
"""
LEAVE = """
import subprocess, sys
from pathlib import Path
from bootstrap.host import locks as lock
with lock.builders_ended(Path(sys.argv[1]), None, 60, print) as builders:
    # as Spack does: a shell that is given it runs Python, which forks its builders
    child = "import os, time; os.fork() or (print('builder', os.getpid(), flush=True), time.sleep(1000))"
    subprocess.Popen(["sh", "-c", 'exec "$@"', "sh", sys.executable, "-c", child], pass_fds=(builders,)).wait()
    time.sleep(1000)
"""


def take(path: Path, timeout: float = 0, messages: list[str] | None = None) -> lock.Lock:
    output = messages if messages is not None else []
    return lock.Lock(path, lock.own_holder("me", "boot", "run-1"), timeout=timeout, waiting=output.append)


def start(script: str, *argv: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, argv)], stdout=subprocess.PIPE, text=True, cwd=TOP)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock" / "stack.lock"


@pytest.fixture
def other(path: Path, tmp_path: Path):
    process = start(HOLD, path, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_waiting_run_names_the_holder_and_ends_at_its_deadline(path: Path, other: subprocess.Popen[str]) -> None:
    messages: list[str] = []
    with pytest.raises(LockTimeout) as caught, take(path, 0.5, messages):
        pass
    assert caught.value.exit == 75
    assert len(messages) == 1
    assert f"other, process {other.pid}, since" in messages[0]
    assert "run run-x" in caught.value.why


def test_the_lock_of_a_killed_holder_is_free(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    with take(path, 10):
        pass


def test_a_stopped_holder_keeps_its_lock(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(LockTimeout), take(path, 0.5):
        pass


def test_the_holder_file_names_this_process(path: Path) -> None:
    with take(path):
        holder = lock.holder_of(path)
        assert holder is not None
        assert (holder.host, holder.pid, holder.run_id) == ("me", os.getpid(), "run-1")
    assert path.exists()


def test_a_process_never_opens_its_lock_twice(path: Path) -> None:
    """Closing a second descriptor would silently release the lock (fcntl(2))."""
    with take(path), pytest.raises(RuntimeError, match="held by this process already"), take(path):
        pass


def test_a_child_that_ends_does_not_free_the_parents_lock(path: Path) -> None:
    script = "import fcntl as f, sys; f.lockf(open(sys.argv[1], 'r+'), f.LOCK_EX | f.LOCK_NB)"
    with take(path):
        subprocess.run(["true"], check=True)
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        probe = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False)
        assert probe.returncode != 0


def test_eight_processes_never_hold_the_lock_simultaneously(path: Path, tmp_path: Path) -> None:
    total = tmp_path / "total"
    total.write_text("0")
    workers = [start(COUNT, path, total) for _ in range(8)]
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0] * 8
    assert total.read_text() == "160"


def test_a_damaged_holder_file_does_not_block_the_lock(path: Path) -> None:
    path.parent.mkdir()
    path.with_suffix(".holder").write_text("{garbage")
    assert lock.holder_of(path) is None
    with take(path):
        assert lock.holder_of(path) is not None


def test_a_held_lock_is_confirmed_and_a_lost_one_is_not(path: Path) -> None:
    """tests/nfs has the loss between hosts; here only the holder file has another holder's name."""
    with take(path) as mine:
        mine.confirm()
        write_json(path.with_suffix(".holder"), plain(lock.own_holder("thief", "boot", "run-2")))
        with pytest.raises(LockLost, match="taken by thief"):
            mine.confirm()


def test_no_run_continues_while_a_builder_of_a_dead_run_exists(path: Path) -> None:
    """Its process group, its parent and its run have ended, and another node could not see the builder."""
    path.parent.mkdir()
    before, messages = lock.own_holder("other-node", "boot", "run-x"), []
    with start(LEAVE, path) as run:
        assert run.stdout is not None
        _, builder = run.stdout.readline().split()
        run.kill()
        try:
            with pytest.raises(LockTimeout) as caught, lock.builders_ended(path, before, 0.5, messages.append):
                pass
            assert "other-node" in caught.value.why
            assert "on other-node:" in caught.value.remedy[0]
            assert "builders" in messages[0]
        finally:
            os.kill(int(builder), signal.SIGKILL)
        with lock.builders_ended(path, before, 30, messages.append):
            pass


HOLD_FOR_READING = """
import fcntl, os, struct, sys, time
os.setuid(65534)
stream = int(sys.argv[1])
if sys.argv[2] == "ofd":
    fcntl.fcntl(stream, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
else:
    fcntl.lockf(stream, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def users_lock(path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Another user's process that has locked an old file, which all users could open."""
    if os.geteuid() != 0:
        pytest.skip("the test runs a process of another user, which needs root")
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)
    with path.open("rb") as stream:
        argv = [sys.executable, "-c", HOLD_FOR_READING, str(stream.fileno()), request.param]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=(stream.fileno(),))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("users_lock", ["posix", "ofd"], indirect=True)
def test_the_lock_of_a_user_is_reported_with_process_and_user(path: Path, users_lock: int) -> None:
    with pytest.raises(LockTimeout, match=rf"process {users_lock} \(.*\) of user nobody"), take(path, 0.2):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("users_lock", ["posix"], indirect=True)
def test_a_holder_of_a_windows_domain_is_named_as_winbind_does(path: Path, users_lock: int, tmp_path: Path) -> None:
    """The entry in passwd is in a mount namespace."""
    passwd = tmp_path / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text().replace("\nnobody:", "\nCORP\\a smith:"))
    ask = "import sys, pathlib, bootstrap.host.lock_owners as who; print(*who.owners(pathlib.Path(sys.argv[1])))"
    become = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(passwd)]
    done = subprocess.run(
        [*become, sys.executable, "-c", ask, path], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"process {users_lock} (")
    assert done.stdout.endswith(" of user CORP\\a smith\n")


def test_users_can_open_no_file_that_spack_locks(tmp_path: Path) -> None:
    """The lock of root's own Spack is reported."""
    places = Places(tmp_path / "store", tmp_path / "modules", tmp_path / "recipes", tmp_path / "scratch")
    notes: list[str] = []
    program, env = cast("SpackInstall", None), tmp_path / "environment"
    spack = Spack(System(), program, places, tmp_path / "scope", env, tmp_path / "output", notes.append)
    spack._shut_users_out()
    files = list((tmp_path / "store/.spack-db").iterdir())
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == dict.fromkeys(LOCKS, 0o600)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (places.scratch, env)} == {0o700}
    with files[0].open("rb") as stream:
        argv = [sys.executable, "-c", HOLD_FOR_READING, str(stream.fileno()), "posix"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=(stream.fileno(),))
    assert process.stdout is not None
    process.stdout.readline()
    spack._shut_users_out()
    process.kill()
    process.communicate()
    (note,) = notes
    assert note.startswith(f"Spack may wait for {files[0]}, which is locked by process {process.pid} (")
    assert note.endswith("of user nobody")


@pytest.mark.parametrize("users_lock", ["posix"], indirect=True)
def test_a_lock_file_of_spack_that_a_user_holds_is_replaced(path: Path, users_lock: int) -> None:
    lock.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert owners(path) == ()
    with path.open("rb+") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert users_lock


def test_only_root_can_open_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with take(tmp_path / "a"), lock.builders_ended(tmp_path / "b", None, 0, print):
        lock.lock_problem(tmp_path / "c")
        lock.make_private(tmp_path / "d")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("?")} == dict.fromkeys("abcd", 0o600)
    monkeypatch.setattr(os, "fchmod", lambda *_: pytest.fail("it was made with another mode"))
    os.close(lock.open_private(tmp_path / "e"))


def test_a_client_of_this_nfs_server_is_named_by_its_address(path: Path, tmp_path: Path) -> None:
    """The files of Linux 6.1 (fs/nfsd/nfs4state.c)."""
    path.parent.mkdir()
    path.touch()
    info = path.stat()
    inode = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    pid = os.getppid()
    clients = tmp_path / "proc" / "fs" / "nfsd" / "clients"
    known = {"10.0.0.5:872": inode, "[fd00::7]:1": inode, "10.0.0.6:1": "00:00:1", "10.0.0.7:1": inode}
    for number, (address, file) in enumerate(known.items()):
        (clients / str(number)).mkdir(parents=True)
        (clients / str(number) / "info").write_text(f'clientid: 0x1\naddress: "{address}"\nname: "Linux NFSv4.2 q1"\n')
        kind = "open" if address == "10.0.0.7:1" else "lock"
        state = f'- 0x0: {{ type: {kind}, superblock: "{file}", filename: "lock/stack.lock", owner: "lock id:x" }}\n'
        (clients / str(number) / "states").write_text(state)
    (tmp_path / "proc" / "locks").write_text(f"1: POSIX  ADVISORY  WRITE {pid} {inode} 0 EOF\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psutil.Process.name", lambda _: "nfsd")
        assert owners(path, tmp_path / "proc") == ("NFS client 10.0.0.5", "NFS client [fd00::7]")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_lock_without_space_for_its_holder_still_notices_another_holder(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with take(path):
        pass

    def no_space(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "write_json", no_space)
    with take(path) as held:
        assert lock.holder_of(path) is None  # not the previous one, which a waiting run would name
        held.confirm()
        write_json(path.with_suffix(".holder"), plain(lock.own_holder("other", "boot", "run-2")))
        with pytest.raises(LockLost):
            held.confirm()
