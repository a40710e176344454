"""Members that a tarball may contain, and members that are refused by name."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from bootstrap.core.errors import PackageError
from bootstrap.remote.tarball import unpack
from tests.world import tarball


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def with_pax(name: str, **headers: str) -> tarfile.TarInfo:
    made = member(name)
    made.pax_headers = headers
    return made


DEEP = "a/" * 64
EVIL: dict[str, dict[str, str | tarfile.TarInfo]] = {
    "absolute name": {"/tmp/petal-test/x": "x"},
    "upwards": {"a/../../x": "x"},
    "link outside": {"a/x": "x", "a/l": member("a/l", tarfile.SYMTYPE, "../../x")},
    "absolute link": {"a/x": "x", "a/l": member("a/l", tarfile.SYMTYPE, "/etc/passwd")},
    "below a link": {"a/x": "x", "a/l": member("a/l", tarfile.SYMTYPE, "x"), "a/l/y": "y"},
    "chained links": {
        "a/d/s": member("a/d/s", tarfile.SYMTYPE, ".."),
        "a/t": member("a/t", tarfile.SYMTYPE, "d/s/../.."),
        "a/x": "x",
    },
    "a link that leaves and comes back": {"a/x": "x", "a/l": member("a/l", tarfile.SYMTYPE, "../target/x")},
    "a link in a circle": {"a/x": "x", "a/l": member("a/l", tarfile.SYMTYPE, "l/..")},
    "hard link outside": {"a/x": "x", "a/l": member("a/l", tarfile.LNKTYPE, "../../etc/passwd")},
    "absolute hard link": {"a/x": "x", "a/l": member("a/l", tarfile.LNKTYPE, "/etc/passwd")},
    "hard link to a link": {
        "a/s": member("a/s", tarfile.SYMTYPE, "x"),
        "a/x": "x",
        "a/l": member("a/l", tarfile.LNKTYPE, "a/s"),
    },
    "hard link through a link": {
        "a/out": member("a/out", tarfile.SYMTYPE, "../.."),
        "a/l": member("a/l", tarfile.LNKTYPE, "a/out/x"),
        "a/x": "x",
    },
    "device": {"a/x": "x", "a/null": member("a/null", tarfile.CHRTYPE)},
    "block device": {"a/x": "x", "a/sda": member("a/sda", tarfile.BLKTYPE)},
    "pipe": {"a/x": "x", "a/fifo": member("a/fifo", tarfile.FIFOTYPE)},
    "setuid": {"a/x": "x", "a/su": member("a/su", mode=0o4755)},
    "setgid": {"a/x": "x", "a/sg": member("a/sg", mode=0o2755)},
    "sparse of GNU": {"a/x": "x", "a/sp": member("a/sp", tarfile.GNUTYPE_SPARSE)},
    "sparse of PAX 0.1": {"a/x": "x", "a/s": with_pax("a/s", **{"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"})},
    "too deep": {"a/x": "x", DEEP + "b/f": "x"},
    "a directory too deep": {"a/x": "x", DEEP + "b": member(DEEP + "b", tarfile.DIRTYPE)},
    "renamed by PAX": {"a/x": "x", "/etc/x": with_pax("a/y", path="/etc/x")},
    "a directory of the same name": {"a/d/x": "x", "a/d": member("a/d", tarfile.SYMTYPE, "x")},
    "without a name": {"a/x": "x", ".": member(".")},
}


@pytest.mark.parametrize("with_filter", [True, False])
@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL)
def test_unsafe_members_are_refused_by_name(
    members: dict[str, str | tarfile.TarInfo], with_filter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_filter:  # Python 3.9 before 3.9.17
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = tarball(tmp_path / "evil.tar.gz", members)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PackageError) as caught:
        unpack(archive, tmp_path / "target")
    assert caught.value.code == "package-unsafe"
    assert any(name in caught.value.what for name in members)
    outside = {path for path in tmp_path.rglob("*") if tmp_path / "target" not in path.parents}
    assert outside - before <= {tmp_path / "target"}


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no tarfile.data_filter")
@pytest.mark.parametrize(
    "name", ["absolute name", "upwards", "link outside", "absolute link", "hard link outside", "device"]
)
def test_pythons_own_filter_is_a_second_wall(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootstrap.remote.tarball._danger", lambda _: "")
    with pytest.raises(PackageError) as caught:
        unpack(tarball(tmp_path / "evil.tar.gz", EVIL[name]), tmp_path / "target")
    assert caught.value.code == "package-unsafe"
    assert not Path("/tmp/petal-test").exists()


def test_a_tarball_of_64_directories_in_each_other_is_unpacked_and_removed(tmp_path: Path) -> None:
    unpack(tarball(tmp_path / "x.tar.gz", {DEEP + "f": "x", "b/f": "x"}), tmp_path / "t")
    assert (tmp_path / "t" / DEEP / "f").is_file()


def test_a_directory_with_the_name_of_its_own_file_is_stripped(tmp_path: Path) -> None:
    unpack(tarball(tmp_path / "x.tar.gz", {"cfd/cfd": "x", "cfd/bin/y": "y"}), tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["bin", "cfd"]


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    data = gzip.decompress(tarball(tmp_path / "x.tar.gz", {"a/x": "x", "a/y": "y"}).read_bytes())
    (tmp_path / "x.tar").write_bytes(data[:1024] + b"?" + data[1025:])
    with pytest.raises(PackageError, match="a header is damaged"):
        unpack(tmp_path / "x.tar", tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1f\x8b" + b"\0" * 50])
def test_a_file_that_is_not_a_tarball_is_refused(content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(PackageError) as caught:
        unpack(archive, tmp_path / "target")
    assert caught.value.code == "package-archive"


def test_another_kind_of_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(PackageError, match="it is a zstd file"):
        unpack(tmp_path / "x.tar.zst", tmp_path / "target")


def test_an_error_names_where_the_archive_came_from(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "x.tar.gz", EVIL["device"])
    with pytest.raises(PackageError) as caught:
        unpack(archive, tmp_path / "target", "s3://b/x.tar.gz")
    assert caught.value.what == "the member 'a/null' of s3://b/x.tar.gz is refused"
    archive.write_bytes(b"garbage")
    with pytest.raises(PackageError) as caught:
        unpack(archive, tmp_path / "target", "s3://b/x.tar.gz")
    assert caught.value.what == "s3://b/x.tar.gz is not a complete tarball"


def test_a_truncated_tarball_is_refused(tmp_path: Path) -> None:
    whole = tarball(tmp_path / "x.tar.gz", {f"a/{number}": "x" * 4000 for number in range(50)}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PackageError) as caught:
        unpack(tmp_path / "cut.tar.gz", tmp_path / "target")
    assert caught.value.code == "package-archive"


def test_an_impossible_modification_time_is_limited(tmp_path: Path) -> None:
    strange = member("a/x")
    strange.mtime, strange.pax_headers = 0, {"mtime": "1e30"}
    unpack(tarball(tmp_path / "x.tar.gz", {"a/x": strange, "a/y": "y"}), tmp_path / "t")
    assert (tmp_path / "t" / "x").is_file()


def test_inner_links_are_kept_and_modes_lose_the_write_bits_of_others(tmp_path: Path) -> None:
    wide = member("a/lib/wide", mode=0o666)
    archive = tarball(
        tmp_path / "good.tar.gz",
        {
            "a/bin/run": "#!/bin/sh\n",
            "a/lib/libx.so.1": "x",
            "a/lib/libx.so": member("a/lib/libx.so", tarfile.SYMTYPE, "libx.so.1"),
            "a/lib/hard": member("a/lib/hard", tarfile.LNKTYPE, "a/lib/libx.so.1"),
            "a/lib/wide": wide,
        },
    )
    unpack(archive, tmp_path / "t")
    assert (tmp_path / "t" / "lib" / "libx.so").readlink() == Path("libx.so.1")
    assert (tmp_path / "t" / "lib" / "hard").samefile(tmp_path / "t" / "lib" / "libx.so.1")
    assert (tmp_path / "t" / "bin" / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "t" / "lib" / "wide").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("names", "first"),
    [(["cfd-1/bin/x"], "bin/x"), (["bin/x"], "bin/x"), (["./cfd/bin/x"], "bin/x"), (["a/x", "b/y"], "a/x")],
)
def test_a_single_top_directory_is_stripped(names: list[str], first: str, tmp_path: Path) -> None:
    unpack(tarball(tmp_path / "x.tar.gz", dict.fromkeys(names, "x")), tmp_path / "t")
    assert (tmp_path / "t" / first).is_file()
