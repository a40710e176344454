"""The two possible kernels of the machine: the commands that each needs, and how it is started.

PETAL_NFS_MACHINE selects one: ``uml`` (the default) is faster; ``qemu`` has two processors and
Debian's kernel for PCs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import LabError

MEMORY = 3 << 30
INIT = ("rdinit=/lab/init.sh", "rootfstype=tmpfs")  # an overlay on tmpfs can be exported; one on ramfs cannot
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Kind:
    """The commands that make and start the image, and the command line: ``argv(kernel, initrd, port)``.

    The machine's console is its standard output, its first serial port the descriptor ``port``. Its files on the host
    are next to the initrd.
    """

    name: str
    made_with: tuple[str, ...]
    started_with: tuple[str, ...]
    argv: Callable[[Path, Path, int], list[str]]


def _uml(kernel: Path, initrd: Path, port: int) -> list[str]:
    """User-mode Linux, a kernel that is a program of this system: it needs neither root nor hardware."""
    shared_memory = Path("/dev/shm")  # the machine's memory is a file that must be executable
    fits = shared_memory.is_dir() and shutil.disk_usage(shared_memory).free > MEMORY
    fits = fits and not os.statvfs(shared_memory).f_flag & os.ST_NOEXEC
    return [
        *("env", f"TMPDIR={shared_memory if fits else initrd.parent}", str(kernel)),
        *("seccomp=auto", f"mem={MEMORY >> 20}M", f"initrd={initrd}", *INIT),
        *("con=null", "con0=null,fd:1", f"ssl0=fd:{port}", f"uml_dir={initrd.parent}"),
    ]


def _qemu(kernel: Path, initrd: Path, port: int) -> list[str]:
    """QEMU without acceleration: /dev/kvm often exists and does not work."""
    return [
        *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-m", f"{MEMORY >> 20}M", "-smp", "2"),
        # Not -nographic: its firmware writes to the first serial port.
        *("-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", " ".join(("console=ttyS1", "quiet", "panic=1", "mitigations=off", *INIT))),
        *("-chardev", f"socket,id=port,fd={port}", "-serial", "chardev:port", "-serial", "stdio"),
    ]


KINDS = {kind.name: kind for kind in (Kind("uml", ("patchelf",), (), _uml), Kind("qemu", (), (QEMU,), _qemu))}


def chosen() -> Kind:
    """The kind that PETAL_NFS_MACHINE names.

    Raises:
        LabError: PETAL_NFS_MACHINE has an unknown name.
    """
    name = os.environ.get("PETAL_NFS_MACHINE") or "uml"
    if name not in KINDS:
        raise LabError(f"PETAL_NFS_MACHINE={name}: it can be {' or '.join(KINDS)}")
    return KINDS[name]
