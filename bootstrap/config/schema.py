"""The rules of petal.yaml as marshmallow schemas (ParallelCluster checks its own file with the same library).

marshmallow finds all mistakes in one pass and gives each its path. What reaches Lua, shell or a file name is limited
here to characters that mean nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, post_load, validate, validates_schema

from ..cluster import targets
from ..core.errors import did_you_mean
from . import mirrors, mounts
from .fields import (
    SECTION,
    UNKNOWN,
    Anything,
    Items,
    ItemsOr,
    OneOrMore,
    Section,
    Switch,
    Table,
    Text,
    TextOrSection,
    Whole,
)
from .model import (
    BOOTSTRAP,
    LAYOUTS,
    SPACK_VERSIONS,
    Check,
    Config,
    Install,
    Mirror,
    Modules,
    Origin,
    Package,
    Program,
    Software,
    Spack,
    Storage,
)
from .rules import CLUSTER, MODULE, NAME, PATH, SHA256, SPEC, VARIABLE, command, one_line, tidy_path, uri

LMODS = ("auto", "stack")
SEED_ONLY = ("cluster", "compute", "users", "data")
SEED = (
    ", which a seed does not have: add them to it as a section spack: {source: URI, sha256: HEX, "
    "recipes: {source: URI, sha256: HEX}}, or name the seed as stack in a petal.yaml that has them"
)


class _Strict(Schema):
    """A section: unknown keys are mistakes, and named with the nearest key that exists."""

    class Meta:
        unknown = RAISE

    error_messages = {"type": SECTION, "unknown": UNKNOWN}  # noqa: RUF012 - as marshmallow declares it
    makes: Any = None

    def handle_error(self, error: ValidationError, data: Any, **_: Any) -> None:  # noqa: ARG002 - marshmallow's
        messages = error.messages
        if isinstance(messages, dict):
            known = [field.data_key or name for name, field in self.fields.items()]
            for key, said in messages.items():
                if said == [UNKNOWN]:
                    messages[key] = [UNKNOWN + did_you_mean(key, known)]

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        for key, value in data.items():
            if isinstance(value, list):
                data[key] = tuple(value)
        return self.makes(**data)


def _texts(*checks: Any) -> Items:
    return Items(Text(validate=list(checks)))


class StorageSchema(_Strict):
    makes = Storage
    mount = Text(validate=[PATH, tidy_path])
    source = Text(validate=mounts.SOURCE)
    type = Text(validate=validate.OneOf(["nfs4", "lustre"], error="type {input} is not known: use nfs4 or lustre"))
    options = _texts(mounts.option)
    adopt = _texts(CLUSTER)

    @validates_schema
    def _whole(self, data: Mapping[str, Any], **_: Any) -> None:
        if data.get("source") is None and (data.get("type") or data.get("options")):
            raise ValidationError("is needed: type and options say how petal-node mounts it", "source")
        kind = Storage(source=data.get("source")).kind
        if data.get("type", kind) != kind:
            raise ValidationError(f"the source is one of type {kind}", "type")


class OriginSchema(_Strict):
    makes = Origin
    source = Text(required=True, validate=uri)
    sha256 = Text(validate=SHA256)

    @validates_schema
    def _checked(self, data: Mapping[str, Any], **_: Any) -> None:
        _needs_checksum(data)


def _needs_checksum(data: Mapping[str, Any], key: str = "sha256") -> None:
    source = str(data.get("source") or "/")
    if not source.startswith("/") and not source.startswith("file:") and not data.get("sha256"):
        raise ValidationError("is needed for what comes over the network: sha256sum FILE", key)


def _target(text: str) -> None:
    problem = None if text == "auto" else targets.problem_of(text)
    if problem:
        raise ValidationError(problem)


def _targets_fit(names: Any) -> None:
    """A list is for one architecture, and no name stands in it twice or beside ``auto``."""
    if not isinstance(names, list):
        return
    if "auto" in names:
        raise ValidationError("auto stands alone: name every target, or write target: auto", "target")
    if len(set(names)) < len(names):
        raise ValidationError("a target is listed twice", "target")
    if len({targets.machine_of(name) for name in names}) > 1:
        raise ValidationError("all targets must be of one architecture: the head node builds for its own", "target")


class MirrorSchema(_Strict):
    makes = Mirror
    url = Text(required=True, validate=uri)
    sources = Switch()
    binaries = Switch()
    signed = Switch()
    push = Switch()
    keys = Items(Section(OriginSchema))
    signing_key = Section(OriginSchema)

    @validates_schema
    def _checked(self, data: Mapping[str, Any], **_: Any) -> None:
        mirrors.check(data)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        data.setdefault("sources", not data["url"].startswith("s3://"))
        return super()._make(data)


class SpackSchema(_Strict):
    makes = Spack
    version = Text(
        validate=validate.OneOf(
            tuple(SPACK_VERSIONS),
            error=f"Spack {{input}} has not been run with petal-node: use {' or '.join(SPACK_VERSIONS)}",
        )
    )
    source = Text(validate=uri)
    sha256 = Text(validate=SHA256)
    recipes = Section(OriginSchema)
    clingo = ItemsOr(Section(OriginSchema), BOOTSTRAP)
    specs = _texts(SPEC)
    target = OneOrMore(Text(validate=[NAME, _target]))
    mirrors = Table(keys=Text(validate=NAME), values=TextOrSection(Section(MirrorSchema), mirrors.of_sources))

    @validates_schema
    def _checked(self, data: Mapping[str, Any], **_: Any) -> None:
        _needs_checksum(data)
        _targets_fit(data.get("target"))
        spack = Spack(data.get("version", Spack.version))
        if spack.carries_recipes and data.get("recipes"):
            # Two repositories of one name would hide each other's recipes, and this Spack cannot read the new format.
            raise ValidationError(f"Spack {spack.version} carries its recipes: drop this key", "recipes")

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        source, sha256 = data.pop("source", None), data.pop("sha256", None)
        data["program"] = Origin(source, sha256) if source else None
        return super()._make(data)


class PackageSchema(_Strict):
    makes = Package
    name = Text(required=True, validate=NAME)
    version = Text(required=True, validate=NAME)
    prefix = Text(validate=[PATH, tidy_path])
    source = Text(validate=uri)
    sha256 = Text(validate=SHA256)
    env = Table(keys=Text(), values=Text(validate=one_line))
    requires = _texts(MODULE)
    summary = Text(validate=[one_line, validate.Length(max=200, error="must have at most 200 characters")])

    @validates_schema
    def _whole(self, data: Mapping[str, Any], **_: Any) -> None:
        if bool(data.get("source")) == bool(data.get("prefix")):
            raise ValidationError("needs either source (a tarball) or prefix (a directory that is there), not both")
        if data.get("source") and not data.get("sha256"):
            raise ValidationError("is needed for every tarball: sha256sum FILE", "sha256")
        wrong = [name for name in data.get("env", {}) if not VARIABLE.match(name)]
        if wrong:
            raise ValidationError(f"{wrong[0]!r} is no name of an environment variable", "env")

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        source, sha256 = data.pop("source", None), data.pop("sha256", None)
        data["origin"] = Origin(source, sha256) if source else None
        return super()._make(data)


class ModulesSchema(_Strict):
    makes = Modules
    lmod = Text(validate=validate.OneOf(LMODS, error="{input} is not known: use auto or stack"))
    defaults = _texts(MODULE)
    hide = _texts(MODULE)
    paths = _texts(PATH, tidy_path)

    @validates_schema
    def _whole(self, data: Mapping[str, Any], **_: Any) -> None:
        names = [entry.partition("/")[0] for entry in data.get("defaults", ())]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValidationError(f"{twice} stands there twice: a shell has one version of it", "defaults")


class InstallSchema(_Strict):
    makes = Install
    where = Text(validate=validate.OneOf(["head", "slurm"], error="{input} is not known: use head or slurm"))
    queue = Text(validate=NAME)
    wait = Whole(validate=validate.Range(0, 604800, error="must be 0 to 604800 seconds"))
    budget = Whole(validate=validate.Range(0, 3600, error="must be 0 to 3600 seconds"))
    jobs = Whole(validate=validate.Range(0, 1024, error="must be 0 (all cores) to 1024"))
    parts = Switch(data_key="partial", attribute="partial")  # a Schema has a method partial

    @validates_schema
    def _has_queue(self, data: Mapping[str, Any], **_: Any) -> None:
        if data.get("where") == "slurm" and not data.get("queue"):
            raise ValidationError("is needed: the Slurm queue whose nodes build", "queue")


class ProgramSchema(_Strict):
    makes = Program
    command = Text(required=True, validate=[command, validate.Length(max=1000, error="must have 1 to 1000 characters")])
    exit = Whole(validate=validate.Range(0, 255, error="must be 0 to 255"))


class CheckSchema(_Strict):
    makes = Check
    modules = Items(Text(validate=MODULE), data_key="load", attribute="load")
    run = Items(TextOrSection(Section(ProgramSchema), lambda command: {"command": command}))
    mpi = Switch()
    launch = Switch()
    wait = Whole(validate=validate.Range(0, 86400, error="must be 0 to 86400 seconds"))


class SoftwareSchema(_Strict):
    makes = Software
    spack_packages = _texts(SPEC)


class SharedStorageSchema(Schema):
    """An entry of a seed's ``shared_storage``, of which only the mount point is of interest here."""

    class Meta:
        unknown = EXCLUDE

    mount_dir = Text(required=True, validate=[PATH, tidy_path])


class ConfigSchema(_Strict):
    makes = Config
    stack = Text(validate=[one_line, validate.Length(min=1, error="must not be empty")])
    stack_sha256 = Text(validate=SHA256)
    layout = Text(validate=validate.OneOf(LAYOUTS, error=f"layout {{input}} is not known: use {' or '.join(LAYOUTS)}"))
    storage = Section(StorageSchema)
    spack = Section(SpackSchema)
    packages = Items(Section(PackageSchema))
    modules = Section(ModulesSchema)
    install = Section(InstallSchema)
    check = Section(CheckSchema)
    # A petal seed (github.com/scttfrdmn/pctl) is a configuration as it is: these are its keys.
    software = Section(SoftwareSchema)
    shared_storage = Items(Section(SharedStorageSchema))
    cluster = compute = users = data = Anything()

    @validates_schema
    def _whole(self, data: Mapping[str, Any], **_: Any) -> None:
        _one_mount(data)
        _no_twins(data.get("packages", ()))
        stack = str(data.get("stack", "none"))
        if "/" in stack:
            try:
                uri(stack)
            except ValidationError as error:
                raise ValidationError(error.messages, "stack") from error
            _needs_checksum({"source": stack, "sha256": data.get("stack_sha256")}, "stack_sha256")
        elif not re.match(r"^[a-z0-9][a-z0-9-]*\Z", stack):
            raise ValidationError(
                "must be the name of an environment, a URI of a spack.yaml or spack.lock, or none", "stack"
            )
        _spack_is_whole(data, stack)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        for key in SEED_ONLY:
            data.pop(key, None)
        mounts = data.pop("shared_storage", [])
        if mounts and "storage" not in data:
            data["storage"] = Storage(mounts[0]["mount_dir"])
        return super()._make(data)


def _one_mount(data: Mapping[str, Any]) -> None:
    mounts = [entry["mount_dir"] for entry in data.get("shared_storage", ())]
    if len(mounts) > 1 and "storage" not in data:
        raise ValidationError(f"is needed: which of {', '.join(mounts)} holds the software?", "storage.mount")


def _no_twins(packages: Any) -> None:
    seen: set[tuple[str, str]] = set()
    for package in packages:
        key = (package.name, package.version)
        if key in seen:
            raise ValidationError(f"{package.name}/{package.version} is listed twice", "packages")
        seen.add(key)


def _spack_is_whole(data: Mapping[str, Any], stack: str) -> None:
    spack = data.get("spack", Spack())
    seeded = data.get("software", Software()).spack_packages
    if stack == "none" and not spack.specs and not seeded:
        if data.get("modules", Modules()).lmod == "stack":
            raise ValidationError("stack needs a Spack stack, which builds it: name one, or use auto", "modules.lmod")
        return
    needed = {"source": spack.program} if spack.carries_recipes else {"source": spack.program, "recipes": spack.recipes}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ValidationError(f"a stack needs spack.{' and spack.'.join(missing)}{SEED if seeded else ''}", "spack")
