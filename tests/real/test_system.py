"""Real processes: deadlines, process trees that end, descriptors that are closed, storage that hangs."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bootstrap.core.errors import Bug, DeadlineExceeded, ProcessFailed, ProcessTimeout, StorageError
from bootstrap.host import deadline, system
from bootstrap.host.atomic import scratch_dir
from bootstrap.host.processes import RUN_MARK, end_marked, end_tree, has_process, other_runs, own_start
from bootstrap.host.system import System
from bootstrap.host.systemd import detach
from tests.deadlines import SOON
from tests.real.hooks import until

SYSTEM = System()
TOP = Path(__file__).parents[2]


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_run_returns_output_and_exit_code_with_the_given_environment() -> None:
    done = SYSTEM.run(["sh", "-c", "echo out; echo err >&2; env"], timeout=10)
    assert "/opt/slurm/bin" in done.stdout
    assert "PYTEST_CURRENT_TEST" not in done.stdout
    assert done.stderr == "err\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_id_without_an_entry_in_passwd_can_run_programs() -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setuid(4242)
            os.environ["HOME"] = "/h"
            os._exit("HOME=/h" not in SYSTEM.run(["env"], timeout=10).stdout.splitlines())
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_user_who_may_not_write_to_the_cache_uses_the_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scratch_dir(tmp_path / "cache/scratch") == tmp_path / "cache/scratch"
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)  # root may write anywhere
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert scratch_dir(tmp_path / "cache/scratch") == tmp_path / "home/.cache/petal-node/scratch"


def test_an_unexpected_exit_code_raises_an_error_with_the_output() -> None:
    with pytest.raises(ProcessFailed) as caught:
        SYSTEM.run(["sh", "-c", "echo broken >&2; exit 7"], timeout=10)
    assert caught.value.why == "broken"
    assert SYSTEM.run(["sh", "-c", "exit 7"], timeout=10, ok=None).returncode == 7


@pytest.mark.parametrize(
    ("words", "code", "remedy"),
    [
        ("No space left on device", "file-no-space", ("df -h; df -i",)),
        ("Disk quota exceeded", "file-quota", ("quota -v; df -h",)),
        ("Input/output error", "process-failed", ()),
    ],
)
def test_the_error_of_a_program_on_a_full_disk_has_its_code(words: str, code: str, remedy: tuple[str, ...]) -> None:
    with pytest.raises(ProcessFailed) as caught:
        System().run(["sh", "-c", f"echo \"cp: error writing 'x': {words}\" >&2; exit 1"], timeout=5)
    assert (caught.value.code, caught.value.remedy) == (code, remedy)


def test_a_missing_program_raises_an_error() -> None:
    with pytest.raises(ProcessFailed, match="cannot be started"):
        SYSTEM.run(["/no/such/program"], timeout=10)


def test_invalid_utf8_in_output_is_replaced() -> None:
    assert "�" in SYSTEM.run(["printf", "a\\377b"], timeout=10).stdout


def test_a_program_and_all_its_children_are_killed_at_the_deadline(tmp_path: Path) -> None:
    """The children include one that left the process group, like Spack's builders, and one that ignores SIGTERM."""
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(1000)
"""
    started = time.monotonic()
    with pytest.raises(ProcessTimeout):
        SYSTEM.run([sys.executable, "-c", script], timeout=1.0)
    assert time.monotonic() - started < SOON
    for pid in (tmp_path / "pids").read_text().split():
        assert has_ended(int(pid))


LEAVES_A_BUILDER = """
import os, signal, subprocess, sys
child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
"""


def orphan(run_id: str) -> int:
    """Start a program of the run in a new session whose parent has ended."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_A_BUILDER + "os._exit(0)"],
        env={**os.environ, RUN_MARK: run_id}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_only_orphans_with_the_mark_of_the_run_are_killed() -> None:
    mine, other = orphan("run-a"), orphan("run-b")
    try:
        assert end_marked("run-a") == 1
        assert has_ended(mine)
        assert not has_ended(other)
        assert end_marked("run-a") == 0
    finally:
        end_marked("run-b")
    assert has_ended(other)


def test_end_run_does_not_kill_the_caller_and_its_parents() -> None:
    script = "import sys; from bootstrap.host.processes import end_marked; print(end_marked('run-c'))"
    outer = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {script!r}]).returncode)"
    child = orphan("run-c")
    done = subprocess.run(
        [sys.executable, "-c", outer], env={**os.environ, RUN_MARK: "run-c"}, cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert has_ended(child)


def test_a_program_has_the_mark_of_its_run_in_any_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_MARK, "run-d")
    for env in (None, {"PATH": "/usr/bin:/bin"}):
        assert f"{RUN_MARK}=run-d" in SYSTEM.run(["env"], timeout=10, env=env).stdout


def test_the_children_of_a_program_killed_by_a_signal_are_killed() -> None:
    lines: list[str] = []
    script = (
        LEAVES_A_BUILDER.replace("start_new_session=True, stdout=subprocess.DEVNULL", "")
        + "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(ProcessFailed):
        SYSTEM.run([sys.executable, "-c", script], timeout=20, on_line=lines.append)
    assert has_ended(int(lines[0]))


def test_lines_arrive_as_they_are_written_until_the_deadline() -> None:
    lines: list[str] = []
    SYSTEM.run(["sh", "-c", "echo one; echo two >&2; printf three"], timeout=10, on_line=lines.append)
    assert lines == ["one", "two", "three"]
    with pytest.raises(ProcessTimeout):
        SYSTEM.run(["sh", "-c", "echo one; sleep 100"], timeout=0.5, on_line=lines.append)


def test_a_program_that_prints_too_much_is_ended() -> None:
    """Through both ways to read its output; a user's program has a limit by default."""
    lines: list[str] = []
    user = pwd.getpwuid(os.geteuid()).pw_name
    for options in ({"most": 5000}, {"most": 5000, "on_line": lines.append}, {"user": user}):
        started = time.monotonic()
        with pytest.raises(ProcessFailed, match="printed more output than is accepted"):
            SYSTEM.run(["yes"], timeout=60, ok=None, **options)  # type: ignore[arg-type]
        assert time.monotonic() - started < SOON
    assert sum(map(len, lines)) < 100_000


def test_a_caller_is_called_each_second_also_if_the_program_prints_often() -> None:
    calls: list[str] = []

    def stop() -> None:
        calls.append("")
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SYSTEM.run(["sh", "-c", "while echo; do sleep 0.1; done"], timeout=20, on_line=lambda _: None, each_second=stop)


def test_silence_of_a_program_is_reported_repeatedly() -> None:
    said: list[str] = []
    ticking = "echo one; read -r -t 30 x <&3 || true"
    reader, writer = os.pipe()

    def idle() -> None:
        said.append("idle")
        if len(said) == 3:  # the program ends only after that
            os.close(writer)

    path = f"/proc/{os.getpid()}/fd/{reader}"
    SYSTEM.run(["bash", "-c", f"exec 3<{path}; {ticking}"], timeout=20, on_line=said.append, each_second=idle)
    os.close(reader)
    assert said[0] == "one"
    assert said.count("idle") >= 2


def test_a_descendant_that_keeps_the_output_open_does_not_delay_the_caller() -> None:
    started = time.monotonic()
    SYSTEM.run(["sh", "-c", "sleep 90 & echo done"], timeout=60, on_line=lambda _: None)
    assert time.monotonic() - started < SOON
    subprocess.run(["pkill", "-f", "^sleep 30$"], check=False)


def test_a_detached_program_inherits_no_descriptors(tmp_path: Path) -> None:
    """ParallelCluster's executor waits until a hook's stderr is closed."""
    script = (
        "from pathlib import Path\nfrom bootstrap.host.system import System\n"
        "from bootstrap.host.systemd import detach\n"
        "class Plain(System):\n    def has_systemd(self): return False\n"
        f"program = ['sh', '-c', 'echo $$ > {tmp_path}/pid; sleep 60']\n"
        f"detach(program, Plain(), unit='u', output=Path('{tmp_path}/out'))\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert time.monotonic() - started < SOON
    assert done.stderr == b""
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    assert psutil.Process(pid).is_running()
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)


def test_a_detached_program_gets_no_aws_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(System):
        def has_systemd(self) -> bool:
            return False

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3:5000")
    program = ["sh", "-c", f"env > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/env"]
    detach(program, Plain(), unit="u", output=tmp_path / "o")
    until((tmp_path / "env").exists)
    text = (tmp_path / "env").read_text()
    assert "AWS_ENDPOINT_URL=http://s3:5000" in text
    assert "secret" not in text


def test_a_guarded_call_that_hangs_raises_an_error_at_its_deadline(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        SYSTEM.on_storage((tmp_path / "fifo").read_text, "/shared", 0.5)
    assert caught.value.code == "storage-hangs"
    assert time.monotonic() - started < SOON


def test_an_exception_of_a_guarded_call_is_raised_in_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SYSTEM.on_storage((tmp_path / "absent").read_text, "x", 5)
    assert SYSTEM.on_storage(lambda: {"a": (1, 2)}, "x", 5) == {"a": (1, 2)}


def test_a_bug_in_a_guarded_call_is_reported_with_its_traceback() -> None:
    def broken() -> str:
        return {"a": "b"}["absent"]

    with pytest.raises(Bug, match="petal-node has a bug: KeyError: 'absent'") as caught:
        SYSTEM.with_deadline(broken, 5)
    assert "in broken" in caught.value.why
    with pytest.raises(Bug, match="pickle"):
        SYSTEM.with_deadline(lambda: lambda: None, 5)


def test_a_killed_guarded_call_raises_an_error() -> None:
    with pytest.raises(ProcessFailed, match="was killed"):
        SYSTEM.on_storage(lambda: os.kill(os.getpid(), signal.SIGKILL), "x", 5)


def test_a_program_that_survives_sigkill_is_abandoned_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that waits for a dead mount survives SIGKILL; here nothing kills the process at all."""
    monkeypatch.setattr("bootstrap.host.system.end_tree", lambda _pid: None)
    started = time.monotonic()
    with pytest.raises(ProcessTimeout):
        SYSTEM.run(["sleep", "60"], timeout=0.3)
    assert time.monotonic() - started < SOON
    left = system._running.pop()
    left.kill()
    left.wait()


def test_a_call_inside_another_call_runs_in_the_same_child_with_the_earlier_deadline(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    other = {child.pid for child in psutil.Process().children()}

    def inner() -> tuple[int, int]:
        return os.getpid(), SYSTEM.on_storage(os.getpid, "/shared", 5)

    assert len(set(SYSTEM.with_deadline(inner, 5))) == 1
    hang = (tmp_path / "fifo").read_text
    late = DeadlineExceeded("the outer call is late")
    started = time.monotonic()
    with pytest.raises(StorageError, match="/shared did not answer within 0 s"):
        SYSTEM.with_deadline(lambda: SYSTEM.on_storage(hang, "/shared", 0.3), 30, late)
    with pytest.raises(DeadlineExceeded, match="the outer call is late"):
        SYSTEM.with_deadline(lambda: SYSTEM.on_storage(hang, "/shared", 30), 0.3, late)
    with pytest.raises(DeadlineExceeded, match="the outer call is late"):  # the inner call has ended in time
        SYSTEM.with_deadline(lambda: (SYSTEM.on_storage(os.getpid, "/shared", 3), hang()), 5, late)
    assert time.monotonic() - started < SOON
    left = [child for child in psutil.Process().children() if child.pid not in other]
    assert not psutil.wait_procs(left, timeout=5)[1]
    SYSTEM.with_deadline(os.getpid, 5)
    assert len(deadline._children) <= 1  # the last one may still end


def test_orphaned_processes_of_a_session_are_killed() -> None:
    """A builder whose parent has ended can still be found by its session."""
    with pytest.raises(ProcessTimeout):
        SYSTEM.run(["sh", "-c", "sleep 77 & exit 0"], timeout=1.0)
    assert not [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "77"]]


def test_a_hanging_guarded_call_does_not_keep_the_output_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = (
        "import os, signal\nfrom bootstrap.host.system import System\nfrom pathlib import Path\n"
        "os.kill = lambda *a: None\n"  # a child that waits in the kernel cannot be killed either
        f"try: System().on_storage(Path({str(tmp_path / 'fifo')!r}).read_text, 'x', 0.2)\n"
        "except Exception as e: print(e.code)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=TOP, check=False)
    assert time.monotonic() - started < SOON
    assert done.stdout == "storage-hangs\n"
    with (tmp_path / "fifo").open("w"):
        """Lets the child that was left behind end."""


def test_has_process_finds_only_running_processes() -> None:
    assert has_process(os.getpid())
    child = subprocess.Popen(["sleep", "100"])
    end_tree(child.pid)
    child.wait()
    assert not has_process(child.pid)
    assert 0 < own_start() < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert has_process(os.getpid(), own_start())
    assert not has_process(os.getpid(), own_start() - 1)


def test_a_process_that_proc_hides_from_this_user_counts_as_running() -> None:
    """With hidepid, /proc has no entry of root's run for a user who types ``petal-node status``."""
    if os.geteuid() != 0:
        pytest.skip("root is needed to start a process of another user")
    script = (
        "import os, sys; from bootstrap.host import processes; os.setuid(65534); "
        "processes._stat = lambda pid: ('', 0.0); print(processes.has_process(1, 5.0), processes.has_process(1 << 22))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the test runs a process of another user, which needs root")
def test_a_user_cannot_pretend_to_be_a_run() -> None:
    script = "import os, time; os.setuid(int(os.environ['USER_ID'])); print(flush=True); time.sleep(60)"
    processes = []
    try:
        for user in (0, 65534):
            env = {**os.environ, RUN_MARK: f"run of {user}", "USER_ID": str(user)}
            process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        runs = other_runs("x")
        assert ("run of 0" in runs, "run of 65534" in runs) == (True, False)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_available_memory_is_the_kernels_figure() -> None:
    """proc_meminfo(5), in kB; other programs change it during the test."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    kernels = 1024 * sum(int(meminfo[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    assert abs(SYSTEM.available_memory() - kernels) < kernels / 4
