"""What the machine boots: one of Debian's kernels and a root file system, made once and kept; and what runs add."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab.engine import LabError, install, say

from . import kernel

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
RECIPE = HERE / "image.sh"
GUEST = HERE / "guest"
PACKAGES = {kernel.QEMU: "qemu-system-x86"}  # where the command is not named like its package


def place() -> Path:
    """The directory of the image of the chosen kind by this very recipe."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "petal-node" / "nfs"
    return cache / f"{kernel.chosen().name}-{hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:16]}"


def _is_made() -> bool:
    return (place() / "root.cpio.gz").is_file() and (place() / "kernel").is_file()


def _missing() -> list[str]:
    """The commands that are needed and not here."""
    kind = kernel.chosen()
    needed = ["cpio", *kind.started_with, *(() if _is_made() else ("debootstrap", *kind.made_with))]
    return [command for command in needed if shutil.which(command) is None]


def unavailable() -> str | None:
    """Why no machine can be had here, or None. As root with apt-get, packages count as to be had."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the machine is made for Linux on x86_64"
    root = os.geteuid() == 0
    missing = _missing()
    if missing and not (root and shutil.which("apt-get")):
        return f"{', '.join(missing)} missing, and only root with apt-get could install them"
    if not _is_made() and not root:
        return "the machine's root file system is not made yet, and only root can run debootstrap"
    return None


def ensure() -> Path:
    """The directory with ``kernel`` and ``root.cpio.gz``; installs and makes what is missing, saying so first.

    Raises:
        LabError: it cannot be had.
    """
    missing = _missing()
    if missing:
        install([PACKAGES.get(command, command) for command in missing])
    if not _is_made():
        say("making the machine for real NFS (debootstrap, Debian's kernel): a minute or two")
        argv = ["sh", str(RECIPE), str(place()), kernel.chosen().name]
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError("the machine for real NFS was not made")
    return place()


def write_initrd(archive: Path, scratch: Path) -> Path:
    """The kept root file system, and behind it what the tests run there: the kernel unpacks one after the other."""
    folder = scratch / "payload" / "lab"
    shutil.copytree(GUEST, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(archive, folder / "petal-node")
    (folder / "petal-node").chmod(0o755)
    (folder / "init.sh").chmod(0o755)  # the kernel starts it
    _unpack_and_compile(archive, folder.parent)
    names = "\n".join(str(path.relative_to(folder.parent)) for path in sorted(folder.parent.rglob("*")))
    argv = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
    payload = subprocess.run(argv, cwd=folder.parent, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
    initrd = scratch / "initrd"
    with initrd.open("wb") as out:
        with (place() / "root.cpio.gz").open("rb") as root:
            shutil.copyfileobj(root, out)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(payload)
    return initrd


def _unpack_and_compile(archive: Path, root: Path) -> None:
    """What a node's first start makes costs every node seconds, so it is made here.

    Compiled modules are used where this system's Python is of the machine's minor version, else made there again.
    """
    env = {"PATH": os.environ["PATH"], "PETAL_PREFIX": str(root)}
    subprocess.run([sys.executable, str(archive), "version"], env=env, check=True, stdout=subprocess.DEVNULL)
    tree = root / "var" / "cache" / "petal-node"
    python = shutil.which("python3.11", path="/usr/bin:/bin") or sys.executable
    subprocess.run([python, "-m", "compileall", "-q", "-s", str(root), "-p", "/", str(tree)], check=False)
