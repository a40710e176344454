"""The directories of the files that ship with the package: environments, templates and documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["spack_envs", "modulefiles", "docs"]


def path(kind: Kind) -> Path:
    """The directory of one kind of resource.

    In an installed wheel it is package data; in the archive and in a checkout it is next to ``bootstrap/``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    here = Path(__file__).resolve().parents[1]
    for place in (here / "data" / kind, here.parent / kind):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{kind}/ is neither in {here / 'data'} nor next to {here}")
