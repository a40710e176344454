"""Trees that look like a machine image: the files by which externals are found, at ParallelCluster's paths.

``tests/real/test_externals.py`` reads the same kinds of files from Debian's packages.
"""

from __future__ import annotations

from pathlib import Path

VARS = '#!/bin/sh\nexport I_MPI_ROOT="$(cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd)"\n'


def write(top: Path, *files: str | tuple[str, str]) -> None:
    """Write files below ``top``, empty or with a text; files in ``bin`` are executable."""
    for file in files:
        name, text = (file, "") if isinstance(file, str) else file
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.parent.name == "bin":
            path.chmod(0o755)


def slurm(top: Path, number: str = "0x180507") -> None:
    header = f"#define SLURM_VERSION_NUMBER {number}\n"
    write(top, "bin/sinfo", ("include/slurm/slurm_version.h", header), "lib/slurm/mpi_pmix_v5.so")


def pmix(top: Path, version: str = "5.0.3") -> None:
    parts = zip(("MAJOR", "MINOR", "RELEASE"), version.split("."))
    write(
        top, ("include/pmix_version.h", "".join(f"#define PMIX_VERSION_{name} {number}L\n" for name, number in parts))
    )


def libfabric(top: Path, version: str = "1.22.0amzn5.0") -> None:
    write(top, "bin/fi_info", ("lib64/pkgconfig/libfabric.pc", f"Name: libfabric\nVersion: {version}\n"))


def openmpi(top: Path, version: str) -> None:
    parts = zip(("MAJOR", "MINOR", "RELEASE"), version.split("."))
    header = "".join(f"#define OMPI_{name}_VERSION {number}\n" for name, number in parts)
    write(top, "bin/mpicc", "bin/mpirun", "lib64/libmpi.so", ("include/mpi.h", header))
    if version.startswith("4"):
        write(top, *(f"lib64/openmpi/mca_{name}.so" for name in ("mtl_ofi", "btl_tcp", "ras_slurm", "plm_slurm")))
    else:
        write(top, "share/openmpi/help-mtl-ofi.txt", "share/prte/help-plm-slurm.txt")


def intel_mpi(top: Path, version: str = "2021.13") -> None:
    write(top / "mpi" / version, "bin/mpicc", ("env/vars.sh", VARS), "lib/libmpi.so")
    (top / "mpi" / "latest").symlink_to(version)


def parallelcluster(prefix: Path) -> None:
    """An x86_64 image with all externals."""
    slurm(prefix / "opt/slurm")
    pmix(prefix / "opt/pmix")
    libfabric(prefix / "opt/amazon/efa")
    openmpi(prefix / "opt/amazon/openmpi", "4.1.7")
    openmpi(prefix / "opt/amazon/openmpi5", "5.0.6")
    intel_mpi(prefix / "opt/intel")
