"""How an install uses the machine: the one place with the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 1 << 30
MOST = 8


@dataclass(frozen=True)
class Parallel:
    """``processes``: packages that are built at the same time; ``jobs``: what each may run (``make -j``)."""

    processes: int
    jobs: int


def split(cores: int, memory: int, limit: int = 0, *, side_by_side: bool = True) -> Parallel:
    """Packages side by side and jobs for each, so that all cores are busy with many small packages and with one large.

    Half of what most packages do (fetch, unpack, configure, link, install) keeps one core busy, so more packages than
    one are built at once: about the square root of the cores, at most 8, since a dependency graph seldom offers more.
    For the same reason each may run twice its share of the cores; when a large one is alone at the end it has a good
    part of them. A compiler can need 1 GiB, so cores without memory do not count.

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
        side_by_side: this Spack builds more than one package at once.
    """
    usable = max(1, min(cores, limit or cores, round(memory / GIB)))
    processes = min(MOST, usable, max(2, round(math.sqrt(usable)))) if side_by_side else 1
    return Parallel(processes, min(usable, math.ceil(2 * usable / processes)))
