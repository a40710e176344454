"""The keys of petal.yaml as marshmallow schemas, the library that ParallelCluster checks its own file with.

marshmallow finds all mistakes in one pass, each with its path; ``load.py`` puts its messages into other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, pre_load, validate, validates_schema

from ..core.errors import did_you_mean, nearest
from . import model, rules, values

# Keys of other files that people give to --config: ParallelCluster's configuration and a spack.yaml.
CLUSTER_KEYS = frozenset(
    {"Region", "Image", "HeadNode", "LoginNodes", "Scheduling", "SharedStorage", "Monitoring", "Tags"}
)
STACK_KEYS = frozenset(
    {"view", "concretizer", "concretization", "definitions", "packages", "compilers", "repos", "config"}
)

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
    rules: tuple[rules.Rule, ...] = ()

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _check_rules(self, data: Mapping[str, Any], original: Any, **_: Any) -> None:
        """Checks the rules for several keys. A rule is left out if a key that it reads is wrong or misspelled."""
        given = original if isinstance(original, dict) else {}
        keys = _keys(self)
        wrong = {keys[nearest(key, keys)] for key in given.keys() - keys.keys() if nearest(key, keys)}
        # marshmallow leaves out wrong values, and a section that it cannot make stays a mapping.
        wrong.update(name for key, name in keys.items() if key in given and isinstance(data.get(name, {}), dict))
        found = rules.broken(self.rules, data, wrong)
        if found:
            raise ValidationError(found)

    def handle_error(self, error: ValidationError, data: Any, **_: Any) -> None:  # noqa: ARG002 - marshmallow's
        if isinstance(error.messages, dict):
            for key, messages in error.messages.items():
                if messages == ["Unknown field."]:
                    error.messages[key] = [f"unknown key{self._hint(str(key))}"]

    def _hint(self, key: str) -> str:
        """Where the key belongs, or the nearest key."""
        if isinstance(self, ConfigSchema) and key in CLUSTER_KEYS:
            return ": it belongs to ParallelCluster's configuration, and --config takes a petal.yaml"
        if isinstance(self, SpackSchema) and key in STACK_KEYS:
            return ": it belongs to a spack.yaml, which a petal.yaml names: stack: /DIRECTORY/spack.yaml"
        near = did_you_mean(key, _keys(self))
        sections = {
            name: field.schema for name, field in ConfigSchema().fields.items() if isinstance(field, fields.Nested)
        }
        if near or type(self) not in (ConfigSchema, *map(type, sections.values())):  # such as an entry of a list
            return near
        homes = [f"{name}.{key}" for name, schema in sections.items() if key in _keys(schema)]
        return f": write it as {' or '.join(homes)}" if homes else ""

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.makes(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def _keys(schema: Schema) -> dict[str, str]:
    """The keys of a section, each with the name of its attribute."""
    return {field.data_key or name: name for name, field in schema.fields.items()}


class OriginSchema(_Section):
    makes = model.Origin
    source = _string(values.uri_problem, required=True)
    sha256 = _string(values.sha256_problem)
    rules = rules.ORIGIN


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

    rules = rules.STORAGE


class MirrorSchema(_Section):
    makes = model.Mirror
    url = _string(values.mirror_problem, required=True)
    sources = _Boolean()
    binaries = _Boolean()
    signed = _Boolean()
    push = _Boolean()
    keys = fields.List(fields.Nested(OriginSchema))
    signing_key = fields.Nested(OriginSchema)

    @pre_load
    def _expand(self, data: Any, **_: Any) -> Any:
        return {"url": data, "binaries": False} if isinstance(data, str) else data

    rules = rules.MIRROR

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

    rules = rules.SPACK


class PackageSchema(_WithOrigin):
    makes = model.PackageConfig
    name = _string(values.name_problem, required=True)
    version = _string(values.name_problem, required=True)
    prefix = _string(values.path_problem)
    env = _Table(keys=_string(values.variable_problem), values=_string(values.line_problem))
    requires = _strings(values.module_problem)
    summary = _string(values.summary_problem)

    rules = rules.PACKAGE


class ModulesSchema(_Section):
    makes = model.ModulesConfig
    lmod = _choice("auto", "stack")
    defaults = _strings(values.module_problem)
    hide = _strings(values.module_problem)
    paths = _strings(values.path_problem)

    rules = rules.MODULES


class InstallSchema(_Section):
    makes = model.InstallConfig
    where = _choice("head", "slurm")
    queue = _string(values.name_problem)
    wait = _integer(0, 604800, " seconds")
    budget = _integer(0, 3600, " seconds")
    jobs = _integer(0, 1024, " (0: all cores)")
    partial_ = _Boolean(data_key="partial", attribute="partial")  # Schema has an attribute partial
    fetch_timeout = _integer(10, 86400, " seconds")

    rules = rules.INSTALL


class CheckCommandSchema(_Section):
    makes = model.CheckCommand
    command = _string(values.command_problem, required=True)
    exit = _integer(0, 255)
    queues = _strings(values.name_problem)
    gpu = _Boolean()

    @pre_load
    def _expand(self, data: Any, **_: Any) -> Any:
        return data if isinstance(data, (dict, list)) else {"command": data}


class CheckSchema(_Section):
    makes = model.CheckConfig
    load_ = fields.List(_string(values.module_problem), data_key="load", attribute="load")  # Schema has a method load
    run = fields.List(fields.Nested(CheckCommandSchema))
    mpi = _Boolean()
    launch = _Boolean()
    wait = _integer(0, 86400, " seconds")
    account = _string(values.name_problem)
    partition = _string(values.name_problem)
    user = _string(values.user_problem)
    time = _integer(30, 86400, " seconds")


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

    rules = rules.CONFIG

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        mounts = data.pop("shared_storage", [])
        if mounts and "storage" not in data:
            data["storage"] = model.StorageConfig(mounts[0]["mount_dir"])
        return super()._make({key: value for key, value in data.items() if key not in SEED_ONLY})
