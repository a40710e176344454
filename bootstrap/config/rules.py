"""The rules of petal.yaml for several keys of one section.

A rule reads its keys through a function. It is left out if one of them has a mistake itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..cluster import targets
from . import model, values

NO_S3_SOURCES = "Spack needs boto3 for sources in s3://, which nodes lack: use https://BUCKET.s3... or a directory"
NO_CHECKSUM = "is required for a download: sha256sum FILE"


Get = Callable[..., Any]  # the value of a key of the section, or a default


class _Wrong(Exception):
    """A rule reads a key with a mistake."""


class Rule(NamedTuple):
    """``broken`` is true if a section breaks the rule; without ``message``, it returns the message for ``key``."""

    key: str
    broken: Callable[[Get], Any]
    message: str = ""


def broken(rules: Sequence[Rule], data: Mapping[str, Any], wrong: set[str]) -> dict[str, list[str]]:
    """The messages for each key.

    Args:
        data: the valid values of a section.
        wrong: its keys that have mistakes.
    """

    def get(key: str, default: Any = None) -> Any:
        if key in wrong:
            raise _Wrong
        return data.get(key, default)

    found: dict[str, list[str]] = {}
    for rule in rules:
        with suppress(_Wrong):
            if result := rule.broken(get):
                found.setdefault(rule.key, []).append(rule.message or str(result))
    return found


def _lacks_checksum(source: str | None, checksum: str | None) -> bool:
    return values.is_remote(source or "/") and not checksum


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _type_problem(get: Get) -> str | None:
    mount_type = model.StorageConfig(source=get("source")).mount_type
    is_other = get("source") and get("type", mount_type) != mount_type
    return f"must be {mount_type}, the type of this source" if is_other else None


def _targets_problem(get: Get) -> str | None:
    names = get("target", ())
    if "auto" in names and len(names) > 1:
        return "auto cannot be combined with other targets"
    if _repeated(names):
        return "lists a target twice"
    is_mixed = len({targets.machine_of(name) for name in names}) > 1
    return "must list targets of one architecture, that of the head node" if is_mixed else None


def _recipes_problem(get: Get) -> str | None:
    # Two repositories of one name would hide each other's recipes, and this Spack cannot read the new format.
    version = get("version", model.SpackConfig.version)
    is_unused = model.SpackConfig(version).includes_recipes and get("recipes")
    return f"must be removed: Spack {version} includes its recipes" if is_unused else None


def _defaults_problem(get: Get) -> str | None:
    repeated = _repeated([entry.partition("/")[0] for entry in get("defaults", ())])
    return f"lists {repeated} twice, and a shell can load one version" if repeated else None


def _mount_problem(get: Get) -> str | None:
    mounts = [entry["mount_dir"] for entry in get("shared_storage", ()) if "mount_dir" in entry]
    is_open = len(mounts) > 1 and get("storage") is None
    return f"is required: which of {', '.join(mounts)} holds the software?" if is_open else None


def _packages_problem(get: Get) -> str | None:
    valid = [package for package in get("packages", ()) if isinstance(package, model.PackageConfig)]
    repeated = _repeated([f"{package.name}/{package.version}" for package in valid])
    return f"lists {repeated} twice" if repeated else None


def _stack_problem(get: Get) -> str | None:
    stack = get("stack", "none")
    return values.uri_problem(stack) if "/" in stack else values.environment_problem(stack)


def _lacks_stack_checksum(get: Get) -> bool:
    is_uri = "/" in get("stack", "") and not _stack_problem(get)
    return is_uri and _lacks_checksum(get("stack"), get("stack_sha256"))


def _has_stack(get: Get) -> bool:
    is_seed = get("software", model.SeedSoftware()).spack_packages
    return bool(get("stack", "none") != "none" or get("spack", model.SpackConfig()).specs or is_seed)


def _sources_problem(get: Get) -> str | None:
    spack = get("spack", model.SpackConfig())
    if not _has_stack(get):
        return None
    missing = [] if spack.origin else ["spack.source"]
    if not spack.recipes and not spack.includes_recipes:
        missing.append("spack.recipes")
    hint = ""
    if get("software", model.SeedSoftware()).spack_packages:
        hint = (
            ". A seed does not contain them: add a section spack: {source: URI, sha256: HEX, "
            "recipes: {source: URI, sha256: HEX}}, or write a petal.yaml with them that names the seed as stack"
        )
    return f"a stack requires {' and '.join(missing)}{hint}" if missing else None


def _is_s3(get: Get) -> bool:
    return str(get("url", "")).startswith("s3://")


ORIGIN = (Rule("sha256", lambda get: _lacks_checksum(get("source"), get("sha256")), NO_CHECKSUM),)
STORAGE = (
    Rule(
        "source",
        lambda get: get("source") is None and (get("type") or get("options")),
        "is required with type or options, which describe how petal-node mounts it",
    ),
    Rule("type", _type_problem),
)
MIRROR = (
    Rule("sources", lambda get: _is_s3(get) and get("sources"), NO_S3_SOURCES),
    Rule(
        "url",
        lambda get: _is_s3(get) and not get("binaries", True),
        f"{NO_S3_SOURCES}. For built packages write {{url: ..., keys: [...]}}",
    ),
    Rule(
        "binaries",
        lambda get: get("sources") is False and not get("binaries", True),
        "must be true if sources is false",
    ),
    Rule("push", lambda get: get("push") and not get("binaries", True), "requires binaries: true"),
    Rule(
        "keys",
        lambda get: get("binaries", True) and get("signed", True) and not get("keys"),
        "is required, except with signed: false",
    ),
    Rule(
        "signed",
        lambda get: not get("signed", True) and (get("keys") or get("signing_key")),
        "contradicts keys and signing_key, which would be unused",
    ),
    Rule(
        "push",
        lambda get: get("push") and get("url", "").startswith("https://"),
        "requires s3:// or a directory: https:// is read-only",
    ),
    Rule(
        "signing_key",
        lambda get: get("push") and get("binaries", True) and get("signed", True) and not get("signing_key"),
        "is required to push signed packages",
    ),
)
SPACK = (*ORIGIN, Rule("target", _targets_problem), Rule("recipes", _recipes_problem))
PACKAGE = (
    Rule(
        "_schema",  # marshmallow's name for the section itself
        lambda get: bool(get("source")) == bool(get("prefix")),
        "needs either source (a tarball) or prefix (an existing directory)",
    ),
    Rule("sha256", lambda get: get("source") and not get("sha256"), "is required for a tarball: sha256sum FILE"),
)
MODULES = (Rule("defaults", _defaults_problem),)
INSTALL = (
    Rule(
        "queue",
        lambda get: get("where") == "slurm" and not get("queue"),
        "is required with where: slurm: the Slurm queue whose nodes build",
    ),
)
CONFIG = (
    Rule("storage.mount", _mount_problem),
    Rule("packages", _packages_problem),
    Rule("stack", _stack_problem),
    Rule("stack_sha256", _lacks_stack_checksum, NO_CHECKSUM),
    Rule(
        "modules.lmod",
        lambda get: get("modules", model.ModulesConfig()).lmod == "stack" and not _has_stack(get),
        "stack requires a Spack stack to build Lmod with",
    ),
    Rule("spack", _sources_problem),
)
