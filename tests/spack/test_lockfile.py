"""Real Spack: one node solves a stack; another node without clingo or enough memory installs it or refuses it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli import main
from bootstrap.cluster.detect import gather
from bootstrap.config.model import SPACK_VERSIONS
from bootstrap.core.errors import ExitCode
from bootstrap.core.model import Outcome, Role, RunRecord, Status
from bootstrap.core.paths import Paths
from bootstrap.host.system import System
from bootstrap.spack.driver import Spack
from bootstrap.spack.externals import find_compiler
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.lockfile import RECORD, locked_specs
from bootstrap.spack.program import SpackInstall
from bootstrap.spack.scope import Places, Site, write_scope
from tests.spack.conftest import VERSIONS, spack_tree
from tests.spack.test_spack import bootstrap, steps, store_of

BOTH = pytest.mark.parametrize("version", VERSIONS)
TINY = 64 << 20  # free bytes of memory


@pytest.fixture
def solve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Run ``petal-node lockfile`` on a machine outside of a cluster."""

    def run(config: str, *more: str) -> tuple[Path, dict[str, Any]]:
        path, builder = tmp_path / "builder.yaml", tmp_path / "builder"
        path.write_text(config)
        target = tmp_path / "locks"
        target.mkdir(exist_ok=True)
        words = ["lockfile", "--config", str(path), "--root", str(builder), "--output", str(target), "--json", *more]
        assert main(words) == 0, capsys.readouterr()
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert not (builder / "opt/petal").exists(), "it writes into the root"
        assert not (builder / "shared").exists(), "it needs shared storage"
        return Path(answer["data"]["uri"]), answer["data"]

    return run


def with_lock(config: str, lock: Path) -> str:
    """The same configuration with the lockfile as its stack, and without clingo."""
    excluded = ("stack:", "  clingo:", "  target:")
    kept = [line for line in config.splitlines() if not line.startswith(excluded)]
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return "\n".join([f"stack: file://{lock}", f'stack_sha256: "{digest}"', *kept]) + "\n"


def lean(prefix: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A run on a node that cannot concretize: no clingo, and 64 MiB of memory."""
    monkeypatch.setattr(System, "available_memory", lambda _: TINY)
    return bootstrap(prefix, config)


@BOTH
def test_a_node_without_clingo_installs_the_lockfile_of_another_node(
    version: str, config_text: str, solve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, data = solve(config_text)
    assert lock.name == f"spack-{data['sha256'][:12]}.lock"

    prefix, cache = tmp_path / "head", tmp_path / "cache"
    cache.mkdir()
    config_text = config_text.replace("mirrors: {", f"mirrors: {{site: {{url: {cache}, signed: false, push: true}}, ")
    record = lean(prefix, with_lock(config_text, lock), monkeypatch)
    assert record.status is Status.CHANGED, record
    assert steps(record)["build-cache"].outcome is Outcome.CHANGED
    assert any("libsigsegv" in path.name for path in cache.rglob("*.json"))
    assert record.release is not None
    paths = Paths(prefix)
    installed = locked_specs(paths.release(record.release) / "spack.lock")
    assert {spec.hash for spec in installed} == set(json.loads(lock.read_text())["concrete_specs"])
    assert next(store_of(prefix, version).glob("linux-*/libsigsegv-2.14-*/lib/libsigsegv.so")).exists()
    assert list((paths.current / "modules").glob("*/Core/libsigsegv/2.14.lua"))
    output = "".join(path.read_text() for path in (paths.log.parent / "petal-node").glob("spack-*.log"))
    assert "install --only-concrete" in output
    assert "concretize" not in output

    again = lean(prefix, with_lock(config_text, lock), monkeypatch)
    assert again.release == record.release
    assert {step.outcome for step in again.steps} <= {Outcome.OK, Outcome.SKIPPED}
    _assert_a_different_node_refuses_it(config_text, lock, tmp_path / "other")


def _assert_a_different_node_refuses_it(config: str, lock: Path, prefix: Path) -> None:
    """The error names all differences, before Spack is fetched."""
    text = lock.read_text()
    system = json.loads(text)["concrete_specs"].popitem()[1]["arch"]["platform_os"]
    other = prefix.with_suffix(".lock")
    other.write_text(text.replace(f'"platform_os": "{system}"', '"platform_os": "rocky9"').replace("gcc@", "gcc@9."))
    record = bootstrap(prefix, with_lock(config, other) + "  target: x86_64_v2\n")
    assert record.exit == ExitCode.CONFIG
    error = steps(record)["spack"].error
    assert error is not None
    assert error["code"] == "lockfile-unfit"
    differences = [part.partition(": ") for part in error["why"].split("; ")]
    assert {thing for thing, _, text in differences if text.startswith("the lockfile is for")} == {
        "os",
        "compiler",
        "target",
    }
    assert len(differences) == 3, error["why"]
    assert any(line.startswith("petal-node lockfile") for line in error["remedy"])
    assert not Paths(prefix).current.exists()
    assert not list(Paths(prefix).log.parent.rglob("spack-*.log")), "Spack was started"


def test_spack_reads_our_lockfile_and_petal_node_reads_spacks(
    config_text: str, solve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lockfile for two targets: Spack shows both, a cluster installs the one of its target."""
    both = config_text + "  target: [x86_64_v3, x86_64_v2]\n"
    made, data = solve(both)
    assert data["targets"] == ["x86_64_v3", "x86_64_v2"]
    document = json.loads(made.read_text())
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "spack.lock").write_bytes(made.read_bytes())
    (environment / "spack.yaml").write_text("spack: {specs: [libsigsegv@2.14], view: false}\n")
    (tree,) = (tmp_path / "builder/opt/petal-node/spack").glob("1.1.1*")
    roots = [root["hash"][:7] for root in document["roots"]]
    listed = System().run(
        [str(tree / "bin/spack"), "-e", str(environment), "find", "--show-concretized", "-L"],
        timeout=120, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SPACK_DISABLE_LOCAL_CONFIG": "1"},
    )  # fmt: skip
    assert all(root in listed.stdout for root in roots), listed.stdout

    del document[RECORD]
    plain = tmp_path / "plain.lock"
    plain.write_text(json.dumps(document))
    record = lean(tmp_path / "head", with_lock(config_text, plain) + "  target: x86_64_v2\n", monkeypatch)
    assert record.status is Status.CHANGED, record
    store = store_of(tmp_path / "head", "1.1.1")
    assert len(list(store.glob("linux-*-x86_64_v2/libsigsegv-2.14-*/lib/libsigsegv.so"))) == 1
    assert not list(store.glob("linux-*-x86_64_v3"))
    _assert_a_lockfile_is_solved_again_to_the_same_bytes(both, made, solve)


@BOTH
def test_spack_fetches_clingo_only_from_the_named_sources(version: str, tmp_path: Path) -> None:
    """The effect of ``clingo: bootstrap``; nothing is fetched here."""
    family = FAMILIES[SPACK_VERSIONS[version]]
    tree = spack_tree(version)
    program = SpackInstall(version, tree, tmp_path, None, bootstraps=True)
    places = Places(tmp_path / "store", tmp_path / "modules", tmp_path / "recipes", tmp_path / "scratch")
    host = gather(Paths(tmp_path), System(), Role.HEAD).host
    site = Site(find_compiler(System()), "x86_64_v3", {}, host, bootstraps=True)
    write_scope(tmp_path / "scope", places, site, family)
    output = tmp_path / "output"
    spack = Spack(System(), program, places, tmp_path / "scope", tmp_path / "environment", output, lambda _: None)
    spack.write_environment([], {})
    printed = spack._spack("bootstrap", "list", timeout=120, on_line=lambda _: None).stdout
    names = re.findall(r"^Name: (\S+) (\w+)", printed, re.MULTILINE)
    assert names == [(name, "ENABLED") for name in family.bootstraps_from], printed


def _assert_a_lockfile_is_solved_again_to_the_same_bytes(config: str, first: Path, solve: Any) -> None:
    """With a lockfile as stack, ``petal-node lockfile`` uses the recorded stack, including its package settings."""
    clingo = next(line for line in config.splitlines() if "clingo:" in line)
    targets = next(line for line in config.splitlines() if "target:" in line)
    second, _ = solve("\n".join([with_lock(config, first), clingo, targets]) + "\n")
    assert (second, list(first.parent.iterdir())) == (first, [first]), "the name has the checksum"
