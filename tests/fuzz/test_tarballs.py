"""Tarballs with any content: nothing outside of the target changes, and the unpacked files are harmless."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.core.errors import PackageError
from bootstrap.remote.tarball import unpack
from tests.fuzz import inputs
from tests.fuzz.node import fingerprint

KEPT = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
REFUSED = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PACKERS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, bz2.compress, lzma.compress)
# Few names, so that members collide: a file in place of a directory, a link in the path of another member.
PARTS = ("a", "b", "file")
below_top = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(lambda parts: "/".join(["top", *parts]))
steps = st.lists(st.sampled_from(("..", "..", ".", "a", "b", "canary", "target", "file")), min_size=1, max_size=5)
leading = st.one_of(st.sampled_from(("../canary", "../../canary", "..", "a", "b")), steps.map("/".join))
OUTSIDE = (
    "/etc/passwd", "../canary/file", "../../canary", "../target/a", "a/../../canary/file", "/", "..", "", "./x/../..",
)  # fmt: skip


@st.composite
def honest(draw: Callable[..., Any]) -> tuple[tarfile.TarInfo, bytes]:
    """A member that is valid on its own; with other members or by its link target it may still lead outside."""
    made = tarfile.TarInfo(draw(below_top))
    made.type, made.mode = draw(st.sampled_from(KEPT)), draw(st.sampled_from([0o644, 0o755, 0o000, 0o777, 0o1777]))
    if made.type == tarfile.SYMTYPE:
        made.linkname = draw(leading)
    elif made.type == tarfile.LNKTYPE:
        made.linkname = draw(below_top)
    content = draw(st.binary(max_size=9)) if made.isreg() else b""
    made.size, made.mtime = len(content), draw(st.sampled_from([0, 1.5, 2**33]))
    return made, content


@st.composite
def odd(draw: Callable[..., Any]) -> tuple[tarfile.TarInfo, bytes]:
    """A member with one property that vendors' tarballs do not have."""
    made, content = draw(honest())
    what = draw(st.sampled_from(("name", "kind", "mode", "link", "size", "header", "text")))
    if what == "name":
        made.name = draw(st.sampled_from(OUTSIDE))
    elif what == "text":
        made.name = draw(inputs.texts.filter(lambda text: "\ud800" not in text))
    elif what == "kind":
        made.type = draw(st.sampled_from(REFUSED))
    elif what == "mode":
        made.mode = draw(st.sampled_from((0o4755, 0o2755, 0o7777, -1)))
    elif what == "link":
        made.type, made.size = draw(st.sampled_from((tarfile.SYMTYPE, tarfile.LNKTYPE))), 0
        made.linkname, content = draw(st.sampled_from(OUTSIDE)), b""
    elif what == "size" and made.isreg():
        made.size = draw(st.sampled_from((2**33, 2**62, -1)))
    else:
        made.pax_headers = draw(headers)
    return made, content


headers = st.dictionaries(
    st.sampled_from(
        [
            "path",
            "linkpath",
            "size",
            "mtime",
            "uid",
            "GNU.sparse.size",
            "GNU.sparse.map",
            "GNU.sparse.major",
            "GNU.sparse.realsize",
        ]
    ),
    st.sampled_from(["nan", "inf", "-1", "1e30", "0,1", "9" * 30, "../../canary/file", "/etc/x", "", "\u00e9"]),
    min_size=1,
    max_size=2,
)


def packed(members: list[tuple[tarfile.TarInfo, bytes]], kind: int, pack: Callable[[bytes], bytes]) -> bytes:
    stream = io.BytesIO()
    for member, content in members:
        try:
            stream.write(member.tobuf(kind, "utf-8", "surrogateescape"))
        except (ValueError, OverflowError):  # the format cannot express it
            continue
        stream.write(content + b"\0" * (-len(content) % 512))
    return pack(stream.getvalue() + b"\0" * 1024)


kinds, packers = st.sampled_from(FORMATS), st.sampled_from(PACKERS)
honest_archives = st.builds(packed, st.lists(honest(), min_size=1, max_size=7), kinds, packers)
among_honest = st.tuples(st.lists(honest(), max_size=3), odd(), st.lists(honest(), max_size=2))
odd_archives = st.builds(packed, among_honest.map(lambda drawn: [*drawn[0], drawn[1], *drawn[2]]), kinds, packers)


def whole() -> bytes:
    """A tarball like a vendor's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("cfd-1/bin/cfd", "cfd-1/lib/libcfd.so.1", "cfd-1/share/" + "long/" * 40 + "name"):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 600, 0o755
            tar.addfile(member, io.BytesIO(b"x" * 600))
        link = tarfile.TarInfo("cfd-1/lib/libcfd.so")
        link.type, link.linkname = tarfile.SYMTYPE, "libcfd.so.1"
        tar.addfile(link)
    return stream.getvalue()


WHOLE = [pack(whole()) for pack in PACKERS]


@contextmanager
def next_to_a_canary(top: Path) -> Iterator[Path]:
    """A target directory next to files that must not change."""
    place = top / uuid.uuid4().hex
    try:
        (place / "canary").mkdir(parents=True)
        (place / "canary" / "file").write_text("sings")
        (place / "canary" / "link").symlink_to("file")
        (place / ".target.part").mkdir()
        yield place
    finally:
        shutil.rmtree(place)


def unpacks_or_refuses(data: bytes, top: Path) -> PackageError | None:
    """Return the error, if it was not unpacked; nothing else has changed, and an error has a remedy."""
    with next_to_a_canary(top) as place:
        (place / "x.tar").write_bytes(data)
        before = fingerprint(place)
        target = place / "target"
        refused: PackageError | None = None
        try:
            unpack(place / "x.tar", target)
        except PackageError as error:
            refused = error
        assert fingerprint(place, but=target) == before, "something outside changed"
        if refused is None:
            is_harmless(target)
            return None
        assert refused.code in ("package-archive", "package-unsafe")
        assert refused.remedy
        assert refused.why
        return refused


def is_harmless(target: Path) -> None:
    """Assert: files, directories and links stay inside, owned by root, not writable by others, not setuid."""
    for directory, inner, files in os.walk(target):
        for name in inner + files:
            path = Path(directory, name)
            info = path.lstat()
            assert info.st_uid == os.geteuid(), path
            if stat.S_ISLNK(info.st_mode):
                end = Path(os.path.realpath(path))
                assert end == target or target in end.parents, path
                continue
            assert stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode), path
            assert not info.st_mode & 0o7022, path


@given(data=honest_archives)
def test_members_that_collide_stay_inside(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


@given(data=odd_archives)
def test_an_odd_member_is_kept_inside_or_refused(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


@given(
    data=st.one_of(inputs.damaged(st.sampled_from(WHOLE)), st.binary(max_size=1200), odd_archives.map(gzip.compress))
)
def test_a_damaged_tarball_changes_nothing_outside(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


def test_valid_tarballs_are_often_generated(tmp_path: Path) -> None:
    """The other tests would prove nothing if all tarballs were refused."""
    kept: list[bool] = []

    @settings(max_examples=100, derandomize=True)
    @given(data=honest_archives)
    def look(data: bytes) -> None:
        kept.append(unpacks_or_refuses(data, tmp_path) is None)

    look()
    assert sum(kept) > len(kept) // 5


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_a_complete_tarball_is_unpacked(number: int, tmp_path: Path) -> None:
    assert unpacks_or_refuses(WHOLE[number], tmp_path) is None


def _header(name: str, kind: bytes, size: int, content: bytes = b"") -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    return made.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)


def _sparse(size: int) -> bytes:
    """GNU tar's old sparse header (tar manual, "Storing Sparse Files"): no data, and the real size at byte 483."""
    block = bytearray(_header("a", tarfile.GNUTYPE_SPARSE, 0))
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _pax(*records: bytes) -> bytes:
    """A pax header; each record starts with its own length (pax(1))."""
    content = b""
    for record in records:
        content += next(
            line for line in (b"%d %s\n" % (size, record) for size in range(999)) if line.startswith(b"%d " % len(line))
        )
    return _header("x", PAX, len(content), content)


LONG, PAX, MUCH, EMPTY = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, 1 << 24, _header("a", tarfile.REGTYPE, 0)
BOMBS = {
    "a chain of long names": _header("././@LongLink", LONG, 2, b"a\0") * 3000 + EMPTY,
    "a chain of pax headers": _header("x", PAX, 10, b"10 path=a\n") * 3000 + EMPTY,
    "a name of a terabyte": _header("././@LongLink", LONG, 2**40, b"a\0"),
    "a file of exabytes": _header("a", tarfile.REGTYPE, 2**62),
    "pax: a file of exabytes": _header("x", PAX, 28, b"28 size=4611686018427387904\n") + EMPTY,
    "pax: a negative size": _pax(b"size=-1024") + EMPTY,
    "a long name that is there": _header("././@LongLink", LONG, MUCH, b"a" * MUCH) + EMPTY,
    "an endless map of a sparse file": _pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0")
    + _header("a", tarfile.REGTYPE, MUCH, b"99999999\n" + b"0\n" * (MUCH // 2)),
    "a file of zeros": _header("a", tarfile.REGTYPE, 2**31, bytes(2**10)),
    "a sparse file of exabytes": _sparse(2**62),
    "a sparse file of terabytes": _sparse(2**45),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(data: bytes, tmp_path: Path) -> None:
    refused = unpacks_or_refuses(gzip.compress(data + b"\0" * 1024), tmp_path)
    assert refused
    assert len(data) < MUCH or "header of a member is longer" in refused.why
