"""The release's module trees, one for each CPU target, each with Lmod's cache of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..core.errors import ModulesError, StateError
from ..core.model import Finding, Severity, change, satisfied
from ..host.files import remove_tree
from ..host.log import LOG
from ..modules.spider import invalidate, is_missing, write_cache
from ..modules.tree import missing_of_users, unlisted, write_tree
from ..spack.workspace import missing_packages, module_tree
from ..state.context import Context
from ..state.release import ModuleFile, ModuleIndex, Tree, current_release, read_index, read_manifest, write_index
from .base import ON_NODES, ClusterStep, Run
from .packages import Packages
from .root import WAY_TO_STORAGE
from .spack import SpackStack


class ModuleTree(ClusterStep):
    """Each CPU target has a tree with a file for every module of the release."""

    name = "module-tree"
    needs = (Packages, SpackStack)
    part_of = ON_NODES | {Run.AMI_IMAGE}
    in_image = True
    after = (*WAY_TO_STORAGE, Packages, SpackStack)
    seconds = 300

    def probe(self, ctx: Context) -> Finding:
        absent = [path for path in ctx.config.modules.paths if not ctx.paths.at(path).is_dir()]
        if absent:
            raise ModulesError(
                f"modules.paths: this node has no directory {', '.join(absent)}",
                remedy=(f"ls -ld {' '.join(absent)}", "or remove it from modules.paths in the configuration"),
                code="modules-config",
            )
        trees = [f"write {module_tree(ctx, target)}" for target in ctx.targets]
        try:
            index = read_index(ctx.paths, ctx.desired_release)
        except StateError as error:
            return change(str(error), *trees)
        if index is None:
            return change(f"release {ctx.desired_release} has no module tree yet", *trees)
        if index.missing and index.missing != missing_packages(ctx):
            return change("packages were installed after the module tree was written", *trees)
        return _compare(ctx, index.trees)

    def apply(self, ctx: Context) -> None:
        in_use = current_release(ctx.paths) == ctx.desired_release
        if not in_use and read_manifest(ctx.paths, ctx.desired_release) is None:
            remove_tree(module_tree(ctx, ctx.targets[0]).parent)
        try:
            index = read_index(ctx.paths, ctx.desired_release)
        except StateError:
            index = None
        for _, path in files_of(ctx, index.trees if index else ()):
            if path.exists() and _is_missing(path):
                LOG.warning("%s is empty, and is written again", path, extra={"step": self.name})
                path.unlink()
        trees = []
        for target in ctx.targets:
            invalidate(module_tree(ctx, target))
            trees.append(write_tree(ctx, target))
            write_cache(ctx, module_tree(ctx, target))
        write_index(ctx.paths, ctx.desired_release, ModuleIndex(tuple(trees), missing_packages(ctx)))


def _compare(ctx: Context, trees: tuple[Tree, ...]) -> Finding:
    """The files of the trees, then Lmod's cache of them."""
    wrong = [module.name for module, path in files_of(ctx, trees) if _is_missing(path)]
    wrong += [path.name for tree in trees for path in missing_of_users(ctx, tree.target)]
    number = sum(len(tree.modules) for tree in trees)
    if wrong:
        lines = (f"write {name}" for name in wrong[:8])
        return change(f"{len(wrong)} of {number} module files are missing or empty", *lines)
    extra = [name for tree in trees for name in unlisted(_directory(ctx, tree), tree)]
    if extra:
        return _usable(change(f"Lmod's cache does not contain {', '.join(extra[:3])}", "write the cache"))
    uncached = [tree.name for tree in trees if is_missing(ctx, _directory(ctx, tree))]
    if uncached:
        lines = (f"write the cache of {name}" for name in uncached)
        return _usable(change("Lmod's cache is missing or outdated", *lines))
    return satisfied(f"module files: {number}, in {', '.join(tree.name for tree in trees)}")


def _directory(ctx: Context, tree: Tree) -> Path:
    return ctx.paths.release(ctx.desired_release) / "modules" / tree.name


def _usable(finding: Finding) -> Finding:
    """A change without which all modules load."""
    return replace(finding, severity=Severity.WARN)


def files_of(ctx: Context, trees: Iterable[Tree]) -> Iterator[tuple[ModuleFile, Path]]:
    """The listed modules of trees of the desired release, with the path of each file."""
    for tree in trees:
        yield from ((module, _directory(ctx, tree) / module.path) for module in tree.modules)


def _is_missing(path: Path) -> bool:
    return not path.is_file() or path.stat().st_size == 0
