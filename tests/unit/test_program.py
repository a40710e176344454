"""The trees of Spack and its recipes: one directory per checksum, and the tree in use is never changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.core.errors import FetchError
from bootstrap.host.atomic import write_json
from bootstrap.host.files import sha256_of
from bootstrap.remote.fetch import Source
from bootstrap.spack import program
from bootstrap.spack.program import RECEIPT, ensure, is_ready, locate
from bootstrap.steps import packages
from bootstrap.steps.spack import SpackProgram
from tests.unit.test_layouts import snapshot
from tests.world import World, tarball, with_spack

INIT = "spack-1.1.1/lib/spack/spack/__init__.py"
NOBODY = 999_999_999  # larger than any pid (proc(5), pid_max)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "head", config_text=with_spack(tmp_path))


def fetch(world: World) -> Path:
    found = locate(world.config, world.paths)
    ensure(found, world.paths, None)
    assert is_ready(found)
    return found.tree


def patched(world: World, path: Path) -> World:
    """The same with another Spack of the same version, for example a patched one."""
    new = tarball(path, {INIT: '__version__ = "1.1.1"\n', "spack-1.1.1/PATCHED": ""})
    spack = path.with_name("spack.tar.gz")
    text = world.config_text.replace(str(spack), str(new)).replace(sha256_of(spack), sha256_of(new))
    return World(world.prefix, config_text=text)


def test_a_spack_with_another_checksum_gets_a_separate_tree(world: World, tmp_path: Path) -> None:
    tree = fetch(world)
    assert tree == world.paths.root / "spack" / f"1.1.1-{sha256_of(tmp_path / 'spack.tar.gz')[:12]}"
    before, inode = snapshot(tree), tree.stat().st_ino
    other = fetch(patched(world, tmp_path / "patched.tar.gz"))
    assert other.parent == tree.parent
    assert (other / "PATCHED").is_file()
    assert (snapshot(tree), tree.stat().st_ino) == (before, inode)
    assert fetch(world) == tree


def test_a_tree_with_a_damaged_receipt_is_created_again(world: World) -> None:
    tree = fetch(world)
    (tree / RECEIPT).write_text("garbage")
    (tree / "stray").touch()
    assert fetch(world) == tree
    assert not (tree / "stray").exists()
    assert [path.name for path in tree.parent.iterdir() if path.name.startswith(".")] == []


def test_leftovers_of_killed_processes_are_removed_and_those_of_running_ones_kept(world: World, tmp_path: Path) -> None:
    top, key = world.paths.root / "spack", sha256_of(tmp_path / "spack.tar.gz")[:12]
    host = os.uname().nodename
    left, others = (top / f".1.1.1-{key}.{host}-{number}.part" for number in (NOBODY, os.getppid()))
    for path in (left, others):
        (path / "lib").mkdir(parents=True)
    download = world.paths.scratch / f".{key}.{host}-{NOBODY}.part" / "archive"
    download.parent.mkdir(parents=True)
    download.touch()
    fetch(world)
    assert not left.exists()
    assert not download.exists()
    assert others.is_dir()


def test_a_receipt_of_another_origin_is_invalid(world: World) -> None:
    tree = fetch(world)
    write_json(tree / RECEIPT, {"key": "0123456789ab"})
    assert not is_ready(locate(world.config, world.paths))


def test_tarballs_have_the_configured_time_and_a_part_that_the_next_run_finds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Path] = []

    def time_out(source: Source, _target: Path, *, kept: Path) -> None:
        parts.append(kept)
        raise FetchError(f"not within {source.seconds} s")

    world = World(world.prefix, config_text=f"{world.config_text}install: {{fetch_timeout: 20}}\n")
    monkeypatch.setattr(program, "download", time_out)
    monkeypatch.setattr(packages, "download", time_out)
    for step in (SpackProgram(), packages.Packages()):
        with pytest.raises(FetchError, match="not within 20 s"):
            step.apply(world.context)
    assert {part.parent for part in parts} == {world.paths.scratch}
    assert [part.suffix for part in parts] == [".part"] * 2
