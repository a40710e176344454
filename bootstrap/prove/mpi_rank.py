"""One rank of an MPI job without a compiler: the library that the loaded module brings, called through ctypes.

It prints one line before each stage, because MPI can hang, abort or crash in any of them. ``mpi_judge`` reads
the lines.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .mpi_stages import BULK_BYTES, Stage, line

HANGS = 3  # exit code of a rank that its own deadline ended
LIBRARIES = ("libmpi.so*", "libmpich.so*")
DIRECTORIES = ("lib", "lib64", "lib/release")  # the last is Intel MPI's
VERSION_BYTES = 16384  # MPICH's MPI_MAX_LIBRARY_VERSION_STRING is 8192
STATUS_BYTES = 256  # an MPI_Status has 20 to 40
FUNNELED = 1  # MPI_THREAD_FUNNELED: only one thread calls MPI, another one watches the deadline


class RankFailed(Exception):
    """This rank cannot continue; the text is the reason."""


@dataclass
class Task:
    """One rank from its start to its end.

    Args:
        env: the environment from Slurm and the module.
        node: the name of this node.
        tell: writes a line at once.
        loaded: the exit code of ``module load``.
        stop: ends this process with an exit code, whatever its other thread does.
        stage: the stage that it has begun.
    """

    env: Mapping[str, str]
    node: str
    tell: Callable[[str], None]
    loaded: int
    stop: Callable[[int], Any] = os._exit
    stage: Stage = Stage.START

    def run(self, seconds: float = 60.0) -> int:
        """Runs all stages.

        Returns:
            0, or 1 if a stage failed. A stage that hangs ends the process with exit code 3.
        """
        watch = threading.Timer(seconds, self._end_hanging, [seconds])
        watch.daemon = True
        watch.start()
        try:
            self._stages()
        except RankFailed as error:
            self._report(error=str(error))
            return 1
        finally:
            watch.cancel()
        return 0

    def _stages(self) -> None:
        env = self.env
        self._begin(
            Stage.START,
            pmix="PMIX_RANK" in env and "PMIX_NAMESPACE" in env,
            pmix_version=env.get("PMIX_VERSION", ""),
            slurm_mpi=env.get("SLURM_MPI_TYPE", ""),
            mpirun=shutil.which("mpirun", path=env.get("PATH", "")) or "",
        )
        if self.loaded:
            raise RankFailed(f"module load ended with {self.loaded}")
        path = find_library(env)
        self._begin(Stage.LOAD, library=str(path))
        mpi = Library(path)
        self._begin(Stage.INIT, version=mpi.version())
        mpi.init()
        rank, size = mpi.rank_and_size()
        started = time.monotonic()
        if size > 1:
            self._begin(Stage.EXCHANGE, mpi_rank=rank, size=size)
            mpi.exchange(rank, size)
            self._begin(Stage.BULK, bytes=BULK_BYTES)
            mpi.bulk(rank, size)
        self._begin(Stage.FINALIZE, mpi_rank=rank, size=size, seconds=round(time.monotonic() - started, 4))
        mpi.finalize()
        self._begin(Stage.DONE)

    def _begin(self, stage: Stage, **facts: Any) -> None:
        self.stage = stage
        self._report(**facts)

    def _report(self, **facts: Any) -> None:
        self.tell(line(int(self.env.get("SLURM_PROCID") or 0), self.node, self.stage, facts))

    def _end_hanging(self, seconds: float) -> None:
        """Called by the timer's thread while the main thread is inside MPI."""
        self._report(error=f"no end within {seconds:.0f} s", hangs=True)
        self.stop(HANGS)


def find_library(env: Mapping[str, str]) -> Path:
    """The MPI library of the loaded module; RankFailed names the directories that have none."""
    directories: list[Path] = []
    program = shutil.which("mpirun", path=env.get("PATH", ""))
    if program:  # next to mpirun as PATH names it, then next to the target of its links
        for bin_directory in (Path(program).parent, Path(program).resolve().parent):
            directories += [bin_directory.parent / name for name in DIRECTORIES]
    directories += [Path(path) for path in env.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/")]
    directories = list(dict.fromkeys(directories))
    for directory in directories:
        for pattern in LIBRARIES:
            libraries = sorted(directory.glob(pattern), key=lambda path: len(path.name))
            if libraries:
                return libraries[0]
    raise RankFailed(f"no libmpi.so in {', '.join(map(str, directories)) or 'any place: no mpirun on PATH'}")


class Library:
    """An MPI library in this process, with the ABI of Open MPI or the one of MPICH, Intel MPI and MVAPICH.

    ``world``, ``int``, ``byte`` and ``sum`` are MPI_COMM_WORLD, MPI_INT, MPI_BYTE and MPI_SUM of ``mpi.h``, as the ABI
    passes them. RankFailed if it cannot be loaded, or does not have a function.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.lib = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # Open MPI's plugins look there for its symbols
            if hasattr(self.lib, "ompi_mpi_comm_world"):
                names = ("ompi_mpi_comm_world", "ompi_mpi_int", "ompi_mpi_byte", "ompi_mpi_op_sum")
                symbols = (ctypes.c_char.in_dll(self.lib, name) for name in names)
                handles: list[Any] = [ctypes.c_void_p(ctypes.addressof(symbol)) for symbol in symbols]
            else:
                handles = [ctypes.c_int(number) for number in (0x44000000, 0x4C000405, 0x4C00010D, 0x58000003)]
        except (OSError, AttributeError, ValueError) as error:
            raise RankFailed(str(error)) from error
        self.world, self.int, self.byte, self.sum = handles

    def version(self) -> str:
        """Name and version; MPI allows this call before MPI_Init."""
        text, length = ctypes.create_string_buffer(VERSION_BYTES), ctypes.c_int()
        try:
            self.lib.MPI_Get_library_version(text, ctypes.byref(length))
        except AttributeError:  # older than MPI 3
            return "unknown"
        first = text.value.decode("ascii", "replace").partition("\n")[0].partition(",")[0]
        return " ".join(first.split())

    def init(self) -> None:
        provided = ctypes.c_int()
        self._call("MPI_Init_thread", None, None, ctypes.c_int(FUNNELED), ctypes.byref(provided))

    def rank_and_size(self) -> tuple[int, int]:
        """The number of this rank, and the number of ranks."""
        rank, size = ctypes.c_int(), ctypes.c_int()
        self._call("MPI_Comm_rank", self.world, ctypes.byref(rank))
        self._call("MPI_Comm_size", self.world, ctypes.byref(size))
        return rank.value, size.value

    def exchange(self, rank: int, size: int) -> None:
        """Adds one number of each rank (MPI_Allreduce)."""
        mine, total = ctypes.c_int(rank + 1), ctypes.c_int()
        buffers = (ctypes.byref(mine), ctypes.byref(total))
        self._call("MPI_Allreduce", *buffers, ctypes.c_int(1), self.int, self.sum, self.world)
        expected = size * (size + 1) // 2
        if total.value != expected:
            raise RankFailed(f"the sum over all ranks is {total.value} and should be {expected}")

    def bulk(self, rank: int, size: int) -> None:
        """Sends a large message to the next rank and receives one from the previous rank (MPI_Sendrecv)."""
        following, previous = (rank + 1) % size, (rank - 1) % size
        sent, received = (ctypes.create_string_buffer(BULK_BYTES) for _ in range(2))
        ctypes.memset(sent, 1 + rank % 255, BULK_BYTES)
        status = ctypes.create_string_buffer(STATUS_BYTES)
        count, tag = ctypes.c_int(BULK_BYTES), ctypes.c_int(7)
        send = (sent, count, self.byte, ctypes.c_int(following), tag)
        receive = (received, count, self.byte, ctypes.c_int(previous), tag)
        self._call("MPI_Sendrecv", *send, *receive, self.world, status)
        if received.raw != bytes([1 + previous % 255]) * BULK_BYTES:
            raise RankFailed("the message has other bytes than were sent")

    def finalize(self) -> None:
        self._call("MPI_Finalize")

    def _call(self, name: str, *arguments: Any) -> None:
        """By default MPI ends the process at an error and prints its own message."""
        try:
            code = getattr(self.lib, name)(*arguments)
        except AttributeError as error:
            raise RankFailed(str(error)) from error
        if code:
            raise RankFailed(f"{name} returned {code}")


def run(tell: Callable[[str], None], loaded: int) -> int:
    """Runs this process as one rank; see ``Task``."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    return Task(os.environ, node, tell, loaded).run()
