"""petal-node reads and writes no file of the machine's own Spack: its files are invalid, and strace prints every path.

The complete run of a head node is traced: petal-node, Spack, its builders, compilers. It runs in a mount namespace
in which ``/etc`` is a copy with an invalid ``/etc/spack``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.config.model import SPACK_VERSIONS
from bootstrap.spack.families import FAMILIES
from tests.spack.conftest import VERSIONS, Site

SECTIONS = ("bootstrap", "compilers", "concretizer", "config", "mirrors", "modules", "packages", "repos", "upstreams")
# Configuration in a site's Spack tree; every line would change what is built, or where.
SITE = {
    "packages": {"packages": {"probe": {"require": ["@1"]}}},
    "config": {"config": {"install_tree": {"root": "/poison"}, "build_language": "poison", "locks": False}},
    "modules": {
        "modules": {"default": {"enable": ["tcl"], "roots": {"tcl": "/poison"}}, "poison": {"enable": ["lmod"]}}
    },
    "mirrors": {"mirrors": {"poison": "file:///poison"}},
    "upstreams": {"upstreams": {"poison": {"install_tree": "/poison"}}},
}
ISOLATED = 'mount --bind "$1" /etc; shift; exec "$@"'
CHANGE = re.compile(
    r"^\d+ +(?:openat2?|open|creat)\(.*\b(?:O_WRONLY|O_RDWR|O_CREAT)\b"
    r"|^\d+ +(?:mkdir|rename|unlink|rmdir|symlink|link|truncate|chmod|chown)(?:at2?)?\("
)
PATH = re.compile(r'(?:AT_FDCWD<([^>]*)>, )?"([^"]*)"')


@pytest.fixture
def site(version: str, sites: Callable[[str], Site]) -> Site:
    """Directories with a site's configuration, used in place."""
    made = sites(version)
    for place in (made.tree / "etc" / "spack", made.tree / "etc" / "spack" / "site"):
        place.mkdir(exist_ok=True)
        for name, content in SITE.items():
            (place / f"{name}.yaml").write_text(json.dumps(content))
    return made


@pytest.fixture
def poison(site: Site, tmp_path: Path) -> dict[str, str]:
    """An environment and files that break every Spack that reads one of them.

    Args:
        site: must exist, because its sources are below the real home directory.
    """
    home, etc = tmp_path / "home", tmp_path / "etc"
    shutil.copytree("/etc", etc, symlinks=True)
    variables = {"HOME": home, "SPACK_ENV": home / "env"}
    for name in (
        "USER_CONFIG_PATH",
        "SYSTEM_CONFIG_PATH",
        "USER_CACHE_PATH",
        "GNUPGHOME",
        "ENV_VIEW",
        "ROOT",
        "PYTHON",
    ):
        variables[f"SPACK_{name}"] = home / name.lower()
    for place in (etc / "spack", home / ".spack", home / ".spack" / "linux", *variables.values()):
        place.mkdir(parents=True, exist_ok=True)
        for section in SECTIONS:
            (place / f"{section}.yaml").write_text("{this is: [not, yaml")
    return {name: str(value) for name, value in variables.items()}


def traced(command: list[str], poison: dict[str, str], tmp_path: Path) -> list[str]:
    """Every system call of the command and its children that names a file."""
    log = tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-s", "4096", "--seccomp-bpf", "-e", "trace=%file", "-o", str(log)]
    isolated = ["unshare", "-m", "sh", "-ec", ISOLATED, "sh", str(tmp_path / "etc")]
    if subprocess.run([*isolated, *strace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace does not work in a mount namespace (it needs root, ptrace and strace 5.3)")
    done = subprocess.run(
        [*isolated, *strace, *command], env={**os.environ, **poison}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return log.read_text(errors="replace").splitlines()


def changed(calls: list[str]) -> Iterator[str]:
    """The paths that calls create, write or remove; strace -y prints the directory of relative paths."""
    for call in calls:
        if CHANGE.search(call):
            found = PATH.findall(call)
            for start, path in found[-1:] if "symlink" in call else found:
                if start or path.startswith("/"):
                    yield str(Path(start) / path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_no_file_of_the_machines_own_spack_is_read_or_written(
    version: str, site: Site, poison: dict[str, str], tmp_path: Path
) -> None:
    config, prefix = tmp_path / "petal.yaml", tmp_path / "head"
    config.write_text(site.config)
    (prefix / "shared").mkdir(parents=True)
    arguments = ["bootstrap", "--role", "head", "--root", str(prefix), "--config", str(config)]
    calls = traced([sys.executable, "-m", "bootstrap", *arguments], poison, tmp_path)

    home = poison["HOME"]
    assert [call for call in calls if f'"{home}/' in call or '"/etc/spack' in call] == []
    written = {path for path in changed(calls) if not path.startswith((f"{prefix}/", "/dev/", "/proc/"))}
    assert written == set()
    store = prefix / "opt" / "petal" / FAMILIES[SPACK_VERSIONS[version]].store
    assert [path.name.rsplit("-", 1)[0] for path in store.glob("linux-*-x86_64_v3/probe-*")] == ["probe-2"]
    assert not Path("/poison").exists()
