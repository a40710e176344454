"""Lmod in an image build: installed by the machine's package manager, or told why not. On a node nothing is installed.

What apt really does with the package, and a cluster that starts from such an image, is in tests/lab/test_layouts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import ProcessTimeout
from bootstrap.core.model import Outcome, Role, StepReport, Verdict
from bootstrap.engine import converge as engine
from bootstrap.host.system import Completed
from bootstrap.lmod.distribution import RENAMED
from bootstrap.steps.lmod import NodeLmod
from tests.world import FakeSystem, World

CONTROL = """\
Package: lmod
Version: 8.6.19-1
Depends: lua5.3,
 tcl
Conflicts: environment-modules,
 other
Description: Lua based environment modules
 More of it.
"""


class Machine(FakeSystem):
    """A machine with a package manager; what it answers is changed by the tests."""

    def __init__(self, world: World, place: Path, manager: str) -> None:
        super().__init__(world)
        self.place, self.manager = place, manager
        self.version, self.installed_version = "8.6.19-1", "8.6.19"
        self.tcl_modules = False
        self.fails: set[str] = set()
        self.hangs: set[str] = set()
        self.environments: list[dict[str, str]] = []
        self.built = ""

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name == self.manager else None

    def run(self, argv: Sequence[str], **options: Any) -> Completed:  # type: ignore[override]
        self.commands.append(tuple(argv))
        verb = next((word for word in argv if word in ("update", "download", "install")), argv[0])
        if verb in self.hangs:
            raise ProcessTimeout(f"{argv[0]} did not end within {options['timeout']:.0f} s and was stopped")
        if verb in self.fails:
            return Completed(tuple(argv), 100, "", f"E: {verb} does not work", 0.0)
        if verb in ("update", "download", "install"):
            self.environments.append(dict(options["env"]))
        return Completed(tuple(argv), 0, self._said(argv, verb, options), "", 0.0)

    def _said(self, argv: Sequence[str], verb: str, options: dict[str, Any]) -> str:
        if verb == "download":
            Path(options["cwd"], f"lmod_{self.version}_amd64.deb").write_text("the package")
        elif verb == "install":
            self._install()
        elif verb == "dpkg-query":
            return "installed" if self.tcl_modules else ""
        elif "--field" in argv:
            return self.version + "\n"
        elif "--raw-extract" in argv:
            _unpacked(Path(argv[-1]))
        elif "--build" in argv:
            self.built = (Path(argv[-2]) / "DEBIAN" / "control").read_text()
            assert not (Path(argv[-2]) / "etc" / "profile.d").exists()
            assert (Path(argv[-2]) / "DEBIAN" / "conffiles").read_text() == "/etc/lmod/modulespath\n"
        elif Path(argv[0]).name == "lmod":
            return f"Modules based on Lua: Version {self.installed_version}  2022-04-16"
        return ""

    def _install(self) -> None:
        (self.place / "libexec").mkdir(parents=True, exist_ok=True)
        (self.place / "libexec" / "lmod").touch()


def _unpacked(tree: Path) -> None:
    for name in ("DEBIAN", "etc/profile.d"):
        (tree / name).mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(CONTROL)
    (tree / "DEBIAN" / "conffiles").write_text("/etc/lmod/modulespath\n/etc/profile.d/lmod.sh\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], World]:
    """A machine without Lmod that is to become an image."""

    def made(manager: str) -> World:
        world = World(tmp_path / "builder", live=True)
        world.system = Machine(world, tmp_path / "lmod", manager)
        monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"), "/opt/apps/lmod/lmod"))
        return world

    return made


def of(world: World) -> Machine:
    assert isinstance(world.system, Machine)
    return world.system


def bake(world: World) -> StepReport:
    ctx = replace(world.context, config=replace(world.config, layout="hybrid"), bakes=True)
    (report,) = engine.converge((NodeLmod(),), ctx, lambda _: None)
    return report


def failure(world: World) -> str:
    report = bake(world)
    assert report.outcome is Outcome.FAILED
    assert report.error is not None
    assert report.remedy
    assert not list(world.paths.scratch.glob("*")), "something is left"
    return str(report.error["code"])


def verbs(world: World) -> list[str]:
    words = ("update", "download", "install", "--raw-extract", "--build")
    return [word for argv in world.system.commands for word in argv if word in words]


def test_apt_installs_it_and_removes_nothing(machine: Callable[[str], World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    world = machine("apt-get")
    report = bake(world)
    assert report.outcome is Outcome.CHANGED
    assert report.reason.startswith("Lmod 8.6.19 is at ")
    assert verbs(world) == ["update", "download", "install"]
    install = next(argv for argv in world.system.commands if "install" in argv)
    assert {"--no-remove", "-y"} <= set(install)
    assert Path(install[-1]).name == "lmod_8.6.19-1_amd64.deb"
    for env in of(world).environments:
        assert (env["DEBIAN_FRONTEND"], env["https_proxy"]) == ("noninteractive", "http://proxy:3128")
    assert bake(world).outcome is Outcome.OK
    assert verbs(world) == ["update", "download", "install"]


def test_beside_environment_modules_the_package_has_another_name(machine: Callable[[str], World]) -> None:
    world = machine("apt-get")
    of(world).tcl_modules = True
    assert bake(world).outcome is Outcome.CHANGED
    assert verbs(world) == ["update", "download", "--raw-extract", "--build", "install"]
    install = next(argv for argv in world.system.commands if "install" in argv)
    assert Path(install[-1]).name == f"{RENAMED}.deb"
    assert "--no-remove" in install
    assert of(world).built == CONTROL.replace("Package: lmod\n", f"Package: {RENAMED}\nConflicts: lmod\n").replace(
        "Conflicts: environment-modules,\n other\n", ""
    )


@pytest.mark.parametrize("manager", ["dnf", "yum"])
def test_dnf_and_yum_install_it(machine: Callable[[str], World], manager: str) -> None:
    world = machine(manager)
    assert bake(world).outcome is Outcome.CHANGED
    (install,) = (argv for argv in world.system.commands if "install" in argv)
    assert install == (manager, "-y", "-q", "install", "Lmod")


def test_an_older_one_is_replaced(machine: Callable[[str], World]) -> None:
    world = machine("apt-get")
    of(world)._install()
    of(world).installed_version = "6.6"
    report = bake(world)
    assert (report.error or {})["code"] == "lmod-too-old", "the fake's stays as it is"
    assert "6.6" in report.reason
    assert "install" in verbs(world)


@pytest.mark.parametrize(
    ("manager", "fails", "code"),
    [
        ("", set(), "lmod-no-manager"),
        ("apt-get", {"update", "download"}, "lmod-unavailable"),
        ("apt-get", {"download"}, "lmod-unavailable"),
        ("apt-get", {"install"}, "lmod-install"),
        ("apt-get", {"dpkg-deb"}, "lmod-install"),
        ("dnf", {"install"}, "lmod-unavailable"),
    ],
)
def test_where_it_cannot_be_installed_that_is_told(
    machine: Callable[[str], World], manager: str, fails: set[str], code: str
) -> None:
    world = machine(manager)
    of(world).fails = fails
    assert failure(world) == code


def test_lists_of_before_will_do(machine: Callable[[str], World]) -> None:
    """A repository of somebody else that is broken makes apt-get update fail."""
    world = machine("apt-get")
    of(world).fails = {"update"}
    assert bake(world).outcome is Outcome.CHANGED


@pytest.mark.parametrize("verb", ["update", "download", "install"])
def test_a_package_manager_that_hangs_is_stopped(machine: Callable[[str], World], verb: str) -> None:
    world = machine("apt-get")
    of(world).hangs = {verb}
    assert failure(world) == "lmod-install"


def test_one_that_is_too_old_is_not_installed(machine: Callable[[str], World]) -> None:
    world = machine("apt-get")
    of(world).version = "6.6-0.4"  # Ubuntu 22.04
    assert failure(world) == "lmod-too-old"
    assert "install" not in verbs(world)


@pytest.mark.parametrize("role", Role)
def test_nothing_is_installed_on_a_node_of_a_cluster(machine: Callable[[str], World], role: Role) -> None:
    world = replace(machine("apt-get"), role=role)
    (report,) = engine.converge((NodeLmod(),), world.context, lambda _: None)
    assert report.outcome is Outcome.BLOCKED
    assert report.reason == "this node has no Lmod"
    assert any("--layout" in line for line in report.remedy)
    assert world.system.commands == []


def test_nothing_is_installed_into_this_machine_for_a_tree(tmp_path: Path, machine: Callable[[str], World]) -> None:
    """An image build under --root acts on a directory, and no package manager does."""
    machine("apt-get")
    world = World(tmp_path / "tree")
    assert bake(world).outcome is Outcome.BLOCKED
    assert world.system.commands == []


def test_on_a_node_of_a_cluster_lmod_is_installed_only_by_a_word_of_an_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``repair --yes`` means this node; a bootstrap leaves it as its image is."""
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", ())
    context = World(tmp_path / "node", live=True).context
    refused = NodeLmod().probe(context)
    assert (refused.verdict, "petal-node repair --yes" in refused.remedy[-1]) == (Verdict.BLOCKED, True)
    meant = NodeLmod().probe(replace(context, may_destroy=True))
    assert (meant.verdict, meant.changes) == (
        Verdict.CHANGE, ("install the distribution's Lmod; environment-modules stays",)
    )  # fmt: skip
