"""The state of a store, and the kept copies of its index. tests/spack has the part of real Spack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.core.errors import StorageError
from bootstrap.host.atomic import flush_filesystem
from bootstrap.spack import database
from bootstrap.spack.database import COPIES, KEPT, compare, database_problem, keep_copy

ARCH = "linux-debian12-x86_64_v3"


def prefix(store: Path, name: str, *, whole: bool = True) -> Path:
    place = store / ARCH / name
    (place / ".spack").mkdir(parents=True)
    (place / ".spack" / "spec.json").write_text("{}")  # Spack writes it first
    if whole:
        (place / ".spack" / "install_manifest.json").write_text(
            json.dumps({str(place / ".spack/spec.json"): {"size": 2}})
        )
    return place


def index(store: Path, *prefixes: Path) -> Path:
    path = database.index_of(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = {place.name: {"spec": {}, "path": str(place), "installed": True} for place in prefixes}
    records["gcc"] = {"spec": {"external": {}}, "path": "/usr", "installed": True}
    path.write_text(json.dumps({"database": {"version": "8", "installs": records}}))
    return path


def test_partial_complete_and_recorded_packages_are_distinguished(tmp_path: Path) -> None:
    half, whole = prefix(tmp_path, "half-1-aaaaaaa", whole=False), prefix(tmp_path, "whole-1-bbbbbbb")
    (tmp_path / ARCH / "vendor-1-ccccccc" / ".petal").mkdir(parents=True)
    (tmp_path / ARCH / ".vendor-2-ddddddd.part" / ".spack").mkdir(parents=True)
    (tmp_path / ARCH / "by-hand").mkdir()
    assert compare(tmp_path) == ([half], False)
    index(tmp_path, whole)
    assert compare(tmp_path) == ([half], True)


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest"])
def test_a_package_must_have_all_files_of_its_manifest_if_no_copy_lists_it(tmp_path: Path, damage: str) -> None:
    """A process that is killed while it unpacks a tarball of a build cache has already unpacked the manifest."""
    place = prefix(tmp_path, "cached-1-aaaaaaa")
    program = place / "bin" / "cached"
    program.parent.mkdir()
    program.write_text("whole")
    named: object = {str(path): {"size": path.stat().st_size} for path in (program, place / ".spack/spec.json")}
    (place / ".spack" / "install_manifest.json").write_text(json.dumps([] if damage == "no manifest" else named))
    assert (damage == "no manifest") == (place in compare(tmp_path).unfinished)
    if damage == "missing":
        program.unlink()
    elif damage == "short":
        program.write_text("who")
    assert compare(tmp_path) == ([place], True)
    index(tmp_path, place)
    assert compare(tmp_path) == ([place], False), "a power cut can leave the record, and not the files"


def test_only_a_copy_that_follows_a_flush_vouches_for_the_files_of_a_package(tmp_path: Path) -> None:
    place = prefix(tmp_path, "probe-1-aaaaaaa")
    index(tmp_path, place)

    def hangs(_: Path) -> None:
        raise StorageError("no answer", code="storage-hangs")

    keep_copy(tmp_path, hangs)
    assert database.copies(tmp_path) == []
    keep_copy(tmp_path, flush_filesystem)
    (place / ".spack/spec.json").write_text("")
    assert compare(tmp_path) == ([], True), "the check package-files finds later damage"
    index(tmp_path)
    assert compare(tmp_path) == ([place], True), "a new install that was killed"
    keep_copy(tmp_path, flush_filesystem)  # the package was removed
    index(tmp_path, place)  # installed again, and cut before the next copy
    assert compare(tmp_path) == ([place], False)


def test_a_package_with_an_empty_manifest_is_incomplete(tmp_path: Path) -> None:
    place = prefix(tmp_path, "cut-1-aaaaaaa")
    index(tmp_path, place)
    keep_copy(tmp_path, flush_filesystem)
    assert compare(tmp_path) == ([], True)
    (place / ".spack" / "install_manifest.json").write_text("")
    assert compare(tmp_path) == ([place], False), "although a copy of the index vouches for its other files"


def test_a_record_without_a_path_has_the_path_of_the_projection(tmp_path: Path) -> None:
    """Spack writes such a record for a package that it installs again after a reindex."""
    place = prefix(tmp_path, "again-1-ccccccc")
    arch = {"platform": "linux", "platform_os": "debian12", "target": {"name": "x86_64_v3"}}
    spec = {"name": "again", "version": "1", "arch": arch}
    records = {"ccccccccc": {"spec": spec, "path": None, "installed": True}}
    index(tmp_path).write_text(json.dumps({"database": {"version": "8", "installs": records}}))
    assert database.installed(tmp_path) == {"ccccccccc": place}
    assert compare(tmp_path) == ([], True)


def test_moved_and_truncated_packages_are_leftovers(tmp_path: Path) -> None:
    for name in (".abcd.old", ".efgh.garbage"):
        (tmp_path / ARCH / name).mkdir(parents=True)
    index(tmp_path).with_name("index.json.head.42.temp").write_text("{")
    assert {path.name for path in compare(tmp_path).unfinished} == {
        ".abcd.old", ".efgh.garbage", "index.json.head.42.temp"
    }  # fmt: skip


def test_a_missing_index_is_a_problem_only_if_packages_exist(tmp_path: Path) -> None:
    assert database_problem(tmp_path) == ""
    prefix(tmp_path, "whole-1-bbbbbbb")
    assert "is missing, but the store contains 1 packages" in database_problem(tmp_path)
    index(tmp_path)
    assert database_problem(tmp_path) == ""


@pytest.mark.parametrize("damage", ["", "{", '{"database": {"installs": 1}}', "null", "\x00" * 100])
def test_an_unreadable_index_is_a_problem(tmp_path: Path, damage: str) -> None:
    index(tmp_path).write_text(damage)
    assert "shape" in database_problem(tmp_path) or "JSON" in database_problem(tmp_path)


def test_a_few_copies_of_readable_indexes_are_kept(tmp_path: Path) -> None:
    keep_copy(tmp_path, flush_filesystem)  # without an index
    assert not (tmp_path / COPIES).exists()
    for number in range(KEPT + 2):
        index(tmp_path, prefix(tmp_path, f"p-{number}-aaaaaaa"))
        keep_copy(tmp_path, flush_filesystem)
        keep_copy(tmp_path, flush_filesystem)
    assert len(database.copies(tmp_path)) == KEPT
    assert database.copies(tmp_path)[-1].read_bytes() == database.index_of(tmp_path).read_bytes()
    database.index_of(tmp_path).write_text("{")
    keep_copy(tmp_path, flush_filesystem)
    assert all(database.records(copy) for copy in database.copies(tmp_path))


def test_the_newest_readable_copy_is_restored_and_the_damaged_index_is_kept(tmp_path: Path) -> None:
    good = index(tmp_path, prefix(tmp_path, "p-1-aaaaaaa")).read_bytes()
    keep_copy(tmp_path, flush_filesystem)
    (tmp_path / COPIES / "index-99999999999999999999.json").write_text("{")
    database.index_of(tmp_path).write_text("cut o")
    assert "is restored from" in database.restore(tmp_path)
    assert database.index_of(tmp_path).read_bytes() == good
    assert (tmp_path / COPIES / database.DAMAGED).read_text() == "cut o"


def test_without_a_copy_the_damaged_index_is_removed(tmp_path: Path) -> None:
    index(tmp_path).write_text("cut o")
    assert "no copy" in database.restore(tmp_path)
    assert not database.index_of(tmp_path).exists()
