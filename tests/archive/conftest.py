"""Fixtures of the archive's tests: built archives, the Pythons of this machine, a directory for other users."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from bootstrap.archive import build

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@cache
def pythons() -> dict[str, str]:
    """The installed CPythons by minor version, for example ``{"3.9": "/usr/bin/python3.9"}``."""
    folders = [Path(entry) for entry in os.get_exec_path() if "shims" not in entry]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        folders += sorted(Path(root).glob("versions/*/bin"))
    found: dict[str, str] = {}
    for name in ("2.7", *(f"3.{minor}" for minor in range(6, 16))):
        for folder in (Path("/usr/bin"), Path("/usr/local/bin"), *folders):
            if (folder / f"python{name}").is_file():
                found.setdefault(name, str(folder / f"python{name}"))
    return found


def python(version: str) -> str:
    """The path of one CPython; skip if it is not installed."""
    if version not in pythons():
        pytest.skip(f"CPython {version} is not installed")
    return pythons()[version]


@dataclass(frozen=True)
class Ran:
    """The result of a program. Reading output that is neither ASCII nor UTF-8 fails."""

    code: int
    out: str
    err: str


@dataclass
class Node:
    """A directory as a node, with one copy of the archive, which the user ``uid`` runs."""

    prefix: Path
    archive: Path
    uid: int = 0
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.prefix / "var/cache/petal-node"

    def trees(self) -> list[Path]:
        return sorted(self.cache.iterdir()) if self.cache.is_dir() else []

    def command(self, *arguments: str, archive: Path | None = None) -> list[str]:
        env = {"PATH": "/usr/bin:/bin", "PETAL_PREFIX": str(self.prefix), "PETAL_PYTHON": good_python(), **self.env}
        given = [f"{name}={value}" for name, value in env.items() if value]
        drop = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"] if self.uid else []
        return [*drop, "env", "-i", *given, str(archive or self.archive), *arguments]

    def run(self, *arguments: str, archive: Path | None = None) -> Ran:
        return run(self.command(*arguments, archive=archive))


def run(command: list[str]) -> Ran:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, cwd="/", stdin=subprocess.DEVNULL)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def good_python() -> str:
    """A Python >= 3.9 that any user can run, preferably the system's."""
    able = [path for version, path in pythons().items() if version.startswith("3.") and int(version[2:]) >= 9]
    return next((path for path in able if path.startswith("/usr")), able[0])


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the probe as command line."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("bootstrap", "actions", "spack_envs", "modulefiles"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("probe.py"), copy / "bootstrap/cli.py")
    (copy / "spack_envs/probe").mkdir()
    (copy / "spack_envs/probe/spack.yaml").write_text("spack: {}\n")
    return copy


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> build.Built:
    return build.build(tmp_path_factory.mktemp("dist"), checkout, ROOT / "build/vendor")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> build.Built:
    """The real archive."""
    return build.build(tmp_path_factory.mktemp("real"), ROOT)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter (only root can enter pytest's directories)."""
    folder = Path(tempfile.mkdtemp(prefix="petal-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node(public: Path, built: build.Built) -> Node:
    prefix = public / "node"
    prefix.mkdir()
    return Node(prefix, Path(shutil.copy(built.archive, public / "petal-node")))


@pytest.fixture
def user(node: Node, public: Path) -> Node:
    """The same node for an ordinary user with a home directory."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("the test acts as another user, which needs root and setpriv")
    home = public / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    return Node(node.prefix, node.archive, NOBODY, {"HOME": str(home)})
