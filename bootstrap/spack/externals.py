"""Finds software of the machine image, which becomes externals of Spack, with its real versions.

It looks only at directories that are the same on all nodes of a cluster: the image's own (``/opt/amazon``,
``/opt/pmix``, ``/usr``), and those that ParallelCluster exports from the head node (``/opt/slurm``, ``/opt/intel``).
Versions are read from files, without a process; only a Slurm without headers needs ``sinfo --version``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..core.deadlines import COMMAND, PROBE
from ..core.errors import PetalError, SpackError
from ..core.facts import External
from ..core.paths import Paths
from ..host.log import LOG
from ..host.system import System

LIMIT = 1 << 20
SLURM = ("/opt/slurm", "/usr")
PMIX = "/opt/pmix"
EFA = "/opt/amazon/efa"
OPEN_MPI = ("/opt/amazon/openmpi", "/opt/amazon/openmpi5")
INTEL = ("/opt/intel", "/opt/intel/oneapi")
PKG_CONFIG = ("lib/*/pkgconfig", "lib64/pkgconfig", "lib/pkgconfig", "share/pkgconfig")
# The values of openmpi's ``fabrics`` and ``schedulers`` that the recipes of both Spack 0.23 and 1.1 accept.
FABRICS = frozenset({"psm", "psm2", "verbs", "mxm", "ucx", "ofi", "fca", "hcoll", "ucc", "xpmem", "cma", "knem"})
SCHEDULERS = frozenset({"alps", "lsf", "tm", "slurm", "sge", "loadleveler"})
MPI = frozenset({"openmpi", "mpich", "mvapich", "mvapich2", "mvapich-plus", "mpitrampoline", "intel-oneapi-mpi"})
PARTS = ("MAJOR", "MINOR", "RELEASE")  # of a version, in PMIx' and Open MPI's headers
WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
NUMBERS = re.compile(r"\d+(?:\.\d+)+")
COMPONENT = re.compile(r"(?:prte_)?mca_(\w+?)_(\w+)\.so\Z|help-(mtl|btl|pml|ras|plm)-(\w+)\.txt\Z")


@dataclass(frozen=True)
class Compiler:
    """The system's GCC: its version, and the path of the driver of each language that is installed."""

    version: str
    drivers: Mapping[str, str]

    @property
    def spec(self) -> str:
        return f"gcc@{self.version}"


def find_compiler(system: System) -> Compiler:
    """The GCC in the PATH; SpackError ``spack-no-compiler`` without C or C++."""
    names = {"c": "gcc", "cxx": "g++", "fortran": "gfortran"}
    drivers = {language: path for language, name in names.items() if (path := system.which(name))}
    if "c" not in drivers or "cxx" not in drivers:
        raise SpackError(
            "no C and C++ compiler is installed on this node",
            why="Spack builds with the system's gcc and g++",
            remedy=("dnf install gcc gcc-c++ gcc-gfortran make", "apt-get install gcc g++ gfortran make"),
            code="spack-no-compiler",
        )
    version = system.run([drivers["c"], "-dumpfullversion", "-dumpversion"], timeout=COMMAND).stdout.strip()
    return Compiler(version, drivers)


def find_externals(paths: Paths, system: System) -> tuple[External, ...]:
    """Every external of this node. Software that cannot be read is left out, with a warning in the log."""
    found: list[External] = []
    for name in ("slurm", *LOOKS):
        try:
            if name == "slurm":
                found += _slurm(paths, system)
            else:
                found += system.on_storage(partial(LOOKS[name], paths), f"the directory of {name}", PROBE)
        except (PetalError, OSError) as error:
            LOG.warning("no external %s: %s", name, error)
    for external in found:
        LOG.debug("external %s at %s", external.spec, external.prefix)
    return tuple(found)


def unconfigured(
    found: Iterable[External], environment: Mapping[str, Any], specs: Iterable[str] = ()
) -> tuple[External, ...]:
    """The externals for packages that the stack does not configure itself.

    A scope of ``-C`` wins over spack.yaml, and lists of both are joined. So if the stack sets ``externals`` or
    ``buildable`` of a package, or replaces its whole section (``name::``), petal-node's external is left out. Spack
    also prefers any external MPI to the provider in ``providers``, Intel's to Open MPI (run with 1.1.1), so Spack gets
    only the MPIs that the stack names, or Open MPI if it names none.
    """
    sections = environment.get("packages")
    configured = set()
    for key, section in sections.items() if isinstance(sections, Mapping) else ():
        settings = {str(word).rstrip(":") for word in section} if isinstance(section, Mapping) else set()
        if str(key).endswith(":") or settings & {"externals", "buildable"}:
            configured.add(str(key).rstrip(":"))
    named = set(WORD.findall(json.dumps([environment, *specs]))) & MPI or {"openmpi"}
    return tuple(one for one in found if one.name not in configured and one.name not in MPI - named)


def as_packages(externals: Iterable[External]) -> dict[str, Any]:
    """The externals as sections of packages.yaml; one package can have several."""
    sections: dict[str, Any] = {}
    for external in externals:
        section = sections.setdefault(external.name, {"externals": []})
        section["externals"].append({"spec": external.spec, "prefix": str(external.prefix)})
        if not external.buildable:
            section["buildable"] = False
    return sections


def _slurm(paths: Paths, system: System) -> list[External]:
    """The version is from its headers, or else from sinfo: ``slurm 24.11.6``, Debian's ``slurm-wlm 22.05.8``."""

    def find() -> tuple[str, str | None, bool]:
        """Slurm's directory, its version if a header has it, and whether it has its plugin for PMIx."""
        for place in SLURM:
            prefix = paths.at(place)
            if (prefix / "bin/sinfo").is_file():
                plugins = _glob(prefix, "lib*/slurm*/mpi_pmix*.so", "lib/*/slurm*/mpi_pmix*.so")  # Debian's: slurm-wlm
                return place, slurm_version(_text(prefix / "include/slurm/slurm_version.h")), bool(plugins)
        return "", None, False

    place, version, pmix = system.on_storage(find, "Slurm's directory", PROBE)
    if place and not version:
        answer = system.run([str(paths.at(place) / "bin/sinfo"), "--version"], timeout=COMMAND).stdout
        match = re.match(r"slurm\S* (\d+\.\d+\.\d+)", answer)
        version = match[1] if match else None
    if not version:
        return []
    has_variant = [int(part) for part in version.split(".")[:2]] >= [22, 5]  # in the recipe of 1.1
    variant = (" +pmix" if pmix else " ~pmix") if has_variant else ""
    return [_external(paths, "slurm", version + variant, place, buildable=False)]


def _pmix(paths: Paths) -> list[External]:
    """ParallelCluster's PMIx, or the distribution's, whose .pc file contains its prefix (Debian: not ``/usr``)."""
    files = _glob(paths.at("/usr"), *(f"{directory}/pmix.pc" for directory in PKG_CONFIG))
    prefixes = (re.search(r"^prefix=(/usr[\w./+-]*)\s*$", _text(path), re.MULTILINE) for path in files)
    for place in (PMIX, *(found[1] for found in prefixes if found and ".." not in found[1])):
        version = defined(_text(paths.at(place) / "include/pmix_version.h"), *(f"PMIX_VERSION_{n}" for n in PARTS))
        if version:
            return [_external(paths, "pmix", version, place)]
    return []


def _libfabric(paths: Paths) -> list[External]:
    """The EFA installer's. Its fabrics are those of AWS' own Spack configuration."""
    for path in _glob(paths.at(EFA), "lib*/pkgconfig/libfabric.pc"):
        version = re.search(r"^Version:\s*(\d+(?:\.\d+)+)", _text(path), re.MULTILINE)
        if version:  # AWS writes ``1.22.0amzn5.0``, which is libfabric 1.22.0
            return [_external(paths, "libfabric", f"{version[1]} fabrics=efa,shm", EFA, buildable=False)]
    return []


def _openmpi(paths: Paths) -> list[External]:
    """AWS' Open MPI 4 and 5. A stack may still build its own, with another version or other variants."""
    found = []
    for place in OPEN_MPI:
        prefix = paths.at(place)
        version = defined(_text(prefix / "include/mpi.h"), *(f"OMPI_{part}_VERSION" for part in PARTS))
        if version and (prefix / "bin/mpicc").exists():
            found.append(_external(paths, "openmpi", " ".join([version, *_openmpi_variants(prefix, version)]), place))
    return found


def _openmpi_variants(prefix: Path, version: str) -> Iterator[str]:
    """The variants that its components show, like Spack's detection by ompi_info; others keep their defaults."""
    plugins = _glob(prefix, "lib*/openmpi*/mca_*.so", "lib*/prte*/*.so")
    texts = _glob(prefix, "share/openmpi/help-*.txt", "share/prte/help-*.txt")  # Open MPI 5 links the components in
    components = openmpi_components(path.name for path in plugins) or openmpi_components(path.name for path in texts)
    fabrics = sorted({name for kind, name in components if kind in ("mtl", "btl", "pml")} & FABRICS)
    schedulers = sorted({name for kind, name in components if kind in ("ras", "plm")} & SCHEDULERS)
    if fabrics:
        yield f"fabrics={','.join(fabrics)}"
    if schedulers:
        yield f"schedulers={','.join(schedulers)}"
    if int(version.split(".", maxsplit=1)[0]) > 4:
        return
    if "slurm" in schedulers and (prefix / "bin/mpirun").exists():
        yield "+legacylaunchers"  # the recipes' name for an Open MPI 4 that keeps mpirun in addition to srun
    if _glob(prefix, "lib*/libmpi_cxx.so"):
        yield "+cxx"


def _intel_mpi(paths: Paths) -> list[External]:
    """Intel MPI, found by Spack as ``<prefix>/mpi/<version>`` (its build_systems/oneapi.py, component_prefix).

    From 2021.11 on that directory has two numbers. GCC is what the image compiles with, so +generic-names: mpicc.
    """
    found = []
    for top in INTEL:
        for home in _glob(paths.at(top), "mpi/[0-9]*"):
            parts = [int(part) for part in home.name.split(".")] if NUMBERS.fullmatch(home.name) else []
            fits = len(parts) == 2 if parts >= [2021, 11] else bool(parts)
            if fits and not home.is_symlink() and all((home / part).exists() for part in ("bin/mpicc", "env/vars.sh")):
                found.append(_external(paths, "intel-oneapi-mpi", f"{home.name} +generic-names", top))
    return found


LOOKS: dict[str, Callable[[Paths], list[External]]] = {
    "pmix": _pmix,
    "libfabric": _libfabric,
    "openmpi": _openmpi,
    "intel-oneapi-mpi": _intel_mpi,
}


def slurm_version(header: str) -> str | None:
    """The version in slurm_version.h, a hexadecimal number: 0x160508 is 22.05.8."""
    found = re.search(r"^#\s*define\s+SLURM_VERSION_NUMBER\s+0x([0-9a-fA-F]{6})\s*$", header, re.MULTILINE)
    if found is None:
        return None
    major, minor, micro = bytes.fromhex(found[1])
    return f"{major}.{minor:02d}.{micro}"


def defined(header: str, *names: str) -> str | None:
    """A version of several numbers that a C header defines one by one, as ``5`` or ``5L``."""
    found = [re.search(rf"^#\s*define\s+{name}\s+(\d+)L?\s*$", header, re.MULTILINE) for name in names]
    return ".".join(number[1] for number in found if number) if all(found) else None


def openmpi_components(names: Iterable[str]) -> set[tuple[str, str]]:
    """Framework and name of each component file: ``mca_mtl_ofi.so``, ``help-mtl-ofi.txt``."""
    matches = (COMPONENT.match(name) for name in names)
    return {(found[1] or found[3], found[2] or found[4]) for found in matches if found}


def _external(paths: Paths, name: str, rest: str, place: str, *, buildable: bool = True) -> External:
    return External(name, f"{name}@{rest}", place, paths.at(place), buildable)


def _glob(top: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(top.glob(pattern))]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(LIMIT).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
