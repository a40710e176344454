"""Installs Spack, its recipes and clingo from the pinned sources of the configuration. Nothing is cloned."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..config.model import SPACK_VERSIONS, Config, Origin, SpackConfig
from ..core.deadlines import FETCH
from ..core.errors import SpackError, StateError
from ..core.paths import Paths
from ..core.text import quoted
from ..host.atomic import private_dir, staged_dir, write_json
from ..host.files import read_json, real_path_problem
from ..remote.fetch import Source, download, local_path
from ..remote.tarball import unpack, unpack_wheel
from .families import FAMILIES, Family

RECEIPT = ".petal-origin.json"


class Unpacked(NamedTuple):
    """Origins that are unpacked into one directory."""

    origins: tuple[Origin, ...]
    directory: Path


@dataclass(frozen=True)
class SpackInstall:
    """A Spack that can be run.

    Args:
        tree: Spack's own tree.
        recipes: the repository of recipes.
        clingo: the directory of clingo's wheels; None if the configuration names none.
        bootstraps: Spack may fetch clingo itself.
        sources: where Spack, the recipes and the wheels come from.
    """

    version: str
    tree: Path
    recipes: Path
    clingo: Path | None
    bootstraps: bool = False
    sources: tuple[Unpacked, ...] = ()

    @property
    def family(self) -> Family:
        """The adapter of this Spack's version."""
        return FAMILIES[SPACK_VERSIONS[self.version]]


def locate(config: Config, paths: Paths) -> SpackInstall:
    """The paths of Spack, its recipes and clingo after ``ensure``; a directory as source is used in place.

    Raises:
        SpackError: ``spack-python``; ``untrusted``, others could change what root is about to run.
    """
    spack = config.spack
    _check_python(spack)
    for origin in (spack.origin, spack.recipes, *spack.wheels):
        if origin is not None:
            _check_trusted(origin)
    return _install_below((paths.home if config.spack_in_image else paths.root) / "spack", spack)


def anywhere(config: Config, paths: Paths) -> tuple[SpackInstall, ...]:
    """The installations of every layout: below the root, and in the machine image."""
    return tuple(dict.fromkeys(_install_below(top / "spack", config.spack) for top in (paths.root, paths.home)))


def _install_below(top: Path, spack: SpackConfig) -> SpackInstall:
    """The names of directories contain checksums, because users run from an old tree while a new one is unpacked."""
    named = [(spack.origin, spack.version)] + ([] if spack.includes_recipes else [(spack.recipes, "recipes")])
    sources = []
    for origin, name in named:
        assert origin is not None
        source = local_path(origin.source)
        tree = source if source and source.is_dir() else top / f"{name}-{_key((origin,))}"
        sources.append(Unpacked((origin,), tree))
    recipes = sources[-1].directory / FAMILIES[spack.family].repository
    wheels = tuple(wheel for wheel in spack.wheels if _fits(wheel))
    clingo = top / f"clingo-{_key(wheels)}" if wheels else None
    if clingo:
        sources.append(Unpacked(wheels, clingo))
    return SpackInstall(
        spack.version, sources[0].directory, recipes, clingo, bootstraps=spack.bootstraps, sources=tuple(sources)
    )


def is_ready(program: SpackInstall) -> bool:
    """True if nothing has to be fetched."""
    return all(is_whole(origins, directory) for origins, directory in program.sources)


def ensure(program: SpackInstall, paths: Paths, region: str | None, seconds: float = FETCH) -> None:
    """Downloads and unpacks missing sources, and compares them with the configuration.

    Raises:
        FetchError, PackageError: a source cannot be fetched or unpacked.
        SpackError: ``spack-source``.
    """
    for origins, directory in program.sources:
        unpacker = unpack_wheel if directory == program.clingo else unpack
        fetch_missing(origins, directory, unpacker, paths, region, seconds)
    check_version(program, version_of(program.tree))
    repository = program.recipes / "repo.yaml"
    check_recipes(program, repository.read_text(encoding="utf-8", errors="replace") if repository.is_file() else None)


def check_version(program: SpackInstall, version: str | None) -> None:
    """Refuses a source of Spack that has another version than the configuration: SpackError ``spack-source``."""
    if version != program.version:
        raise SpackError(
            f"{program.sources[0].origins[0].source} is not Spack {program.version}",
            why=f"it is {version}" if version else "it contains no Spack",
            remedy="correct spack.version or spack.source in the configuration",
            code="spack-source",
        )


def check_recipes(program: SpackInstall, text: str | None) -> str:
    """Refuses recipes that are missing, or that need a newer Spack, by their repo.yaml; returns their API.

    Raises:
        SpackError: ``spack-source``.
    """
    newest = program.family.newest_api
    found = re.search(r"^\s*api:\s*['\"]?v?(\d+)\.(\d+)", text or "", re.MULTILINE)
    api = (int(found[1]), int(found[2])) if found else (1, 0)
    if text is not None and api <= newest:
        return f"recipes for the package API {api[0]}.{api[1]}"
    what = "the source of the recipes contains none"
    why = f"{program.recipes}/repo.yaml is missing"
    if text is not None:
        what = f"Spack {program.version} cannot read these recipes"
        why = f"they need the package API {api[0]}.{api[1]}, and it has {newest[0]}.{newest[1]}"
    remedy = f"use a release of github.com/spack/{program.family.recipes_from}"
    raise SpackError(what, why=why, remedy=remedy, code="spack-source")


def key_at(tree: Path) -> str:
    """The key that ``ensure`` recorded in a tree; empty for a directory that petal-node did not unpack.

    Raises:
        StateError: the receipt is damaged.
    """
    return str((read_json(tree / RECEIPT) or {}).get("key", ""))


def sources_at(tree: Path) -> tuple[str, ...]:
    """The origins that ``ensure`` recorded in a tree, empty if the record is missing or damaged."""
    try:
        return tuple((read_json(tree / RECEIPT) or {}).get("sources", ()))
    except (StateError, TypeError):
        return ()


def _check_python(spack: SpackConfig, python: tuple[int, int] = sys.version_info[:2]) -> None:
    newest = FAMILIES[spack.family].newest_python
    if python <= newest:
        return
    others = [version for version, name in SPACK_VERSIONS.items() if FAMILIES[name].newest_python >= python]
    raise SpackError(
        f"Spack {spack.version} does not run with this node's Python",
        why=f"it is {python[0]}.{python[1]}, and {newest[0]}.{newest[1]} is the newest that this Spack supports",
        remedy=(
            *(f"use spack.version {version}" for version in others),
            f"install python{newest[0]}.{newest[1]} on the head node and set PETAL_PYTHON",
        ),
        code="spack-python",
    )


def _check_trusted(origin: Origin) -> None:
    """A local source without a checksum must belong to root, with every directory above it."""
    path = local_path(origin.source)
    if path is None or not path.exists() or (origin.sha256 and path.is_file()):
        return
    problem = real_path_problem(path)
    if problem:
        raise SpackError(
            f"{path} is not run",
            why=str(problem),
            remedy=(
                f"chown -R root: {quoted(path)} && chmod -R go-w {quoted(path)}",
                "or a tarball, with its sha256 next to source",
            ),
            code="untrusted",
        )


def _key(origins: Sequence[Origin]) -> str:
    """Identifies origins: by checksum, or a local file without one by path, size and time."""
    keys = []
    for origin in origins:
        path = local_path(origin.source)
        info = path.stat() if path is not None and path.exists() else None
        text = f"{origin.source} {info.st_size} {info.st_mtime_ns}" if info else origin.source
        keys.append((origin.sha256 or hashlib.sha256(text.encode()).hexdigest())[:12])
    return "-".join(keys)


def is_whole(origins: Sequence[Origin], directory: Path) -> bool:
    """True if the origins are unpacked there, or the origin is this directory."""
    if local_path(origins[0].source) == directory:
        return True
    try:
        return key_at(directory) == _key(origins)
    except StateError:  # damaged: the directory is made again
        return False


def fetch_missing(
    origins: Sequence[Origin],
    directory: Path,
    unpacker: Callable[[Path, Path, str], None],
    paths: Paths,
    region: str | None,
    seconds: float = FETCH,
) -> None:
    """Downloads the origins, each within ``seconds``, and unpacks them into one directory, unless that was done before.

    Raises:
        FetchError, PackageError: with the source as the configuration names it.
    """
    if is_whole(origins, directory):
        return
    with staged_dir(directory, keep=lambda: is_whole(origins, directory)) as part:
        for origin in origins:
            with private_dir(paths.scratch / _key((origin,))) as scratch:
                archive, kept = scratch / "archive", paths.scratch / f"{_key((origin,))}.part"
                download(Source(origin.source, origin.sha256, region, seconds), archive, kept=kept)
                unpacker(archive, part, origin.source)
        write_json(part / RECEIPT, {"key": _key(origins), "sources": [origin.source for origin in origins]})


def version_of(tree: Path) -> str | None:
    """The version of Spack in a tree, None if the tree has no Spack."""
    source = tree / "lib" / "spack" / "spack" / "__init__.py"
    return version_in(source.read_text(encoding="utf-8", errors="replace") if source.is_file() else "")


def version_in(text: str) -> str | None:
    """The version of Spack by the text of its ``__init__.py``."""
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else None


def _fits(wheel: Origin) -> bool:
    """True if this interpreter can import the wheel, by its file name (PEP 427, PEP 425)."""
    name = PurePosixPath(unquote(urlsplit(wheel.source).path)).name
    parts = name.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return False
    tags, abi, system = parts[-3:]
    if system != "any" and not system.endswith(os.uname().machine):
        return False
    major, minor = sys.version_info[:2]
    for tag in tags.split("."):
        if tag == f"cp{major}{minor}" or (tag.startswith("py3") and abi == "none"):
            return True
        older = re.fullmatch(r"cp3(\d+)", tag)
        if abi == "abi3" and older and int(older.group(1)) <= minor:
            return True
    return False
