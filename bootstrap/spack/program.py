"""Installs Spack, its recipes and clingo from the pinned sources of the configuration. Nothing is cloned."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..config.model import SPACK_VERSIONS, Config, Origin, SpackConfig
from ..core.deadlines import FETCH
from ..core.errors import PackageError, SpackError, StateError
from ..core.paths import Paths
from ..host.atomic import private_dir, staged_dir, write_json
from ..host.files import make_dir, read_json, real_path_problem
from ..remote.fetch import Source, download, local_path
from ..remote.tarball import unpack
from .families import FAMILIES, Family

RECEIPT = ".petal-origin.json"


@dataclass(frozen=True)
class SpackInstall:
    """A Spack that can be run.

    Args:
        tree: Spack's own tree.
        recipes: the repository of recipes.
        clingo: the directory of clingo's wheels; None if the configuration names none.
        bootstraps: Spack may fetch clingo itself.
    """

    version: str
    tree: Path
    recipes: Path
    clingo: Path | None
    bootstraps: bool = False

    @property
    def family(self) -> Family:
        """The adapter of this Spack's version."""
        return FAMILIES[SPACK_VERSIONS[self.version]]

    @property
    def trees(self) -> tuple[Path, ...]:
        """The unpacked trees: Spack's own, and that of the recipes if Spack does not contain them."""
        above = len(self.family.repository.parts)
        return tuple(dict.fromkeys((self.tree, self.recipes.parents[above - 1])))


def locate(config: Config, paths: Paths) -> SpackInstall:
    """The paths of Spack, its recipes and clingo after ``ensure``; a directory as source is used in place.

    Raises:
        SpackError: ``spack-python``; ``untrusted``, others could change what root is about to run.
    """
    _check_python(config.spack)
    for origin in (*(origin for origin, _ in _trees(config, _top(config, paths))), *config.spack.wheels):
        _check_trusted(origin)
    return _below(config, _top(config, paths))


def anywhere(config: Config, paths: Paths) -> tuple[SpackInstall, ...]:
    """The installations of every layout: below the root, and in the machine image."""
    return tuple(dict.fromkeys(_below(config, top / "spack") for top in (paths.root, paths.home)))


def is_ready(config: Config, program: SpackInstall, paths: Paths) -> bool:
    """True if nothing has to be fetched."""
    trees = all(_is_whole(origin, tree) for origin, tree in _trees(config, _top(config, paths)))
    return trees and (program.clingo is None or (program.clingo / RECEIPT).is_file())


def ensure(config: Config, program: SpackInstall, paths: Paths, region: str | None) -> None:
    """Downloads and unpacks missing sources, and compares them with the configuration.

    Raises:
        FetchError, PackageError: a source cannot be fetched or unpacked.
        SpackError: ``spack-source``.
    """
    (origin, tree), *others = _trees(config, _top(config, paths))
    _ensure_tree(origin, tree, paths, region)
    version = version_of(program.tree)
    if version != program.version:
        raise SpackError(
            f"{program.tree} is not Spack {program.version}",
            why=f"it is {version}" if version else "it contains no Spack",
            remedy="correct spack.version or spack.source in the configuration",
            code="spack-source",
        )
    for origin, tree in others:
        _ensure_tree(origin, tree, paths, region)
    if not (program.recipes / "repo.yaml").is_file():
        raise SpackError(
            f"{origin.source} contains no recipes",
            why=f"{program.recipes}/repo.yaml is missing",
            remedy=f"use a release of github.com/spack/{program.family.recipes_from}",
            code="spack-source",
        )
    if program.clingo is not None:
        _ensure_wheels(_fitting(config.spack.wheels), program.clingo, paths, region)


def key_at(tree: Path) -> str:
    """The key that ``ensure`` recorded in a tree; empty for a directory that petal-node did not unpack.

    Raises:
        StateError: the receipt is damaged.
    """
    receipt = read_json(tree / RECEIPT)
    return str(receipt.get("key", "")) if receipt else ""


def _top(config: Config, paths: Paths) -> Path:
    return (paths.home if config.carries_spack else paths.root) / "spack"


def _below(config: Config, top: Path) -> SpackInstall:
    trees = _trees(config, top)
    wheels = _fitting(config.spack.wheels)
    clingo = top / f"clingo-{'-'.join(_key(wheel) for wheel in wheels)}" if wheels else None
    repository = FAMILIES[config.spack.family].repository
    return SpackInstall(config.spack.version, trees[0][1], trees[-1][1] / repository, clingo, config.spack.bootstraps)


def _trees(config: Config, top: Path) -> list[tuple[Origin, Path]]:
    """Spack and, if Spack does not contain them, its recipes, with the directories that they are unpacked to.

    The name of a directory contains the checksum, because users run from an older tree while a newer one is unpacked. A
    directory as source is used in place.
    """
    program, recipes = config.spack.origin, config.spack.recipes
    assert program is not None
    named = [(program, config.spack.version)]
    if not config.spack.includes_recipes:
        assert recipes is not None
        named.append((recipes, "recipes"))
    trees = []
    for origin, name in named:
        source = local_path(origin.source)
        is_directory = source is not None and source.is_dir()
        trees.append((origin, source if source and is_directory else top / f"{name}-{_key(origin)}"))
    return trees


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
            remedy=(f"chown -R root: {path} && chmod -R go-w {path}", "or a tarball, with its sha256 next to source"),
            code="untrusted",
        )


def _key(origin: Origin) -> str:
    """Identifies an origin: its checksum, or for a local file without one its path, size and time."""
    if origin.sha256:
        return origin.sha256[:12]
    path = local_path(origin.source)
    info = path.stat() if path is not None and path.exists() else None
    text = f"{origin.source} {info.st_size} {info.st_mtime_ns}" if info else origin.source
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_whole(origin: Origin, tree: Path) -> bool:
    if local_path(origin.source) == tree:
        return True
    try:
        return key_at(tree) == _key(origin)
    except StateError:  # damaged: the tree is unpacked again
        return False


def _ensure_tree(origin: Origin, tree: Path, paths: Paths, region: str | None) -> None:
    if _is_whole(origin, tree):
        return
    with staged_dir(tree, keep=lambda: _is_whole(origin, tree)) as part:
        with private_dir(paths.scratch / _key(origin)) as scratch:
            archive = scratch / "archive"
            download(Source(origin.source, origin.sha256, region, FETCH), archive)
            try:
                unpack(archive, part)
            except PackageError as error:  # name the source of the configuration, not the temporary file
                what = f"{origin.source} cannot be used"
                why = f"{error.what}: {error.why}".replace(str(archive), "it").replace(archive.name, "it")
                raise PackageError(what, why=why, remedy=error.remedy, code=error.code) from error
        write_json(part / RECEIPT, {"key": _key(origin), "source": origin.source, "sha256": origin.sha256})


def version_of(tree: Path) -> str | None:
    """The version of Spack in a tree, None if the tree has no Spack."""
    source = tree / "lib" / "spack" / "spack" / "__init__.py"
    text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else None


def _fitting(wheels: tuple[Origin, ...]) -> tuple[Origin, ...]:
    return tuple(wheel for wheel in wheels if fits(PurePosixPath(unquote(urlsplit(wheel.source).path)).name))


def fits(wheel: str, python: tuple[int, int] = sys.version_info[:2], machine: str = "") -> bool:
    """True if this interpreter can import the wheel with that file name (PEP 427, PEP 425)."""
    import platform

    parts = wheel.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return False
    tags, abi, system = parts[-3], parts[-2], parts[-1]
    if system != "any" and not system.endswith(machine or platform.machine()):
        return False
    own = f"cp{python[0]}{python[1]}"
    for tag in tags.split("."):
        if tag == own or (tag.startswith("py3") and abi == "none"):
            return True
        older = re.fullmatch(r"cp3(\d+)", tag)
        if abi == "abi3" and older and int(older.group(1)) <= python[1]:
            return True
    return False


def _ensure_wheels(wheels: tuple[Origin, ...], directory: Path, paths: Paths, region: str | None) -> None:
    def is_whole() -> bool:
        return (directory / RECEIPT).is_file()

    if is_whole():
        return
    with staged_dir(directory, keep=is_whole) as part:
        make_dir(part)
        for wheel in wheels:
            with private_dir(paths.scratch / _key(wheel)) as scratch:
                archive = scratch / "wheel"
                download(Source(wheel.source, wheel.sha256, region, FETCH), archive)
                _unpack_wheel(wheel, archive, part)
        write_json(part / RECEIPT, {"wheels": [wheel.source for wheel in wheels]})


def _unpack_wheel(wheel: Origin, archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target)  # zipfile drops absolute names and ``..`` itself
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        what, remedy = f"{wheel.source} is not a wheel", f"python3 -m zipfile -t {wheel.source}; pip download clingo"
        raise PackageError(what, why=str(error), remedy=remedy, code="package-archive") from error
