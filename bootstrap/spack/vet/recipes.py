"""Reads a repository of Spack's recipes as it lies on disk: no Spack is run, no recipe is executed.

Two layouts: of Spack 1.x (``packages/py_numpy``, api v2 in repo.yaml) and of 0.23 (``packages/py-numpy``). A recipe is
Python, so what it computes cannot be known this way: then ``versions_known`` or ``variants_known`` is false.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

NAMESPACE = "builtin"
# May stand on every package (lib/spack/spack/variant.py, spec.py of 0.23.0 and 1.1.1).
EVERYWHERE = frozenset({
    "arch", "architecture", "branch", "build_system", "commit", "dev_path", "namespace", "operating_system", "os",
    "patches", "platform", "ref", "tag", "target", "cflags", "cxxflags", "cppflags", "fflags", "ldflags", "ldlibs",
})  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a recipe says of itself.

    Args:
        versions: each version, and whether it is deprecated.
        fetches: it has sources, which have a checksum for each of its versions.
    """

    name: str
    versions: Mapping[str, bool]
    variants: frozenset[str]
    versions_known: bool
    variants_known: bool
    fetches: bool


@dataclass
class _Module:
    """What one Python file says by itself, and the files that it takes more from."""

    versions: dict[str, bool] = field(default_factory=dict)
    variants: set[str] = field(default_factory=set)
    versions_known: bool = True
    variants_known: bool = True
    fetches: bool = True
    imports: list[tuple[int, str]] = field(default_factory=list)


class Repository:
    """One repository of recipes.

    Args:
        root: the directory with repo.yaml.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[Path, _Module] = {}

    @cached_property
    def modern(self) -> bool:
        """True for Spack 1.x, whose directories are names of Python modules."""
        return bool(
            re.search(r"^\s*api:\s*v[2-9]", (self.root / "repo.yaml").read_text(encoding="utf-8"), re.MULTILINE)
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Every package of the repository."""
        directories = (
            entry.name for entry in (self.root / "packages").iterdir() if not entry.name.startswith((".", "__"))
        )
        return frozenset(name.lstrip("_").replace("_", "-") if self.modern else name for name in directories)

    @cached_property
    def virtuals(self) -> Mapping[str, tuple[str, ...]]:
        """What packages provide under another name, and which do: mpi, scalapack. Looks at every recipe."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.names):
            for virtual in _provided(self.path(name)):
                found.setdefault(virtual, []).append(name)
        return {virtual: tuple(dict.fromkeys(providers)) for virtual, providers in found.items()}

    def path(self, name: str) -> Path:
        """Where the recipe of a package lies."""
        if self.modern:
            name = name.replace("-", "_")
            name = f"_{name}" if name[:1].isdigit() or (keyword.iskeyword(name) and name.islower()) else name
        return self.root / "packages" / name / "package.py"

    def recipe(self, name: str) -> Recipe | None:
        """What the recipe of a package says, None where there is none."""
        if name not in self.names or not self.path(name).is_file():
            return None
        versions: dict[str, bool] = {}
        variants: set[str] = set(EVERYWHERE)
        versions_known = variants_known = True
        for module in self._closure(self.path(name)):
            for version, deprecated in module.versions.items():
                versions[version] = deprecated and versions.get(version, True)
            variants |= module.variants
            versions_known &= module.versions_known
            variants_known &= module.variants_known
        fetches = self._module(self.path(name)).fetches
        return Recipe(name, versions, frozenset(variants), versions_known, variants_known, fetches)

    def _closure(self, first: Path) -> Iterator[_Module]:
        """The file and everything of the repository that it imports: versions and variants are inherited."""
        waiting, seen = [first], {first}
        while waiting:
            path = waiting.pop()
            module = self._module(path)
            yield module
            for level, name in module.imports:
                new = [found for found in self._files(path, level, name) if found not in seen]
                seen.update(new)
                waiting += new

    def _module(self, path: Path) -> _Module:
        if path not in self._modules:
            self._modules[path] = _read_module(path)
        return self._modules[path]

    def _files(self, importer: Path, level: int, name: str) -> list[Path]:
        """The files of an import, as far as recipes and build systems are concerned."""
        parts = name.split(".") if name else []
        if level:
            base = importer.parents[level - 1]
        elif parts[:2] == ["spack_repo", NAMESPACE]:
            base, parts = self.root, parts[2:]
        elif parts[:3] == ["spack", "pkg", NAMESPACE] and len(parts) > 3:
            return [path for path in (self.path(parts[3]), self.path(parts[3].replace("_", "-"))) if path.is_file()]
        elif parts[:2] == ["spack", "build_systems"]:
            base, parts = self._own_build_systems, parts[2:]
        elif name == "spack.package.*" and not self.modern:
            return sorted(self._own_build_systems.glob("*.py"))
        else:
            return []
        return _python_files(base, parts)

    @property
    def _own_build_systems(self) -> Path:
        """Those that Spack 0.23 carries itself, three directories beside var/spack/repos/builtin."""
        return self.root.parents[3] / "lib" / "spack" / "spack" / "build_systems"


def _python_files(base: Path, parts: list[str]) -> list[Path]:
    """What ``base.parts`` may mean: a file, or a name in a file."""
    place = base.joinpath(*parts)
    choices = [place.with_suffix(".py") if parts else place, place / "__init__.py"]
    if parts:
        choices += [place.parent.with_suffix(".py"), place.parent / "__init__.py"]
    return [path for path in choices if path.is_file()]


def _read_module(path: Path) -> _Module:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return _Module(versions_known=False, variants_known=False)
    reader = _Reader()
    reader.visit(tree)
    return reader.module


class _Reader(ast.NodeVisitor):
    """Collects the directives ``version`` and ``variant`` wherever they are called, and the imports."""

    def __init__(self) -> None:
        self.module = _Module()
        self._deprecated = False

    def visit_With(self, node: ast.With) -> None:
        before = self._deprecated
        for item in node.items:
            if isinstance(item.context_expr, ast.Call) and _called(item.context_expr) == "default_args":
                self._deprecated = _deprecated(item.context_expr, before)
        self.generic_visit(node)
        self._deprecated = before

    def visit_Name(self, node: ast.Name) -> None:
        self.module.fetches &= node.id not in ("BundlePackage", "has_code")

    def visit_Call(self, node: ast.Call) -> None:
        directive = _called(node)
        if directive == "version":
            self._version(node)
        elif directive == "variant":
            self._variant(node)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.module.imports += [(0, alias.name) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.module.imports.append((node.level, ".".join(filter(None, [node.module, alias.name]))))

    def _version(self, node: ast.Call) -> None:
        name = _first_text(node)
        if name is None:
            self.module.versions_known = False
        else:
            known = self.module.versions.get(name, True)
            self.module.versions[name] = known and _deprecated(node, self._deprecated)

    def _variant(self, node: ast.Call) -> None:
        name = _first_text(node)
        if name is None:
            self.module.variants_known = False
        else:
            self.module.variants.add(name)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _first_text(node: ast.Call) -> str | None:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _deprecated(node: ast.Call, otherwise: bool) -> bool:
    """True where it says so in a word: what is computed counts as not deprecated."""
    for word in node.keywords:
        if word.arg == "deprecated":
            return isinstance(word.value, ast.Constant) and word.value.value is True
        if word.arg is None:
            return False
    return otherwise


def _provided(path: Path) -> Iterator[str]:
    """The virtual packages that a recipe says it provides."""
    try:
        text = path.read_bytes()
        tree = ast.parse(text) if b"provides(" in text else None
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call) and _called(node) == "provides":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield re.split(r"[@+~ ]", argument.value)[0]
