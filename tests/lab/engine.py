"""The container engine: is there one, can there be one, start it, build the lab's images."""

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
    """The lab cannot do what was asked of it."""


def say(text: str) -> None:
    """Tell the person at the terminal what happens."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


LONGEST_PAUSE = 1.0


def until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Poll a condition up to a deadline, ever more seldom: a look into a container costs a tenth of a second of CPU."""
    deadline, pause = time.monotonic() + seconds, 0.1
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)


def quiet(argv: Sequence[str], timeout: float = 30) -> bool:
    """Say whether a command can be started and succeeds."""
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
    """Say whether an engine answers."""
    return quiet(["docker", "info"])


def compose_command() -> list[str] | None:
    """Return how Compose is called here: the plugin (v2) or docker-compose (v1)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if quiet([*command, "version"]):
            return command
    return None


def unavailable(install: bool = True) -> str | None:
    """Return why no container can run here, or None. ``install``: as root, packages count as to be had."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    if answers() and compose_command():
        return None
    if os.geteuid() != 0:
        return "no container engine with Compose answers, and only root could install or start one"
    if not (shutil.which("dockerd") and compose_command()) and not (install and shutil.which("apt-get")):
        return "no container engine with Compose answers, and there is no apt-get to install one"
    return None


def ensure_engine() -> None:
    """Make sure that an engine answers: install and start one, as root, saying so first."""
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
    say("installing from the distribution: " + " ".join(packages))
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
    """Start the engine: by systemd where it runs, else on its own."""
    say("starting dockerd (its log: /var/log/dockerd.log)")
    if Path("/run/systemd/system").is_dir():
        quiet(["systemctl", "start", "docker"], timeout=60)
    else:
        # setsid forks: the engine is nobody's child here, and outlives this process without a handle
        with Path("/var/log/dockerd.log").open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", "dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=True
            )
    until("dockerd answers", answers, 60)


@contextlib.contextmanager
def alone(name: str, seconds: float = 900) -> Iterator[None]:
    """Hold a lab for this process: a second session would take the first one's containers down."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "petal-node" / "lab"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name}.lock").open("a+", encoding="utf-8") as lock:

        def taken() -> bool:
            with contextlib.suppress(OSError):
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        if not taken():
            say(f"{name} is in use by another session; waiting for it")
            until(f"{name} is free", taken, seconds)
        yield


def node_image(base: str) -> str:
    """Return the name of the node image on a base image."""
    tag = base[len(DEBIAN_BASE) :] if base.startswith(DEBIAN_BASE) else re.sub(r"[^\w.]+", "-", base)
    return "petal-lab-node:" + tag


def build_images(base: str = DEFAULT_BASE) -> str:
    """Make the base image where it is ours and out of date, and the node image; return the latter's name."""
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
    """Run base.sh; it does nothing while its recipe is the image's."""
    if not quiet(["docker", "image", "inspect", DEBIAN_BASE + suite]) and not shutil.which("debootstrap"):
        install(["debootstrap"])
    env = {**os.environ, "PYTHON": sys.executable}
    if subprocess.run(["sh", str(HERE / "base.sh"), suite], env=env, check=False).returncode:
        raise LabError(f"the base image {DEBIAN_BASE}{suite} was not made")


def context() -> bytes:
    """Return the build context: only what the image is made of, however large the work tree is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in CONTEXT:
            archive.add(TOP / name, name, filter=lambda item: None if "cache" in item.name else item)
    return buffer.getvalue()
