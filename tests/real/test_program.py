"""Several processes fetch Spack, its recipes and clingo simultaneously, like a lockfile command next to a worker."""

from __future__ import annotations

import multiprocessing
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bootstrap.host.files import sha256_of
from bootstrap.spack.program import ensure, is_ready, locate
from tests.world import World, tarball, with_spack

INIT = "spack-1.1.1/lib/spack/spack/__init__.py"
FILES = {f"spack-1.1.1/lib/{number}": str(number) for number in range(300)}
ROUNDS, PROCESSES = 5, 3


@pytest.fixture
def world(tmp_path: Path) -> World:
    text, archive = with_spack(tmp_path), tmp_path / "spack.tar.gz"
    before = sha256_of(archive)
    tarball(archive, {INIT: '__version__ = "1.1.1"\n', **FILES})
    wheel = tmp_path / "clingo-5.8.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("clingo/__init__.py", "")
    clingo = f"clingo: [{{source: {wheel}, sha256: {sha256_of(wheel)}}}]"
    text = text.replace(before, sha256_of(archive)).replace("spack: {", f"spack: {{{clingo}, ")
    return World(tmp_path / "head", config_text=text)


def fetch(world: World, start: Any) -> None:
    start.wait()
    program = locate(world.config, world.paths)
    ensure(program, world.paths, None)
    assert is_ready(program)
    assert len(list((program.tree / "lib").iterdir())) == len(FILES) + 1
    assert program.clingo is not None
    assert (program.clingo / "clingo" / "__init__.py").is_file()


def test_simultaneous_fetches_all_succeed_and_leave_no_partial_tree(world: World) -> None:
    fork = multiprocessing.get_context("fork")
    for _ in range(ROUNDS):
        start = fork.Barrier(PROCESSES)
        runs = [fork.Process(target=fetch, args=(world, start)) for _ in range(PROCESSES)]
        for each in runs:
            each.start()
        for each in runs:
            each.join(60)
        assert [each.exitcode for each in runs] == [0] * PROCESSES
        assert [path.name for path in world.prefix.rglob(".*.part")] == []
        shutil.rmtree(world.paths.root)
