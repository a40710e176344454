"""The release's module trees, one for each CPU target, each with Lmod's cache of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.errors import ModulesError, StateError
from ..core.model import Finding, Scope, change, refused, satisfied
from ..host.files import remove_tree, sha256_of
from ..host.log import LOG
from ..modules.spider import invalidate, is_missing, write_cache
from ..modules.tree import missing_of_users, unlisted, write_tree
from ..spack.workspace import missing_packages, module_tree
from ..state.context import Context
from ..state.release import ModuleFile, Tree, current_release, read_index, read_manifest, read_missing, write_index
from .base import HEAD, Step
from .packages import Packages
from .spack import SpackStack


class ModuleTree(Step):
    """Every module of the release is written, in a tree of its own for each CPU target."""

    name = "module-tree"
    title = "the module tree is written"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (Packages, SpackStack)
    image_layouts = frozenset({"ami"})
    in_image = True
    is_check = False

    def probe(self, ctx: Context) -> Finding:
        vanished = [path for path in ctx.config.modules.paths if not ctx.paths.at(path).is_dir()]
        if vanished:
            return refused(_vanished(vanished))
        try:
            listed = read_index(ctx.paths, ctx.desired_release)
            without = read_missing(ctx.paths, ctx.desired_release)
        except StateError as error:
            return change(str(error), "write the module tree again")
        written = [f"write {module_tree(ctx, target)}" for target in ctx.targets]
        if listed is None:
            return change(f"release {ctx.desired_release} has none yet", *written)
        if without and without != missing_packages(ctx):
            return change("packages have come since it was written", *written)
        return _of_files(ctx, listed)

    def apply(self, ctx: Context) -> None:
        in_use = current_release(ctx.paths) == ctx.desired_release
        if not in_use and read_manifest(ctx.paths, ctx.desired_release) is None:
            remove_tree(module_tree(ctx, ctx.targets[0]).parent)
        for module, path in _files(ctx, _listed(ctx)):
            if path.exists() and _is_wrong(ctx, module, path):
                LOG.warning("%s is not as it was written, and is written again", path, extra={"step": self.name})
                path.unlink()
        trees = []
        for target in ctx.targets:
            invalidate(module_tree(ctx, target))
            trees.append(write_tree(ctx, target))
            write_cache(ctx, module_tree(ctx, target))
        write_index(ctx.paths, ctx.desired_release, trees, missing_packages(ctx))


def _of_files(ctx: Context, listed: Iterable[Tree]) -> Finding:
    trees = tuple(listed)
    wrong = [module.name for module, path in _files(ctx, trees) if _is_wrong(ctx, module, path)]
    wrong += [path.name for tree in trees for path in missing_of_users(ctx, tree.target)]
    number = sum(len(tree.modules) for tree in trees)
    if wrong:
        lines = (f"write {name}" for name in wrong[:8])
        return change(f"{len(wrong)} of {number} files are missing or damaged", *lines)
    extra = [name for tree in trees for name in unlisted(_directory(ctx, tree), tree)]
    if extra:
        return change(f"Lmod's cache does not know {', '.join(extra[:3])}", "write the cache")
    without_cache = [tree.name for tree in trees if is_missing(ctx, _directory(ctx, tree))]
    if without_cache:
        return change("Lmod's cache is missing or old", *(f"write that of {name}" for name in without_cache))
    return satisfied(f"{number} modules in {', '.join(tree.name for tree in trees)}")


def _vanished(paths: list[str]) -> ModulesError:
    return ModulesError(
        f"{', '.join(paths)} of modules.paths {'is' if len(paths) == 1 else 'are'} no directory here",
        remedy=(f"ls -ld {' '.join(paths)}", "or drop it from modules.paths in the configuration"),
        code="modules-path",
    )


def _listed(ctx: Context) -> tuple[Tree, ...]:
    try:
        return read_index(ctx.paths, ctx.desired_release) or ()
    except StateError:
        return ()


def _directory(ctx: Context, tree: Tree) -> Path:
    return ctx.paths.release(ctx.desired_release) / "modules" / tree.name


def _files(ctx: Context, trees: Iterable[Tree]) -> Iterator[tuple[ModuleFile, Path]]:
    for tree in trees:
        yield from ((module, _directory(ctx, tree) / module.path) for module in tree.modules)


def _is_wrong(ctx: Context, module: ModuleFile, path: Path) -> bool:
    """Lost, or empty; what a site has changed in it is overwritten by ``repair --yes`` only."""
    if not path.is_file() or path.stat().st_size == 0:
        return True
    return ctx.options.yes and module.sha256 not in ("", sha256_of(path))
