"""petal.yaml -> a frozen ``Config``, or every mistake in it at once, each with its path.

The only door to YAML. Keys that are written twice and YAML aliases are mistakes here: both hide what a file says.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError
from .model import plain

SPACK_VERSIONS = ("1.1.1",)
REMEDY = "correct the file, then: petal-node plan --config FILE"


@dataclass(frozen=True)
class Storage:
    """Shared storage: where it is mounted on every node."""

    mount: str = "/shared"


@dataclass(frozen=True)
class Origin:
    """Where something comes from, and the checksum that it must have."""

    source: str
    sha256: str | None = None


@dataclass(frozen=True)
class Spack:
    """Spack itself, its recipes, and what it shall build on top of the stack's own specs."""

    version: str = "1.1.1"
    program: Origin | None = None
    recipes: Origin | None = None
    clingo: tuple[Origin, ...] = ()
    specs: tuple[str, ...] = ()
    target: str = "auto"
    mirrors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Package:
    """Software that Spack does not build: a tarball (``source``), or a prefix that the image carries."""

    name: str
    version: str
    prefix: str | None = None
    origin: Origin | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Modules:
    """What users see of the stack."""

    lmod: str = "auto"


@dataclass(frozen=True)
class Install:
    """How the head node installs. ``budget``: seconds that a hook waits for the worker; ``jobs`` 0 means all cores."""

    budget: int = 300
    jobs: int = 0


@dataclass(frozen=True)
class Check:
    """What is proved on each node: modules that load and programs that run (empty: what the release offers)."""

    load: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    wait: int = 1800


@dataclass(frozen=True)
class Config:
    """The whole configuration. The defaults are those of an empty file."""

    stack: str = "none"
    layout: str = "shared"
    storage: Storage = Storage()
    spack: Spack = Spack()
    packages: tuple[Package, ...] = ()
    modules: Modules = Modules()
    install: Install = Install()
    check: Check = Check()

    @property
    def builds(self) -> bool:
        """True when Spack has anything to do."""
        return self.stack != "none" or bool(self.spack.specs)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as one file would hold it: what ``parse`` turns into an equal Config again."""
        raw = plain(self)
        spack = raw["spack"]
        spack |= spack.pop("program") or {}
        raw["packages"] = [_flat_package(package) for package in raw["packages"]]
        made: dict[str, Any] = _without_nothing(raw)
        return made


def parse(data: bytes | str, name: str = "petal.yaml") -> Config:
    """Reads a configuration.

    Args:
        data: the file's content, YAML or JSON.
        name: what messages call the file.

    Raises:
        ConfigError: with every mistake in ``problems``, exit code 78.
    """
    return from_mapping(read_yaml(data, name), name)


def from_mapping(raw: Mapping[str, Any], name: str = "petal.yaml") -> Config:
    """Checks a configuration that has been read already (``wanted.json`` carries one).

    Raises:
        ConfigError: as ``parse``.
    """
    from marshmallow import ValidationError

    from .schema import ConfigSchema

    try:
        config: Config = ConfigSchema().load(dict(raw))
    except ValidationError as error:
        problems = sorted(_flatten(error.messages, raw, ""))
        raise ConfigError(f"{name} has {_count(len(problems))}", problems, remedy=REMEDY) from error
    return config


def _count(number: int) -> str:
    return "1 mistake" if number == 1 else f"{number} mistakes"


def read_yaml(data: bytes | str, name: str) -> dict[str, Any]:
    """A YAML mapping; an empty file is an empty one.

    Raises:
        ConfigError: ``config-syntax``.
    """
    import yaml

    try:
        loaded = yaml.load(data, Loader=_strict_loader())  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{name} is not YAML", why=why, remedy=REMEDY, code="config-syntax") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        why = f"it holds {type(loaded).__name__}, a mapping is needed"
        raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")
    return loaded


def _strict_loader() -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    what = f"the key {key.value!r} is written twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return Strict


def _flatten(messages: Any, raw: Any, path: str) -> list[tuple[str, str]]:
    """Marshmallow's nested messages as (path, message) pairs, with the nearest key for an unknown one."""
    if isinstance(messages, list):
        return [(path, str(message)) for message in messages]
    problems = []
    for key, inner in messages.items():
        if key == "_schema":
            problems += _flatten(inner, raw, path or "(file)")
            continue
        here = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        problems += _flatten(inner, raw, here)
    return problems


def nearest(word: str, known: list[str]) -> str:
    """``, did you mean X?`` for a word close to a known one, else an empty string."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _flat_package(package: dict[str, Any]) -> dict[str, Any]:
    origin = package.pop("origin") or {}
    return {**package, **origin}


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    return value
