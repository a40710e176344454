"""Debian's Slurm, PMIx, libfabric and Open MPI: the files by which externals are found, as packagers install them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bootstrap.core.paths import Paths
from bootstrap.host.system import System
from bootstrap.spack.externals import find_externals
from tests.lab import stack

PACKAGES = (
    "libfabric-dev", "libopenmpi-dev", "libopenmpi3", "openmpi-bin", "libpmix-dev", "libpmix2", "libslurm-dev",
    "slurm-client", "slurm-wlm-basic-plugins",
)  # fmt: skip


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, downloaded once and unpacked without installing them."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("apt-get or dpkg-deb, which fetch Debian's packages, is not installed")
    place = stack.lab_cache() / "debs-externals"
    if len(list(place.glob("*.deb"))) < len(PACKAGES):
        place.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["apt-get", "-qq", "download", *PACKAGES], cwd=place, check=False).returncode:
            pytest.skip(f"Debian's packages cannot be downloaded: {' '.join(PACKAGES)}")
    top = tmp_path_factory.mktemp("debian")
    for package in place.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(top)], check=True)
    return top


def version_of(package: str) -> str:
    """The upstream version of a Debian package, from its file name: NAME_VERSION-REVISION_ARCH.deb."""
    name = next((stack.lab_cache() / "debs-externals").glob(f"{package}_*.deb")).name
    return name.split("_")[1].split("-")[0].split("+")[0]


def test_slurm_and_pmix_of_the_distribution_are_found(debian: Path) -> None:
    found = {one.name: one for one in find_externals(Paths(debian), System())}
    assert set(found) == {"slurm", "pmix"}, "an Open MPI and a libfabric below /usr are not ParallelCluster's"
    assert found["slurm"].spec == f"slurm@{version_of('libslurm-dev')} +pmix"
    assert found["slurm"].prefix == debian / "usr"
    assert found["pmix"].spec == f"pmix@{version_of('libpmix-dev')}"
    assert (found["pmix"].prefix / "include" / "pmix.h").is_file()


def test_open_mpi_and_libfabric_are_found_at_the_paths_of_the_efa_installer(debian: Path) -> None:
    """The lab's images have the same paths."""
    amazon = debian / "opt" / "amazon"
    real = next((debian / "usr" / "lib").glob("*/openmpi"))
    (amazon / "openmpi" / "bin").mkdir(parents=True)
    for name in ("include", "lib"):
        (amazon / "openmpi" / name).symlink_to(real / name)
    for name in ("mpicc", "mpirun"):
        (amazon / "openmpi" / "bin" / name).write_text("")
    configs = next((debian / "usr" / "lib").glob("*/pkgconfig/libfabric.pc"))
    (amazon / "efa" / "lib" / "pkgconfig").mkdir(parents=True)
    shutil.copy(configs, amazon / "efa" / "lib" / "pkgconfig")
    found = {one.name: one.spec for one in find_externals(Paths(debian), System())}
    name, *variants = found["openmpi"].split()
    assert name == f"openmpi@{version_of('libopenmpi-dev')}"
    assert set(variants) >= {"schedulers=slurm", "+legacylaunchers"}
    assert any(text.startswith("fabrics=") and "ofi" in text for text in variants)
    assert found["libfabric"] == f"libfabric@{version_of('libfabric-dev')} fabrics=efa,shm"


def test_a_program_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootstrap.spack.externals.COMMAND", 0.5)
    program = tmp_path / "opt" / "slurm" / "bin" / "sinfo"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    assert find_externals(Paths(tmp_path), System()) == ()
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "slurm 24.11.6"\n')
    assert [one.spec for one in find_externals(Paths(tmp_path), System())] == ["slurm@24.11.6 ~pmix"]
