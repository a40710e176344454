"""The two kernels that the machine may have: what each needs here, and how it is started.

PETAL_NFS_MACHINE says which: ``uml``, also where it says nothing, is the quick one; ``qemu`` has two processors and
the kernel that Debian has for any PC.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import LabError

MEMORY = 3 << 30
INIT = ("rdinit=/lab/init.sh", "rootfstype=tmpfs")  # what lies over tmpfs can be exported; over ramfs it cannot
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Kind:
    """Commands that make the image and that start it, and how: ``argv(kernel, initrd, port)``.

    The machine's console is its standard output, its first serial port the descriptor ``port``. What it writes here
    stands beside the initrd.
    """

    name: str
    made_with: tuple[str, ...]
    started_with: tuple[str, ...]
    argv: Callable[[Path, Path, int], list[str]]


def _uml(kernel: Path, initrd: Path, port: int) -> list[str]:
    """User-mode Linux, a kernel that is a program of this system: neither root nor hardware is asked for anything."""
    shared_memory = Path("/dev/shm")  # for the machine's memory, a file that must be executable
    fits = shared_memory.is_dir() and shutil.disk_usage(shared_memory).free > MEMORY
    fits = fits and not os.statvfs(shared_memory).f_flag & os.ST_NOEXEC
    return [
        *("env", f"TMPDIR={shared_memory if fits else initrd.parent}", str(kernel)),
        *("seccomp=auto", f"mem={MEMORY >> 20}M", f"initrd={initrd}", *INIT),
        *("con=null", "con0=null,fd:1", f"ssl0=fd:{port}", f"uml_dir={initrd.parent}"),
    ]


def _qemu(kernel: Path, initrd: Path, port: int) -> list[str]:
    """Without acceleration: /dev/kvm is often there and does not work."""
    return [
        *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-m", f"{MEMORY >> 20}M", "-smp", "2"),
        # Not -nographic, where the firmware greets on the first serial port.
        *("-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", " ".join(("console=ttyS1", "quiet", "panic=1", "mitigations=off", *INIT))),
        *("-chardev", f"socket,id=port,fd={port}", "-serial", "chardev:port", "-serial", "stdio"),
    ]


KINDS = {kind.name: kind for kind in (Kind("uml", ("patchelf",), (), _uml), Kind("qemu", (), (QEMU,), _qemu))}


def chosen() -> Kind:
    """The kind that PETAL_NFS_MACHINE names.

    Raises:
        LabError: there is none of that name.
    """
    name = os.environ.get("PETAL_NFS_MACHINE") or "uml"
    if name not in KINDS:
        raise LabError(f"PETAL_NFS_MACHINE={name}: it can be {' or '.join(KINDS)}")
    return KINDS[name]
