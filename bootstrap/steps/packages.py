"""Binary packages: tarballs, unpacked in the store with the directory names of Spack, and prefixes of the image."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..config.model import PackageConfig
from ..core.errors import DISK_ERRORS, FetchError, PackageError, from_os_error
from ..core.model import Finding, blocked, change, elsewhere, satisfied
from ..core.text import human
from ..host import inventory
from ..host.atomic import private_dir, staged_dir, write_json
from ..host.files import make_dir, read_json
from ..remote.fetch import Source, download
from ..remote.look import look_at
from ..remote.tarball import unpack
from ..state.context import Context
from ..state.release import RECEIPT, package_prefix
from .base import ON_NODES, ClusterStep, Question, Run
from .root import WAY_TO_STORAGE, Root

FILES = ".petal/files.json"


class Packages(ClusterStep):
    """Every package of the configuration is at its prefix."""

    name = "packages"
    needs = (Root,)
    part_of = ON_NODES | {Run.AMI_IMAGE}
    in_image = True
    after = WAY_TO_STORAGE
    seconds = 30

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.packages:
            return elsewhere("the configuration has no packages")
        absent = [package for package in ctx.config.packages if package.prefix and not _prefix(ctx, package).is_dir()]
        if absent:
            names = ", ".join(f"{package.name} at {_prefix(ctx, package)}" for package in absent)
            return blocked(f"the machine image does not contain {names}", *map(_to_install, absent))
        missing = [package for package in ctx.config.packages if not _is_whole(ctx, package)]
        if missing:
            lines = (f"unpack {package.name} {package.version} into {_prefix(ctx, package)}" for package in missing)
            return change(f"missing packages: {len(missing)} of {len(ctx.config.packages)}", *lines)
        return satisfied(f"installed packages: {len(ctx.config.packages)}, all of the configuration")

    def inputs(self, ctx: Context) -> Mapping[str, Question]:
        """Missing prefixes, and tarballs to unpack, except on shared storage that a run mounts first."""
        asked: dict[str, Question] = {}
        for number, package in enumerate(ctx.config.packages):
            if package.origin and not _is_whole(ctx, package) and not ctx.is_mounted_later(package.origin.source):
                asked[f"packages[{number}].source"] = partial(look_at, ctx.source_of(package.origin))
            elif package.prefix and not _prefix(ctx, package).is_dir():
                asked[f"packages[{number}].prefix"] = partial(_absent, package, _prefix(ctx, package))
        return asked

    def apply(self, ctx: Context) -> None:
        for package in ctx.config.packages:
            if not _is_whole(ctx, package):
                install(ctx, package)


def _absent(package: PackageConfig, prefix: Path) -> str:
    raise FetchError(f"{prefix} does not exist on this machine", remedy=_to_install(package), code="fetch-missing")


def _to_install(package: PackageConfig) -> str:
    return f"install {package.name} at {package.prefix} in the image, or remove it from packages"


def _prefix(ctx: Context, package: PackageConfig) -> Path:
    return package_prefix(package, ctx.paths, ctx.facts.host)


def _is_whole(ctx: Context, package: PackageConfig) -> bool:
    """True if the package is complete: its receipt exists before its prefix gets its final name by one rename."""
    prefix = _prefix(ctx, package)
    if package.origin is None:
        return prefix.is_dir()
    receipt = read_json(prefix / RECEIPT)
    return receipt is not None and receipt.get("sha256") == package.origin.sha256


@contextmanager
def _naming(package: PackageConfig) -> Iterator[None]:
    """Within it, a FetchError names the package."""
    try:
        yield
    except FetchError as error:
        what = f"{package.name} {package.version}: {error.what}"
        raise FetchError(what, why=error.why, remedy=error.remedy, code=error.code) from error


def install(ctx: Context, package: PackageConfig) -> None:
    """Unpacks a tarball and replaces its prefix when the new one is complete.

    Raises:
        FetchError, PackageError: it cannot be downloaded or unpacked; the existing prefix is unchanged.
        LockLost: another process may be installing the same package.
    """
    assert package.origin is not None
    ctx.note(f"package {package.name} {package.version}")
    prefix = _prefix(ctx, package)
    region, seconds = ctx.facts.cluster.region, ctx.config.install.fetch_timeout
    source = Source(package.origin.source, package.origin.sha256, region, seconds)
    try:
        with private_dir(ctx.paths.scratch / str(package.origin.sha256)) as scratch:
            archive = scratch / f"{package.name}-{package.version}.tar"
            with _naming(package):
                download(source, archive, kept=ctx.paths.scratch / f"{source.sha256}.part")
            with staged_dir(prefix, confirm=ctx.confirm, flush=ctx.system.flush) as part:
                unpack(archive, part, package.origin.source)
                make_dir(part / ".petal")
                receipt = {"name": package.name, "version": package.version, "sha256": package.origin.sha256}
                write_json(part / FILES, inventory.take(part, prefix))
                write_json(part / RECEIPT, {**receipt, "source": package.origin.source})
    except OSError as error:
        known = from_os_error(error, ctx.paths.shared_mount)
        code = known.code if error.errno in DISK_ERRORS else ""
        what = f"{package.name} {package.version} cannot be installed"
        free = human(shutil.disk_usage(ctx.paths.root).free)
        why = f"{known.why}; without it {free} are free" if code == "file-no-space" else known.why
        raise PackageError(what, why=why, remedy=known.remedy, code=code) from error
