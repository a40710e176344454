"""The machine's kernel (Debian's) and root file system, made once and cached; and the files that each run adds."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab.engine import LabError, install, print_progress

from . import kernel

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
RECIPE = HERE / "image.sh"
GUEST = HERE / "guest"
PACKAGES = {kernel.QEMU: "qemu-system-x86"}  # commands whose package has another name


def place() -> Path:
    """The directory of the image, named after the chosen kind and the recipe's checksum."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "petal-node" / "nfs"
    return cache / f"{kernel.chosen().name}-{hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:16]}"


def _is_made() -> bool:
    return (place() / "root.cpio.gz").is_file() and (place() / "kernel").is_file()


def _missing() -> list[str]:
    """The required commands that are not installed."""
    kind = kernel.chosen()
    needed = ["cpio", *kind.started_with, *(() if _is_made() else ("debootstrap", *kind.made_with))]
    return [command for command in needed if shutil.which(command) is None]


def unavailable() -> str | None:
    """Return why no machine can run here, or None if one can. Root with apt-get can install missing packages."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the machine for real NFS needs Linux on x86_64"
    root = os.geteuid() == 0
    missing = _missing()
    if missing and not (root and shutil.which("apt-get")):
        return f"the machine for real NFS needs {', '.join(missing)}, which only root can install with apt-get"
    if not _is_made() and not root:
        return "the machine for real NFS has no root file system yet, and debootstrap needs root"
    return None


def ensure() -> Path:
    """Install and create missing parts after a message; return the directory with ``kernel`` and ``root.cpio.gz``.

    Raises:
        LabError: the image cannot be created.
    """
    missing = _missing()
    if missing:
        install([PACKAGES.get(command, command) for command in missing])
    if not _is_made():
        print_progress("making the machine for real NFS (debootstrap, Debian's kernel): a minute or two")
        argv = ["sh", str(RECIPE), str(place()), kernel.chosen().name]
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError("the machine for real NFS could not be created")
    return place()


def write_initrd(archive: Path, scratch: Path) -> Path:
    """Write the cached root file system followed by the files of the tests; the kernel unpacks both archives."""
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
    """Create the files of petal-node's first start here, because that would take seconds on every node.

    The compiled modules are valid if this system's Python has the machine's minor version, else nodes compile again.
    """
    env = {"PATH": os.environ["PATH"], "PETAL_PREFIX": str(root)}
    subprocess.run([sys.executable, str(archive), "version"], env=env, check=True, stdout=subprocess.DEVNULL)
    tree = root / "var" / "cache" / "petal-node"
    python = shutil.which("python3.11", path="/usr/bin:/bin") or sys.executable
    subprocess.run([python, "-m", "compileall", "-q", "-s", str(root), "-p", "/", str(tree)], check=False)
