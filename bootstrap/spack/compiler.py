"""The system's compiler, which Spack builds with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.deadlines import COMMAND
from ..core.errors import SpackError
from ..host.system import System


@dataclass(frozen=True)
class Compiler:
    """The system's GCC: its version, and the path of the driver of each language that is installed."""

    version: str
    drivers: Mapping[str, str]

    @property
    def spec(self) -> str:
        return f"gcc@{self.version}"


def find_compiler(system: System) -> Compiler:
    """The GCC in the PATH.

    Raises:
        SpackError: ``spack-no-compiler``.
    """
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
