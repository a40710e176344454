"""How an install is cut where a file system allows few locks on one file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.observed import Cluster, Facts, Mount, SharedDir
from bootstrap.spack.database import Locked
from bootstrap.spack.slices import Slice, closures, slices
from tests.world import HOST


def graph(*needs: tuple[int, ...]) -> tuple[Locked, ...]:
    return tuple(
        Locked(f"p{number}", "1", str(number), False, False, tuple(map(str, needed)))
        for number, needed in enumerate(needs)
    )


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Locked, ...]:
    """Any graph without circles, its specs in any order."""
    size = draw(st.integers(1, 25))
    needs = [tuple(draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else ()) for number in range(size)]
    return tuple(draw(st.permutations(graph(*needs))))


@given(graphs(), st.integers(1, 30), st.data())
def test_each_chosen_spec_comes_once_after_what_it_needs_and_no_slice_holds_too_many_locks(
    specs: tuple[Locked, ...], limit: int, data: st.DataObject
) -> None:
    reach = closures(specs)
    chosen = data.draw(st.sets(st.sampled_from(sorted(reach))))
    parts = list(slices(reach, chosen, limit))
    order = [digest for part in parts for digest in part.hashes]
    assert sorted(order) == sorted(chosen)
    for position, digest in enumerate(order):
        assert not (reach[digest] - {digest}) & set(order[position:])
    for part in parts:
        held = frozenset().union(*(reach[digest] for digest in part.hashes))
        assert (len(held) <= limit) is not part.alone
        assert not part.alone or len(part.hashes) == 1


def test_what_a_spec_reaches_is_all_that_it_needs() -> None:
    reach = closures(graph((), (0,), (1,), (1, 2)))
    assert reach["3"] == {"0", "1", "2", "3"}
    assert list(reach) == ["0", "1", "2", "3"]
    assert closures((Locked("a", "1", "a", True, False, ("elsewhere",)),)) == {"a": {"a"}}


def test_a_chain_is_cut_where_the_limit_is() -> None:
    reach = closures(graph((), (), (0,), (1,), (2, 3)))
    assert list(slices(reach, reach, 5)) == [Slice(("0", "1", "2", "3", "4"))]
    assert list(slices(reach, reach, 3)) == [Slice(("0", "1", "2")), Slice(("3",)), Slice(("4",), alone=True)]
    assert list(slices(reach, (), 3)) == []


def test_a_deep_graph_is_no_recursion() -> None:
    reach = closures(graph(*(((number - 1,) if number else ()) for number in range(5000)))[::-1])
    assert list(reach)[:2] == ["0", "1"]
    assert len(reach["4999"]) == 5000


def known(mount: Mount, kind: str = "ebs") -> Facts:
    return Facts(Cluster(None, shared=(SharedDir("/shared", kind),)), HOST, (mount,))


def test_which_mounts_are_efs() -> None:
    def on(source: str, fs: str = "nfs4") -> Mount:
        return Mount(source, "/shared", fs, ("rw",))

    assert known(on("fs-0123abcd.efs.us-east-1.amazonaws.com:/")).is_efs("/shared")
    assert known(on("127.0.0.1:/")).is_efs("/shared"), "its helper's own end, which encrypts"
    assert known(on("10.0.0.7:/"), "efs").is_efs("/shared"), "by an address, and the cluster says it"
    assert not known(on("10.0.0.7:/")).is_efs("/shared")
    assert not known(on("ip-10-0-0-7:/shared")).is_efs("/shared")
    assert not known(on("/dev/nvme1n1", "ext4")).is_efs("/shared")
    assert not known(on("fs-0123abcd.efs.us-east-1.amazonaws.com:/")).is_efs("/other")
