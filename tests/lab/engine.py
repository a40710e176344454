"""The container engine: find it, install it, start it, build the lab's images."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
DEBIAN_BASE = "petal-lab-base:"
CONTEXT = ("Dockerfile.test", "tests/lab/provision.sh", "tests/lab/requirements.txt", "tests/lab/node")
DEFAULT_BASE = DEBIAN_BASE + "bookworm"


class LabError(RuntimeError):
    """An operation of the lab failed."""


def print_progress(text: str) -> None:
    """Print a progress message."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


LONGEST_PAUSE = 1.0


def until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Poll a condition up to a deadline, at growing intervals: a command in a container takes 0.1 s of CPU."""
    deadline, pause = time.monotonic() + seconds, 0.1
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)


def quiet(argv: Sequence[str], timeout: float = 30) -> bool:
    """Return whether a command can be started and succeeds."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        return done.returncode == 0
    return False


def answers() -> bool:
    """Return whether an engine answers."""
    return quiet(["docker", "info"])


def compose_command() -> list[str] | None:
    """Return the command of Compose: the plugin (v2) or docker-compose (v1)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if quiet([*command, "version"]):
            return command
    return None


def unavailable(install: bool = True) -> str | None:
    """Return why no container can run here, or None if one can. ``install``: root may install the packages."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    if answers() and compose_command():
        return None
    if os.geteuid() != 0:
        return "no container engine with Compose answers, and only root could install or start one"
    if not (shutil.which("dockerd") and compose_command()) and not (install and shutil.which("apt-get")):
        return "no container engine with Compose answers, and apt-get, which could install one, is missing"
    return None


def ensure_engine() -> None:
    """Make sure that an engine answers: as root, install and start one after printing a message."""
    reason = unavailable()
    if reason:
        raise LabError(reason)
    missing = [] if shutil.which("docker") and (answers() or shutil.which("dockerd")) else ["docker.io"]
    if not compose_command():
        missing.append("docker-compose")
    if missing:
        install(missing)
    if not answers():
        start()


def install(packages: Sequence[str]) -> None:
    """Install distribution packages."""
    print_progress("installing from the distribution: " + " ".join(packages))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
    for argv in ([*apt, "update"], [*apt, "--no-install-recommends", "install", *packages]):
        done = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-2000:]}")


def start() -> None:
    """Start the engine: by systemd if it runs, else as a process."""
    print_progress("starting dockerd (its log: /var/log/dockerd.log)")
    if Path("/run/systemd/system").is_dir():
        quiet(["systemctl", "start", "docker"], timeout=60)
    else:
        # setsid forks: the engine is not a child of this process and outlives it
        with Path("/var/log/dockerd.log").open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", "dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=True
            )
    until("dockerd answers", answers, 60)


@contextlib.contextmanager
def hold_lab(name: str, seconds: float = 900) -> Iterator[None]:
    """Lock a lab for this process: a second session would remove the containers of the first."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "petal-node" / "lab"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name}.lock").open("a+", encoding="utf-8") as lock:

        def taken() -> bool:
            with contextlib.suppress(OSError):
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        if not taken():
            print_progress(f"{name} is in use by another session; waiting for it")
            until(f"{name} is free", taken, seconds)
        yield


def node_image(base: str) -> str:
    """Return the name of the node image on a base image."""
    tag = base[len(DEBIAN_BASE) :] if base.startswith(DEBIAN_BASE) else re.sub(r"[^\w.]+", "-", base)
    return "petal-lab-node:" + tag


def build_images(base: str = DEFAULT_BASE) -> str:
    """Make the base image if it is ours and outdated, and the node image; return the name of the node image."""
    ours = base.startswith(DEBIAN_BASE)
    if ours:
        make_base(base[len(DEBIAN_BASE) :])
    image = node_image(base)
    argv = ["docker", "build", "-q", "-t", image, "-f", "Dockerfile.test"]
    argv += ["--build-arg", f"BASE_IMAGE={base}", *(["--network", "none"] if ours else []), "-"]
    done = subprocess.run(argv, input=context(), capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"{image} was not built:\n{done.stderr.decode(errors='replace')}")
    return image


def make_base(suite: str) -> None:
    """Run base.sh; it does nothing if the image has the hash of its recipe."""
    if not quiet(["docker", "image", "inspect", DEBIAN_BASE + suite]) and not shutil.which("debootstrap"):
        install(["debootstrap"])
    env = {**os.environ, "PYTHON": sys.executable}
    if subprocess.run(["sh", str(HERE / "base.sh"), suite], env=env, check=False).returncode:
        raise LabError(f"the base image {DEBIAN_BASE}{suite} was not made")


def context() -> bytes:
    """Return the build context: only the files of the image, however large the work tree is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in CONTEXT:
            archive.add(TOP / name, name, filter=lambda item: None if "cache" in item.name else item)
    return buffer.getvalue()
