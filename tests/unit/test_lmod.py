"""The stack's own Lmod: when the stack builds one, which Lmod a node uses, and the init files of its shells.

tests/lab/test_stack_lmod.py runs it on nodes without Lmod; tests/spack/test_stack_lmod.py relocates it by Spack.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.checks.node import check_node
from bootstrap.config.load import parse
from bootstrap.config.model import LMOD_SPEC
from bootstrap.core.errors import ConfigError, LmodError
from bootstrap.core.model import Outcome, Role, Severity
from bootstrap.core.paths import Paths
from bootstrap.engine import converge as engine
from bootstrap.engine.prepare import prepare, prepare_lockfile
from bootstrap.engine.registry import CHECKS, STEPS, steps_for
from bootstrap.host.files import remove_tree
from bootstrap.lmod import bundle, find
from bootstrap.spack.environments import LOCK
from bootstrap.spack.workspace import lockfile_of, specs_of
from bootstrap.state.context import Context
from bootstrap.state.store import ClusterState
from bootstrap.steps.lmod import LmodPack, NodeLmod
from bootstrap.steps.shell import MARK, SH, Shell
from tests.world import World, typed, with_spack


@pytest.fixture
def no_lmod(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose image has no Lmod."""
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", ())


@pytest.fixture
def lmod_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose image has Lmod."""
    (tmp_path / "image" / "libexec").mkdir(parents=True)
    (tmp_path / "image" / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "image"),))


def a_copy(paths: Paths, name: str = "8.7.60-aaaaaaa") -> Path:
    """A copy as Spack and ``relativize`` create it."""
    copy = paths.lmods / name
    place = copy / "lmod-aaaaaaa" / "lmod" / "lmod" / "libexec"
    place.mkdir(parents=True)
    (place / "lmod").write_text("#!/lua\n")
    (place / "lmod").chmod(0o2755)
    bundle.relativize(copy)
    return copy


def packed(world: World, tree: str | None = None) -> Path:
    """The release includes an Lmod, and this node has no copy."""
    copy = a_copy(world.paths)
    archive = world.paths.lmod_packs(world.release) / (tree or world.context.tree) / f"{copy.name}.tar.gz"
    bundle.build(copy, archive, lambda: None)
    remove_tree(copy)
    return archive


def take(world: World, archive: Path) -> None:
    """Unpack the copy as the step does."""
    bundle.install(world.system, world.paths, archive)


def prepared_context(world: World, text: str) -> Context:
    path = world.prefix.with_suffix(".yaml")
    path.write_text(text)
    return prepare(world.options(path, role=Role.HEAD), world.services)


@pytest.mark.parametrize(
    ("says", "has", "carries"),
    [
        ("auto", "", True),
        ("auto", "8.6.19", False),
        ("auto", "6.6", True),
        ("stack", "8.6.19", True),
    ],
)
def test_lmod_is_added_to_the_stack_if_the_nodes_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, has: str, carries: bool
) -> None:
    place = tmp_path / "lmod"
    (place / "libexec").mkdir(parents=True)
    if has:
        (place / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(place),))
    world = World(tmp_path / "node")
    world.system.answers["lmod"] = lambda _: f"Modules based on Lua: Version {has}"
    ctx = prepared_context(world, with_spack(tmp_path) + f"modules: {{lmod: {says}}}\n")
    assert (ctx.environment.get("specs", []) == [LMOD_SPEC]) is carries
    assert ctx.desired_state.environment == ctx.environment


@pytest.mark.usefixtures("no_lmod")
def test_a_stack_that_names_lmod_is_not_changed(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    text = with_spack(tmp_path).replace("specs: [fftw]", 'specs: [fftw, "lmod@8.7.18 +redirect"]')
    assert prepared_context(world, text).environment.get("specs", []) == []


@pytest.mark.parametrize(
    ("spec", "is_one"),
    [("lmod", True), ("lmod@8.7:", True), (" lmod+redirect", True), ("py-lmod", False), ("lmod-x", False)],
)
def test_specs_of_lmod_are_recognized(spec: str, is_one: bool) -> None:
    assert bundle.names_lmod(["fftw", spec]) is is_one


@pytest.mark.usefixtures("no_lmod")
def test_lmod_is_not_added_without_a_stack(tmp_path: Path) -> None:
    ctx = prepared_context(World(tmp_path / "node"), "stack: none\n")
    assert ctx.environment == {}
    assert NodeLmod().probe(ctx).blocked


@pytest.mark.usefixtures("no_lmod")
def test_a_node_unpacks_the_lmod_of_the_release(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    archive = packed(world)
    step = NodeLmod()
    before = step.probe(world.context)
    assert (before.pending, before.changes) == (True, (f"unpack {archive} into {world.paths.lmods}",))
    step.apply(world.context)
    assert step.probe(world.context).reason.startswith("Lmod 8.6.19 of the release is at ")
    lmod = find.find_lmod(world.context)
    assert lmod is not None
    assert lmod.place == world.paths.lmods / "8.7.60-aaaaaaa/lmod-aaaaaaa/lmod/lmod"
    assert (lmod.place / "libexec" / "lmod").stat().st_mode & 0o7777 == 0o755


@pytest.mark.usefixtures("no_lmod")
def test_a_node_keeps_its_lmod_while_the_next_release_is_built(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    take(world, packed(world))
    next_one = replace(world.context, release="another")
    assert NodeLmod().probe(next_one).holds


@pytest.mark.usefixtures("no_lmod")
def test_a_newer_lmod_in_the_release_is_a_warning_and_the_old_copy_stays(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    take(world, packed(world))
    newer = a_copy(world.paths, "8.8-bbbbbbb")
    archive = world.paths.lmod_packs(world.release) / world.context.tree / "8.8-bbbbbbb.tar.gz"
    next(archive.parent.iterdir()).unlink()
    bundle.build(newer, archive, lambda: None)
    remove_tree(newer)
    (finding,) = (finding for finding in check_node(world.context, CHECKS).findings if finding.check == "lmod")
    assert (finding.severity, finding.message) == (Severity.WARN, "this node does not use 8.8-bbbbbbb.tar.gz yet")
    NodeLmod().apply(world.context)
    assert sorted(path.name for path in world.paths.lmods.iterdir()) == ["8.7.60-aaaaaaa", "8.8-bbbbbbb", "in-use"]
    assert world.paths.lmod_in_use.readlink() == Path("8.8-bbbbbbb")


@pytest.mark.usefixtures("lmod_is_there")
@pytest.mark.parametrize("modules", ["auto", "stack"])
def test_a_node_whose_image_has_lmod_uses_that(tmp_path: Path, modules: str) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path) + f"modules: {{lmod: {modules}}}\n")
    packed(world)
    assert NodeLmod().probe(world.context).holds


@pytest.mark.usefixtures("no_lmod")
@pytest.mark.parametrize("role", Role)
def test_no_distribution_package_is_installed(tmp_path: Path, role: Role) -> None:
    """Neither bootstrap nor ``repair --yes`` installs one."""
    world = World(tmp_path / "node", role, live=True)
    context = typed(world.context, yes=True)
    (report,) = engine.converge((NodeLmod(),), context, lambda _: None)
    assert (report.outcome, report.reason) == (Outcome.BLOCKED, "this node has no Lmod")
    assert any("image" in line for line in report.remedy)
    assert world.system.commands == []


@pytest.mark.usefixtures("no_lmod")
@pytest.mark.parametrize("damage", ["cut", "empty", "of something else", "half"])
def test_a_damaged_archive_leaves_the_existing_copy(tmp_path: Path, damage: str) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    archive = packed(world)
    take(world, archive)
    if damage == "cut":
        os.truncate(archive, 60)
    elif damage == "empty":
        archive.write_bytes(b"")
    else:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(world.paths.lmod_in_use.resolve() / "lmod-aaaaaaa", arcname="8.7.60-aaaaaaa/lmod-aaaaaaa")
    with pytest.raises(LmodError) as error:
        take(world, archive)
    assert error.value.code == "lmod-incomplete"
    assert error.value.remedy[0] == f"rm {archive}"
    causes = error.value.why.split(": ")
    assert len(causes) == len(set(causes)), "a cause is repeated"
    assert find.unpacked_lmod(world.system, world.paths) is not None
    assert sorted(path.name for path in world.paths.lmods.iterdir()) == ["8.7.60-aaaaaaa", "in-use"]


def test_links_in_a_copy_are_relative_and_links_out_of_it_are_refused(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    copy = paths.lmods / "8.7-aaaaaaa"
    (copy / "lua-b" / "lib").mkdir(parents=True)
    (copy / "lua-b" / ".spack").mkdir()
    (copy / "lua-b" / "lib" / "lua.pc").symlink_to(copy / "lua-b" / "lib" / "lua5.4.pc")
    bundle.relativize(copy)
    assert (copy / "lua-b" / "lib" / "lua.pc").readlink() == Path("lua5.4.pc")
    assert not (copy / "lua-b" / ".spack").exists()
    (copy / "lua-b" / "lib" / "away").symlink_to("/opt/petal/store/x")
    with pytest.raises(LmodError) as error:
        bundle.relativize(copy)
    assert error.value.code == "lmod-incomplete"


@pytest.mark.usefixtures("no_lmod")
def test_a_stack_without_lmod_leaves_the_node_blocked_with_the_reason(tmp_path: Path) -> None:
    """The fake Spack solves only fftw: a lockfile without Lmod, like that of a machine with Lmod."""
    world = World(tmp_path / "node", config_text=with_spack(tmp_path), environment={"specs": [LMOD_SPEC]})
    done = {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert done["lmod-pack"].outcome is Outcome.SKIPPED, done["lmod-pack"]
    assert (done["lmod"].outcome, done["shell"].outcome) == (Outcome.BLOCKED, Outcome.BLOCKED)
    assert done["lmod"].reason == "this node has no Lmod, and no release carries one yet that this CPU runs"
    assert done["publish"].outcome is Outcome.CHANGED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/environment-modules/modulespath", "# comment\n/image/a\n/image/b\t# another\n/image/$V/c\n"),
        ("usr/share/modules/init/.modulespath", "/image/a:/image/b\n"),
        ("etc/environment-modules/initrc", "#module use /image/x\nmodule use --append {/image/a}\nmodule use /image/b"),
    ],
)  # fmt: skip
def test_the_directories_of_environment_modules_are_read_from_its_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert find.tcl_modulepath(Paths(tmp_path)) == ("/image/a", "/image/b")


def test_an_image_without_environment_modules_has_no_directories(tmp_path: Path) -> None:
    assert find.tcl_modulepath(Paths(tmp_path)) == ()


@pytest.fixture
def shell(tmp_path: Path, lmod_is_there: None) -> Callable[[], list[str]]:
    """Run the step ``shell`` on a Debian node."""
    world = World(tmp_path / "node")
    for directory in ("etc/csh/cshrc.d", "etc/csh/login.d", "etc/zsh"):
        (world.prefix / directory).mkdir(parents=True)
    (world.prefix / "etc/bash.bashrc").write_bytes(b"# caf\xe9\nwithout an end")
    (world.prefix / "etc/bash.bashrc").chmod(0o640)
    (world.prefix / "etc/zsh/zshenv").write_text("")

    def apply() -> list[str]:
        step, changes = Shell(), Shell().probe(world.context).changes
        step.apply(world.context)
        assert step.probe(world.context).holds
        return list(changes)

    return apply


def test_files_of_shells_that_read_no_profile_get_one_line(tmp_path: Path, shell: Callable[[], list[str]]) -> None:
    etc = tmp_path / "node" / "etc"
    assert f"add a line to {etc}/bash.bashrc" in shell()
    line = f"shopt -q login_shell || [ ! -r {SH} ] || . {SH} {MARK}\n".encode()
    assert (etc / "bash.bashrc").read_bytes() == line + b"# caf\xe9\nwithout an end"
    assert (etc / "bash.bashrc").stat().st_mode & 0o777 == 0o640
    assert (etc / "zsh" / "zshenv").read_text() == f"[ ! -r {SH} ] || . {SH} {MARK}\n"
    assert not (etc / "zshenv").exists()
    assert {path.name for path in (etc / "csh").rglob("*") if path.is_file()} == {"zz-petal"}
    assert shell() == []


def test_a_lost_line_is_added_again(tmp_path: Path, shell: Callable[[], list[str]]) -> None:
    shell()
    bashrc = tmp_path / "node" / "etc" / "bash.bashrc"
    bashrc.write_text("# a new version of the package\n")
    assert shell() == [f"add a line to {bashrc}"]
    assert bashrc.read_text().endswith(f" {MARK}\n# a new version of the package\n")


def test_the_line_of_bash_is_first_because_debians_file_returns_early(
    tmp_path: Path, shell: Callable[[], list[str]]
) -> None:
    shell()
    bashrc = tmp_path / "node" / "etc" / "bash.bashrc"
    line = bashrc.read_text(errors="replace").partition("\n")[0]
    bashrc.write_text(f"[ -z $PS1 ] && return\n{line} \n")
    shell()
    assert bashrc.read_text() == f"{line}\n[ -z $PS1 ] && return\n"


@pytest.mark.usefixtures("no_lmod")
def test_a_hybrid_image_without_lmod_leaves_it_to_its_nodes(tmp_path: Path) -> None:
    """The image has no stack: the nodes unpack Lmod from the release and write the init files when they start."""
    path = tmp_path / "petal.yaml"
    path.write_text(with_spack(tmp_path))
    world = World(tmp_path / "builder", config_text=with_spack(tmp_path))
    built = prepare(world.options(path, layout="hybrid"), world.services)
    assert specs_of(built) == [LMOD_SPEC, "fftw"]
    world = replace(world, environment=built.environment)
    ctx = typed(replace(world.context, config=replace(world.config, layout="hybrid")), layout="hybrid")
    done = {report.name: report for report in engine.converge(steps_for(ctx), ctx, lambda _: None)}
    assert (done["lmod"].outcome, done["shell"].outcome) == (Outcome.SKIPPED, Outcome.SKIPPED)
    assert done["spack-program"].outcome is Outcome.CHANGED


@pytest.mark.usefixtures("no_lmod")
def test_a_lockfile_from_a_machine_without_lmod_contains_lmod(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    path = tmp_path / "petal.yaml"
    path.write_text(with_spack(tmp_path))
    ctx = prepare_lockfile(world.options(path), world.services)
    assert specs_of(ctx) == [LMOD_SPEC, "fftw"]


@pytest.mark.usefixtures("no_lmod")
def test_an_unreadable_archive_is_an_error_and_nothing_else_is_installed(tmp_path: Path) -> None:
    """The package manager is not called if storage hangs."""
    world = World(tmp_path / "node", Role.COMPUTE, live=True, config_text=with_spack(tmp_path))
    with pytest.raises(LmodError) as error:
        NodeLmod().apply(world.context)
    assert error.value.code == "lmod-incomplete"
    assert not [argv for argv in world.system.commands if "apt" in argv[0]]


@pytest.mark.usefixtures("no_lmod")
@pytest.mark.parametrize("kind", ["mode", "link", "owner"])
def test_an_archive_that_other_users_could_change_is_not_unpacked(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    archive = packed(world)
    if kind == "mode":
        archive.parent.chmod(0o777)
    elif kind == "link":
        archive.rename(tmp_path / "elsewhere")
        archive.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(archive, 1000, 1000)
    else:
        pytest.skip("the test changes the owner of a file, which needs root")
    with pytest.raises(LmodError) as error:
        NodeLmod().apply(world.context)
    assert error.value.code == "untrusted"
    assert not world.paths.lmod_in_use.is_symlink()
    assert not list(world.paths.scratch.glob("*.tar.gz"))


@pytest.mark.usefixtures("no_lmod")
def test_a_cpu_that_runs_no_target_of_the_stack_is_blocked(tmp_path: Path) -> None:
    world = World(tmp_path / "node", Role.COMPUTE, config_text=with_spack(tmp_path), environment={"specs": [LMOD_SPEC]})
    world.host = replace(world.host, target="neoverse_n1")
    packed(world, f"{world.host.os}-x86_64_v3")
    probe = NodeLmod().probe(world.context)
    assert (probe.blocked, "that this CPU runs" in probe.reason) == (True, True)


def test_the_stack_keeps_lmod_after_the_head_node_has_got_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose images have no Lmod use the stack's."""
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", ())
    world = World(tmp_path / "node")
    text = with_spack(tmp_path)
    first = prepared_context(world, text)
    world.paths.state.mkdir(parents=True)
    ClusterState(world.paths).save_desired_state(first.desired_state)
    (tmp_path / "image" / "libexec").mkdir(parents=True)
    (tmp_path / "image" / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "image"),))
    assert prepared_context(world, text).release == first.release


def test_an_lmod_that_reports_no_version_counts_as_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a busy machine would change the release."""
    (tmp_path / "image" / "libexec").mkdir(parents=True)
    (tmp_path / "image" / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "image"),))
    world = World(tmp_path / "node")
    world.system.answers["lmod"] = lambda _: ""
    assert prepared_context(world, with_spack(tmp_path)).environment.get("specs", []) == []


@pytest.mark.usefixtures("lmod_is_there")
def test_a_stack_that_names_lmod_packs_none_if_the_nodes_have_one(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw, lmod@8.7.18]")
    assert LmodPack().probe(World(tmp_path / "node", config_text=text).context).skipped


def test_the_first_usable_lmod_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy for an old Lmod is to install a newer one in another directory."""
    places = [tmp_path / name for name in ("old", "new")]
    for place in places:
        (place / "libexec").mkdir(parents=True)
        (place / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", tuple(map(str, places)))
    world = World(tmp_path / "node")
    world.system.answers["lmod"] = lambda argv: f"Version {'6.6' if 'old' in argv[0] else '8.7.1'}"
    lmod = find.find_lmod(world.context)
    assert lmod is not None
    assert (lmod.place, lmod.version) == (places[1], "8.7.1")
    Shell().apply(world.context)
    assert f"| {places[0]}/libexec/lmod)" in (world.paths.init / "petal.sh").read_text()


def test_lmod_of_the_stack_needs_a_stack() -> None:
    with pytest.raises(ConfigError) as error:
        parse("stack: none\nmodules: {lmod: stack}\n")
    assert "modules.lmod: stack requires a Spack stack" in error.value.why


def test_a_line_of_another_version_is_replaced(tmp_path: Path, shell: Callable[[], list[str]]) -> None:
    shell()
    zshenv = tmp_path / "node" / "etc" / "zsh" / "zshenv"
    line = zshenv.read_text()
    zshenv.write_text(f"before\nolder words {MARK}\nbehind\nand again {MARK}\n")
    assert len(shell()) == 1
    assert zshenv.read_text() == f"before\n{line}behind\n"


@pytest.mark.usefixtures("no_lmod")
@pytest.mark.parametrize("role", [Role.HEAD, Role.COMPUTE])
def test_a_node_that_waits_for_the_stack_names_the_command_to_follow_it(tmp_path: Path, role: Role) -> None:
    world = World(
        tmp_path / "node", role, live=True, config_text=with_spack(tmp_path), environment={"specs": [LMOD_SPEC]}
    )
    for target in world.context.targets:  # the stack is solved
        lockfile_of(world.context, target).parent.mkdir(parents=True, exist_ok=True)
        lockfile_of(world.context, target).write_text("{}")
    probe = NodeLmod().probe(world.context)
    assert (probe.blocked, len(probe.remedy)) == (True, 1)
    assert probe.remedy[0].startswith("on the head node: petal-node status")


@pytest.mark.usefixtures("lmod_is_there")
def test_an_lmod_that_does_not_run_is_not_an_old_one(tmp_path: Path) -> None:
    """After an update of Lua, for example."""
    world = World(tmp_path / "node", Role.COMPUTE)
    world.system.answers["lmod"] = lambda _: "lua: module 'posix' not found:\n\tno field package.preload\n"
    world.system.codes["lmod"] = 1
    probe = NodeLmod().probe(world.context)
    program = find.image_places()[0] / find.PROGRAM
    assert probe.reason == f"{program} does not run: lua: module 'posix' not found:"
    assert probe.remedy[0] == f"{program} bash --version"
    assert Shell().probe(world.context).skipped


@pytest.mark.usefixtures("no_lmod")
def test_a_node_without_lmod_gets_the_remedy_modules_lmod_stack(tmp_path: Path) -> None:
    probe = NodeLmod().probe(World(tmp_path / "node", Role.COMPUTE, config_text=with_spack(tmp_path)).context)
    assert probe.reason == "this node has no Lmod"
    assert [line for line in probe.remedy if "modules: {lmod: stack}" in line]
    locked = World(tmp_path / "node", config_text=with_spack(tmp_path), environment={LOCK: "0" * 64})
    assert NodeLmod().probe(locked.context).remedy[0].startswith("on a machine without Lmod: petal-node lockfile")


@pytest.mark.usefixtures("no_lmod")
def test_a_plan_before_the_stack_is_concretized_shows_all_steps(tmp_path: Path) -> None:
    """This includes the time before anything is solved."""
    world = World(tmp_path / "node", config_text=with_spack(tmp_path), environment={"specs": [LMOD_SPEC]})
    planned = {report.name: report.outcome for report in engine.plan(STEPS, world.context)}
    assert {planned[name] for name in ("spack", "lmod-pack", "lmod", "module-tree", "shell")} == {Outcome.WOULD_CHANGE}


@pytest.mark.usefixtures("no_lmod")
def test_a_failed_stack_leaves_the_node_without_lmod_and_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path), environment={"specs": [LMOD_SPEC]})
    del world.system.answers["spack"]
    done = {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert done["spack"].outcome is Outcome.FAILED
    assert done["lmod"].reason == "no release carries an Lmod that can be read now"
    assert done["shell"].outcome is Outcome.BLOCKED
