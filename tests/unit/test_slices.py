"""How an install is divided if the file system limits the locks per file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.core.facts import Cluster, Facts, Mount, SharedDir
from bootstrap.spack.install import locked_for, slices
from bootstrap.spack.lockfile import Locked
from tests.world import HOST


def graph(*needs: tuple[int, ...], builds: Collection[int] = ()) -> tuple[Locked, ...]:
    """Specs by number with their dependencies; those of ``builds`` have only build dependencies."""
    made = []
    for number, needed in enumerate(needs):
        hashes = tuple(map(str, needed))
        keeps = () if number in builds else hashes
        made.append(Locked(f"p{number}", "1", str(number), False, False, hashes, keeps))
    return tuple(made)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Locked, ...]:
    """Any acyclic graph, its specs in any order."""
    size = draw(st.integers(1, 15))
    needs = [tuple(draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else ()) for number in range(size)]
    return tuple(draw(st.permutations(graph(*needs, builds=draw(st.sets(st.integers(0, size)))))))


def spack_locks(asked: Iterable[str], present: Collection[str], specs: Mapping[str, Locked]) -> set[str]:
    """Spack's locks (installer.py: BuildRequest.traverse_dependencies): the requested specs and their dependencies."""
    found: set[str] = set()
    todo = list(asked)
    while todo:
        digest = todo.pop()
        if digest not in found:
            found.add(digest)
            todo += specs[digest].keeps if digest in present else specs[digest].needs
    return found


@given(graphs(), st.integers(1, 18), st.data())
def test_each_missing_spec_is_in_one_slice_and_no_slice_has_too_many_locks(
    specs: tuple[Locked, ...], limit: int, data: st.DataObject
) -> None:
    by_hash, locks = {spec.hash: spec for spec in specs}, locked_for(specs)
    present: set[str] = set()
    for digest in data.draw(st.sets(st.sampled_from(sorted(by_hash)))):  # installed specs have all their dependencies
        present |= spack_locks([digest], (), by_hash)
    missing = set(by_hash) - present
    order: list[str] = []
    for part in slices(locks, missing, limit):
        locked = spack_locks(part, present, by_hash)
        assert len(locked) <= limit or len(part) == 1
        assert locked <= present | set(part), "Spack would build specs outside of the slice"
        present |= set(part)
        order += part
    assert sorted(order) == sorted(missing)


def test_build_dependencies_of_installed_specs_are_not_locked() -> None:
    locks = locked_for(graph((), (0,), (1,), builds=(1,)))
    assert locks == {"0": {"0"}, "1": {"0", "1"}, "2": {"1", "2"}}
    assert locked_for((Locked("a", "1", "a", True, False, ("elsewhere",), ("elsewhere",)),)) == {"a": {"a"}}


def test_a_graph_is_divided_at_the_limit() -> None:
    locks = locked_for(graph((), (), (0,), (1,), (2, 3)))
    assert list(slices(locks, locks, 5)) == [("0", "1", "2", "3", "4")]
    assert list(slices(locks, locks, 3)) == [("0", "1", "2"), ("3",), ("4",)]
    assert list(slices(locks, (), 3)) == []


def test_a_deep_graph_does_not_exceed_the_recursion_limit() -> None:
    locks = locked_for(graph(*(((number - 1,) if number else ()) for number in range(2000)))[::-1])
    assert list(locks)[:2] == ["0", "1"]
    assert len(locks["1999"]) == 2000


def known(mount: Mount, kind: str = "ebs") -> Facts:
    return Facts(Cluster(None, shared=(SharedDir("/shared", kind),)), HOST, (mount,))


def test_efs_mounts_are_recognized() -> None:
    def on(source: str, fs: str = "nfs4") -> Mount:
        return Mount(source, "/shared", fs, ("rw",))

    assert known(on("fs-0123abcd.efs.us-east-1.amazonaws.com:/")).is_efs("/shared")
    assert known(on("127.0.0.1:/")).is_efs("/shared"), "the local end of the EFS helper's TLS tunnel"
    assert known(on("10.0.0.7:/"), "efs").is_efs("/shared"), "by IP address, with dna.json"
    assert not known(on("10.0.0.7:/")).is_efs("/shared")
    assert not known(on("ip-10-0-0-7:/shared")).is_efs("/shared")
    assert not known(on("/dev/nvme1n1", "ext4")).is_efs("/shared")
    assert not known(on("fs-0123abcd.efs.us-east-1.amazonaws.com:/")).is_efs("/other")
