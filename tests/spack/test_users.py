"""A user builds on top of the release with real Spack of both families, and the site's files do not change."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.config.model import SPACK_VERSIONS
from bootstrap.core.paths import Paths
from tests.lab.recipes import IN_SPACK, PACKAGES
from tests.spack.conftest import VERSIONS, make_site
from tests.spack.test_spack import bootstrap, store_of
from tests.world import lmod_of_this_machine

USER = "nobody"
OPTION = {"bash": "-e", "zsh": "-e", "tcsh": "-f", "fish": "--no-config"}
# Variables that another Spack of the user has set.
OTHER_SPACK = {"SPACK_ROOT": "/nowhere", "SPACK_DISABLE_LOCAL_CONFIG": "1", "SPACK_PYTHON": "/nowhere/python"}
# A package of the user with a dependency in the site's store.
RECIPE = '''\
{imports}from spack.package import *


class Mine(Package):
    """Needs a package of the site."""

    has_code = False
    version("1")
    depends_on("probe", type=("build", "link", "run"))

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        install(join_path(spec["probe"].prefix.bin, "probe"), join_path(prefix.bin, "mine"))
'''
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the tests act as two users, which needs root"),
    pytest.mark.skipif(lmod_of_this_machine() is None, reason="Lmod is not installed"),
]


@dataclass(frozen=True)
class Cluster:
    """A published release, and the user's home directory."""

    version: str
    prefix: Path
    home: Path
    spack: Path

    @property
    def tree(self) -> Path:
        (tree,) = (Paths(self.prefix).current.resolve() / "modules").iterdir()
        return tree

    @property
    def mine(self) -> Path:
        """The directory of the user's Spack."""
        return self.home / "spack" / SPACK_VERSIONS[self.version]

    def types(
        self,
        script: str,
        *,
        shell: str = "bash",
        user: str = USER,
        become: Sequence[str] = (),
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run commands in a new shell after ``module load spack``."""
        lmod = lmod_of_this_machine()
        lines = [f"source {lmod}/init/{'csh' if shell == 'tcsh' else shell}", "module load spack", script]
        env = {
            "HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "USER": user,
            "MODULEPATH": str(self.tree / "Core"), "TMPDIR": str(self.home / "tmp"), **OTHER_SPACK,
        }  # fmt: skip
        argv = [shell, OPTION[shell], "-c", "\n".join(lines)]
        if user != "root" and not become:
            become = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        argv, folder = [*become, *argv], folder or self.home
        return subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, check=False)

    def run(self, script: str, **how: Any) -> str:
        done = self.types(script, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: pytest.FixtureRequest, clingo: list[Path]) -> Iterator[Cluster]:
    """A release with ``probe``, and a user who has installed ``mine``. Only root can enter pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="petal-users-") as name:
        place = Path(name)
        place.chmod(0o755)
        site = make_site(request.param, place / "site", clingo, request)
        record = bootstrap(place / "head", site.config)
        assert record.status.value == "changed", record
        made = Cluster(request.param, place / "head", home_of(place, USER), site.tree)
        before = digest(made)
        made.run(f"spack repo add {add_recipe(made)}; spack install mine")
        assert digest(made) == before
        yield made


def home_of(place: Path, user: str | int, name: str = "") -> Path:
    home = place / (name or str(user))
    (home / "tmp").mkdir(parents=True)
    for directory in (home, home / "tmp"):
        shutil.chown(directory, user)
    return home


def add_recipe(cluster: Cluster) -> Path:
    """Create a user's repository, like ``spack repo create``."""
    layout, old = (IN_SPACK, True) if cluster.version == "0.23.0" else (PACKAGES, False)
    top = cluster.home / "recipes" / ("mine" if old else "spack_repo/mine")
    recipe = layout.recipe(top, "mine")
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE.format(imports=layout.imports))
    (top / "repo.yaml").write_text("repo:\n  namespace: mine\n" + ("" if old else "  api: v2.0\n"))
    return top


def digest(cluster: Cluster) -> dict[str, tuple[int, int, int, str]]:
    """Every file of the site: mode, owner, time of change, content."""
    found = {}
    for top in (cluster.prefix / "opt" / "petal", cluster.prefix.with_name("site")):
        for path in [top, *top.rglob("*")]:
            info = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[str(path)] = (info.st_mode, info.st_uid, info.st_mtime_ns, hashlib.sha256(content).hexdigest())
    return found


def names(store: Path) -> list[str]:
    return sorted(path.name.rsplit("-", 1)[0] for path in store.glob("linux-*/*"))


def probe_of(cluster: Cluster) -> Path:
    (probe,) = store_of(cluster.prefix, cluster.version).glob("linux-*/probe-2-*")
    return probe


def test_packages_of_the_site_are_used_and_only_others_are_built(cluster: Cluster) -> None:
    store = cluster.mine / "store"
    assert names(store) == ["mine-1"]
    (built,) = store.glob("linux-*/mine-1-*")
    found = dict(line.split() for line in cluster.run("spack find --format '{name} {prefix}'").splitlines())
    assert (found["probe"], found["mine"]) == (str(probe_of(cluster)), str(built))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_a_users_module_loads_its_dependencies_of_the_site(cluster: Cluster, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    typed = "module load mine; mine; which mine probe spack; module unload spack; echo $SPACK_ROOT"
    words = cluster.run(typed, shell=shell).split()
    (built,) = (cluster.mine / "store").glob("linux-*/mine-1-*")
    programs = (built / "bin" / "mine", probe_of(cluster) / "bin" / "probe", cluster.spack / "bin" / "spack")
    assert words == [*map(str, programs), OTHER_SPACK["SPACK_ROOT"]]


def test_a_package_installed_in_tcsh_can_be_loaded_at_once_and_removed(cluster: Cluster) -> None:
    words = cluster.run("spack install probe@1 && module load probe/1 && which probe", shell="tcsh").split()
    (built,) = (cluster.mine / "store").glob("linux-*/probe-1-*")
    assert words[-1] == str(built / "bin" / "probe")
    cluster.run("spack uninstall -y probe@1")
    assert names(cluster.mine / "store") == ["mine-1"]


DOES = (
    "spack reindex", "spack gc -y", "spack clean -a", "spack config add config:build_jobs:2", "spack compiler find",
    "spack mirror add own file:///nowhere", "spack mirror remove --scope user own", "spack env create own",
    "spack -e own add probe", "spack -e own install", "spack repo create own own",
    "spack module lmod refresh -y --delete-tree",
)  # fmt: skip
IS_REFUSED = (
    "spack uninstall -y probe@2", "spack uninstall -y --force probe@2",
    "spack config --scope site add config:build_jobs:2", "spack config --scope system add config:build_jobs:2",
    "touch $SPACK_ROOT/own", "touch $SPACK_SYSTEM_CONFIG_PATH/own", "touch $PETAL_SPACK_RECIPES/own",
)  # fmt: skip


def test_no_command_of_a_user_changes_the_site(cluster: Cluster) -> None:
    before = digest(cluster)
    cluster.run("\n".join(DOES))
    refused = cluster.run("\n".join(f"if {line}; then echo '{line}'; fi" for line in IS_REFUSED))
    assert not [line for line in IS_REFUSED if line in refused.splitlines()]
    assert digest(cluster) == before
    assert cluster.run("module load mine; mine") == ""


def test_root_has_a_separate_store_too(cluster: Cluster) -> None:
    before, home = digest(cluster), home_of(cluster.prefix.parent, "root")
    root = replace(cluster, home=home)
    root.run("spack install probe@1; spack clean -a; spack config add config:build_jobs:2", user="root")
    root.run("if spack uninstall -y --force probe@2; then exit 1; fi", user="root")
    assert names(root.mine / "store") == ["probe-1"]
    assert digest(cluster) == before


def test_a_missing_site_store_is_reported_instead_of_rebuilt(cluster: Cluster) -> None:
    index = store_of(cluster.prefix, cluster.version) / ".spack-db" / "index.json"
    away = index.rename(index.with_name("away"))
    try:
        done = cluster.types("echo still here")
    finally:
        away.rename(index)
    assert done.returncode != 0
    words = " ".join(done.stderr.split())
    assert f"{index} is missing" in words
    assert "petal-node check" in words


def test_a_user_without_a_home_gets_spacks_own_error_only(cluster: Cluster) -> None:
    """The account of a service, or a home directory that is full."""
    home = cluster.prefix.parent / "absent"
    done = replace(cluster, home=home).types("spack find probe@2", folder=Path("/"))
    assert done.returncode != 0
    assert done.stderr == f"==> Error: [Errno 13] Permission denied: '{home}'\n"


@pytest.mark.parametrize("name", ["", "CORP\\A Smith"], ids=["no entry in passwd", "domain"])
def test_a_user_without_a_name_for_paths_builds(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """Spack puts the name into the path of its stage. The entry is in a mount namespace."""
    uid = 105002
    home = home_of(cluster.prefix.parent, uid, f"user{len(name)}")
    passwd = tmp_path / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + (f"{name}:x:{uid}:{uid}::{home}:/bin/sh\n" if name else ""))
    become = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(passwd)]
    become += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    typed = "spack install probe@1 && module load probe/1 && which probe"
    words = replace(cluster, home=home).run(typed, user=name, become=become).split()
    assert words[-1].startswith(f"{home}/spack/")
    assert list((home / "tmp").iterdir()) == [home / "tmp" / f"uid-{uid}"]
