"""Finds the configuration of a run: in the desired state on shared storage, in ``--config``, or in the last hook's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..config.load import from_mapping, parse
from ..config.model import Config
from ..config.values import uri_problem
from ..core.deadlines import DOCUMENT, LOOK, PROBE
from ..core.errors import ConfigError, PetalError, ReleaseError, StateError, StorageError, from_error
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
from ..state.store import ClusterState, KnownStorage, is_own_storage, read_as


def find_desired_state(
    root: Path, facts: Facts, system: System, problems: dict[str, PetalError]
) -> DesiredState | None:
    """The desired state, from the first storage that has one.

    Only storage that the cluster or its configuration declares, or that this node has used, is read: any user can mount
    a file system that looks like another type and shows root as the owner.

    Args:
        problems: receives the error of each directory that could not be read, by its mount point.
    """
    known, kept = KnownStorage.load(Paths(root)), kept_request(Paths(root)).config
    mounts = [*(shared.mount for shared in facts.cluster.shared), "/shared", *([known.mount] if known else [])]
    with suppress(ConfigError):  # ``read_config`` reports it, if it counts
        mounts += [from_mapping(kept, "request.json").storage.mount] if kept else []
    for point in dict.fromkeys(mounts):
        paths = Paths(root, point)
        mount = facts.mount_of(point)
        if paths.live and (mount is None or mount.user):
            continue
        try:
            desired = system.on_storage(partial(desired_state_on, paths, facts), point, PROBE)
        except (PetalError, OSError) as error:
            LOG.warning("%s: %s", point, error)
            problems[point] = from_error(error, paths.shared_mount)
            continue
        if desired is not None and mount_in(desired) == point:  # else of another cluster, or moved
            return desired
    return None


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
    """On the head node: the copy of desired.json in the current release, if desired.json is missing or damaged.

    The arguments of the last hook may be older than that release. The running petal-node becomes the desired one.

    Args:
        problems: as ``find_desired_state`` found them: storage that did not answer is not read again.

    Returns:
        None if desired.json is not lost, if the storage that this node has used cannot be read, and if no release of
        this cluster is current.

    Raises:
        ReleaseError: ``release-incomplete``, the current release has no copy.
    """
    known = KnownStorage.load(Paths(root))
    if known is None or isinstance(problems.get(known.mount), StorageError):
        return None
    paths = Paths(root, known.mount)
    if paths.live and facts.mount_of(known.mount) is None:
        return None
    try:
        copy = services.system.on_storage(partial(_copy_of_lost, paths, facts.host.name), paths.shared_mount, PROBE)
    except ReleaseError:
        raise
    except (PetalError, OSError) as error:  # ``find_desired_state`` reports it
        LOG.warning("%s: %s", known.mount, error)
        return None
    return copy and replace(copy, version=services.tool.version, sha256=services.tool.sha256)


def _copy_of_lost(paths: Paths, host: str) -> DesiredState | None:
    shared = ClusterState(paths)
    if not is_own_storage(paths, host):
        return None
    try:
        if shared.desired_state() is not None:
            return None
    except StateError as error:
        if error.code != "state-corrupt":
            raise
    release = current_in(paths.shared_root)
    if release is None or shared.is_taken_over():
        return None
    path = paths.shared_root / "releases" / release / "desired.json"
    problem: object = path_problem(path, paths.shared_mount)
    copy = None
    try:
        copy = None if problem else read_as(path, DesiredState)
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
    command = "on the head node: petal-node bootstrap --config FILE"
    if options.command == "lockfile":  # on any machine
        command = "petal-node lockfile --config FILE"
    raise ConfigError(
        "this node has no configuration",
        why=f"--config was not given, and {why}",
        remedy=(
            command,
            *(line for error in problems for line in error.remedy),
        ),
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
        raise ConfigError(f"{uri} is larger than {SMALL} bytes", remedy=remedy, code="config-missing")
    return data
