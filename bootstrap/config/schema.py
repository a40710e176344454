"""The keys of petal.yaml as marshmallow schemas, the library that ParallelCluster checks its own file with.

marshmallow finds all mistakes in one pass, each with its path; ``load.py`` puts its messages into other words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, pre_load, validate, validates_schema

from ..cluster import targets
from ..core.errors import did_you_mean
from . import model, values

NO_S3_SOURCES = "Spack needs boto3 for sources in s3://, which nodes lack: use https://BUCKET.s3... or a directory"

SEED_ONLY = ("cluster", "compute", "users", "data")


def _string(check: values.ValueCheck, **options: Any) -> fields.String:
    """A string without conversion: YAML reads 24.10 as the number 24.1, so a number is a mistake."""

    def validator(text: str) -> None:
        problem = check(text)
        if problem:
            raise ValidationError(problem)

    return fields.String(validate=validator, **options)


def _strings(check: values.ValueCheck) -> fields.List:
    return fields.List(_string(check))


def _choice(*choices: str) -> fields.String:
    message = f"{{input}} is not supported: use {', '.join(choices[:-1])} or {choices[-1]}"
    return fields.String(validate=validate.OneOf(choices, error=message))


def _integer(low: int, high: int, unit: str = "") -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(low, high, error=f"must be {low} to {high}{unit}"))


class _Boolean(fields.Boolean):
    """``true`` or ``false``; marshmallow also accepts 1 and "yes"."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class _Wheels(fields.List):
    """A list, or the word ``bootstrap``."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        return value if value == model.BOOTSTRAP else super()._deserialize(value, attr, data, **options)


class _Table(fields.Dict):
    """User-defined names with values. The path of a mistake ends with the name."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        try:
            return super()._deserialize(value, attr, data, **options)  # type: ignore[no-untyped-call]
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            # marshmallow puts the mistakes of a name and of its value one level deeper, below "key" and "value".
            flat = {name: messages.get("key") or messages["value"] for name, messages in error.messages.items()}
            raise ValidationError(flat) from error


class _Section(Schema):
    """A section. An unknown key is a mistake, reported with the nearest key that exists."""

    class Meta:
        unknown = RAISE

    makes: Any = None

    def handle_error(self, error: ValidationError, data: Any, **_: Any) -> None:  # noqa: ARG002 - marshmallow's
        if isinstance(error.messages, dict):
            keys = [field.data_key or name for name, field in self.fields.items()]
            for key, messages in error.messages.items():
                if messages == ["Unknown field."]:
                    error.messages[key] = [f"unknown key{did_you_mean(key, keys)}"]

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.makes(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def _check_checksum(data: Mapping[str, Any], source: str = "source", checksum: str = "sha256") -> None:
    if values.is_remote(data.get(source) or "/") and not data.get(checksum):
        raise ValidationError("is required for a download: sha256sum FILE", checksum)


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


class OriginSchema(_Section):
    makes = model.Origin
    source = _string(values.uri_problem, required=True)
    sha256 = _string(values.sha256_problem)

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        _check_checksum(data)


class _WithOrigin(_Section):
    """A section that contains the keys of an ``Origin``."""

    source = _string(values.uri_problem)
    sha256 = _string(values.sha256_problem)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        source, sha256 = data.pop("source", None), data.pop("sha256", None)
        return super()._make({**data, "origin": model.Origin(source, sha256) if source else None})


class StorageSchema(_Section):
    makes = model.StorageConfig
    mount = _string(values.path_problem)
    source = _string(values.mount_source_problem)
    type = _choice("nfs4", "lustre")
    options = _strings(values.mount_option_problem)

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        if data.get("source") is None and (data.get("type") or data.get("options")):
            raise ValidationError("is required with type or options, which describe how petal-node mounts it", "source")
        mount_type = model.StorageConfig(source=data.get("source")).mount_type
        if data.get("type", mount_type) != mount_type:
            raise ValidationError(f"must be {mount_type}, the type of this source", "type")


class MirrorSchema(_Section):
    makes = model.Mirror
    url = _string(values.uri_problem, required=True)
    sources = _Boolean()
    binaries = _Boolean()
    signed = _Boolean()
    push = _Boolean()
    keys = fields.List(fields.Nested(OriginSchema))
    signing_key = fields.Nested(OriginSchema)

    @pre_load
    def _expand(self, data: Any, **_: Any) -> Any:
        return {"url": data, "binaries": False} if isinstance(data, str) else data

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        url, keys, secret_key, push = data["url"], data.get("keys"), data.get("signing_key"), data.get("push", False)
        s3, signed, binaries = url.startswith("s3://"), data.get("signed", True), data.get("binaries", True)
        rules = (
            (s3 and data.get("sources"), "sources", NO_S3_SOURCES),
            (s3 and not binaries, "url", f"{NO_S3_SOURCES}. For built packages write {{url: ..., keys: [...]}}"),
            (data.get("sources") is False and not binaries, "binaries", "must be true if sources is false"),
            (push and not binaries, "push", "requires binaries: true"),
            (binaries and signed and not keys, "keys", "is required, except with signed: false"),
            (not signed and (keys or secret_key), "signed", "contradicts keys and signing_key, which would be unused"),
            (push and url.startswith("https://"), "push", "requires s3:// or a directory: https:// is read-only"),
            (push and signed and not secret_key, "signing_key", "is required to push signed packages"),
        )
        for mistake, key, message in rules:
            if mistake:
                raise ValidationError(message, key)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return super()._make({"sources": not data["url"].startswith("s3://"), **data})


class SpackSchema(_WithOrigin):
    makes = model.SpackConfig
    version = _choice(*model.SPACK_VERSIONS)
    recipes = fields.Nested(OriginSchema)
    clingo = _Wheels(
        fields.Nested(OriginSchema),
        error_messages={"invalid": f"must be a list of wheels, or the word {model.BOOTSTRAP}"},
    )
    specs = _strings(values.spec_problem)
    target = fields.List(
        _string(values.target_problem), validate=validate.Length(min=1, error="must contain at least one target")
    )
    mirrors = _Table(keys=_string(values.name_problem), values=fields.Nested(MirrorSchema))

    @pre_load
    def _expand(self, data: Any, **_: Any) -> Any:
        if isinstance(data, dict) and not isinstance(data.get("target", []), (list, type(None))):
            return {**data, "target": [data["target"]]}
        return data

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        _check_checksum(data)
        names = data.get("target", ())
        if "auto" in names and len(names) > 1:
            raise ValidationError("auto cannot be combined with other targets", "target")
        if _repeated(names):
            raise ValidationError("lists a target twice", "target")
        if len({targets.machine_of(name) for name in names}) > 1:
            raise ValidationError("must list targets of one architecture, that of the head node", "target")
        spack = model.SpackConfig(data.get("version", model.SpackConfig.version))
        if spack.includes_recipes and data.get("recipes"):
            # Two repositories of one name would hide each other's recipes, and this Spack cannot read the new format.
            raise ValidationError(f"must be removed: Spack {spack.version} includes its recipes", "recipes")


class PackageSchema(_WithOrigin):
    makes = model.PackageConfig
    name = _string(values.name_problem, required=True)
    version = _string(values.name_problem, required=True)
    prefix = _string(values.path_problem)
    env = _Table(keys=_string(values.variable_problem), values=_string(values.line_problem))
    requires = _strings(values.module_problem)
    summary = _string(values.summary_problem)

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        if bool(data.get("source")) == bool(data.get("prefix")):
            raise ValidationError("needs either source (a tarball) or prefix (an existing directory)")
        if data.get("source") and not data.get("sha256"):
            raise ValidationError("is required for a tarball: sha256sum FILE", "sha256")


class ModulesSchema(_Section):
    makes = model.ModulesConfig
    lmod = _choice("auto", "stack")
    defaults = _strings(values.module_problem)
    hide = _strings(values.module_problem)
    paths = _strings(values.path_problem)

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        names = [entry.partition("/")[0] for entry in data.get("defaults", ())]
        repeated = _repeated(names)
        if repeated:
            raise ValidationError(f"lists {repeated} twice, and a shell can load one version", "defaults")


class InstallSchema(_Section):
    makes = model.InstallConfig
    where = _choice("head", "slurm")
    queue = _string(values.name_problem)
    wait = _integer(0, 604800, " seconds")
    budget = _integer(0, 3600, " seconds")
    jobs = _integer(0, 1024, " (0: all cores)")
    partial_ = _Boolean(data_key="partial", attribute="partial")  # Schema has an attribute partial

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        if data.get("where") == "slurm" and not data.get("queue"):
            raise ValidationError("is required with where: slurm: the Slurm queue whose nodes build", "queue")


class CheckCommandSchema(_Section):
    makes = model.CheckCommand
    command = _string(values.command_problem, required=True)
    exit = _integer(0, 255)

    @pre_load
    def _expand(self, data: Any, **_: Any) -> Any:
        return {"command": data} if isinstance(data, str) else data


class CheckSchema(_Section):
    makes = model.CheckConfig
    load_ = fields.List(_string(values.module_problem), data_key="load", attribute="load")  # Schema has a method load
    run = fields.List(fields.Nested(CheckCommandSchema))
    mpi = _Boolean()
    launch = _Boolean()
    wait = _integer(0, 86400, " seconds")


class SeedSoftwareSchema(_Section):
    makes = model.SeedSoftware
    spack_packages = _strings(values.spec_problem)


class SeedStorageSchema(Schema):
    """An entry of a seed's ``shared_storage``. Only the mount point is used."""

    class Meta:
        unknown = EXCLUDE

    mount_dir = _string(values.path_problem, required=True)


class ConfigSchema(_Section):
    makes = model.Config
    stack = _string(values.line_problem)
    stack_sha256 = _string(values.sha256_problem)
    layout = _choice(*model.LAYOUTS)
    storage = fields.Nested(StorageSchema)
    spack = fields.Nested(SpackSchema)
    packages = fields.List(fields.Nested(PackageSchema))
    modules = fields.Nested(ModulesSchema)
    install = fields.Nested(InstallSchema)
    check = fields.Nested(CheckSchema)
    # A petal seed (github.com/scttfrdmn/pctl) is a valid configuration: these are its keys.
    software = fields.Nested(SeedSoftwareSchema)
    shared_storage = fields.List(fields.Nested(SeedStorageSchema))
    cluster = fields.Raw(allow_none=True)
    compute = fields.Raw(allow_none=True)
    users = fields.Raw(allow_none=True)
    data = fields.Raw(allow_none=True)

    @validates_schema
    def _check_storage(self, data: Mapping[str, Any], **_: Any) -> None:
        mounts = [entry["mount_dir"] for entry in data.get("shared_storage", ())]
        if len(mounts) > 1 and "storage" not in data:
            raise ValidationError(f"is required: which of {', '.join(mounts)} holds the software?", "storage.mount")

    @validates_schema
    def _check_packages(self, data: Mapping[str, Any], **_: Any) -> None:
        names = [f"{package.name}/{package.version}" for package in data.get("packages", ())]
        repeated = _repeated(names)
        if repeated:
            raise ValidationError(f"lists {repeated} twice", "packages")

    @validates_schema
    def _check_stack(self, data: Mapping[str, Any], **_: Any) -> None:
        stack, spack = data.get("stack", "none"), data.get("spack", model.SpackConfig())
        problem = values.uri_problem(stack) if "/" in stack else values.environment_problem(stack)
        if problem:
            raise ValidationError(problem, "stack")
        if "/" in stack:
            _check_checksum(data, "stack", "stack_sha256")
        is_seed = bool(data.get("software", model.SeedSoftware()).spack_packages)
        if stack == "none" and not spack.specs and not is_seed:
            if data.get("modules", model.ModulesConfig()).lmod == "stack":
                raise ValidationError("stack requires a Spack stack to build Lmod with", "modules.lmod")
            return
        missing = [] if spack.origin else ["spack.source"]
        if not spack.recipes and not spack.includes_recipes:
            missing.append("spack.recipes")
        if missing:
            hint = (
                ". A seed does not contain them: add a section spack: {source: URI, sha256: HEX, "
                "recipes: {source: URI, sha256: HEX}}, or write a petal.yaml with them that names the seed as stack"
            )
            raise ValidationError(f"a stack requires {' and '.join(missing)}{hint if is_seed else ''}", "spack")

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        mounts = data.pop("shared_storage", [])
        if mounts and "storage" not in data:
            data["storage"] = model.StorageConfig(mounts[0]["mount_dir"])
        return super()._make({key: value for key, value in data.items() if key not in SEED_ONLY})
