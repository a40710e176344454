"""From a command line to a ``Context``: which node is this, which configuration counts, what should be there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..cluster import detect as facts
from ..cluster.targets import BuildTargets
from ..config.load import from_mapping, parse
from ..config.model import Config
from ..config.values import uri_problem
from ..core.deadlines import DOCUMENT, PROBE
from ..core.errors import ConfigError, PetalError, SpackError, StorageError, UsageError, as_error
from ..core.facts import NETWORK_KINDS, Facts, Mount
from ..core.model import Role
from ..core.paths import Paths
from ..host.files import make_dir
from ..host.log import LOG
from ..host.system import System
from ..lmod.bundle import SPEC, names_lmod
from ..lmod.find import image_lmod
from ..modules import templates
from ..remote.fetch import SMALL, Source, local_path, read, verify
from ..spack import environments
from ..spack.compiler import Compiler, find_compiler
from ..spack.externals import find_externals, unconfigured
from ..spack.scope import scope_digest_inputs
from ..state.context import Context
from ..state.desired import Wanted
from ..state.owner import is_foreign
from ..state.release import build_targets_of, check_queue, release_id
from ..state.request import BOOT, Request, kept_of, kept_role
from ..state.store import Shared
from .handover import hand_over


def prepare(request: Request, system: System, note: Callable[[str], None], *, may_hand_over: bool = False) -> Context:
    """Everything that a run needs to know, before it does anything.

    On compute and login nodes wanted.json counts before ``--config``: their Args cannot be changed by an update. On
    the head node a petal-node that is run by hand or by its hook is the wanted one from then on; after a boot it obeys.

    Args:
        may_hand_over: another version goes on in this process's place where the cluster wants one.

    Raises:
        FactsError, ConfigError, FetchError, StateError: it cannot be known.
    """
    if request.image is not None:
        return _of_image(request, system, note)
    known = facts.gather(Paths(request.prefix), system, request.role or kept_role(request))
    role = facts.role_of(known)
    troubles: list[PetalError] = []
    decides = _decides_itself(request, role)
    wanted = None if decides else find_wanted(request.prefix, known, system, troubles)
    if may_hand_over and (role is not Role.HEAD or request.event == BOOT):
        hand_over(wanted, request.tool, Paths(request.prefix, _mount_of(wanted)), system)
    config = _config(request, known, wanted, system, troubles)
    paths = Paths(request.prefix, config.storage.mount)
    ctx = Context(
        paths, system, known, role, config, request.tool, request.run_id, event=request.event, note=note,
        accept_storage=request.accept_storage, may_destroy=request.may_destroy, every_byte=request.every_byte,
        release=wanted.release if wanted else None, environment=wanted.environment if wanted else {},
        decides=decides, build_targets=BuildTargets(wanted.targets, wanted.cuda) if wanted and wanted.targets else None,
        takes_up=decides and role is Role.HEAD and (request.event == BOOT or not request.config),
    )  # fmt: skip
    return _decided(ctx, wanted) if role is Role.HEAD and (request.decides or wanted is None) else ctx


def _of_image(request: Request, system: System, note: Callable[[str], None]) -> Context:
    """A machine that becomes an image does what a head node does, and no cluster is around it.

    Raises:
        UsageError: it is a node of a cluster.
    """
    paths = Paths(request.prefix)
    role = facts.read_cluster(paths).role if paths.live else None
    if role is not None:
        what = f"--layout builds a machine image, and this is the {role.value} node of a cluster"
        raise UsageError(what, remedy=f"write it into the configuration: layout: {request.image}")
    known = facts.gather(paths, system, Role.HEAD)
    config = replace(_config(request, known, None, system, []), layout=str(request.image))
    ctx = Context(
        replace(paths, mount=config.storage.mount), system, known, Role.HEAD, config, request.tool, request.run_id,
        note=note, decides=True, bakes=True,
    )  # fmt: skip
    return _decided(ctx, None)


def for_lockfile(request: Request, system: System, note: Callable[[str], None]) -> Context:
    """What an install on the head node would know, on any machine of its kind.

    Neither a role nor shared storage has to be there; what the cluster wants is asked for only without ``--config``.
    Spack is put on this machine's own disk, as for an image.

    Raises:
        FactsError, ConfigError, FetchError, StateError: it cannot be known.
    """
    known = facts.gather(Paths(request.prefix), system, Role.HEAD)
    troubles: list[PetalError] = []
    wanted = None if request.config else find_wanted(request.prefix, known, system, troubles)
    config = _config(request, known, wanted, system, troubles)
    asked, local = Paths(request.prefix, config.storage.mount), config.layout if config.carries_spack else "hybrid"
    ctx = Context(
        asked, system, known, Role.HEAD, replace(config, layout=local), request.tool, request.run_id, note=note
    )
    return _decided(ctx, None)


def without_config(request: Request, system: System, note: Callable[[str], None]) -> Context:
    """For the steps that need no configuration, where none can be had: this petal-node itself, and what repeats it.

    Raises:
        FactsError: not even the role of this node is known.
    """
    paths = Paths(request.prefix)
    known = facts.gather(paths, system, request.role or kept_role(request))
    return Context(paths, system, known, facts.role_of(known), Config(), request.tool, request.run_id, note=note)


def _decides_itself(request: Request, role: Role) -> bool:
    """True where this run says what the cluster shall have, and not wanted.json.

    On the head node that is what is typed, an update's hook, and the first OnNodeConfigured of its life: when that is
    run again, its Args are old and what was wanted since counts. What a hook decided and never came to write, because
    it was killed or shared storage was late, is decided by the run that follows it.
    """
    if role is not Role.HEAD:
        return False
    kept = kept_of(Paths(request.prefix))
    if request.event == BOOT or not request.config:
        return request.decides and bool(kept.get("pending"))
    return request.event != "configured" or not kept.get("configured")


def find_wanted(prefix: Path, known: Facts, system: System, troubles: list[PetalError]) -> Wanted | None:
    """wanted.json on any of the cluster's shared directories; None where none can be read in time.

    Args:
        troubles: gets an error for each place that could not be read.
    """
    network = [mount.point for mount in known.mounts if mount.kind in NETWORK_KINDS and not _is_the_clusters(mount)]
    mounts = dict.fromkeys([*(shared.mount for shared in known.cluster.shared), "/shared", *network])
    for mount in mounts:
        paths = Paths(prefix, mount)
        if paths.live and known.mount_of(mount) is None:
            continue
        try:
            found = system.on_storage(partial(_wanted_on, paths, known), mount, PROBE)
        except (PetalError, OSError) as error:
            LOG.warning("%s: %s", mount, error)
            troubles.append(as_error(error, paths.shared_mount))
            continue
        if found is not None and _mount_of(found) == mount:  # else it is another cluster's, or of before a move
            return found
    return None


def _wanted_on(paths: Paths, known: Facts) -> Wanted | None:
    """What stands on a mount; nothing where it is another file system than the one that this node has used.

    Raises:
        StorageError: ``storage-other-cluster``, another cluster wanted it.
    """
    shared = Shared(paths)
    if not shared.is_from_before():
        return None
    token = shared.token()
    if token is not None and is_foreign(token.owner, known.cluster):
        what = f"{paths.shared_mount} serves cluster {token.owner}, and what that one wanted does not count here"
        remedy = "on the head node: petal-node bootstrap --config FILE"
        raise StorageError(what, remedy=remedy, code="storage-other-cluster")
    return shared.wanted()


def _config(
    request: Request, known: Facts, wanted: Wanted | None, system: System, troubles: list[PetalError]
) -> Config:
    if wanted is not None and (request.config is None or request.event):
        return from_mapping(wanted.config, "wanted.json")
    if request.config is not None:
        data = _content(request.config, request.config_sha256, request.prefix, known.cluster.region, system)
        return parse(data, request.config)
    kept = kept_of(Paths(request.prefix))
    if "config" in kept:
        return from_mapping(kept["config"], str(kept.get("uri")))
    if "uri" in kept and request.decides:
        data = _content(kept["uri"], kept.get("config_sha256"), request.prefix, known.cluster.region, system)
        return parse(data, kept["uri"])
    raise ConfigError(
        "no configuration is known here",
        why="no --config was given, and "
        + ("; ".join(map(str, troubles)) or "no wanted.json is on shared storage yet"),
        remedy=(
            "petal-node bootstrap --config FILE    (on the head node)",
            *(line for error in troubles for line in error.remedy),
        ),
        code="config-missing",
    )


def _is_the_clusters(mount: Mount) -> bool:
    """What ParallelCluster shares for itself is no place for software."""
    return mount.point == "/home" or mount.point.startswith(("/opt/", "/home/"))


def _mount_of(wanted: Wanted | None) -> str:
    return str(wanted.config.get("storage", {}).get("mount", "/shared")) if wanted else "/shared"


def check_place(uri: str) -> None:
    """Refuses what is no place for a configuration before anything is started, written or asked for.

    Raises:
        ConfigError: ``config-missing``.
    """
    problem = uri_problem(uri if ":/" in uri else f"/{uri}")
    if problem:
        what = f"{uri} is no place for a configuration"
        raise ConfigError(what, why=f"it {problem}", remedy="correct --config", code="config-missing")


def _content(uri: str, sha256: str | None, prefix: Path, region: str | None, system: System) -> bytes:
    check_place(uri)
    path = local_path(uri) if ":/" in uri else Path(uri)
    if path is None:
        scratch = Paths(prefix).scratch
        make_dir(scratch)
        return read(Source(uri, sha256, region, DOCUMENT), scratch)
    data = system.on_storage(partial(_local_content, uri, path), path, PROBE)  # perhaps on a mount
    if sha256 is not None:
        verify(uri, sha256, hashlib.sha256(data).hexdigest())
    return data


def _local_content(uri: str, path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{uri} is no file", remedy=f"ls -ld {path}", code="config-missing")
        with path.open("rb") as stream:
            data = stream.read(SMALL + 1)
    except OSError as error:
        raise ConfigError(
            f"{uri} cannot be read", why=str(error), remedy=f"ls -l {path}", code="config-missing"
        ) from error
    if len(data) > SMALL:
        raise ConfigError(f"{uri} is larger than {SMALL} bytes", remedy=f"ls -l {path}", code="config-missing")
    return data


def _decided(ctx: Context, wanted: Wanted | None) -> Context:
    """With the release that this configuration and this petal-node make; the stack is read where nobody did before."""
    environment = ctx.environment if wanted else _environment(ctx)
    builds = ctx.config.builds
    found = find_externals(ctx.paths, ctx.system) if builds else ()
    externals = unconfigured(found, environment, ctx.config.specs)
    system = scope_digest_inputs(_compiler(ctx), externals) if builds else {}
    known = facts.with_queues(ctx.facts, ctx.paths) if builds and ctx.config.bound else ctx.facts
    if ctx.decides and not ctx.bakes:
        check_queue(ctx.config, known.cluster.queues)
    build_targets = _build_targets(ctx.config, known, wanted)
    release = release_id(ctx.config, known.host, {**environment, "system": system}, templates.digest(), build_targets)
    return replace(
        ctx, facts=known, release=release, environment=environment, build_targets=build_targets, externals=externals
    )


def _build_targets(config: Config, known: Facts, wanted: Wanted | None) -> BuildTargets:
    """The CPU targets. Where cluster-config.yaml cannot be read for once, what was chosen before stays.

    What an image carries was built before there were queues: in that layout they have no say on the cluster either.
    """
    if config.builds and config.bound and not known.cluster.queues and wanted is not None and wanted.targets:
        return BuildTargets(wanted.targets, wanted.cuda)
    return build_targets_of(config, known.cluster.queues, known.host.machine)


def _compiler(ctx: Context) -> Compiler | None:
    """Without one the spack step says so; everything else goes on."""
    try:
        return find_compiler(ctx.system)
    except SpackError:
        return None


def _environment(ctx: Context) -> Mapping[str, object]:
    if not ctx.config.builds:
        return {}
    make_dir(ctx.paths.scratch)
    environment = environments.load(ctx.config, ctx.paths.scratch, ctx.facts.cluster.region)
    specs = environment.get("specs", ())
    if environments.LOCK in environment or names_lmod([*specs, *ctx.config.specs]) or not _is_to_carry_lmod(ctx):
        return environment
    return {**environment, "specs": [*specs, SPEC]}


def _is_to_carry_lmod(ctx: Context) -> bool:
    """True if the stack must build Lmod: the configuration says so, or the image of this machine has none.

    Once the cluster's release carries Lmod, later releases do too, because nodes may depend on it, whatever was
    installed on the head node since. An Lmod that does not report a version, on a busy machine, counts as usable.
    """
    if ctx.config.modules.lmod == "stack":
        return True
    lmod = image_lmod(ctx.system)
    return lmod is None or bool(lmod.numbers and lmod.problem) or _has_carried_lmod(ctx)


def _has_carried_lmod(ctx: Context) -> bool:
    where = ctx.paths.shared_mount
    if ctx.paths.live and ctx.facts.mount_of(ctx.paths.mount) is None:
        return False
    try:
        before = ctx.system.on_storage(partial(_wanted_on, ctx.paths, ctx.facts), where, PROBE)
    except (PetalError, OSError):
        return False
    return before is not None and SPEC in before.environment.get("specs", ())
