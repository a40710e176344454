"""The contents of the archive; the same tree gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from bootstrap.archive import build
from tests.archive.conftest import ROOT, python, run

ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def test_size_is_at_most_1_7_mb(real):
    assert real.size <= 1_700_000
    assert real.archive.stat().st_size == real.size


def test_only_psutil_is_compiled_and_for_each_machine(real):
    with zipfile.ZipFile(real.archive) as archive:
        compiled = {name: archive.read(name) for name in archive.namelist() if ".so" in Path(name).name}
    assert len(compiled) == len(ELF_MACHINE)
    for machine, number in ELF_MACHINE.items():
        data = compiled[f"arch/{machine}/psutil/_psutil_linux.abi3.so"]
        assert data[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", data, 18) == (number,)


def test_a_compiled_package_is_refused():
    members = {f"arch/{machine}/{build.NATIVE}": b"\x7fELF" for machine in build.MACHINES}
    build.check_compiled(members)
    with pytest.raises(build.BuildError, match="_speedups"):
        build.check_compiled({**members, "tree/markupsafe/_speedups.abi3.so": b""})
    with pytest.raises(build.BuildError, match="hidden"):
        build.check_compiled({**members, "tree/hidden": b"\x7fELF"})


def test_the_archive_has_the_resources_and_every_licence(real):
    with zipfile.ZipFile(real.archive) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    for folder in build.RESOURCES:
        for name in (name for name, _ in build.walk(ROOT / folder) if not name.startswith("dev/")):
            assert f"tree/{folder}/{name}" in names
    for name in (name for name in names if name.endswith(".dist-info/METADATA")):
        assert any("LICENSE" in other for other in names if other.startswith(name.rsplit("/", 1)[0])), name
    assert not [name for name in names if "/archive/" in name and "bootstrap" in name]


def test_the_checksum_matches_the_archive(real):
    assert run(["sh", "-c", f"cd {real.archive.parent} && sha256sum -c petal-node.sha256"]).code == 0
    assert real.sha256 == hashlib.sha256(real.archive.read_bytes()).hexdigest()


def test_each_hook_script_is_a_single_file(real):
    for event in build.EVENTS:
        text = (real.archive.parent / f"on_node_{event}.sh").read_text("ascii")
        assert text.startswith("#!/bin/sh\n")
        assert f"\nevent={event}\n" in text
        assert not [line for line in text.splitlines() if line.startswith(". ")]


def test_the_bytes_do_not_depend_on_dates_and_modes_of_the_sources(checkout, built, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o777)
    (copy / "bootstrap/.left-behind").touch()
    again = build.build(tmp_path / "dist", copy, ROOT / "build/vendor")
    assert again.archive.read_bytes() == built.archive.read_bytes()


def test_a_changed_tree_changes_the_content_checksum(checkout, built, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    (copy / "bootstrap/new.py").touch()
    assert build.build(tmp_path / "dist", copy, ROOT / "build/vendor").content != built.content


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_python_builds_the_same_bytes(version, built, checkout, tmp_path):
    program = python(version)
    probe = [program, "-c", "import zlib; print(zlib.ZLIB_RUNTIME_VERSION)"]
    zlibs = {
        zlib.ZLIB_RUNTIME_VERSION,
        subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip(),
    }
    if len({"ng" in name for name in zlibs}) == 2:
        pytest.skip(f"the zlib of CPython {version} compresses to different bytes: {' and '.join(sorted(zlibs))}")
    code = "import sys, pathlib; from bootstrap.archive.build import build;build(*map(pathlib.Path, sys.argv[1:]))"
    arguments = [tmp_path, checkout, ROOT / "build/vendor"]
    subprocess.run([program, "-c", code, *map(str, arguments)], cwd=ROOT, check=True, timeout=120)
    assert (tmp_path / "petal-node").read_bytes() == built.archive.read_bytes()


def test_a_rebuild_needs_no_network(real, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_pip_install", None)
    build.build(tmp_path)
