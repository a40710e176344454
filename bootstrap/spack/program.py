"""Puts Spack, its recipes and clingo where the configuration says, from pinned sources. Nothing is ever cloned."""

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
from ..host.files import foreign, make_dir, read_json
from ..remote.fetch import Source, download, local_path
from ..remote.tarball import unpack
from .families import FAMILIES, Family

RECEIPT = ".petal-origin.json"


@dataclass(frozen=True)
class SpackInstall:
    """A Spack that can be run: its tree, the recipes' repository, and the directory that holds clingo, if any.

    ``bootstraps``: Spack may fetch clingo itself.
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
        """What was unpacked for it: Spack's own tree, and that of the recipes where Spack carries none."""
        above = len(self.family.repository.parts)
        return tuple(dict.fromkeys((self.tree, self.recipes.parents[above - 1])))


def locate(config: Config, paths: Paths) -> SpackInstall:
    """Where Spack and the rest lie once they are installed; a directory as source is used where it is.

    Raises:
        SpackError: ``spack-untrusted``, others could change what root is about to run; ``spack-python``.
    """
    _check_python(config.spack)
    for origin in (*(origin for origin, _ in _trees(config, _top(config, paths))), *config.spack.wheels):
        _refuse_foreign(origin)
    return _below(config, _top(config, paths))


def anywhere(config: Config, paths: Paths) -> tuple[SpackInstall, ...]:
    """Every place where it may lie, whatever the layout is or becomes: under the root, or in the machine image."""
    return tuple(dict.fromkeys(_below(config, top / "spack") for top in (paths.root, paths.home)))


def _top(config: Config, paths: Paths) -> Path:
    return (paths.home if config.carries_spack else paths.root) / "spack"


def _below(config: Config, top: Path) -> SpackInstall:
    trees = _trees(config, top)
    wheels = _fitting(config.spack.wheels)
    clingo = top / f"clingo-{'-'.join(_key(wheel) for wheel in wheels)}" if wheels else None
    repository = FAMILIES[config.spack.family].repository
    return SpackInstall(config.spack.version, trees[0][1], trees[-1][1] / repository, clingo, config.spack.bootstraps)


def _check_python(spack: SpackConfig, python: tuple[int, int] = sys.version_info[:2]) -> None:
    newest = FAMILIES[spack.family].newest_python
    if python > newest:
        others = [version for version, name in SPACK_VERSIONS.items() if FAMILIES[name].newest_python >= python]
        raise SpackError(
            f"Spack {spack.version} does not run with this node's Python",
            why=f"it is {_dotted(python)}, and {_dotted(newest)} is the newest that this Spack supports",
            remedy=(
                *(f"use spack.version {version}" for version in others),
                f"install python{_dotted(newest)} on the head node and set PETAL_PYTHON",
            ),
            code="spack-python",
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _trees(config: Config, top: Path) -> list[tuple[Origin, Path]]:
    """What is unpacked and where: Spack, and its recipes where it carries none.

    Another checksum has another place, since users run from the tree that is there. A tree whose name is the version
    alone was made before names had a checksum, and is used where its receipt says that it is this one.
    """
    program, recipes = config.spack.origin, config.spack.recipes
    assert program is not None
    plain = top / config.spack.version
    named = plain if _is_whole(program, plain) else plain.with_name(f"{plain.name}-{_key(program)}")
    trees = [(program, _place(program, named))]
    if not config.spack.includes_recipes:
        assert recipes is not None
        trees.append((recipes, _place(recipes, top / f"recipes-{_key(recipes)}")))
    return trees


def is_ready(config: Config, program: SpackInstall, paths: Paths) -> bool:
    """True when nothing has to be fetched."""
    trees = all(_is_whole(origin, tree) for origin, tree in _trees(config, _top(config, paths)))
    return trees and (program.clingo is None or (program.clingo / RECEIPT).is_file())


def ensure(config: Config, program: SpackInstall, paths: Paths, region: str | None) -> None:
    """Fetches and unpacks what is not there, and checks that it is what it should be.

    Raises:
        FetchError, PackageError: a source cannot be had or unpacked.
        SpackError: ``spack-version``, ``spack-recipes``: it is something else than the configuration says.
    """
    (origin, tree), *others = _trees(config, _top(config, paths))
    _ensure_tree(origin, tree, paths, region)
    _check_version(program)
    for origin, tree in others:
        _ensure_tree(origin, tree, paths, region)
    _check_recipes(program, origin)
    if program.clingo is not None:
        _ensure_wheels(_fitting(config.spack.wheels), program.clingo, paths, region)


def _refuse_foreign(origin: Origin) -> None:
    """What has no checksum is vouched for by its owner alone."""
    path = local_path(origin.source)
    if path is None or not path.exists() or (origin.sha256 and path.is_file()):
        return
    reason = foreign(path)
    if reason:
        raise SpackError(
            f"{path} is not run",
            why=reason,
            remedy=(f"chown -R root: {path} && chmod -R go-w {path}", "or a tarball, with its sha256 beside source"),
            code="spack-untrusted",
        )


def _place(origin: Origin, unpacked: Path) -> Path:
    directory = local_path(origin.source)
    return directory if directory is not None and directory.is_dir() else unpacked


def key_at(tree: Path) -> str:
    """What tells a tree that was unpacked here from others; empty for a directory that somebody else has made.

    Raises:
        StateError: its receipt is damaged.
    """
    receipt = read_json(tree / RECEIPT)
    return str(receipt.get("key", "")) if receipt else ""


def _key(origin: Origin) -> str:
    """What tells one origin from another: its checksum, or for a local file without one its place, size and time."""
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
    except StateError:  # damaged: it is made anew
        return False


def _ensure_tree(origin: Origin, tree: Path, paths: Paths, region: str | None) -> None:
    if _is_whole(origin, tree):
        return
    with staged_dir(tree, keep=lambda: _is_whole(origin, tree)) as own:
        with private_dir(paths.scratch / _key(origin)) as scratch:
            archive = scratch / "archive"
            download(Source(origin.source, origin.sha256, region, FETCH), archive)
            _unpack(origin, archive, own)
        write_json(own / RECEIPT, {"key": _key(origin), "source": origin.source, "sha256": origin.sha256})


def _unpack(origin: Origin, archive: Path, part: Path) -> None:
    """An archive that is damaged is told by the name that the configuration gives it."""
    try:
        unpack(archive, part)
    except PackageError as error:
        why = f"{error.what}: {error.why}".replace(str(archive), "it").replace(archive.name, "it")
        raise PackageError(f"{origin.source} cannot be used", why=why, remedy=error.remedy, code=error.code) from error


def _check_version(program: SpackInstall) -> None:
    found = version_of(program.tree)
    if found != program.version:
        raise SpackError(
            f"{program.tree} is not Spack {program.version}",
            why=f"it is {found}" if found else "no Spack is there",
            remedy="correct spack.version or spack.source in the configuration",
            code="spack-version",
        )


def version_of(tree: Path) -> str | None:
    """The version of the Spack in a tree, None where there is none."""
    source = tree / "lib" / "spack" / "spack" / "__init__.py"
    text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else None


def _check_recipes(program: SpackInstall, origin: Origin) -> None:
    if not (program.recipes / "repo.yaml").is_file():
        raise SpackError(
            f"{origin.source} holds no recipes",
            why=f"{program.recipes}/repo.yaml is not there",
            remedy=f"use a release of github.com/spack/{program.family.recipes_from}",
            code="spack-recipes",
        )


def _fitting(wheels: tuple[Origin, ...]) -> tuple[Origin, ...]:
    return tuple(wheel for wheel in wheels if fits(PurePosixPath(unquote(urlsplit(wheel.source).path)).name))


def fits(wheel: str, python: tuple[int, int] = sys.version_info[:2], machine: str = "") -> bool:
    """True when this interpreter can import the wheel of that file name (PEP 427, PEP 425)."""
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
    with staged_dir(directory, keep=is_whole) as own:
        make_dir(own)
        for wheel in wheels:
            with private_dir(paths.scratch / _key(wheel)) as scratch:
                archive = scratch / "wheel"
                download(Source(wheel.source, wheel.sha256, region, FETCH), archive)
                _unpack_wheel(wheel, archive, own)
        write_json(own / RECEIPT, {"wheels": [wheel.source for wheel in wheels]})


def _unpack_wheel(wheel: Origin, archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target)  # zipfile drops absolute names and ``..`` itself
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        remedy = f"python3 -m zipfile -t {wheel.source}; pip download clingo"
        raise PackageError(
            f"{wheel.source} is no wheel", why=str(error), remedy=remedy, code="package-archive"
        ) from error
