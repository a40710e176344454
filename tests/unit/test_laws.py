"""Two laws for every step: after apply the plan is empty; and a plan changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.core.model import Outcome, Role, Tool
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import sha256_of
from tests.world import World, with_spack

NAMES = [step.name for step in STEPS]


@pytest.fixture(autouse=True)
def lmod_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lmod = tmp_path / "lmod" / "libexec" / "lmod"
    lmod.parent.mkdir(parents=True)
    lmod.touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"),))


@pytest.fixture(params=["under --root", "live", "live with systemd"])
def head(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    archive = tmp_path / "petal-node"
    archive.write_bytes(b"an archive")
    world = World(
        tmp_path / "head",
        live="live" in request.param,
        config_text=with_spack(tmp_path),
        tool=Tool("0.1.0", archive, sha256_of(archive)),
    )
    world.system.systemd = "systemd" in request.param
    if world.live:
        monkey = request.getfixturevalue("monkeypatch")
        monkey.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    return world


def snapshot(top: Path) -> dict[str, object]:
    """Every path below ``top`` with a fingerprint of its content."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (info.st_mode, info.st_uid, content)
    return found


def _converge(world: World) -> dict[str, Outcome]:
    return {report.name: report.outcome for report in engine.converge(STEPS, world.context, lambda _: None)}


def test_the_plan_is_empty_after_apply(head: World) -> None:
    first = _converge(head)
    assert first.pop("lmod") is Outcome.OK
    assert first.pop("storage-owner") is Outcome.OK  # the step ``storage`` has written the owner into a new token
    assert set(first.values()) <= {Outcome.CHANGED, Outcome.SKIPPED}, first
    for step in STEPS:
        assert (finding := step.probe(head.context)).holds or finding.skipped, step.name
    assert Outcome.WOULD_CHANGE not in {report.outcome for report in engine.plan(STEPS, head.context)}
    before = snapshot(head.prefix)
    assert Outcome.CHANGED not in _converge(head).values()
    assert snapshot(head.prefix) == before


@pytest.mark.parametrize("done", range(len(STEPS)), ids=["nothing", *NAMES[:-1]])
def test_a_plan_changes_nothing(head: World, done: int) -> None:
    """This includes a node on which some steps already hold."""
    engine.converge(STEPS[:done], head.context, lambda _: None)
    before = snapshot(head.prefix)
    reports = engine.plan(STEPS, head.context)
    assert snapshot(head.prefix) == before
    assert all(report.reason for report in reports)


@pytest.mark.parametrize("role", [Role.COMPUTE, Role.LOGIN])
def test_the_laws_hold_on_other_nodes_which_change_no_cluster_state(head: World, role: Role) -> None:
    _converge(head)
    shared = snapshot(head.prefix / "shared")
    other = head.as_node("other", role)
    outcomes = _converge(other)
    assert outcomes["root"] is Outcome.CHANGED
    assert set(_converge(other).values()) <= {Outcome.OK, Outcome.SKIPPED}
    assert snapshot(head.prefix / "shared") == shared


def damage_root(world: World) -> None:
    world.paths.root.unlink()


def damage_release(world: World) -> None:
    world.paths.current.unlink()


def damage_module(world: World) -> None:
    next(world.paths.releases.rglob("hello/1.0.lua")).unlink()


def damage_package(world: World) -> None:
    next(world.paths.store.rglob("hello-*/.petal/package.json")).unlink()


def damage_spack(world: World) -> None:
    manifest = next(world.paths.store.rglob("install_manifest.json"))
    manifest.unlink()
    manifest.parent.rmdir()
    manifest.parent.parent.rmdir()


def damage_init(world: World) -> None:
    (world.paths.init / "petal.sh").write_text("garbage")


def damage_wanted(world: World) -> None:
    (world.paths.state / "desired.json").write_text("garbage")


def damage_tool(world: World) -> None:
    world.paths.link.unlink()


def close_tool(world: World) -> None:
    """As a hardening script does, or a restore under umask 077."""
    world.paths.home.chmod(0o700)


def close_init(world: World) -> None:
    world.paths.at("/etc/profile.d/zz-petal.sh").chmod(0o600)


@pytest.mark.parametrize(
    ("damage", "step"),
    [
        (damage_tool, "self-install"),
        (close_tool, "self-install"),
        (close_init, "shell"),
        (damage_root, "root"),
        (damage_wanted, "desired-state"),
        (damage_package, "packages"),
        (damage_spack, "spack"),
        (damage_module, "module-tree"),
        (damage_release, "publish"),
        (damage_init, "shell"),
    ],
)
def test_damage_is_found_and_repaired_by_its_step(head: World, damage: Callable[[World], None], step: str) -> None:
    _converge(head)
    damage(head)
    plan = {report.name: report.outcome for report in engine.plan(STEPS, head.context)}
    assert plan[step] is Outcome.WOULD_CHANGE
    assert _converge(head)[step] is Outcome.CHANGED
    assert all(report.outcome is not Outcome.WOULD_CHANGE for report in engine.plan(STEPS, head.context))
