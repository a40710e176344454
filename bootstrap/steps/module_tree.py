"""The release's module trees, one for each CPU target, each with Lmod's cache of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..core.errors import StateError
from ..core.model import Finding, Severity, change, satisfied
from ..core.text import at_most
from ..modules import expected
from ..modules.spider import is_missing
from ..modules.tree import files_of, is_lost, missing_of_users, tree_of, unlisted, write_caches, write_trees
from ..spack.workspace import missing_packages, module_tree
from ..state.context import Context
from ..state.release import ModuleIndex, read_index
from .base import ON_NODES, ClusterStep, Question, Run
from .packages import Packages
from .root import WAY_TO_STORAGE
from .spack import SpackStack

SHOWN = 3


class ModuleTree(ClusterStep):
    """Each CPU target has a tree with a file for every module of the release."""

    name = "module-tree"
    needs = (Packages, SpackStack)
    part_of = ON_NODES | {Run.AMI_IMAGE}
    in_image = True
    after = (*WAY_TO_STORAGE, Packages, SpackStack)
    seconds = 300

    def probe(self, ctx: Context) -> Finding:
        for path in ctx.config.modules.paths:
            expected.check_path(ctx, path)
        return _change_of_files(ctx) or _cache(ctx)

    def inputs(self, ctx: Context) -> Mapping[str, Question]:
        """The modules that the configuration names."""
        return expected.questions(ctx)

    def apply(self, ctx: Context) -> None:
        if _change_of_files(ctx):
            write_trees(ctx)
        write_caches(ctx)


def _change_of_files(ctx: Context) -> Finding | None:
    """The module files to write; None if all are there.

    Raises:
        StateError: ``state-newer``, the list of modules is not replaced.
    """
    trees = [f"write {module_tree(ctx, target)}" for target in ctx.targets]
    try:
        index = read_index(ctx.paths, ctx.desired_release)
    except StateError as error:
        if error.code == "state-newer":
            raise
        return change(str(error), *trees)
    if index is None:
        return change(f"release {ctx.desired_release} has no module tree yet", *trees)
    if index.missing and index.missing != missing_packages(ctx):
        return change("packages were installed after the module tree was written", *trees)
    files = list(files_of(ctx, index))
    lost = [module.name for module, path in files if module.sha256 and is_lost(path)]
    lost += [path.name for tree in index.trees for path in missing_of_users(ctx, tree.target)]
    if lost:
        changes = (f"write {name}" for name in lost[:8])
        return change(f"{len(lost)} of {len(files)} module files are missing or empty", *changes)
    return None


def _cache(ctx: Context) -> Finding:
    """Whether Lmod's cache contains all modules. A warning if not, because all modules load without a cache."""
    index = read_index(ctx.paths, ctx.desired_release) or ModuleIndex(())
    files = list(files_of(ctx, index))
    added = [name for tree in index.trees for name in unlisted(tree_of(ctx, tree), tree)]
    removed = [module.name for module, path in files if not module.sha256 and not path.is_file()]
    if added:
        reason = f"Lmod's cache does not contain {', '.join(at_most(SHOWN, added))}"
    elif removed:
        reason = f"Lmod's cache contains modules that were removed: {', '.join(at_most(SHOWN, removed))}"
    elif any(is_missing(ctx, tree_of(ctx, tree)) for tree in index.trees):
        reason = "Lmod's cache is missing or outdated"
    else:
        return satisfied(f"module files: {len(files)}, in {', '.join(tree.name for tree in index.trees)}")
    changes = (f"write the cache of {tree.name}" for tree in index.trees)
    return replace(change(reason, *changes), severity=Severity.WARN)
