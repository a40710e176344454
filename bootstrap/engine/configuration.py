"""Finds the configuration of a run: in the desired state on shared storage, in ``--config``, or in the last hook's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..config.load import from_mapping, parse
from ..config.model import Config
from ..config.values import uri_problem
from ..core.deadlines import DOCUMENT, LOOK, PROBE
from ..core.errors import ConfigError, FetchError, PetalError, ReleaseError, StateError, StorageError, from_error
from ..core.facts import Facts
from ..core.options import Options
from ..core.paths import Paths
from ..core.text import quoted
from ..host.atomic import scratch_dir
from ..host.files import path_problem
from ..host.log import LOG
from ..host.system import System
from ..remote.fetch import SMALL, Source, local_path, read, verify
from ..state.context import Services
from ..state.desired import DesiredState, is_foreign
from ..state.release import current_in
from ..state.request import kept_request
from ..state.store import LOST, ClusterState, KnownStorage, is_own_storage, read_as, untrusted_remedy


def find_desired_state(
    root: Path, facts: Facts, system: System, problems: dict[str, PetalError]
) -> DesiredState | None:
    """The desired state, from the first storage that has one.

    Only storage that the cluster or its configuration declares, or that this node has used, is read: any user can mount
    a file system that looks like another type and shows root as the owner.

    Args:
        problems: receives the error of each directory that could not be read, by its mount point.
    """
    for point in _mounts(root, facts):
        paths = Paths(root, point)
        try:
            desired = system.on_storage(partial(desired_state_on, paths, facts), point, PROBE)
        except (PetalError, OSError) as error:
            LOG.warning("%s: %s", point, error)
            problems[point] = from_error(error, paths.shared_mount)
            continue
        if desired is not None and mount_in(desired) == point:  # else of another cluster, or moved
            return desired
    return None


def _mounts(root: Path, facts: Facts) -> Iterator[str]:
    """The mount points that may have the desired state, if root has mounted something there."""
    known, kept = KnownStorage.load(Paths(root)), kept_request(Paths(root)).config
    points = [*(shared.mount for shared in facts.cluster.shared), "/shared", *([known.mount] if known else [])]
    with suppress(ConfigError):  # ``read_config`` reports it, if it counts
        points += [from_mapping(kept, "request.json").storage.mount] if kept else []
    for point in dict.fromkeys(points):
        mount = facts.mount_of(point)
        if not Paths(root, point).live or (mount is not None and not mount.user):
            yield point


def desired_state_on(paths: Paths, facts: Facts) -> DesiredState | None:
    """The desired state on one mount, None if this is not the file system that this node has used.

    Raises:
        StorageError: ``storage-other-cluster``.
        StateError: desired.json cannot be read.
    """
    shared, known = ClusterState(paths), KnownStorage.load(paths)
    token = shared.token()
    if known is not None and not known.knows(paths.mount, token):
        return None
    if token is not None and is_foreign(token.owner, facts.cluster):
        raise StorageError(
            f"{paths.shared_mount} belongs to cluster {token.owner}, so its desired state is not used",
            remedy="on the head node: petal-node bootstrap --config FILE",
            code="storage-other-cluster",
        )
    return shared.desired_state()


def restore_desired_state(
    root: Path, facts: Facts, services: Services, problems: Mapping[str, PetalError]
) -> DesiredState | None:
    """On the head node: desired.json or its copy in the current release, if a record is lost, damaged or not trusted.

    The arguments of the last hook may be older than that release. The running petal-node becomes the desired one.

    Args:
        problems: as ``find_desired_state`` found them: storage that did not answer is not read again.

    Returns:
        None if no record is lost, if the storage that this node has used cannot be read, and if no release of this
        cluster is current. A node that remembers no storage looks at all that its cluster declares.

    Raises:
        ReleaseError: ``release-incomplete``, the current release has no copy; ``untrusted``, others could change it.
    """
    known = KnownStorage.load(Paths(root))
    for point in _mounts(root, facts):
        if isinstance(problems.get(point), StorageError) or (known is not None and known.mount != point):
            continue
        paths = Paths(root, point)
        try:
            copy = services.system.on_storage(partial(_copy_of_lost, paths, facts), paths.shared_mount, PROBE)
        except ReleaseError:
            raise
        except (PetalError, OSError) as error:  # ``find_desired_state`` reports it
            LOG.warning("%s: %s", point, error)
            continue
        if copy is not None:
            return replace(copy, version=services.tool.version, sha256=services.tool.sha256)
    return None


def _copy_of_lost(paths: Paths, facts: Facts) -> DesiredState | None:
    shared = ClusterState(paths)
    if not _is_of_this_head(paths, facts):
        return None
    try:
        desired = shared.desired_state()
        if desired is not None:  # the token is not trusted, or names another mount
            return desired if mount_in(desired) == paths.mount else None
    except StateError as error:
        if error.code not in LOST:
            raise
    release = current_in(paths.shared_root)
    if release is None or shared.is_taken_over():
        return None
    path = paths.shared_root / "releases" / release / "desired.json"
    insecure = path_problem(path, paths.shared_mount)
    if insecure is not None:
        what = f"neither {paths.state}/desired.json nor its copy in release {release}, the current one, is read"
        remedy = (*untrusted_remedy(paths, insecure), "petal-node repair")
        raise ReleaseError(what, why=str(insecure), remedy=remedy, code="untrusted")
    problem: object = None
    copy = None
    try:
        copy = read_as(path, DesiredState)
    except (StateError, OSError) as error:
        problem = error
    if copy is None or copy.release != release:
        raise ReleaseError(
            f"{paths.state}/desired.json is missing or damaged, and release {release}, the current one, has no copy",
            why=str(problem or f"{path} is missing"),
            remedy="petal-node bootstrap --config FILE    # with the configuration that made it",
            code="release-incomplete",
        )
    return copy


def _is_of_this_head(paths: Paths, facts: Facts) -> bool:
    """True for the storage that this head node has used; without a memory of one, for any of no other cluster."""
    if KnownStorage.load(paths) is not None:
        return is_own_storage(paths, facts.host.name)
    token = ClusterState(paths, trusting=True).token()
    return token is None or not is_foreign(token.owner, facts.cluster)


def mount_in(desired: DesiredState | None) -> str:
    """The mount point of shared storage that a desired state names."""
    return str(desired.config.get("storage", {}).get("mount", "/shared")) if desired else "/shared"


def read_config(
    options: Options,
    facts: Facts,
    desired: DesiredState | None,
    system: System,
    problems: Sequence[PetalError],
    *,
    follow: bool = False,
) -> Config:
    """The configuration that counts for this run.

    Args:
        desired: the desired state, which counts before the arguments of a hook.
        problems: the reasons why the desired state could not be read.
        follow: do not fetch the URI of the last hook again.

    Raises:
        ConfigError: ``config-missing``, or the configuration is wrong.
        FetchError: it cannot be fetched.
    """
    region = facts.cluster.region
    if desired is not None and (options.config is None or options.event):
        return from_mapping(desired.config, "desired.json")
    if options.config is not None:
        seconds = LOOK if options.command == "plan" else DOCUMENT
        data = _content(options.config, options.config_sha256, options.root, region, system, seconds)
        return parse(data, options.config)
    kept = kept_request(options.paths)
    if kept.config is not None:
        return from_mapping(kept.config, str(kept.uri))
    if kept.uri is not None and not follow:
        return parse(_content(kept.uri, kept.config_sha256, options.root, region, system), kept.uri)
    why = "; ".join(map(str, problems)) or "shared storage has no desired state yet"
    lines = [line for error in problems for line in error.remedy]
    if options.command == "lockfile":  # on any machine
        lines.insert(0, "petal-node lockfile --config FILE")
    elif any(error.code == "untrusted" for error in problems):
        lines.append("on the head node: petal-node repair")  # which cannot change an owner
    else:
        lines.insert(0, "on the head node: petal-node bootstrap --config FILE")
    raise ConfigError(
        "this node has no configuration",
        why=f"--config was not given, and {why}",
        remedy=dict.fromkeys(lines),
        code="config-missing",
    )


def check_config_uri(uri: str) -> None:
    """Refuses a URI or path that cannot hold a configuration, before anything is started, written or fetched.

    Raises:
        ConfigError: ``config-missing``.
    """
    problem = uri_problem(uri if ":/" in uri else f"/{uri}")
    if problem:
        what = f"{uri} cannot be used as --config"
        raise ConfigError(what, why=f"it {problem}", remedy="correct --config", code="config-missing")


def _content(
    uri: str, sha256: str | None, root: Path, region: str | None, system: System, seconds: float = DOCUMENT
) -> bytes:
    check_config_uri(uri)
    path = local_path(uri) if ":/" in uri else Path(uri)
    if path is None:
        scratch = scratch_dir(Paths(root).scratch)
        return read(Source(uri, sha256, region, seconds), scratch)
    data = system.on_storage(partial(_local_content, uri, path), path, PROBE)  # the file may be on a mount
    if sha256 is not None:
        verify(uri, sha256, hashlib.sha256(data).hexdigest())
    return data


def _local_content(uri: str, path: Path) -> bytes:
    remedy = f"ls -ld {quoted(path)}"
    if path.is_relative_to("/dev/fd"):
        what, remedy = f"{uri} is not a file", "write the configuration into a file, and name it"
        raise ConfigError(what, why="a process substitution ends with its shell", remedy=remedy, code="config-missing")
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{uri} is not a file", remedy=remedy, code="config-missing")
        with path.open("rb") as stream:
            data = stream.read(SMALL + 1)
    except OSError as error:
        what = f"{uri} cannot be read"
        raise ConfigError(
            what, why=error.strerror or "", remedy=f"ls -l {quoted(path)}", code="config-missing"
        ) from error
    if len(data) > SMALL:
        raise FetchError(f"{uri} is larger than {SMALL} bytes", remedy=remedy, code="fetch-too-large")
    return data
