"""Everything that root executes is verified: by a checksum if it was fetched, by its owner if it was local."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bootstrap.config.load import parse
from bootstrap.config.model import Origin
from bootstrap.core.errors import ConfigError, FetchError, PackageError, SpackError
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.remote.tarball import unpack_wheel
from bootstrap.spack import program
from tests.world import World, with_spack

SHA = "ab" * 32
SPACK = {"source": "/s", "recipes": {"source": "/r"}, "specs": ["zlib"]}
REMOTE = ("s3://b/k", "https://h/k")


def mistakes(document: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(yaml.safe_dump(document))
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("uri", REMOTE)
@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda uri: {"spack": {**SPACK, "source": uri}}, "spack.sha256"),
        (lambda uri: {"spack": {**SPACK, "recipes": {"source": uri}}}, "spack.recipes.sha256"),
        (lambda uri: {"spack": {**SPACK, "clingo": [{"source": uri}]}}, "spack.clingo[0].sha256"),
        (lambda uri: {"spack": {"source": "/s", "recipes": {"source": "/r"}}, "stack": uri}, "stack_sha256"),
        (lambda uri: {"packages": [{"name": "a", "version": "1", "source": uri}]}, "packages[0].sha256"),
    ],
)
def test_a_source_on_the_network_needs_a_checksum(build: Any, path: str, uri: str) -> None:
    assert "required" in mistakes(build(uri))[path]


def test_a_binary_package_always_needs_a_checksum() -> None:
    assert "packages[0].sha256" in mistakes({"packages": [{"name": "a", "version": "1", "source": "/srv/a.tgz"}]})


@pytest.mark.parametrize("uri", ["git@github.com:spack/spack", "https://github.com", "git+https://h/x", "ssh://h/x"])
def test_a_git_source_is_refused(uri: str) -> None:
    assert "spack.source" in mistakes({"spack": {**SPACK, "source": uri}})


@pytest.mark.parametrize("part", ["origin", "recipes"])
def test_a_tarball_with_a_wrong_checksum_is_not_unpacked(part: str, tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    origin = getattr(world.config.spack, part)
    Path(origin.source).write_bytes(b"evil")
    with pytest.raises(FetchError) as caught:
        program.ensure(program.locate(world.config, world.paths), world.paths, None)
    assert caught.value.code == "fetch-checksum"
    trees = {path.name.partition("-")[0] for path in (world.paths.root / "spack").glob("*")}
    assert trees <= ({"1.1.1"} if part == "recipes" else set())


def fetch_wheel(wheel: Path, directory: Path, world: World) -> None:
    program.fetch_missing((Origin(str(wheel)),), directory, unpack_wheel, world.paths, None)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 60])
def test_a_damaged_wheel_is_refused_and_leaves_no_files(content: bytes, tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    world.paths.scratch.mkdir(parents=True)
    (tmp_path / "clingo.whl").write_bytes(content)
    with pytest.raises(PackageError) as caught:
        fetch_wheel(tmp_path / "clingo.whl", tmp_path / "clingo", world)
    assert caught.value.code == "package-archive"
    assert caught.value.what == f"{tmp_path}/clingo.whl is not a complete wheel"
    assert caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clingo.whl", "node"]


def test_a_wheel_cannot_write_outside(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    world.paths.scratch.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "clingo.whl", "w") as wheel:
        for name in ("../../evil", "/etc/evil", "clingo/__init__.py"):
            wheel.writestr(name, "x")
    fetch_wheel(tmp_path / "clingo.whl", tmp_path / "w" / "clingo", world)
    assert (tmp_path / "w" / "clingo" / "clingo" / "__init__.py").is_file()
    outside = [path for path in tmp_path.rglob("evil") if tmp_path / "w" / "clingo" not in path.parents]
    assert outside == []


@pytest.mark.parametrize(
    ("name", "size", "code"), [("a/" * 1500 + "f", 1, "package-unsafe"), ("clingo/zeros", 3 << 20, "package-archive")]
)
def test_a_wheel_that_is_deep_or_a_bomb_leaves_no_files(
    name: str, size: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootstrap.remote.tarball.SMALL", 1 << 20)
    world = World(tmp_path / "node")
    world.paths.scratch.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "clingo.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(name, bytes(size))
    with pytest.raises(PackageError) as caught:
        fetch_wheel(tmp_path / "clingo.whl", tmp_path / "clingo", world)
    assert caught.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clingo.whl", "node"]


@pytest.mark.parametrize("kind", ["directory", "tarball", "wheel"])
def test_a_source_that_others_can_write_is_not_executed(kind: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "bin").mkdir()
    (theirs / "x.whl").write_bytes(b"")
    theirs.chmod(0o777)
    source = {"directory": theirs, "tarball": theirs / "x.whl", "wheel": theirs / "x.whl"}[kind]
    spack: dict[str, Any] = {**SPACK, "source": str(tmp_path)}
    spack |= {"clingo": [{"source": str(source)}]} if kind == "wheel" else {"source": str(source)}
    world = World(tmp_path / "node", config_text=yaml.safe_dump({"spack": spack}))
    with pytest.raises(SpackError) as caught:
        program.locate(world.config, world.paths)
    assert caught.value.code == "untrusted"
    assert "written by others" in caught.value.why
    theirs.chmod(0o755)
    program.locate(world.config, world.paths)


@pytest.mark.skipif(os.geteuid() != 0, reason="the test changes the owner of a file, which needs root")
def test_a_source_of_another_user_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "spack").mkdir()
    os.chown(tmp_path / "spack", 12345, 12345)
    text = yaml.safe_dump({"spack": {**SPACK, "source": str(tmp_path / "spack")}})
    world = World(tmp_path / "node", config_text=text)
    with pytest.raises(SpackError) as caught:
        program.locate(world.config, world.paths)
    assert "belongs to user 12345" in caught.value.why


def test_spack_verifies_checksums_and_uses_no_binaries(tmp_path: Path) -> None:
    """Binaries of a mirror would run unverified: Spack uses none, and no option disables a check."""
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw], mirrors: {site: /srv/mirror}")
    world = World(tmp_path / "node", config_text=text)
    engine.converge(STEPS, world.context, lambda _: None)
    scope = world.paths.var / "spack" / world.release / "x86_64_v3" / "scope"
    sections = {path.stem: yaml.safe_load(path.read_text()) for path in scope.glob("*.yaml")}
    assert sections["config"]["config"]["checksum"] is True
    assert sections["mirrors"]["mirrors:"]["site"] == {"url": "file:///srv/mirror", "source": True, "binary": False}
    assert sections["bootstrap"]["bootstrap"]["sources:"] == []
    started = [argv for argv in world.system.commands if Path(argv[0]).name == "spack"]
    assert {"install", "concretize"} <= {word for argv in started for word in argv}
    off = {"--no-check-signature", "--no-checksum", "-n", "--insecure", "-k", "--deprecated"}
    assert [argv for argv in started if off & set(argv)] == []
