"""A configuration as frozen dataclasses. The defaults are those of an empty file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.model import plain
from ..core.options import IMAGES

# The supported versions, each with its family. spack/families.py contains the differences between families.
SPACK_VERSIONS = {"0.23.0": "0.23", "1.1.1": "1.1"}
FAMILIES_WITH_RECIPES = frozenset({"0.23"})
LAYOUTS = ("shared", *IMAGES)  # what backs /opt/petal
# Spack's package of Lmod, and the spec that is added to the stack if the nodes have none.
LMOD, LMOD_SPEC = "lmod", "lmod@8.5:"
BOOTSTRAP = "bootstrap"  # the value of spack.clingo that lets Spack fetch clingo


@dataclass(frozen=True)
class StorageConfig:
    """Shared storage and its mount point on every node.

    ``source``: petal-node mounts it: the id of an EFS file system, HOST:/EXPORT, or HOST@tcp:/NAME for Lustre.
    """

    mount: str = "/shared"
    source: str | None = None
    type: str | None = None
    options: tuple[str, ...] = ()

    @property
    def mount_type(self) -> str:
        """The type for mount(8), which follows from ``source``."""
        return "lustre" if re.search(r"@(tcp|o2ib)\d*:/", self.source or "") else "nfs4"


@dataclass(frozen=True)
class Origin:
    """A URI, and the checksum of its content."""

    source: str
    sha256: str | None = None


@dataclass(frozen=True)
class Mirror:
    """A mirror of sources, a build cache of packages (``binaries``), or both.

    ``signed``: accept only packages signed by one of ``keys``. ``push``: upload packages built here, signed with
    ``signing_key``.
    """

    url: str
    sources: bool = True
    binaries: bool = True
    signed: bool = True
    push: bool = False
    keys: tuple[Origin, ...] = ()
    signing_key: Origin | None = None

    def uri(self, path: str) -> str:
        """The URI of a file of the mirror."""
        return f"{self.url.rstrip('/')}/{path}"


@dataclass(frozen=True)
class SpackConfig:
    """Spack, its recipes, and the specs in addition to the stack.

    ``clingo``: wheels, or ``bootstrap``. ``target``: targets, or ``auto`` alone.
    """

    version: str = "1.1.1"
    origin: Origin | None = None
    recipes: Origin | None = None
    clingo: tuple[Origin, ...] | str = ()
    specs: tuple[str, ...] = ()
    target: tuple[str, ...] = ("auto",)
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The family of the version: ``0.23`` or ``1.1``."""
        return SPACK_VERSIONS[self.version]

    @property
    def includes_recipes(self) -> bool:
        """True if the recipes are part of Spack's own tree."""
        return self.family in FAMILIES_WITH_RECIPES

    @property
    def wheels(self) -> tuple[Origin, ...]:
        """The wheels of clingo; empty if Spack fetches clingo or Python has it."""
        return () if isinstance(self.clingo, str) else self.clingo

    @property
    def bootstraps(self) -> bool:
        """True if Spack may fetch clingo itself."""
        return self.clingo == BOOTSTRAP

    @property
    def caches(self) -> dict[str, Mirror]:
        """The mirrors of packages, in the order of the file."""
        return {name: mirror for name, mirror in self.mirrors.items() if mirror.binaries}

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets by name; empty if the queues of the cluster decide."""
        return () if self.target == ("auto",) else self.target


@dataclass(frozen=True)
class SeedSoftware:
    """The ``software`` of a petal seed: specs as in ``spack.specs``."""

    spack_packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackageConfig:
    """Software that Spack does not build: a tarball (``origin``), or a ``prefix`` in the machine image."""

    name: str
    version: str
    prefix: str | None = None
    origin: Origin | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class ModulesConfig:
    """The modules that users see.

    ``defaults``: modules that a login shell and ``module reset`` load; an entry with a version also becomes the default
    version of its name. ``hide``: modules that ``module avail`` does not list. ``paths``: the site's own modulefile
    directories.
    """

    lmod: str = "auto"
    defaults: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstallConfig:
    """How the stack is installed.

    ``where``: on the head node, or in a Slurm job on ``queue`` that must start within ``wait`` seconds. ``budget``:
    seconds that a hook waits for the worker. ``jobs``: cores, 0 for all. ``partial``: publish the release even if
    packages failed to build. ``fetch_timeout``: seconds for one tarball, retries included.
    """

    where: str = "head"
    queue: str | None = None
    wait: int = 3600
    budget: int = 300
    jobs: int = 0
    partial: bool = False
    fetch_timeout: int = 900


@dataclass(frozen=True)
class CheckCommand:
    """A program with its arguments, and the exit code that is expected.

    ``queues``: only nodes of these queues run it. ``gpu``: only nodes with a GPU run it.
    """

    command: str
    exit: int = 0
    queues: tuple[str, ...] = ()
    gpu: bool = False


@dataclass(frozen=True)
class CheckConfig:
    """The checks on compute nodes.

    ``load``: modules that must load, empty for all. ``run``: programs that must run. ``mpi``: two nodes communicate
    through each MPI of the release. ``launch``: start a node in each queue without one. ``wait``: seconds.
    ``account``, ``partition``, ``user``, ``time`` (seconds): those of the jobs.
    """

    load: tuple[str, ...] = ()
    run: tuple[CheckCommand, ...] = ()
    mpi: bool = False
    launch: bool = False
    wait: int = 1800
    account: str | None = None
    partition: str | None = None
    user: str | None = None
    time: int = 240


@dataclass(frozen=True)
class Config:
    """The whole configuration. ``places``: FILE:LINE of each key, if it was read from a file."""

    stack: str = "none"
    stack_sha256: str | None = None
    layout: str = "shared"
    storage: StorageConfig = StorageConfig()
    spack: SpackConfig = SpackConfig()
    packages: tuple[PackageConfig, ...] = ()
    modules: ModulesConfig = ModulesConfig()
    install: InstallConfig = InstallConfig()
    check: CheckConfig = CheckConfig()
    software: SeedSoftware = SeedSoftware()
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, key: str) -> str:
        """A key with the line of the file that it is in: ``petal.yaml:7: packages[0].source``."""
        place, path = "", key
        while path and not place:
            place, path = self.places.get(path, ""), path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{place}: {key}" if place else key

    @property
    def specs(self) -> tuple[str, ...]:
        """The specs in addition to those of the stack."""
        return (*self.spack.specs, *self.software.spack_packages)

    @property
    def root_is_shared(self) -> bool:
        """True if /opt/petal is a bind mount of a directory on shared storage."""
        return self.layout != "ami"

    @property
    def spack_in_image(self) -> bool:
        """True if Spack and clingo are part of the machine image."""
        return self.layout in IMAGES

    @property
    def uses_spack(self) -> bool:
        """True if the configuration has a stack or specs."""
        return self.stack != "none" or bool(self.specs)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a file contains it. ``load.from_mapping`` returns an equal ``Config``."""
        raw = plain(replace(self, places={}))
        del raw["places"]
        for section in (raw["spack"], *raw["packages"]):
            section.update(section.pop("origin") or {})
        made: dict[str, Any] = _without_none(raw)
        return made


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
