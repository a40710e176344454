"""Module files that were changed after petal-node wrote them."""

from __future__ import annotations

from pathlib import Path

from ..core.deadlines import SCAN
from ..core.errors import StateError
from ..core.model import Finding, blocked, change, elsewhere, satisfied
from ..core.text import at_most, quoted
from ..host.files import sha256_of
from ..modules.tree import files_of, is_lost, write_trees
from ..state.context import Context
from ..state.release import read_index
from ..steps.packages import Packages
from ..steps.root import WAY_TO_STORAGE
from ..steps.spack import SpackStack
from .store import SHOWN, StoreRepair

YES = "petal-node repair --yes    # writes it again: changes are lost"


class ChangedModules(StoreRepair):
    """No module file of the desired release was changed.

    The changes may be intended, so a file is written again only with ``--yes``. The step ``module-tree``, which
    follows, writes the missing files and Lmod's cache, and keeps changed files.
    """

    name = "module-files-changed"
    needs = (Packages, SpackStack)
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
        return blocked(reason, *(f"ls -l {quoted(path)}" for path in changed[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        write_trees(ctx, overwrite=ctx.options.yes)


def _changed(ctx: Context) -> list[Path]:
    """Missing and empty files are not among them: the step ``module-tree`` finds those."""
    files = files_of(ctx, read_index(ctx.paths, ctx.desired_release))
    return [path for module, path in files if module.sha256 and not is_lost(path) and sha256_of(path) != module.sha256]
