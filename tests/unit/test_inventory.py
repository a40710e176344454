"""The changes of a package's files after its install."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.host import inventory


@pytest.fixture
def package(tmp_path: Path) -> Path:
    prefix = tmp_path / "pkg"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "tool").write_text("#!/bin/sh\necho 1\n")
    (prefix / "bin" / "tool").chmod(0o755)
    (prefix / "lib").mkdir()
    (prefix / "lib" / "data").write_text("data")
    (prefix / "lib" / "link").symlink_to("./data")
    (prefix / "lib" / "module.pyc").write_text("compiled")
    return prefix


def found(
    entries: dict[str, object], *, contents: bool = True, every_byte: bool = False
) -> list[tuple[str, str, bool]]:
    wrong = inventory.differences(entries, contents=contents, every_byte=every_byte)
    return [(Path(one.path).name, one.what, one.lost) for one in wrong]


def test_an_unchanged_package_has_no_damage(package: Path) -> None:
    entries = inventory.take(package, package)
    assert found(entries) == []
    assert found(entries, every_byte=True) == []


def test_an_inventory_has_the_final_paths_of_the_package(package: Path, tmp_path: Path) -> None:
    entries = inventory.take(package, tmp_path / "final")
    package.rename(tmp_path / "final")
    assert found(entries, every_byte=True) == []


def test_every_kind_of_damage_is_reported(package: Path) -> None:
    entries = inventory.take(package, package)
    (package / "bin" / "tool").chmod(0o644)
    (package / "lib" / "link").unlink()
    (package / "lib" / "link").symlink_to("elsewhere")
    (package / "lib" / "data").write_text("")
    assert sorted(found(entries)) == [
        ("data", "has 0 bytes, not 4", True),
        ("link", "leads to elsewhere", False),
        ("tool", "cannot be executed", True),
    ]
    (package / "lib" / "data").unlink()
    (package / "lib" / "data").mkdir()
    (package / "bin" / "tool").unlink()
    assert ("data", "is not a regular file", False) in found(entries)
    assert ("tool", "is missing", True) in found(entries)


def test_changed_contents_of_the_same_size_are_found_by_time_or_checksum(package: Path) -> None:
    entries = inventory.take(package, package)
    data = package / "lib" / "data"
    before = data.stat()
    data.write_text("atad")
    assert found(entries) == [("data", "has other contents", False)]
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(entries) == []
    assert found(entries, every_byte=True) == [("data", "has other contents", False)]


def test_a_changed_modification_time_alone_is_not_damage(package: Path) -> None:
    entries = inventory.take(package, package)
    os.utime(package / "lib" / "data")
    (package / "lib" / "module.pyc").write_text("compiled anew")
    assert found(entries) == []


def test_without_contents_only_presence_and_size_count(package: Path) -> None:
    """As for packages of a build cache, whose links and hashes are those of the building machine."""
    entries = inventory.take(package, package)
    (package / "lib" / "link").unlink()
    (package / "lib" / "link").symlink_to("elsewhere")
    (package / "lib" / "data").write_text("atad")
    assert found(entries, contents=False) == []


@pytest.mark.parametrize("entry", [None, {}, {"mode": 1}, "text", {"dest": "x"}])
def test_invalid_inventory_entries_are_ignored(package: Path, entry: object) -> None:
    assert found({str(package / "lib"): entry}, contents=False) == []


def test_the_hash_has_spacks_format(tmp_path: Path) -> None:
    """base32 of SHA-1 (lib/spack/spack/verify.py, compute_hash)."""
    (tmp_path / "x").write_bytes(b"abc")
    assert inventory.hash_of(str(tmp_path / "x")) == "VGMT4NSHA2AWVOR6EVYXQUGCNSONBWE5"
