"""When a lockfile may be used: each condition, and the error for each difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import lockfile as verb
from bootstrap.commands.common import Services
from bootstrap.config.load import parse
from bootstrap.config.model import Origin, SpackConfig
from bootstrap.core.errors import ConfigError, FetchError, PetalError
from bootstrap.core.facts import External
from bootstrap.core.model import Outcome, Result, StepReport, Tool, plain
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.spack import environments, lockfile
from bootstrap.spack.externals import Compiler
from bootstrap.spack.fit import NodeProfile, check_fit, differences
from bootstrap.spack.lockfile import RECORD, Lockfile, Record
from bootstrap.state.context import Context
from tests.world import HOST, World, with_spack

SHA, OTHER = "ab" * 32, "cd" * 32
SLURM = External("slurm", "slurm@23.11.10 +pmix", "/opt/slurm", Path("/opt/slurm"), buildable=False)
MPI = External("openmpi", "openmpi@4.1.7 fabrics=ofi", "/opt/amazon/openmpi", Path("/opt/amazon/openmpi"))
GCC = Compiler("12.2.0", {"c": "/usr/bin/gcc", "cxx": "/usr/bin/g++"})
HERE = NodeProfile(
    HOST, GCC, (SLURM, MPI), ("x86_64_v3",), (), SpackConfig("1.1.1", Origin("/s", SHA), Origin("/r", SHA)), (),
)  # fmt: skip


def node(name: str, version: str, *needs: str, target: str = "x86_64_v3", **more: Any) -> dict[str, Any]:
    arch = {"platform": "linux", "platform_os": "debian12", "target": target}
    edges = [{"name": need, "hash": need, "parameters": {}} for need in needs]
    return {"name": name, "version": version, "arch": arch, "dependencies": edges, "hash": name, **more}


def external(name: str, version: str, path: str, **attributes: Any) -> dict[str, Any]:
    return node(name, version, external={"path": path, "module": None, "extra_attributes": attributes})


RECORDED = Record(
    glibc="2.36", compiler="gcc@12.2.0", languages=("c", "cxx"),
    externals=((SLURM.spec, SLURM.place), (MPI.spec, MPI.place)), cuda=(),
    sources={"spack.source": SHA, "spack.recipes": SHA}, environment={"specs": ["fftw", "hdf5 +mpi"]},
)  # fmt: skip


def document(*nodes: dict[str, Any], record: Record | None = RECORDED) -> dict[str, Any]:
    """The parts of real Spack 1.1.1's lockfile that petal-node reads (tests/spack reads real ones)."""
    drivers = {"c": "/usr/bin/gcc", "cxx": "/usr/bin/g++"}
    whole = [
        node("fftw", "3.3.10", "gcc", "slurm", "glibc"),
        external("gcc", "12.2.0", "/usr", compilers=drivers),
        external("glibc", "2.36", "/usr"),
        external("slurm", "23.11.10", "/opt/slurm"),
        *nodes,
    ]
    return {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "spack": {"version": "1.1.1", "type": "release"},
        **({RECORD: plain(record)} if record else {}),
        "roots": [{"hash": "fftw", "spec": "fftw"}],
        "concrete_specs": {raw["hash"]: raw for raw in whole},
    }


def lock(*nodes: dict[str, Any], record: Record | None = RECORDED) -> Lockfile:
    return lockfile.parse(json.dumps(document(*nodes, record=record)).encode(), "spack.lock")


@pytest.mark.parametrize("record", [RECORDED, None], ids=["ours", "spacks"])
def test_a_lockfile_fits_the_node_that_made_it(record: Record | None) -> None:
    assert list(differences(lock(record=record), HERE)) == []


CHANGES: dict[str, tuple[NodeProfile, str, str]] = {
    "os": (replace(HERE, host=replace(HOST, os="rocky9")), "debian12", "rocky9"),
    "glibc": (replace(HERE, host=replace(HOST, glibc="2.34")), "2.36", "2.34"),
    "compiler": (replace(HERE, compiler=replace(GCC, version="11.4.0")), "gcc@12.2.0", "gcc@11.4.0"),
    "target": (replace(HERE, targets=("x86_64_v4",)), "x86_64_v3", "x86_64_v4"),
    "spack": (replace(HERE, spack=SpackConfig("0.23.0")), "1.1.1", "0.23.0"),
    "slurm": (replace(HERE, externals=(MPI,)), "slurm@23.11.10", "missing"),
}


@pytest.mark.parametrize("record", [RECORDED, None], ids=["ours", "spacks"])
@pytest.mark.parametrize("thing", CHANGES)
def test_each_difference_is_reported_alone(thing: str, record: Record | None) -> None:
    """Spack's own lockfile describes a node like ours, except for checksums and variants."""
    here, wanted, found = CHANGES[thing]
    if record is None and thing == "slurm":
        assert list(differences(lock(record=record), here)) == [], "it may be the stack's own"
        return
    ((path, said),) = differences(lock(record=record), here)
    assert path == thing
    assert wanted in said
    assert found in said


def test_an_external_that_is_used_must_have_the_same_version() -> None:
    newer = replace(HERE, externals=(replace(SLURM, spec="slurm@24.05.7 +pmix"), MPI))
    ((path, said),) = differences(lock(), newer)
    assert path == "slurm"
    assert "slurm@23.11.10" in said
    assert "24.05.7" in said


def test_an_unused_external_may_differ() -> None:
    other = replace(MPI, spec="openmpi@5.0.6")
    assert list(differences(lock(), replace(HERE, externals=(SLURM, other)))) == []


def test_an_external_of_the_stack_itself_is_not_compared() -> None:
    assert list(differences(lock(external("gmake", "4.3", "/usr")), HERE)) == []


def test_a_missing_compiler_for_a_language_is_reported() -> None:
    fortran = replace(RECORDED, languages=("c", "cxx", "fortran"))
    ((_, said),) = differences(lock(record=fortran), HERE)
    assert "fortran" in said


def test_the_compiler_is_read_from_a_lockfile_of_0_23() -> None:
    raw = document(node("zlib", "1.3", compiler={"name": "gcc", "version": "11.4.0"}), record=None)
    found = lockfile.parse(json.dumps(raw).encode(), "x")
    assert [path for path, _ in differences(found, HERE)] == ["compiler"]


@pytest.mark.parametrize("thing", ["spack.source", "spack.recipes"])
def test_checksums_are_compared_if_both_have_one(thing: str) -> None:
    other = replace(RECORDED, sources={**RECORDED.sources, thing: OTHER})
    assert [path for path, _ in differences(lock(record=other), HERE)] == [thing]
    unknown = replace(HERE, spack=SpackConfig("1.1.1", Origin("/s"), Origin("/r")))
    assert list(differences(lock(record=other), unknown)) == []


def test_a_lockfile_for_other_gpus_is_refused() -> None:
    gpu = lock(node("app", "1", parameters={"cuda_arch": ["80"]}))
    assert list(differences(gpu, replace(HERE, cuda=("80",)))) == []
    assert [path for path, _ in differences(gpu, replace(HERE, cuda=("80", "90")))] == ["cuda_arch"]
    assert list(differences(lock(), replace(HERE, cuda=("90",)))) == [], "nothing in it is for GPUs"


def test_a_spec_missing_in_the_lockfile_is_reported() -> None:
    assert list(differences(lock(), replace(HERE, specs=("fftw", "hdf5+mpi")))) == []
    ((path, said),) = differences(lock(), replace(HERE, specs=("samtools",)))
    assert (path, "samtools" in said) == ("spec", True)


def test_the_error_names_all_differences_and_a_remedy() -> None:
    with pytest.raises(ConfigError) as caught:
        check_fit(lock(), replace(HERE, host=replace(HOST, os="rocky9", glibc="2.34")), "s3://b/spack.lock")
    error = caught.value
    assert (error.code, error.exit) == ("lockfile-unfit", 78)
    assert [path for path, *_ in error.problems] == ["os", "glibc"]
    assert "s3://b/spack.lock" in error.what
    assert any(line.startswith("petal-node lockfile") for line in error.remedy)
    with pytest.raises(ConfigError) as caught:
        check_fit(lock(), CHANGES["target"][0], "x")
    assert any("target: x86_64_v3" in line for line in caught.value.remedy)


# ------------------------------------------------------------------------------------------------ reading and joining


def test_two_targets_in_one_file_can_be_separated() -> None:
    first = document(record=None)
    second = json.loads(json.dumps(first).replace("x86_64_v3", "x86_64_v2").replace('"fftw"', '"fftw2"'))
    for name in ("gcc", "glibc", "slurm"):
        second["concrete_specs"][name + "2"] = second["concrete_specs"].pop(name)
    second = json.loads(json.dumps(second).replace('"hash": "gcc"', '"hash": "gcc2"'))
    second = json.loads(json.dumps(second).replace('"hash": "glibc"', '"hash": "glibc2"'))
    second = json.loads(json.dumps(second).replace('"hash": "slurm"', '"hash": "slurm2"'))
    whole = lockfile.parse(lockfile.joined([first, second], RECORDED), "x")
    assert whole.targets == ("x86_64_v3", "x86_64_v2")
    assert whole.part("x86_64_v3") == first
    assert whole.part("x86_64_v2") == second
    assert whole.record == RECORDED
    assert lockfile.is_lockfile(lockfile.joined([first], RECORDED))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda raw: raw.pop("roots"),
        lambda raw: raw["roots"].clear(),
        lambda raw: raw["concrete_specs"].pop("glibc"),
        lambda raw: raw["concrete_specs"]["fftw"].pop("arch"),
        lambda raw: raw["concrete_specs"]["fftw"]["arch"].update(target="../../x"),
        lambda raw: raw.update(concrete_specs=[]),
        lambda raw: raw.update(include_concrete={"/elsewhere": {}}),
        lambda raw: raw.pop("_meta"),
        lambda raw: raw.pop("spack"),
        lambda raw: raw[RECORD].update(format=2),
        lambda raw: raw[RECORD].pop("environment"),
        lambda raw: raw.update({RECORD: []}),
    ],
)
def test_a_damaged_lockfile_is_a_configuration_error(break_it: Callable[[dict[str, Any]], object]) -> None:
    raw = document()
    break_it(raw)
    with pytest.raises(ConfigError) as caught:
        lockfile.parse(json.dumps(raw).encode(), "s3://b/spack.lock")
    assert caught.value.code == "lockfile-unfit"
    assert caught.value.why


def test_the_record_of_a_newer_format_is_refused_by_its_format() -> None:
    raw = document()
    raw[RECORD] = {"format": 2, "made": "other fields"}
    with pytest.raises(ConfigError) as caught:
        lockfile.parse(json.dumps(raw).encode(), "spack.lock")
    assert caught.value.why == "its petal-node format is 2, and this petal-node reads 1"


def test_a_truncated_lockfile_is_a_configuration_error() -> None:
    data = json.dumps(document()).encode()
    with pytest.raises(ConfigError):
        lockfile.parse(data[: len(data) // 2], "x")


# -------------------------------------------------------------------------------------------------------- as the stack


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A head node whose stack is a lockfile of fftw."""
    path = tmp_path / "spack.lock"
    raw = document(record=None)
    slurm = raw["concrete_specs"].pop("slurm")
    raw["concrete_specs"]["fftw"]["dependencies"] = [{"name": "gcc", "hash": "gcc"}]
    assert slurm
    raw["concrete_specs"] = {"a" * 32: {**raw["concrete_specs"].pop("fftw"), "hash": "a" * 32}, **raw["concrete_specs"]}
    raw["roots"][0]["hash"] = "a" * 32
    path.write_text(json.dumps(raw))
    text = with_spack(tmp_path).replace("specs: [fftw], ", "") + f"stack: {path}\n"
    made = World(tmp_path / "node", config_text=text)
    made.environment = environments.load(made.config, made.paths.scratch, None)
    return made


def spack_step(ctx: Context, *, plan: bool = False) -> StepReport:
    reports = engine.plan(STEPS, ctx) if plan else engine.converge(STEPS, ctx, lambda _: None)
    return next(report for report in reports if report.name == "spack")


def verbs(world: World) -> set[str]:
    words = {word for argv in world.system.commands if Path(argv[0]).name == "spack" for word in argv}
    return words & {"concretize", "install"}


def test_the_release_id_depends_on_the_lockfiles_checksum(world: World) -> None:
    digest = hashlib.sha256(Path(world.config.stack).read_bytes()).hexdigest()
    assert world.environment == {"specs": ["fftw"], "lock": digest}
    before = world.release
    world.environment = {**world.environment, "lock": SHA}
    assert world.release != before


def test_a_lockfile_is_installed_without_clingo_and_with_little_memory(world: World) -> None:
    world.system.memory = 1 << 20

    def no_python(_: Any) -> str:
        raise AssertionError("clingo was searched")

    world.system.answers["python"] = no_python
    planned = spack_step(world.context, plan=True)
    assert planned.outcome is Outcome.WOULD_CHANGE, planned
    report = spack_step(world.context)
    assert report.outcome is Outcome.CHANGED, report
    assert verbs(world) == {"install"}


def test_an_unfit_lockfile_fails_the_step_before_spack_runs(world: World) -> None:
    world.host = replace(world.host, os="rocky9")
    for plan in (True, False):
        report = spack_step(world.context, plan=plan)
        assert report.outcome is Outcome.BLOCKED
        assert report.error is not None
        assert report.error["code"] == "lockfile-unfit"
    assert verbs(world) == set()


def test_a_replaced_lockfile_is_refused(world: World) -> None:
    kept = world.environment
    (found,) = world.paths.scratch.glob("stack-*.lock")
    found.unlink()
    Path(world.config.stack).write_text(json.dumps(document()))
    with pytest.raises(FetchError) as caught:
        environments.locked(world.config, kept, world.paths.scratch, None)
    assert caught.value.code == "fetch-checksum"


def test_a_lockfile_of_petal_node_includes_its_package_settings(tmp_path: Path) -> None:
    path = tmp_path / "spack.lock"
    record = replace(RECORDED, environment={"specs": ["fftw"], "packages": {"slurm": {"buildable": True}}})
    path.write_text(json.dumps(document(record=record)))
    config = parse(f"stack: {path}\nspack: {{source: /s, recipes: {{source: /r}}}}\n")
    loaded = environments.load(config, tmp_path / "scratch", None)
    assert environments.unlocked(loaded) == record.environment


@pytest.fixture
def builder(tmp_path: Path) -> Callable[[str, Path], Result[verb.LockfileSummary]]:
    """A machine like the nodes for ``petal-node lockfile``, with a fake Spack."""
    world = World(tmp_path / "builder")
    (world.prefix / "shared").rmdir()

    def solve(argv: Any) -> str:
        if "python" in argv:
            return world.system._spack(argv)
        environment = Path(argv[argv.index("-e") + 1])
        (environment / "spack.lock").write_text(json.dumps(document(record=None)))
        return ""

    world.system.answers["spack"] = solve

    def solve_stack(config: str, output: Path) -> Result[verb.LockfileSummary]:
        path = tmp_path / "petal.yaml"
        path.write_text(config)
        options = Options("lockfile", config=str(path), root=world.prefix, output=str(output))
        return verb.lockfile(options, Services(Tool("0.1.0"), world.system, "r", lambda _: None, lambda _: None))

    return solve_stack


def test_the_lockfile_is_kept_if_its_destination_cannot_be_written(
    builder: Callable[[str, Path], Result[verb.LockfileSummary]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise FetchError("it cannot be written", remedy="df -h")

    monkeypatch.setattr(verb, "upload", full)
    with pytest.raises(PetalError) as caught:
        builder(with_spack(tmp_path), tmp_path / "spack.lock")
    kept = Paths(tmp_path / "builder").var / "spack.lock"
    assert str(kept) in caught.value.remedy[-1]
    assert lockfile.parse(kept.read_bytes(), "x").record is not None


def test_nothing_is_solved_for_a_destination_that_cannot_be_written(
    builder: Callable[[str, Path], Result[verb.LockfileSummary]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="cannot be written"):
        builder(with_spack(tmp_path), tmp_path / "file" / "spack.lock")
    assert not (Paths(tmp_path / "builder").var / "spack.lock").exists()


def test_lockfile_prints_the_keys_to_write_and_leaves_no_files(
    builder: Callable[[str, Path], Result[verb.LockfileSummary]], tmp_path: Path
) -> None:
    answer = builder(with_spack(tmp_path), tmp_path / "spack.lock").data
    data = (tmp_path / "spack.lock").read_bytes()
    assert answer.sha256 == hashlib.sha256(data).hexdigest()
    made = lockfile.parse(data, "x")
    assert made.record is not None
    assert made.record.environment == {"specs": ["fftw"]}
    assert made.record.compiler == "gcc@12.2.0"
    paths = Paths(tmp_path / "builder")
    assert not (paths.scratch / "lockfile").exists()
    assert not paths.root.exists()
    assert not paths.shared_mount.exists()


def test_a_stack_that_is_solved_twice_gives_the_same_bytes(
    builder: Callable[[str, Path], Result[verb.LockfileSummary]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_spack(tmp_path)
    first = builder(config, tmp_path / "first.lock").data
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert builder(config, tmp_path / "second.lock").data.sha256 == first.sha256


def test_lockfile_without_a_stack_is_an_error(builder: Callable[[str, Path], Result[verb.LockfileSummary]]) -> None:
    with pytest.raises(ConfigError) as caught:
        builder("stack: none", Path("x"))
    assert caught.value.code == "config-invalid"


def test_spack_fetches_clingo_only_if_configured(tmp_path: Path) -> None:
    scopes = {}
    for name, more in (("plain", ""), ("boot", "clingo: bootstrap, ")):
        (tmp_path / name).mkdir()
        text = with_spack(tmp_path / name).replace("specs: [fftw]", f"{more}specs: [fftw]")
        world = World(tmp_path / name / "node", config_text=text)
        engine.converge(STEPS, world.context, lambda _: None)
        scope = world.paths.var / "spack" / world.release / "x86_64_v3" / "scope" / "bootstrap.yaml"
        scopes[name] = json.loads(scope.read_text())["bootstrap"]
    assert scopes["plain"]["enable"] is False
    assert scopes["plain"]["sources:"] == []
    assert scopes["boot"]["enable"] is True
    assert scopes["boot"]["trusted:"] == {"github-actions-v2": True, "github-actions-v0.6": True}
    names = {source["name"] for source in scopes["boot"]["sources:"]}
    assert names == set(scopes["boot"]["trusted:"]), "the sources are not exactly those of the family"
