"""Installs in slices, if a file system allows few locks on one file. Pure.

``spack install`` locks every requested package and its dependencies, externals too, until it ends: all dependencies of
a package that is built, and the link and run dependencies of an installed one. All of these locks are bytes of one
file, ``.spack-db/prefix_lock`` (lib/spack/spack/installer.py: BuildRequest; /proc/locks shows it). EFS allows 512 locks
on a file, over all clients (EFS user guide, "Amazon EFS quotas and limits").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from .lockfile import Locked

EFS_LOCKS = 512
MARGIN = 112  # for Spack's other readers, and for locks of a client that died and whose lease still runs


def locked_for(specs: Iterable[Locked]) -> dict[str, frozenset[str]]:
    """The hashes that are locked to build each spec after its dependencies, in an order in which they can be built.

    Args:
        specs: all concrete specs of a lockfile; dependencies outside of it are ignored.
    """
    by_hash = {spec.hash: spec for spec in specs}
    after: dict[str, frozenset[str]] = {}  # once it is built
    found: dict[str, frozenset[str]] = {}
    for digest in _in_order(by_hash):
        spec, own = by_hash[digest], frozenset((digest,))
        after[digest] = own.union(*(after[other] for other in spec.keeps if other in by_hash))
        found[digest] = own.union(*(after[other] for other in spec.needs if other in by_hash))
    return found


def slices(locks: Mapping[str, frozenset[str]], chosen: Collection[str], limit: int) -> Iterator[tuple[str, ...]]:
    """The chosen specs in as few slices as their order allows, each of which needs no more locks than ``limit``.

    A spec that needs more by itself has a slice of its own.

    Args:
        locks: the result of ``locked_for``.
    """
    part: list[str] = []
    held: frozenset[str] = frozenset()
    for digest in (digest for digest in locks if digest in chosen):
        if part and len(held | locks[digest]) > limit:
            yield tuple(part)
            part, held = [], frozenset()
        part.append(digest)
        held |= locks[digest]
    if part:
        yield tuple(part)


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
