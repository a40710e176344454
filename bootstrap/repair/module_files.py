"""Module files that were changed after petal-node wrote them."""

from __future__ import annotations

from pathlib import Path

from ..core.deadlines import SCAN
from ..core.errors import StateError
from ..core.model import Finding, blocked, change, elsewhere, satisfied
from ..core.text import at_most
from ..host.files import sha256_of
from ..host.log import LOG
from ..modules.spider import invalidate
from ..spack.workspace import module_tree
from ..state.context import Context
from ..state.release import read_index
from ..steps.module_tree import files_of
from ..steps.packages import Packages
from ..steps.root import WAY_TO_STORAGE
from ..steps.spack import SpackStack
from .store import SHOWN, StoreRepair

YES = "petal-node repair --yes    (writes it again: changes are lost)"


class ChangedModules(StoreRepair):
    """No module file of the desired release was changed.

    The changes may be intended, so a file is removed only with ``--yes``; the step ``module-tree``, which follows,
    writes it like any other missing one.
    """

    name = "module-files-changed"
    needs = (Packages, SpackStack)  # else the step ``module-tree`` could not write what this one removes
    after = (*WAY_TO_STORAGE, Packages, SpackStack)

    def probe(self, ctx: Context) -> Finding:
        try:
            changed = ctx.system.on_storage(lambda: _changed(ctx), ctx.paths.root, SCAN)
        except StateError:
            return elsewhere("the list of modules cannot be read")  # the step ``module-tree`` reports it
        if not changed:
            return satisfied("all module files are as they were written")
        reason = f"changed after it was written: {', '.join(at_most(1, changed, ' files'))}"
        if ctx.options.yes:
            return change(reason, *(f"write {path} again" for path in changed[:SHOWN]))
        return blocked(reason, *(f"ls -l {path}" for path in changed[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        changed = _changed(ctx) if ctx.options.yes else []
        for target in ctx.targets if changed else ():
            invalidate(module_tree(ctx, target))
        for path in changed:
            LOG.warning("%s was changed, and is written again", path, extra={"step": self.name})
            path.unlink()


def _changed(ctx: Context) -> list[Path]:
    """Missing and empty files are not among them: the step ``module-tree`` finds those."""
    index = read_index(ctx.paths, ctx.desired_release)
    return [
        path
        for module, path in files_of(ctx, index.trees if index else ())
        if module.sha256 and path.is_file() and path.stat().st_size and sha256_of(path) != module.sha256
    ]
