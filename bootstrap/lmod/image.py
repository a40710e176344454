"""Where the image's Tcl environment-modules looks for modulefiles: of openmpi, libfabric-aws, intelmpi, armpl.

Bash gets these directories from its own init file. Fish, csh, zsh and dash do not on every distribution, and Lmod is to
find them in each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..core.paths import Paths

# modules(1), "Modulepath initial setup": Red Hat's and Amazon's place, Ubuntu's, and that of versions before 4.
LISTS = (
    "/etc/environment-modules/modulespath", "/usr/share/modules/init/.modulespath",
    "/usr/share/Modules/init/.modulespath",
)  # fmt: skip
# The same as commands; it wins over the lists where it is there.
COMMANDS = "/etc/environment-modules/initrc"
USE = re.compile(r"^\s*module\s+use\s+(?:-\S+\s+)*[{\"]?(/[^}\"\n]*)", re.MULTILINE)


def directories(paths: Paths) -> tuple[str, ...]:
    """Those that it names, in its order. Nobody looks at them: one may lie on storage that hangs."""
    listed = (*_used(paths.at(COMMANDS)), *(word for name in LISTS for word in _listed(paths.at(name))))
    return tuple(place for place in dict.fromkeys(listed) if "$" not in place)


def _used(path: Path) -> Iterator[str]:
    for found in USE.finditer(_text(path)):
        yield from found.group(1).split()


def _listed(path: Path) -> Iterator[str]:
    for line in _text(path).splitlines():
        yield from (word for word in line.partition("#")[0].strip().split(":") if word.startswith("/"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
