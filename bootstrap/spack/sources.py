"""What a plan finds out about Spack's sources, its mirrors and the queue that builds, before anything is fetched."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..cluster.slurm import find_slurm, partitions
from ..cluster.targets import cpus_of, machine_of
from ..config.model import Mirror, Origin
from ..core.errors import ConfigError, FetchError, PackageError
from ..core.facts import NETWORK_KINDS, Queue
from ..core.text import quoted
from ..remote.fetch import local_path
from ..remote.look import look_at
from ..remote.tarball import DAMAGE, MAX_HEADER, REMEDY
from ..state.context import Context
from ..state.release import check_queue
from .cache.mirror import MirrorReader
from .families import FAMILIES
from .program import SpackInstall, check_recipes, check_version, is_whole, locate, version_in

SPACK = "lib/spack/spack/__init__.py"
OF_HEAD = ("/home", "/opt/slurm", "/opt/parallelcluster/shared")  # directories that ParallelCluster's head node exports
NO_BUCKET = "NoSuchBucket"  # S3's code


def questions(ctx: Context) -> dict[str, Callable[[], str]]:
    """The inputs of an install, by their keys.

    Raises:
        SpackError: as ``locate``.
    """
    spack, program = ctx.config.spack, locate(ctx.config, ctx.paths)
    asked: dict[str, Callable[[], str]] = {}
    for origins, directory in program.sources:
        if directory == program.clingo:
            for number, wheel in enumerate(spack.wheels):
                if wheel in origins and not is_whole(origins, directory):
                    asked[f"spack.clingo[{number}].source"] = _look(ctx, wheel)
        elif directory == program.tree:
            asked["spack.source"] = partial(_tree, ctx, origins[0], directory, SPACK, partial(_spack, program))
        else:
            member = str(program.family.repository / "repo.yaml")
            recipes = partial(check_recipes, program)
            asked["spack.recipes.source"] = partial(_tree, ctx, origins[0], directory, member, recipes)
    for name, mirror in spack.mirrors.items():
        key = f"spack.mirrors.{name}"
        asked[f"{key}.url"] = partial(_mirror, ctx, name, mirror)
        asked |= {f"{key}.keys[{number}].source": _look(ctx, origin) for number, origin in enumerate(mirror.keys)}
        if mirror.signing_key:
            asked[f"{key}.signing_key.source"] = _look(ctx, mirror.signing_key)
    if ctx.build_queue is not None:
        asked["install.queue"] = partial(_queue, ctx, ctx.build_queue)
    return asked


def _look(ctx: Context, origin: Origin) -> Callable[[], str]:
    return (lambda: "") if ctx.is_mounted_later(origin.source) else partial(look_at, ctx.source_of(origin))


def _spack(program: SpackInstall, text: str | None) -> str:
    check_version(program, version_in(text or ""))
    return f"Spack {program.version}"


def _tree(ctx: Context, origin: Origin, directory: Path, member: str, check: Callable[[str | None], str]) -> str:
    """A tree of Spack or of recipes, or the tarball of one: ``check`` gets the text of a file of it."""
    path = local_path(origin.source)
    if is_whole((origin,), directory):
        if path == directory:
            _require_on_queue(ctx, directory)
        file = directory / member
        return check(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None)
    if ctx.is_mounted_later(origin.source):
        return ""
    is_far = path is None and member != SPACK  # repo.yaml comes after 8,600 recipes, so one of them is enough
    wanted = str(Path(member).parent) if is_far else member

    def read(stream: Any) -> str:
        text = _member(stream, wanted, origin.source)
        return "recipes" if is_far and text is not None else check(text)

    return look_at(ctx.source_of(origin), read)


class _Bounded(tarfile.TarInfo):
    """A member of a tarball whose checksum is not verified yet: tarfile reads a header of any length into memory."""

    def _proc_member(self, archive: Any) -> Any:
        if not self.isreg() and self.size > MAX_HEADER:
            raise tarfile.ReadError(f"the header of a member is longer than {MAX_HEADER} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _member(stream: Any, member: str, name: str) -> str | None:
    """The text of a file, or of the first one below a directory, with or without another one above; None without it."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Bounded) as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
                path = f"{entry.name.removeprefix('./')}/"
                if entry.isreg() and (path.startswith(f"{member}/") or path.partition("/")[2].startswith(f"{member}/")):
                    content = tar.extractfile(entry)
                    return content.read(1 << 20).decode(errors="replace") if content else None
    except DAMAGE as error:
        what, why = f"{name} is not a complete tarball", str(error) or type(error).__name__
        raise PackageError(what, why=why, remedy=REMEDY, code="package-archive") from error
    return None


def _mirror(ctx: Context, name: str, mirror: Mirror) -> str:
    """Whether a mirror answers. A build cache that cannot be used costs time only, except if its bucket is missing."""
    path = local_path(mirror.url)
    if path is not None and mirror.sources:
        if not path.is_dir() and not mirror.push and not ctx.is_mounted_later(mirror.url):
            raise FetchError(f"{path} is not a directory", remedy=f"ls -ld {quoted(path)}", code="fetch-missing")
        _require_on_queue(ctx, path)
    if mirror.binaries:
        layout = FAMILIES[ctx.config.spack.family].cache_layout
        problem = MirrorReader(name, mirror, layout, ctx.facts.cluster.region, ctx.paths.scratch).problem()
        if problem and NO_BUCKET in problem.why:
            raise problem
        if problem:
            return str(problem)
    if mirror.sources and path is None:
        try:
            look_at(ctx.source_of(Origin(mirror.uri("_source-cache/archive"))))
        except FetchError as error:
            is_web = mirror.url.startswith("https:") and error.code == "fetch-refused"  # it may list no directories
            if not (is_web or error.may_be_missing) or NO_BUCKET in error.why:
                raise
    return "has packages" if mirror.binaries and not mirror.push else "answers"


def _queue(ctx: Context, queue: str) -> str:
    """Whether nodes of the queue can build."""
    if find_slurm(ctx.system) is not None:
        of_slurm = partitions(ctx.system)
        check_queue(ctx.config, tuple(Queue(name, ()) for name in of_slurm))
        if of_slurm and of_slurm[queue].state != "up":
            return f"the queue is {of_slurm[queue].state} now: the build waits for install.wait seconds"
    cpus, machine = cpus_of(ctx.facts.cluster.queues, queue), ctx.facts.host.machine
    foreign = [cpu for cpu in cpus if machine_of(cpu) != machine]
    if foreign:
        raise ConfigError(
            f"the nodes of queue {queue} cannot build for this cluster",
            why=f"they are {machine_of(foreign[0])} ({foreign[0]}), this head node is {machine}",
            remedy="name another install.queue, or write install: {where: head}",
            code="job-queue",
        )
    return f"nodes of queue {queue} have {' and '.join(cpus)}" if cpus else ""


def _require_on_queue(ctx: Context, path: Path) -> None:
    """Refuses a directory that a build job reads, if only the head node has it."""
    if ctx.build_queue is None or ctx.config.spack_in_image:
        return
    real = path.resolve()
    mount = max(
        (mount for mount in ctx.facts.mounts if Path(mount.point) in (real, *real.parents)),
        key=lambda mount: len(mount.point),
        default=None,
    )
    shared = {ctx.paths.mount, *OF_HEAD, *(directory.mount for directory in ctx.facts.cluster.shared)}
    if (mount and mount.kind in NETWORK_KINDS) or shared & {
        str(parent) for parent in (path, *path.parents, *real.parents)
    }:
        return
    raise ConfigError(
        f"{path} is on a disk of this head node, and the nodes of queue {ctx.build_queue} read it too",
        why=f"it is on {mount.source} at {mount.point}" if mount else "no shared directory of the cluster contains it",
        remedy=f"put it below {ctx.paths.mount}, or use a tarball with its sha256",
        code="job-queue",
    )
