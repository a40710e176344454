"""Installs in slices, where a file system allows few locks on one file. Pure.

``spack install`` holds a lock on every package that it was asked for and on all that they need, externals too, until it
ends, and all of them are bytes of one file, ``.spack-db/prefix_lock`` (lib/spack/spack/installer.py; /proc/locks shows
it). EFS allows 512 locks on a file, over all clients (EFS user guide, "Amazon EFS quotas and limits").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .database import Locked

EFS_LOCKS = 512
MARGIN = 112  # for Spack's other readers, and for locks of a client that died and whose lease still runs


@dataclass(frozen=True)
class Slice:
    """What one ``spack install`` is asked for.

    Args:
        alone: a single package that needs too many: these are there by then, and Spack is to look at it only.
    """

    hashes: tuple[str, ...]
    alone: bool = False


def closures(specs: Iterable[Locked]) -> dict[str, frozenset[str]]:
    """Each spec with all that it needs, directly or not; the order is one in which they can be installed.

    Args:
        specs: all concrete specs of a lockfile. What one needs and is not among them is passed over.
    """
    by_hash = {spec.hash: spec for spec in specs}
    found: dict[str, frozenset[str]] = {}
    for digest in _in_order(by_hash):
        needed = (found[other] for other in by_hash[digest].needs if other in by_hash)
        found[digest] = frozenset((digest,)).union(*needed)
    return found


def slices(reach: Mapping[str, frozenset[str]], chosen: Collection[str], limit: int) -> Iterator[Slice]:
    """The chosen specs in as few slices as their order allows, none of which reaches more than ``limit`` specs.

    Args:
        reach: what ``closures`` says.
        limit: locks that one install may hold; 1 at least.
    """
    part: list[str] = []
    held: frozenset[str] = frozenset()
    for digest in (digest for digest in reach if digest in chosen):
        if part and len(held | reach[digest]) > limit:
            yield Slice(tuple(part))
            part, held = [], frozenset()
        if len(reach[digest]) > limit:
            yield Slice((digest,), alone=True)
            continue
        part.append(digest)
        held |= reach[digest]
    if part:
        yield Slice(tuple(part))


def _in_order(by_hash: Mapping[str, Locked]) -> Iterator[str]:
    """Every hash after those that it needs. Without recursion: graphs can be deep."""
    done: set[str] = set()
    for start in by_hash:
        stack = [(start, False)]
        while stack:
            digest, is_left = stack.pop()
            if is_left:
                yield digest
            elif digest not in done:
                done.add(digest)
                stack.append((digest, True))
                stack += [(other, False) for other in by_hash[digest].needs if other in by_hash and other not in done]
