"""The CPU of an instance type, the targets of a cluster, and the error on a node that does not support them."""

from __future__ import annotations

import builtins
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bootstrap.checks import node as checks
from bootstrap.checks.release import CpuFits
from bootstrap.cluster import detect as facts
from bootstrap.cluster import targets
from bootstrap.config.load import parse
from bootstrap.core.errors import ConfigError
from bootstrap.core.facts import Cluster, Facts, Queue
from bootstrap.core.model import Outcome, Role, Severity
from bootstrap.engine import converge as engine
from bootstrap.engine.prepare import choose_targets, prepare
from bootstrap.engine.registry import CHECKS, STEPS
from bootstrap.engine.run import run
from bootstrap.prove.fleet import report_line, report_of_lines
from bootstrap.prove.login_shell import modules_to_load
from bootstrap.state import release
from bootstrap.state.desired import DesiredState
from bootstrap.state.release import Manifest, ModuleFile, Tree
from bootstrap.state.store import ClusterState
from bootstrap.steps.shell import Shell
from bootstrap.steps.spack import SpackStack
from tests.world import HOST, World, with_package, with_spack

CPUINFO = Path(__file__).parent / "cpuinfo"
TABLE = json.loads(Path(targets.__file__).with_name("instances.json").read_text(encoding="utf-8"))


@contextmanager
def on_cpu(name: str) -> Iterator[None]:
    """Emulate the CPU of a recorded /proc/cpuinfo."""
    from archspec.cpu import detect

    text, real = (CPUINFO / f"{name}.txt").read_text(encoding="utf-8"), builtins.open

    def opened(path: Any, *args: Any, **options: Any) -> Any:
        return io.StringIO(text) if path == "/proc/cpuinfo" else real(path, *args, **options)

    machine = "aarch64" if "CPU part" in text else "x86_64"
    with patch.object(detect, "_machine", lambda: machine), patch.object(builtins, "open", opened):
        detect.host.cache_clear()
        yield
    detect.host.cache_clear()


@pytest.mark.parametrize(
    ("instance", "cpu", "level"),
    [
        ("c3", "ivybridge", "x86_64_v2"),
        ("m4", "haswell", "x86_64_v3"),
        ("c6a", "zen3", "x86_64_v3"),
        ("c7a", "zen4", "x86_64_v4"),
        ("c7a-masked", "x86_64_v4", "x86_64_v4"),
        ("c7i", "sapphirerapids", "x86_64_v4"),
        ("c6g", "neoverse_n1", "neoverse_n1"),
        ("c7g", "neoverse_v1", "neoverse_v1"),
        ("c8g", "neoverse_v2", "neoverse_v2"),
    ],
)
def test_a_nodes_cpu_is_read_from_cpuinfo(instance: str, cpu: str, level: str) -> None:
    with on_cpu(instance):
        assert targets.own_cpu() == cpu
    assert targets.level(cpu) == level


def test_every_row_of_the_table_has_a_known_cpu_a_source_and_a_unique_family() -> None:
    import archspec.cpu

    names = [name for row in TABLE for name in row["families"].split()]
    assert len(names) == len(set(names)) > 150
    for row in TABLE:
        assert set(row) <= {"families", "cpu", "cuda", "source"}, row
        assert row["cpu"] in archspec.cpu.TARGETS, row
        assert row["cpu"] not in targets.UNKNOWN_TO_SPACK
        assert re.fullmatch(r"\d{2,3}", row.get("cuda", "00")), row
        assert len(row["source"]) > 5
        assert ("NVIDIA" in row["source"]) == ("cuda" in row), row
        assert ("Graviton" in row["source"] or "Grace" in row["source"]) == (
            targets.machine_of(row["cpu"]) == "aarch64"
        ), row


def test_the_table_has_all_common_instance_families() -> None:
    for generation in "45678":
        assert all(targets.family_of(f"{letter}{generation}{kind}.large") for letter, kind in _kinds(generation))
    for name in ("t2", "t3", "t4g", "hpc6a", "hpc6id", "hpc7a", "hpc7g", "hpc8a", "x1", "x2iedn", "i3", "i4i", "i7i",
                 "d3",
                 "p3", "p4d", "p5", "p6-b200", "g4dn", "g4ad", "g5", "g6", "g6e", "inf2", "trn1"):  # fmt: skip
        assert targets.family_of(f"{name}.large"), name
    assert targets.family_of("c7i-flex.large") == targets.family_of("c7i.large")


def _kinds(generation: str) -> list[tuple[str, str]]:
    kinds = {"4": [""], "5": ["", "d", "a"], "6": ["i", "a", "g"], "7": ["i", "a", "g"], "8": ["i", "a", "g"]}
    return [(letter, kind) for letter in "mcr" for kind in kinds[generation]]


def queues(*types: str) -> tuple[Queue, ...]:
    return tuple(Queue(f"q{number}", (kind,)) for number, kind in enumerate(types))


@pytest.mark.parametrize(
    ("types", "target", "cuda"),
    [
        (("c7i.large",), "x86_64_v4", ()),
        (("c7i.large", "c7a.large"), "x86_64_v4", ()),
        (("c7i.large", "hpc6a.48xlarge"), "x86_64_v3", ()),
        (("c7a.large", "t3.micro", "m5.large"), "x86_64_v4", ()),
        (("c7a.large", "c3.large"), "x86_64_v2", ()),
        (("p4d.24xlarge", "p5.48xlarge", "g4dn.xlarge", "p5en.48xlarge"), "x86_64_v3", ("75", "80", "90")),
        (("p6-b200.48xlarge", "p4d.24xlarge"), "x86_64_v4", ("80", "100")),
        (("g4ad.xlarge",), "x86_64_v3", ()),
        (("q9.large", "c7i.large"), "x86_64_v3", ()),
        (("unknown",), "x86_64_v3", ()),
        ((), "x86_64_v3", ()),
    ],
)
def test_auto_is_the_highest_level_of_all_queues(types: tuple[str, ...], target: str, cuda: tuple[str, ...]) -> None:
    build_targets = targets.build_targets((), queues(*types), "x86_64")
    assert (build_targets.targets, build_targets.cuda) == ((target,), cuda)


@pytest.mark.parametrize(
    ("types", "target"),
    [
        (("c6g.large",), "neoverse_n1"),
        (("c7g.large", "hpc7g.16xlarge"), "neoverse_v1"),
        (("c8g.large", "m8gd.large"), "neoverse_v2"),
        (("c8g.large", "c7g.large"), "neoverse_n1"),
        (("a1.large", "c8g.large"), "cortex_a72"),
        (("z9g.large", "c8g.large"), "neoverse_n1"),
        ((), "neoverse_n1"),
    ],
)
def test_auto_on_graviton_is_the_oldest_generation(types: tuple[str, ...], target: str) -> None:
    assert targets.build_targets((), queues(*types), "aarch64").targets == (target,)


def test_which_cpu_runs_which_target() -> None:
    assert targets.runs("icelake", "x86_64_v3")
    assert not targets.runs("zen3", "x86_64_v4")
    assert not targets.runs("neoverse_n1", "x86_64_v3")
    assert targets.runs("made-up", "made-up")
    assert targets.best("zen4", ("x86_64_v3", "x86_64_v4", "zen2")) == "zen2"
    assert targets.best("sapphirerapids", ("x86_64_v3", "x86_64_v4", "zen4")) == "x86_64_v4"
    assert targets.best("zen", ("x86_64_v4",)) is None


def test_unknown_types_are_named_once_with_their_queue() -> None:
    (note,) = targets.build_targets((), queues("q9.large", "c7i.large"), "x86_64").notes
    assert "q9.large of queue q0" in note
    assert "x86_64_v3" in note
    assert "c7i" not in note
    assert targets.build_targets((), queues("c7i.large"), "x86_64").notes == ()
    assert "not known" in targets.build_targets((), (), "x86_64").notes[0]


def test_a_target_that_the_head_node_cannot_build_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"c7g\.large") as mixed:
        targets.build_targets((), queues("c7i.large", "c7g.large"), "x86_64")
    assert (mixed.value.code, mixed.value.exit) == ("target-mixed", 78)
    assert "x86_64_v3" in mixed.value.remedy[1]
    assert targets.build_targets(("x86_64_v3",), queues("c7i.large", "c7g.large"), "x86_64").targets == ("x86_64_v3",)
    with pytest.raises(ConfigError, match="neoverse_n1") as other:
        targets.build_targets(("neoverse_n1",), (), "x86_64")
    assert (other.value.code, other.value.exit) == ("target-mixed", 78)


def test_without_builds_any_cpu_is_accepted_and_queues_are_ignored() -> None:
    for text in ("stack: none", "spack: {target: zen4}"):
        assert release.build_targets_of(parse(text), queues("c7g.large"), "x86_64").targets == ("x86_64",)


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ("x86_64_v33", "did you mean 'x86_64_v3'"),
        ("graniterapids", "not a CPU target"),
        ("zen6", "not a CPU target"),
        ("power9le", "not a CPU target"),
        ("[]", "at least one target"),
        ("[x86_64_v3, zen44]", "did you mean 'zen4'"),
        ("[auto, zen4]", "auto cannot be combined"),
        ("[zen4, zen4]", "twice"),
        ("[zen4, neoverse_n1]", "one architecture"),
        ("[1]", "must be a string"),
        ("{a: b}", "must be a string"),
        ("3", "must be a string"),
    ],
)
def test_a_wrong_target_is_reported_with_its_path(value: str, output: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(output)) as found:
        parse(f"spack: {{target: {value}}}")
    assert found.value.exit == 78
    assert found.value.problems[0][0].startswith("spack.target")


@pytest.mark.parametrize("value", ["auto", "zen4", "[zen4]", "[x86_64_v4, x86_64_v3]"])
def test_targets_are_preserved_in_desired_json(value: str) -> None:
    config = parse(f"spack: {{target: {value}}}")
    assert parse(json.dumps(config.to_dict())) == config


def test_the_queues_of_a_cluster_are_read_from_its_configuration() -> None:
    text = """
Scheduling:
  SlurmQueues:
    - Name: a
      Image: {CustomAmi: ami-0123}
      ComputeResources:
        - {Name: one, InstanceType: c7i.large}
        - &r {Name: two, Instances: [{InstanceType: c6a.large}, {InstanceType: m6a.large}]}
        - {Name: three, CapacityReservationTarget: {CapacityReservationId: cr-1}}
        - *r
    - {Name: b, ComputeResources: [{InstanceType: [c7i.large]}, {Instances: 7, InstanceType: 'c5.large; id'}, 3]}
    - no queue
"""
    found = facts.parse_queues(text)
    assert found == (
        Queue("a", ("c7i.large", "c6a.large", "m6a.large", "unknown")),
        Queue("b", ("unknown",)),
    )
    for nothing in ("", "- a", "a: [", "Scheduling: 3", "Scheduling: {SlurmQueues: {a: b}}", "Scheduling: &a {b: *a}"):
        assert facts.parse_queues(nothing) == ()


def test_yaml_aliases_cannot_expand_a_small_file() -> None:
    many = "[" + ", ".join(["*i"] * 3000) + "]"
    text = f"x: &i {{InstanceType: c7i.large}}\ny: &r {{Instances: {many}}}\n"
    text += f"z: &c [{', '.join(['*r'] * 3000)}]\n"
    text += f"Scheduling: {{SlurmQueues: [{', '.join(['{ComputeResources: *c}'] * 300)}]}}\n"
    found = facts.parse_queues(text)
    assert len(found) == facts.MOST
    assert {queue.instances for queue in found} == {("c7i.large",)}


def test_a_temporarily_missing_cluster_configuration_changes_nothing() -> None:
    config = parse(STACK)
    asked = known_with(queues("p5.48xlarge"))
    first = choose_targets(config, asked, None)
    assert first.targets == ("x86_64_v3",)
    wanted = DesiredState("0.1.0", None, {}, {}, "r1", ("x86_64_v4",), ("90",))
    again = choose_targets(config, known_with(()), wanted)
    assert (again.targets, again.cuda) == (("x86_64_v4",), ("90",))
    assert choose_targets(config, asked, wanted).targets == ("x86_64_v3",)


SHA = "a" * 64
STACK = f"spack: {{specs: [zlib], source: s3://b/s, sha256: {SHA}, recipes: {{source: s3://b/r, sha256: {SHA}}}}}"


def known_with(found: tuple[Queue, ...]) -> Facts:
    return Facts(Cluster(Role.HEAD, queues=found), HOST, ())


def test_the_release_depends_on_queues_and_gpus_and_not_on_the_heads_cpu() -> None:
    config = parse(STACK)

    def identity(*types: str, host: Any = HOST) -> str:
        return release.release_id(config, host, {}, "t", release.build_targets_of(config, queues(*types), "x86_64"))

    assert identity("c7i.large") == identity("c7a.large", "m5.large")
    assert identity("c7i.large") == identity("c7i.large", host=replace(HOST, target="zen"))
    found = {identity("c7i.large"), identity("c6a.large"), identity("g5.large"), identity("g6.large")}
    assert len(found) == 4


# ------------------------------------------------------------------------------------------------------- on a node


def manifest(*built: str, specs: tuple[str, ...] = ("zlib",), **other: str) -> Manifest:
    trees = tuple(
        Tree(f"debian12-{name}", name, (ModuleFile(f"{name}/1", f"Core/{name}/1.lua", "spack"),)) for name in built
    )
    return replace(Manifest("r", "t", "debian12", "2.36", specs, trees), **other)


@pytest.mark.parametrize(
    ("cpu", "built", "message"),
    [
        ("x86_64_v3", ("x86_64_v4",), "the release was built for x86_64_v4, this node has x86_64_v3"),
        ("zen3", ("x86_64_v4",), "the release was built for x86_64_v4, this node has x86_64_v3"),
        ("zen4", ("icelake",), "the release was built for icelake, this node has zen4"),
        ("haswell", ("x86_64_v4", "zen3"), "the release was built for x86_64_v4 and zen3, this node has haswell"),
        ("neoverse_v1", ("neoverse_v2",), "the release was built for neoverse_v2, this node has neoverse_v1"),
    ],
)
def test_a_node_that_cannot_run_the_target_reports_the_remedy(cpu: str, built: tuple[str, ...], message: str) -> None:
    machine = targets.machine_of(cpu)
    finding = CpuFits().fits(replace(HOST, target=cpu, machine=machine), manifest(*built))
    assert (finding.check, finding.severity, finding.message) == ("cpu", Severity.FAIL, message)
    assert "SIGILL" in finding.why
    named = re.findall(r"target: ([\w.]+)\}", finding.remedy[0])
    assert len(named) == 1
    for target in (*built, cpu):
        assert targets.runs(target, named[0])
    listed = re.findall(r"\[(.*?)\]", finding.remedy[0])[0]
    assert parse(f"spack: {{target: [{listed}]}}").spack.targets[: len(built)] == built


def test_glibc_and_operating_system_are_compared_after_the_cpu() -> None:
    other = CpuFits().fits(replace(HOST, glibc="2.34"), manifest("x86_64_v3"))
    assert (other.severity, other.message) == (
        Severity.FAIL,
        "the release was built with glibc 2.36, this node has glibc 2.34",
    )
    assert CpuFits().fits(replace(HOST, glibc="2.100"), manifest("x86_64_v3")).severity is Severity.OK
    assert (
        CpuFits().fits(HOST, manifest("x86_64_v3", os="rocky9")).message
        == "the release was built on rocky9, this node has debian12"
    )
    both = CpuFits().fits(replace(HOST, glibc="2.34"), manifest("x86_64_v4"))
    assert both.message == "the release was built for x86_64_v4, this node has x86_64_v3"
    fine = CpuFits().fits(replace(HOST, target="zen4"), manifest("x86_64_v3", "x86_64_v4"))
    assert (fine.severity, fine.message) == (Severity.OK, "the release was built for x86_64_v4, this node has zen4")
    assert CpuFits().fits(replace(HOST, target="x86_64"), manifest("x86_64_v4", specs=())).severity is Severity.OK


def test_a_node_tries_the_modules_of_its_own_tree(tmp_path: Path) -> None:
    ctx = World(tmp_path / "node").context
    built = manifest("x86_64_v3", "x86_64_v4")
    for cpu, name in (("zen3", "x86_64_v3/1"), ("zen4", "x86_64_v4/1"), ("x86_64", "x86_64_v3/1")):
        host = replace(ctx.facts.host, target=cpu)
        here = replace(ctx, facts=replace(ctx.facts, host=host))
        assert modules_to_load(here, built) == (name,)


@pytest.mark.usefixtures("lmod")
def test_the_cpu_is_the_first_failure_of_a_report(tmp_path: Path) -> None:
    """In check, in the hook and in the proof job, whose line has the complete message."""
    head = World(tmp_path / "head", config_text=listed(tmp_path, "x86_64_v4"))
    engine.converge(STEPS, head.context, lambda _: None)
    old = head.as_node("old", Role.COMPUTE)
    engine.converge(STEPS, old.context, lambda _: None)  # no shell can be started here, so no module can be loaded
    report = checks.check_node(old.context, CHECKS)
    failed = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    assert [finding.check for finding in failed] == ["cpu", "modules"]
    assert failed[0].message == "the release was built for x86_64_v4, this node has x86_64_v3"
    sent = report_of_lines("old", "nonce", [report_line(report, "nonce")])
    assert sent is not None
    assert sent.findings == report.findings


def listed(tmp_path: Path, target: str) -> str:
    return with_spack(tmp_path).replace("specs: [fftw]", f"specs: [fftw], target: {target}")


@pytest.mark.usefixtures("lmod")
def test_each_node_uses_the_best_tree_of_a_list_of_targets(tmp_path: Path) -> None:
    head = World(tmp_path / "head", config_text=listed(tmp_path, "[x86_64_v4, x86_64_v3]"))
    outcomes = {report.outcome for report in engine.converge(STEPS, head.context, lambda _: None)}
    assert outcomes <= {Outcome.CHANGED, Outcome.OK, Outcome.SKIPPED}
    made = release.read_manifest(head.paths, head.release)
    assert made is not None
    assert [tree.name for tree in made.trees] == ["debian12-x86_64_v4", "debian12-x86_64_v3"]
    for tree in made.trees:
        assert {module.name for module in tree.modules} == {"hello/1.0", "fftw/3.3.10", "spack/1.1.1"}
        scope = head.paths.var / "spack" / head.release / tree.target / "scope" / "packages.yaml"
        assert json.loads(scope.read_text())["packages"]["all"]["require"] == [f"target={tree.target}"]
    wanted = ClusterState(head.paths).desired_state()
    assert wanted is not None
    assert wanted.targets == ("x86_64_v4", "x86_64_v3")

    node = head.as_node("node", Role.COMPUTE)
    for cpu, best in (("zen4", "x86_64_v4"), ("zen3", "x86_64_v3"), ("x86_64_v2", "x86_64_v4")):
        ctx = replace(node.context, facts=replace(node.context.facts, host=replace(node.host, target=cpu)))
        assert ctx.tree == f"debian12-{best}"
        assert set(ctx.trees) >= {ctx.tree, f"debian12-{cpu}"}
        Shell().apply(ctx)
        assert ctx.tree in Shell().probe(ctx).reason
        text = (node.paths.init / "petal.sh").read_text()
        assert f"$PETAL_RELEASE/modules/{ctx.tree}" in text


@pytest.mark.usefixtures("lmod")
@pytest.mark.parametrize("role", [Role.HEAD, Role.COMPUTE])
def test_shells_of_root_use_a_tree_of_the_current_release(tmp_path: Path, role: Role) -> None:
    """The desired release has another tree, and was never published because one of its packages is missing."""
    node = World(tmp_path / "node", role, config_text=with_spack(tmp_path))
    modules = node.paths.root / "releases" / "a" / "modules"
    for tree in ("debian12-x86_64", "debian12-x86_64_v2"):
        (modules / tree).mkdir(parents=True)
    init = node.paths.init / "petal.sh"
    Shell().apply(node.context)
    assert "modules/debian12-x86_64_v3\n" in init.read_text()  # nothing is published yet
    node.paths.current.symlink_to("releases/a")
    assert Shell().probe(node.context).pending
    Shell().apply(node.context)
    assert "modules/debian12-x86_64_v2\n" in init.read_text()
    assert Shell().probe(node.context).holds


@pytest.fixture
def lmod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "lmod" / "libexec" / "lmod"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"),))
    return program


def test_a_target_unknown_to_the_compiler_is_reported_before_a_build(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=listed(tmp_path, "zen5"))
    world.system.answers["gcc"] = lambda _: "11.4.0\n"
    reports = {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert reports["spack"].outcome is Outcome.BLOCKED
    assert "gcc 11.4.0 cannot build for zen5" in reports["spack"].reason
    assert "target: zen4" in reports["spack"].remedy[0]
    assert not any("spack" in command[0] for command in world.system.commands)
    world.system.answers["gcc"] = lambda _: "14.2.0\n"
    assert SpackStack().probe(world.context).pending


def test_the_plan_names_the_target_and_unknown_instance_types(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=with_spack(tmp_path), queues=queues("q9.large", "c7a.large"))
    probe = SpackStack().probe(world.context)
    assert "x86_64_v3" in probe.reason
    assert any("q9.large" in line for line in probe.changes)
    assert not any("this head node" in line for line in probe.changes)
    better = World(tmp_path / "better", config_text=with_spack(tmp_path), queues=queues("c7a.large"))
    assert any("this head node has x86_64_v3" in line for line in SpackStack().probe(better.context).changes)


def test_cuda_arch_of_a_stack_is_not_changed(tmp_path: Path) -> None:
    own = {"specs": ["fftw"], "packages": {"all": {"variants": "cuda_arch=70"}}}
    for environment, expected in (({}, ["cuda_arch=90"]), (own, None)):
        world = World(
            tmp_path / f"head{len(environment)}", config_text=with_spack(tmp_path), queues=queues("p5.48xlarge"),
            environment=environment,
        )  # fmt: skip
        engine.converge(STEPS, world.context, lambda _: None)
        (scope,) = (world.paths.var / "spack").glob("*/*/scope/packages.yaml")
        assert json.loads(scope.read_text())["packages"]["all"].get("variants") == expected


def test_a_release_of_binary_packages_is_for_every_cpu(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=with_package(tmp_path), queues=queues("c7i.large"))
    assert world.context.targets == ("x86_64",)
    old = replace(world.context.facts.host, target="ivybridge")
    assert replace(world.context, facts=replace(world.context.facts, host=old)).tree == "debian12-x86_64"


# --------------------------------------------------------------------------------------------- targets of a cluster


def cluster_of(world: World, *types: str) -> None:
    path = world.paths.at(facts.CLUSTER_CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    listed_types = ", ".join(f"{{Name: {kind[:3]}, ComputeResources: [{{InstanceType: {kind}}}]}}" for kind in types)
    path.write_text(f"Scheduling: {{SlurmQueues: [{listed_types}]}}\n")


def prepared(world: World, role: Role, config: str | None = None) -> Any:
    return prepare(world.options(config, role=role), world.services)


def test_the_head_node_uses_cluster_config_and_other_nodes_desired_json(tmp_path: Path) -> None:
    head = World(tmp_path / "head", config_text=with_spack(tmp_path))
    config = tmp_path / "petal.yaml"
    config.write_text(head.config_text)
    cluster_of(head, "c7i.large", "p5.48xlarge")
    first = prepared(head, Role.HEAD, str(config))
    assert (first.targets, first.build_targets.cuda) == (("x86_64_v3",), ("90",))
    cluster_of(head, "c7i.large")
    second = prepared(head, Role.HEAD, str(config))
    assert (second.targets, second.build_targets.cuda) == (("x86_64_v4",), ())
    assert second.release != first.release

    head.paths.state.mkdir(parents=True)
    ClusterState(head.paths).save_desired_state(second.desired_state)
    node = head.as_node("node", Role.COMPUTE)
    cluster_of(node, "c6a.large")
    assert prepared(node, Role.COMPUTE).targets == ("x86_64_v4",)
    assert prepared(head, Role.HEAD).release == second.release
    head.paths.at(facts.CLUSTER_CONFIG).unlink()
    assert prepared(head, Role.HEAD).release == second.release, "a temporarily missing file changed the target"


def test_queues_are_ignored_in_an_image(tmp_path: Path) -> None:
    """The release of an image is built before the cluster exists, and must be the desired one on the cluster."""
    world = World(tmp_path / "head", config_text=with_spack(tmp_path) + "layout: ami\n")
    config = tmp_path / "petal.yaml"
    config.write_text(world.config_text)
    image = prepared(world, Role.HEAD, str(config))
    cluster_of(world, "p5en.48xlarge", "c7i.large")
    on_the_cluster = prepared(world, Role.HEAD, str(config))
    assert on_the_cluster.release == image.release
    assert on_the_cluster.targets == ("x86_64_v3",)


def test_a_run_on_a_cluster_with_mixed_architectures_exits_78(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=with_spack(tmp_path))
    config = tmp_path / "petal.yaml"
    config.write_text(world.config_text)
    cluster_of(world, "c7g.large", "c7i.large")
    record = run(world.options(config, role=Role.HEAD), world.services)
    assert record.exit == 78
    assert record.errors[0]["code"] == "target-mixed"
    assert record.errors[0]["remedy"]
