"""How many packages an install builds at once, and with how many jobs each."""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 1 << 30
MOST = 8


@dataclass(frozen=True)
class Parallel:
    """``processes``: packages that are built at the same time; ``jobs``: of each (``make -j``)."""

    processes: int
    jobs: int


def split(cores: int, memory: int, limit: int = 0, *, side_by_side: bool = True) -> Parallel:
    """Divides the cores so that both many small packages and one large package use all of them.

    Most packages use one core for half of their time (fetch, unpack, configure, link, install), so several are built
    at once: about the square root of the cores, at most 8, because a dependency graph seldom has more that are ready.
    For the same reason each may run twice its share of the cores. A compiler can need 1 GiB, so at most as many cores
    are used as there are GiB of memory.

    ====== ========= ====
    cores  processes jobs
    ====== ========= ====
    1      1         1
    2      2         2
    8      3         6
    16     4         8
    64     8         16
    192    8         48
    ====== ========= ====

    Args:
        memory: of the machine, in bytes.
        limit: cores that the install may use, 0 for all.
        side_by_side: this Spack can build several packages at once.
    """
    usable = max(1, min(cores, limit or cores, round(memory / GIB)))
    processes = min(MOST, usable, max(2, round(math.sqrt(usable)))) if side_by_side else 1
    return Parallel(processes, min(usable, math.ceil(2 * usable / processes)))
