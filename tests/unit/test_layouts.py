"""The backing directory of the root in each layout, and the check of a Spack tree at /opt/spack."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.checks.storage import OptSpack
from bootstrap.core.errors import UsageError
from bootstrap.core.model import Outcome, Role, Severity
from bootstrap.engine import converge as engine
from bootstrap.engine.prepare import prepare
from bootstrap.engine.registry import STEPS, steps_for
from bootstrap.host import system
from bootstrap.state.release import current_release
from bootstrap.steps.seed_from_image import SeedFromImage
from bootstrap.steps.storage import Storage, StorageOwner
from tests.unit.test_laws import lmod_is_there, snapshot
from tests.world import World, typed, with_spack

__all__ = ["lmod_is_there"]


def bake(world: World, layout: str) -> dict[str, Outcome]:
    ctx = typed(replace(world.context, config=replace(world.config, layout=layout)), layout=layout)
    return {report.name: report.outcome for report in engine.converge(steps_for(ctx), ctx, lambda _: None)}


def converge(world: World) -> dict[str, engine.StepReport]:
    return {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}


@pytest.fixture
def builder(tmp_path: Path) -> World:
    """A machine that builds an image."""
    return World(tmp_path / "builder", config_text=with_spack(tmp_path))


@pytest.fixture
def image(builder: World) -> World:
    """A machine with the image of the layout ``ami``."""
    assert set(bake(builder, "ami").values()) <= {Outcome.CHANGED, Outcome.OK, Outcome.SKIPPED}
    return builder


def node(image: World, role: Role) -> World:
    """A node that was started from the image; its paths below the prefix are those of the image."""
    return replace(image, role=role, config_text=image.config_text + "layout: ami\n")


def test_an_image_build_installs_the_release_without_shared_storage(image: World) -> None:
    assert current_release(image.paths) == image.release
    assert not image.paths.root.is_symlink()
    assert list((image.prefix / "shared").iterdir()) == []
    before = snapshot(image.prefix)
    assert set(bake(image, "ami").values()) <= {Outcome.OK, Outcome.SKIPPED}
    assert snapshot(image.prefix) == before


def test_a_hybrid_image_gets_spack_and_no_release(builder: World) -> None:
    assert bake(builder, "hybrid") == {
        "self-install": Outcome.SKIPPED, "spack-program": Outcome.CHANGED, "lmod": Outcome.OK, "shell": Outcome.CHANGED,
    }  # fmt: skip
    (tree,) = (builder.paths.home / "spack").glob("1.1.1-*")
    assert tree.is_dir()
    assert not builder.paths.root.exists()


@pytest.mark.parametrize("role", [Role.HEAD, Role.COMPUTE])
def test_nodes_use_the_release_of_the_image_and_never_change_it(image: World, role: Role) -> None:
    if role is not Role.HEAD:
        converge(node(image, Role.HEAD))
    before = snapshot(image.paths.root)
    done = converge(node(image, role))
    assert done["root"].outcome is Outcome.OK
    assert done["root"].reason == f"the machine image has release {image.release}"
    if role is Role.HEAD:
        for name in ("packages", "spack", "module-tree", "publish"):
            assert (done[name].outcome, done[name].reason) == (Outcome.SKIPPED, "the machine image contains it")
    assert snapshot(image.paths.root) == before


def _other_release(image: World) -> None:
    image.config_text = image.config_text.replace("specs: [fftw]", "specs: [fftw, hdf5]")


def _half_a_release(image: World) -> None:
    (image.paths.release(image.release) / "manifest.json").unlink()


def _nothing(image: World) -> None:
    shutil.rmtree(image.paths.root)


def _for_all(image: World) -> None:
    image.paths.root.chmod(0o777)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_other_release, "the machine image has release "),
        (_half_a_release, "has no complete release"),
        (_nothing, "has no "),
        (_for_all, "has no "),
    ],
)
def test_a_node_installs_no_release_that_its_image_lacks(
    image: World, damage: Callable[[World], None], says: str
) -> None:
    damage(image)
    before = snapshot(image.prefix / "opt")
    done = converge(node(image, Role.HEAD))
    assert done["root"].outcome is Outcome.BLOCKED
    assert says in done["root"].reason
    assert "bootstrap --layout ami" in done["root"].remedy[0]
    assert {done[name].outcome for name in ("shell", "proof")} == {Outcome.BLOCKED}
    assert snapshot(image.prefix / "opt") == before


def test_an_image_build_does_not_change_an_existing_root(builder: World) -> None:
    builder.paths.root.mkdir(parents=True)
    (builder.paths.root / "mine").touch()
    done = bake(builder, "ami")
    assert done["root"] is Outcome.BLOCKED
    assert done["spack"] is Outcome.BLOCKED
    assert [path.name for path in builder.paths.root.iterdir()] == ["mine"]


def test_the_release_is_the_same_in_every_layout(builder: World) -> None:
    other = replace(builder, config_text=builder.config_text + "layout: ami\n")
    assert other.release == builder.release


def test_an_image_build_on_a_cluster_node_is_refused(builder: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dna = builder.prefix / "etc/chef/dna.json"
    dna.parent.mkdir(parents=True)
    dna.write_text(json.dumps({"cluster": {"node_type": "HeadNode"}}))
    monkeypatch.setattr("bootstrap.core.paths.Paths.live", property(lambda _: True))
    with pytest.raises(UsageError, match="head node of a cluster") as caught:
        prepare(builder.options(layout="ami"), builder.services)
    assert caught.value.remedy == ("set the layout in the configuration: layout: ami",)


# -- the release of the image is copied to shared storage --------------------------------------------------------


class Killed(BaseException):
    """Emulates a kill at one operation."""


@pytest.fixture
def mover(image: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A head node that was started from the image, now with the layout ``shared`` and prepared storage."""
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    (image.paths.root / "store-0.23" / "linux").mkdir(parents=True)
    (image.paths.root / "store-0.23" / "linux" / "zlib").write_text("of another family")
    world = replace(image, live=True)
    world.system.answers["cp"] = copy
    engine.converge((Storage(), StorageOwner()), world.context, lambda _: None)
    return world


def copy(argv: Sequence[str]) -> str:
    shutil.copytree(argv[-2], argv[-1], symlinks=True)
    return ""


def move(world: World) -> engine.StepReport:
    (report,) = engine.converge((SeedFromImage(),), world.context, lambda _: None)
    return report


def content(root: Path) -> dict[str, object]:
    """Stores and releases, without ``current``, which is published later, and without Spack's directories."""
    return {name: item for name, item in snapshot(root).items() if name.startswith(("store", "releases", "."))}


@contextmanager
def killed_at(world: World, moment: int) -> Iterator[None]:
    """End the process before operation ``number``; a running copy stays incomplete."""
    moments = itertools.count()

    def tick() -> None:
        if next(moments) == moment:
            raise Killed

    def ticking(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tick()
            return action(*arguments, **options)

        return call

    def half(argv: Sequence[str]) -> str:
        Path(argv[-1]).mkdir()
        tick()
        shutil.copytree(argv[-2], argv[-1], symlinks=True, dirs_exist_ok=True)
        return ""

    with pytest.MonkeyPatch.context() as patched:
        for name in ("rename", "unlink", "rmdir"):
            patched.setattr(Path, name, ticking(getattr(Path, name)))
        patched.setitem(world.system.answers, "cp", half)
        patched.setattr(system, "flush_filesystem", ticking(lambda _: None))
        yield


def test_a_copy_is_resumed_after_a_kill_at_any_operation(mover: World) -> None:
    """Nothing is solved or built again, and the stores of all families are copied."""
    carried, shared = snapshot(mover.paths.root), mover.paths.shared_root
    before = mover.prefix.with_name("before")
    shutil.copytree(mover.prefix / "shared", before, symlinks=True)
    for moment in itertools.count():
        try:
            with killed_at(mover, moment):
                report = move(mover)
            break
        except Killed:
            if (shared / "releases" / mover.release / "manifest.json").exists():
                assert content(shared).items() >= content(mover.paths.root).items(), moment
            assert move(mover).outcome in (Outcome.CHANGED, Outcome.OK), moment
        assert content(shared) == content(mover.paths.root), moment
        assert move(mover).outcome is Outcome.OK
        shutil.rmtree(mover.prefix / "shared")
        shutil.copytree(before, mover.prefix / "shared", symlinks=True)
        assert snapshot(mover.prefix / "shared") == snapshot(before)
    assert report.outcome is Outcome.CHANGED
    assert moment > 12, "some operations were not tested"
    assert snapshot(mover.paths.root) == carried


def test_copied_files_are_flushed_before_the_manifest_is_written(mover: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of the storage has a complete release with its manifest, or no manifest."""
    shared = mover.paths.shared_root
    manifest, seen = shared / "releases" / mover.release / "manifest.json", []

    def flush(path: Path) -> None:
        name = path.name.partition(f".{os.uname().nodename}-")[0]
        seen.append((name, {path.name for path in shared.glob("store*") if any(path.iterdir())}))
        assert not manifest.exists()

    monkeypatch.setattr(system, "flush_filesystem", flush)
    move(mover)
    assert manifest.is_file()
    assert seen == [
        (".store", set()),
        (".store-0.23", {"store"}),
        (f".{mover.release}", {"store", "store-0.23"}),
    ]


@pytest.mark.parametrize("whose", ["of another release", "of this one, before another was installed"])
def test_an_existing_store_is_not_overwritten_by_a_copy(mover: World, whose: str) -> None:
    """This includes a store after an interrupted copy: the release is installed into the existing store."""
    shared, own = mover.paths.shared_root, "this one" in whose
    (shared / "store" / "mine").mkdir()
    (shared / f".image-{mover.release if own else '0123456789ab'}.begun").touch()
    if own:
        (shared / "releases" / "0123456789ab").mkdir()
        (shared / "releases" / "0123456789ab" / "manifest.json").touch()
    before = snapshot(shared)
    report = move(mover)
    assert report.outcome is Outcome.SKIPPED
    assert "has a store already" in report.reason
    assert snapshot(shared) == before


# -- a tree at /opt/spack -------------------------------------------------------------------------------------


def test_a_spack_tree_at_opt_spack_is_reported_with_its_version(builder: World) -> None:
    assert list(OptSpack().findings(builder.context)) == []
    source = builder.prefix / "opt/spack/lib/spack/spack/__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text('__version__ = "0.23.0"\n')
    (finding,) = OptSpack().findings(builder.context)
    assert (finding.check, finding.severity) == ("opt-spack", Severity.OK)
    assert finding.message.startswith("Spack 0.23.0 is at /opt/spack on this node")
