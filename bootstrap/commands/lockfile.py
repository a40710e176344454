"""``lockfile``: solves the stack on a machine with the nodes' image, so that head nodes need not solve it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..core.deadlines import DOCUMENT
from ..core.errors import ConfigError, PetalError
from ..core.model import Result, Status
from ..core.options import Options
from ..engine.prepare import prepare_lockfile
from ..host.atomic import write_atomic
from ..host.files import make_dir
from ..remote.destination import check_output, place_of
from ..remote.fetch import require_writable, upload
from ..spack.lockfile import parse
from ..spack.solve import make_lockfile
from ..state.context import Context, Services
from .common import require_root

NAME = "spack.lock"


@dataclass(frozen=True)
class LockfileSummary:
    """A lockfile with its URI, the number of packages that Spack builds from it, and the system that it fits."""

    node: str
    uri: str
    sha256: str
    packages: int
    targets: tuple[str, ...]
    os: str
    glibc: str
    compiler: str
    spack: str
    externals: tuple[str, ...]


def lockfile(options: Options, services: Services) -> Result[LockfileSummary]:
    """Makes the lockfile and writes it to ``--output``.

    Raises:
        UsageError: ``--output`` is not a path or URI.
        FetchError: it cannot be written; nothing is solved.
        ConfigError: the configuration has no Spack stack, or the stack is wrong.
        PetalError: the stack cannot be solved, or the lockfile cannot be written.
    """
    require_root(options, services)
    check_output(options.output)
    ctx = prepare_lockfile(options, services)
    if not ctx.config.uses_spack:
        remedy = "stack: NAME or spack: {specs: [...]} in the configuration"
        raise ConfigError("the configuration has no Spack stack", remedy=remedy)
    for note in ctx.build_targets.notes if ctx.build_targets else ():
        services.note(note)
    require_writable(place_of(options.output, b"", NAME), region=ctx.facts.cluster.region, seconds=DOCUMENT)
    data = make_lockfile(ctx)
    uri = place_of(options.output, data, NAME)
    _put(data, uri, ctx)
    lock = parse(data, uri)
    assert lock.record is not None
    summary = LockfileSummary(
        node=ctx.facts.host.name,
        uri=uri,
        sha256=hashlib.sha256(data).hexdigest(),
        packages=len(lock.built()),
        targets=ctx.targets,
        os=next(iter(lock.specs.values())).os,
        glibc=lock.record.glibc,
        compiler=lock.record.compiler,
        spack=lock.spack,
        externals=tuple(f"{spec} at {prefix}" for spec, prefix in lock.record.externals),
    )
    return Result("lockfile", Status.CHANGED, summary, run_id=services.run_id)


def _put(data: bytes, uri: str, ctx: Context) -> None:
    """Writes the lockfile to ``uri``. If that fails, a copy stays on this machine, because the solve takes minutes."""
    try:
        upload(data, uri, region=ctx.facts.cluster.region, seconds=DOCUMENT)
    except PetalError as error:
        spare = ctx.paths.var / NAME
        make_dir(spare.parent)
        write_atomic(spare, data)
        error.remedy = (*error.remedy, f"the lockfile is kept: ls -l {spare}")
        raise
