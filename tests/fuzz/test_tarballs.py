"""Tarballs: whatever one holds, nothing outside of the target changes, and what is kept is harmless."""

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
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.errors import PackageError
from bootstrap.tarball import unpack
from tests.fuzz import inputs
from tests.fuzz.node import fingerprint

KINDS = (
    tarfile.REGTYPE, tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
    tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.AREGTYPE, b"Z",
)  # fmt: skip
PACKERS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, bz2.compress, lzma.compress)
# Few names, so that members meet each other: a file where a directory is, a link where a file is.
parts = st.sampled_from(["a", "b", "c", "bin", ".", "..", "canary", "target", ""])
names = st.one_of(
    st.lists(parts, min_size=1, max_size=4).map("/".join),
    st.lists(parts, min_size=1, max_size=4).map(lambda names: "a/" + "/".join(names)),
    inputs.texts.filter(lambda text: "\ud800" not in text),
)
links = st.one_of(
    names,
    st.sampled_from(
        [
            "../canary",
            "../canary/file",
            "../../canary",
            "../target/a",
            "../target",
            "/etc/passwd",
            "..",
            ".",
            "a/../../canary",
        ]
    ),
)
modes = st.sampled_from([0o644, 0o755, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o7777, -1])
headers = st.dictionaries(
    st.sampled_from(["path", "linkpath", "size", "mtime", "uid", "gid", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.realsize", "SCHILY.xattr.user.x"]),
    st.one_of(st.sampled_from(["nan", "inf", "-1", "1e30", "0,1", "9" * 30, "../../canary/file", "/etc/x", ""]), st.text(st.characters(codec="utf-8"), max_size=9)),
    max_size=2,
)  # fmt: skip


@st.composite
def members(draw: Callable[..., Any]) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(draw(names))
    made.type, made.mode = draw(st.sampled_from(KINDS)), draw(modes)
    made.linkname = draw(links) if made.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    made.mtime = draw(st.sampled_from([0, 1.5, -5, 2**33, 2**60]))
    made.uid = made.gid = draw(st.sampled_from([0, 1000, 2**21 + 1]))
    made.pax_headers = draw(headers)
    content = draw(st.binary(max_size=40)) if made.isreg() and made.type != tarfile.GNUTYPE_SPARSE else b""
    made.size = draw(st.sampled_from([len(content)] * 8 + [2**33, 2**62])) if made.isreg() else 0
    return made, content


@st.composite
def archives(draw: Callable[..., Any]) -> bytes:
    stream = io.BytesIO()
    kind = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for member, content in draw(st.lists(members(), max_size=6)):
            try:
                header = member.tobuf(kind, "utf-8", "surrogateescape")
            except (ValueError, OverflowError):  # this format cannot say it
                continue
            stream.write(header + content + b"\0" * (-len(content) % 512))
        tar.offset = stream.tell()
    return draw(st.sampled_from(PACKERS))(stream.getvalue())


def whole() -> bytes:
    """A tarball as a vendor makes it."""
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
def beside_a_canary(top: Path) -> Iterator[Path]:
    """A place for the target, with things around it that must stay as they are."""
    place = top / uuid.uuid4().hex
    try:
        (place / "canary").mkdir(parents=True)
        (place / "canary" / "file").write_text("sings")
        (place / "canary" / "link").symlink_to("file")
        (place / ".target.part").mkdir()
        yield place
    finally:
        shutil.rmtree(place)


def unpacks_or_refuses(data: bytes, top: Path) -> bool:
    """True where it was unpacked. Whether or not: nothing else changed, and the error tells what to do."""
    with beside_a_canary(top) as place:
        (place / "x.tar").write_bytes(data)
        before = fingerprint(place)
        target = place / "target"
        refused: PackageError | None = None
        try:
            unpack(place / "x.tar", target)
        except PackageError as error:
            refused = error
        assert fingerprint(place, but=target) == {path: seen for path, seen in before.items()}, (
            "something outside changed"
        )
        if refused is None:
            is_harmless(target)
            return True
        assert refused.code in ("package-archive", "package-unsafe")
        assert refused.remedy
        assert refused.why
        return False


def is_harmless(target: Path) -> None:
    """Files, directories and links that stay inside; nothing that others can write, nothing setuid, all root's."""
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


@given(data=archives())
def test_any_members_are_unpacked_inside_or_refused(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


@given(data=inputs.damaged(st.sampled_from(WHOLE)))
def test_a_damaged_tarball_changes_nothing_outside(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


@given(
    data=st.one_of(
        st.binary(max_size=1200), archives().map(gzip.compress), archives().map(lambda data: data[: len(data) // 2])
    )
)
def test_what_is_no_tarball_is_refused(data: bytes, tmp_path: Path) -> None:
    unpacks_or_refuses(data, tmp_path)


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_a_whole_tarball_is_unpacked(number: int, tmp_path: Path) -> None:
    assert unpacks_or_refuses(WHOLE[number], tmp_path)


def _header(name: str, kind: bytes, size: int, content: bytes = b"") -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    return made.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)


BOMBS = {
    "a chain of long names": _header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2, b"a\0") * 3000 + _header("a", tarfile.REGTYPE, 0),
    "a chain of pax headers": _header("x", tarfile.XHDTYPE, 10, b"10 path=a\n") * 3000 + _header("a", tarfile.REGTYPE, 0),
    "a name of a terabyte": _header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2**40, b"a\0"),
    "a file of exabytes": _header("a", tarfile.REGTYPE, 2**62),
    "pax: a file of exabytes": _header("x", tarfile.XHDTYPE, 28, b"28 size=4611686018427387904\n") + _header("a", tarfile.REGTYPE, 0),
    "a sparse file of exabytes": _header("x", tarfile.XHDTYPE, 66, b"37 GNU.sparse.size=4611686018427387904\n29 GNU.sparse.numblocks=0000\n"[:66]) + _header("a", tarfile.REGTYPE, 0),
}  # fmt: skip


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(data: bytes, tmp_path: Path) -> None:
    assert not unpacks_or_refuses(data + b"\0" * 1024, tmp_path)
