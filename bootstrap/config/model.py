"""What a configuration says, as frozen dataclasses. The defaults are those of an empty file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.model import plain

# The versions that have been run, each with its family: what differs between families is in spack/families.py.
SPACK_VERSIONS = {"0.23.0": "0.23", "1.1.1": "1.1"}
CARRY_RECIPES = frozenset({"0.23"})
# What backs /opt/petal. Those of IMAGES need a machine image that was built with ``bootstrap --layout``.
IMAGES = ("hybrid", "ami")
# Spack fetches clingo itself, from the sources that its own release names.
BOOTSTRAP = "bootstrap"
LAYOUTS = ("shared", *IMAGES)


@dataclass(frozen=True)
class Storage:
    """Shared storage: where it is mounted on every node; with ``source`` petal-node itself mounts it.

    ``source``: the id of an EFS file system, HOST:/EXPORT, or HOST@tcp:/NAME of type lustre. It tells the type.
    ``adopt``: clusters that are gone, whose storage this one may take over where nothing else shows that.
    """

    mount: str = "/shared"
    source: str | None = None
    type: str | None = None
    options: tuple[str, ...] = ()
    adopt: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The type for mount(8)."""
        return "lustre" if re.search(r"@(tcp|o2ib)\d*:/", self.source or "") else "nfs4"


@dataclass(frozen=True)
class Origin:
    """Where something comes from, and the checksum that it must have."""

    source: str
    sha256: str | None = None


@dataclass(frozen=True)
class Mirror:
    """A place with sources, with packages that were built before (a build cache), or with both.

    ``signed``: only packages that one of ``keys`` has signed are taken; ``push``: what is built here goes there,
    signed with ``signing_key``.
    """

    url: str
    sources: bool = True
    binaries: bool = True
    signed: bool = True
    push: bool = False
    keys: tuple[Origin, ...] = ()
    signing_key: Origin | None = None


@dataclass(frozen=True)
class Spack:
    """Spack itself, its recipes, and what it shall build on top of the stack's own specs.

    ``clingo``: wheels of it, or ``bootstrap``.
    """

    version: str = "1.1.1"
    program: Origin | None = None
    recipes: Origin | None = None
    clingo: tuple[Origin, ...] | str = ()
    specs: tuple[str, ...] = ()
    target: str | tuple[str, ...] = "auto"
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """What this version shares with others."""
        return SPACK_VERSIONS[self.version]

    @property
    def carries_recipes(self) -> bool:
        """True where the recipes are part of Spack's own tree."""
        return self.family in CARRY_RECIPES

    @property
    def wheels(self) -> tuple[Origin, ...]:
        """The wheels of clingo; none where Spack fetches it, or Python has it."""
        return () if isinstance(self.clingo, str) else self.clingo

    @property
    def bootstraps(self) -> bool:
        """True where Spack may fetch clingo itself."""
        return self.clingo == BOOTSTRAP

    @property
    def caches(self) -> dict[str, Mirror]:
        """The mirrors that packages are taken from, in the order of the file."""
        return {name: mirror for name, mirror in self.mirrors.items() if mirror.binaries}

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that are named; none where the cluster's queues decide."""
        if self.target == "auto":
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Software:
    """What a petal seed asks for: specs as in ``spack.specs``."""

    spack_packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """Software that Spack does not build: a tarball (``source``), or a prefix that the image carries."""

    name: str
    version: str
    prefix: str | None = None
    origin: Origin | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Modules:
    """What users see of the stack.

    ``defaults``: what a login shell has loaded and ``module reset`` goes back to; an entry with a version also makes
    that one the version which its name alone means. ``hide``: what ``module avail`` does not show. ``paths``: the
    site's own modulefile directories.
    """

    lmod: str = "auto"
    defaults: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Install:
    """How the stack is installed.

    ``where``: the head node builds, or a Slurm job on ``queue``, which may take ``wait`` seconds to begin; ``budget``:
    seconds that a hook waits for the worker; ``jobs``: cores to build with, 0 for all; ``partial``: publish what could
    be built where something failed.
    """

    where: str = "head"
    queue: str | None = None
    wait: int = 3600
    budget: int = 300
    jobs: int = 0
    partial: bool = False


@dataclass(frozen=True)
class Program:
    """A program with its arguments, and the exit code that means that it runs."""

    command: str
    exit: int = 0


@dataclass(frozen=True)
class Check:
    """What is proved on each node: modules that load and programs that run (empty: what the release offers).

    ``mpi``: and that two nodes talk to each other through each MPI of the release. ``launch``: a node is started in
    each queue where none runs.
    """

    load: tuple[str, ...] = ()
    run: tuple[Program, ...] = ()
    mpi: bool = False
    launch: bool = False
    wait: int = 1800


@dataclass(frozen=True)
class Config:
    """The whole configuration. The defaults are those of an empty file."""

    stack: str = "none"
    stack_sha256: str | None = None
    layout: str = "shared"
    storage: Storage = Storage()
    spack: Spack = Spack()
    packages: tuple[Package, ...] = ()
    modules: Modules = Modules()
    install: Install = Install()
    check: Check = Check()
    software: Software = Software()

    @property
    def specs(self) -> tuple[str, ...]:
        """What shall be built on top of the stack's own specs."""
        return (*self.spack.specs, *self.software.spack_packages)

    @property
    def bound(self) -> bool:
        """True where /opt/petal is a bind mount of a directory on shared storage."""
        return self.layout != "ami"

    @property
    def carries_spack(self) -> bool:
        """True where Spack and clingo lie on the node's own disk, baked into the image."""
        return self.layout in IMAGES

    @property
    def builds(self) -> bool:
        """True when Spack has anything to do."""
        return self.stack != "none" or bool(self.specs)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as one file would hold it: what ``parse`` turns into an equal Config again."""
        raw = plain(self)
        spack = raw["spack"]
        spack |= spack.pop("program") or {}
        raw["packages"] = [_flat(package) for package in raw["packages"]]
        made: dict[str, Any] = _without_nothing(raw)
        return made


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    """With its origin's keys beside its own, as the file has them."""
    origin = section.pop("origin") or {}
    return {**section, **origin}


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    return value
