"""The stack of ``make bench``: two dozen small packages of our own, in independent branches, compiled from source.

Each package is one C file that its recipe writes, compiles a few times and installs, so that nothing is downloaded.
Six libraries have no dependencies, the others need one or two packages. No chain is longer than three, as in the stacks
that sites build.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab import recipes

UNITS = 3  # translation units a package, each about half a second of compiling on a machine of 2026
BASES = 6
MIDDLES = 10
TOPS = 8
RECIPE = '''\
import os
import time

from spack_repo.builtin.build_systems.generic import Package

from spack.package import *

SOURCE = """
{source}"""


class {class_name}(Package):
    """One small package of the benchmark's stack."""

    has_code = False
    homepage = "https://example.org/{name}"
    version("1.0")
    depends_on("c", type="build")
{dependencies}
    phases = ["build", "install"]

    def build(self, spec, prefix):
        limit = time.monotonic() + 120
        while os.path.exists("{hold}") and time.monotonic() < limit:
            time.sleep(0.1)
            print("held", flush=True)  # Spack tells the phase with the next line that its build prints
        for number in range({units}):
            with open(f"unit{{number}}.c", "w") as file:
                file.write(SOURCE.replace("@UNIT@", str(number)))
                if os.path.exists("{switch}"):
                    file.write("#error this package is broken\\n")
            Executable(spack_cc)("-O2", "-c", f"unit{{number}}.c", "-o", f"unit{{number}}.o")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("main.c", "w") as file:
            file.write('#include <stdio.h>\\nint main(void) {{ puts("{name} 1.0"); return 0; }}\\n')
        objects = [f"unit{{number}}.o" for number in range({units})]
        Executable(spack_cc)("main.c", *objects, "-o", join_path(prefix.bin, "{name}"))
'''
FUNCTION = """\
double f@UNIT@_{number}(double *a, const double *b, int n) {{
  double s = {number};
  for (int i = 0; i < n; i++) for (int j = 0; j < n; j++) {{
    a[i] += b[j] * {number} + s; s += a[(i + {number}) % n] * b[(j * {number}) % n];
    if (s > 1e9) s -= a[j]; else a[j] -= s / (b[i] + {number} + 1);
  }}
  return s;
}}
"""
FUNCTIONS = 40


def dependencies() -> dict[str, tuple[str, ...]]:
    """Every package of the stack with its dependencies."""
    bases = [f"bench-base{number}" for number in range(BASES)]
    middles = [f"bench-middle{number}" for number in range(MIDDLES)]
    found: dict[str, tuple[str, ...]] = dict.fromkeys(bases, ())
    for number, name in enumerate(middles):
        found[name] = (bases[number % BASES],)
    for number in range(TOPS):
        found[f"bench-top{number}"] = (middles[number % MIDDLES], bases[(number + 3) % BASES])
    return found


def write_recipes(
    repository: Path,
    broken: tuple[str, ...] = (),
    switch: Path | None = None,
    hold: Path | None = None,
    functions: int = FUNCTIONS,
) -> None:
    """Add the stack's recipes to a repository.

    Args:
        repository: the directory ``.../spack_repo/builtin``.
        broken: packages whose source does not compile while the file ``switch`` exists.
        hold: every package stays in its phase ``build`` while this file exists, for at most two minutes.
        functions: functions per translation unit; a small number compiles almost instantly.
    """
    for name, needed in dependencies().items():
        recipe = repository / "packages" / name.replace("-", "_") / "package.py"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(_recipe(name, needed, switch if name in broken else None, hold, functions), encoding="utf-8")


def _recipe(name: str, needed: tuple[str, ...], switch: Path | None, hold: Path | None, functions: int) -> str:
    source = "".join(FUNCTION.format(number=number) for number in range(functions))
    return RECIPE.format(
        name=name,
        class_name="".join(part.capitalize() for part in name.split("-")),
        dependencies="".join(f'    depends_on("{other}")\n' for other in needed),
        source=source,
        units=UNITS,
        switch=switch or "",
        hold=hold or "",
    )


def small(
    upstream: Path,
    target: Path,
    broken: tuple[str, ...] = (),
    switch: Path | None = None,
    hold: Path | None = None,
    functions: int = FUNCTIONS,
) -> Path:
    """Create a repository with the stack and the compiler's recipes; return its tree."""
    recipes.subset(upstream, target, ())
    write_recipes(target / "repos" / "spack_repo" / "builtin", broken, switch, hold, functions)
    return target


def full(upstream: Path, target: Path) -> Path:
    """Create a copy of the whole repository with the stack; return its tree."""
    shutil.copytree(upstream, target, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    write_recipes(target / "repos" / "spack_repo" / "builtin")
    return target
