"""A spack.lock as a stack: what Spack solved, and beside it what it was solved for. Pure.

The format is Spack's own (lib/spack/spack/environment/environment.py). ``petal-node lockfile`` adds one key at the top,
RECORD, which Spack ignores. Several targets stand in one file, each with roots of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core import decode as shapes
from ..core.errors import ConfigError

RECORD = "petal-node"
RECORD_FORMAT = 1
LIMIT = 1 << 26  # bytes; a node of the graph takes 2 KB
# The newest format that a family of Spack reads is the one that it writes.
FORMATS = {"0.23": 5, "1.1": 6}


@dataclass(frozen=True)
class Node:
    """One concrete spec. ``external``: its prefix where it is no package of the store, else None."""

    name: str
    version: str
    os: str
    target: str
    external: str | None
    compilers: Mapping[str, str]
    compiler: str | None
    cuda: tuple[str, ...]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Node:
        arch, external = raw["arch"], raw.get("external") or {}
        target = arch["target"]
        compiler = raw.get("compiler")
        return cls(
            name=shapes.text(raw["name"]),
            version=shapes.text(raw["version"]),
            os=shapes.text(arch["platform_os"]),
            target=shapes.name(target["name"] if isinstance(target, dict) else target),
            external=shapes.text(external.get("path") or "") if external else None,
            compilers=dict(shapes.mapping((external.get("extra_attributes") or {}).get("compilers") or {})),
            compiler=f"{compiler['name']}@{compiler['version']}" if compiler else None,
            cuda=_values(shapes.mapping(raw.get("parameters") or {}).get("cuda_arch")),
        )


def _values(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in listed if item not in (None, "none", "None"))


@dataclass(frozen=True)
class Record:
    """What ``petal-node lockfile`` knows and Spack does not write down.

    Args:
        glibc: of the node that it was made on.
        compiler: the system's compiler, and the languages that it had.
        externals: spec and place of all that Spack was told of.
        cuda: the GPUs' compute capabilities that were preferred.
        sources: the checksums of Spack and of its recipes, as far as there are any.
        environment: the stack as it was asked for; an install from the lockfile still goes by its ``packages``.
    """

    created: str
    glibc: str
    compiler: str
    languages: tuple[str, ...]
    externals: tuple[tuple[str, str], ...]
    cuda: tuple[str, ...]
    sources: Mapping[str, str]
    environment: Mapping[str, Any]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Record:
        if raw["format"] != RECORD_FORMAT:
            raise ValueError(f"its {RECORD} format is {raw['format']}, and this petal-node reads {RECORD_FORMAT}")
        return cls(
            **{name: shapes.text(raw[name]) for name in ("created", "glibc", "compiler")},
            languages=shapes.items(raw["languages"], shapes.text),
            externals=shapes.items(raw["externals"], lambda pair: (shapes.text(pair["spec"]), shapes.text(pair["at"]))),
            cuda=shapes.items(raw["cuda"], shapes.text),
            sources={name: shapes.sha256(value) for name, value in shapes.mapping(raw["sources"]).items()},
            environment=shapes.mapping(raw["environment"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "format": RECORD_FORMAT,
            "created": self.created,
            "glibc": self.glibc,
            "compiler": self.compiler,
            "languages": list(self.languages),
            "externals": [{"spec": spec, "at": place} for spec, place in self.externals],
            "cuda": list(self.cuda),
            "sources": dict(self.sources),
            "environment": dict(self.environment),
        }


@dataclass(frozen=True)
class Lockfile:
    """A whole lockfile: Spack's document, its nodes by hash, and our record where it has one."""

    document: Mapping[str, Any]
    nodes: Mapping[str, Node]
    record: Record | None
    roots: tuple[tuple[str, str], ...] = field(default=())

    @property
    def spack(self) -> str | None:
        """The version of the Spack that wrote it; old ones did not say."""
        said = self.document.get("spack")
        version = said.get("version") if isinstance(said, Mapping) else None
        return str(version) if version else None

    @property
    def format(self) -> int:
        """The version of Spack's format."""
        return int(self.document["_meta"]["lockfile-version"])

    @property
    def targets(self) -> tuple[str, ...]:
        """The CPU targets of its roots."""
        return tuple(dict.fromkeys(self.nodes[digest].target for digest, _ in self.roots))

    @property
    def specs(self) -> tuple[str, ...]:
        """What was asked for, as Spack writes it."""
        return tuple(dict.fromkeys(spec for _, spec in self.roots))

    @property
    def environment(self) -> Mapping[str, Any]:
        """What a spack.yaml of this stack would say."""
        return self.record.environment if self.record else {"specs": list(self.specs)}

    def built(self) -> tuple[Node, ...]:
        """What is a package of the store."""
        return tuple(node for node in self.nodes.values() if node.external is None)

    def externals(self) -> tuple[Node, ...]:
        """What lies on the node."""
        return tuple(node for node in self.nodes.values() if node.external is not None)

    def part(self, target: str) -> dict[str, Any]:
        """What Spack is given for one target: its roots, and all that they need."""
        roots = [root for root in self.document["roots"] if self.nodes[root["hash"]].target == target]
        specs = self.document["concrete_specs"]
        wanted, rest = {}, [root["hash"] for root in roots]
        while rest:
            digest = rest.pop()
            if digest not in wanted:
                wanted[digest] = specs[digest]
                rest += _needs(specs[digest])
        kept = {digest: node for digest, node in specs.items() if digest in wanted}
        return {**_spacks_own(self.document), "roots": roots, "concrete_specs": kept}


def is_lockfile(data: bytes) -> bool:
    """True for what says of itself that it is a spack.lock."""
    return data[:1] == b"{" and b'"spack-lockfile"' in data[:1000]


def parse(data: bytes, name: str) -> Lockfile:
    """Reads a lockfile.

    Args:
        name: where it is from, for the error.

    Raises:
        ConfigError: ``lock-invalid``.
    """
    try:
        document = json.loads(data)
        nodes = {str(digest): Node.from_dict(raw) for digest, raw in document["concrete_specs"].items()}
        roots = tuple((shapes.text(root["hash"]), shapes.text(root["spec"])) for root in document["roots"])
        record = Record.from_dict(document[RECORD]) if RECORD in document else None
        found = Lockfile(document, nodes, record, roots)
        _check_whole(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        remedy = "petal-node lockfile --config FILE --output spack.lock    (makes a new one)"
        raise ConfigError(f"{name} is no whole Spack lockfile", why=why, remedy=remedy, code="lock-invalid") from error
    return found


def _check_whole(lock: Lockfile) -> None:
    """Every spec that another one needs is there."""
    int(lock.document["_meta"]["lockfile-version"])
    if not lock.roots:
        raise ValueError("it has no roots: nothing was asked for")
    if lock.document.get("include_concrete"):
        raise ValueError("it includes other environments, whose lockfiles are not here")
    named = {digest for raw in lock.document["concrete_specs"].values() for digest in _needs(raw)}
    absent = sorted((named | {digest for digest, _ in lock.roots}) - set(lock.nodes))
    if absent:
        raise ValueError(f"it names {absent[0]} and does not have it")


def _needs(raw: Mapping[str, Any]) -> list[str]:
    needed = [str(dependency["hash"]) for dependency in raw.get("dependencies", ())]
    spliced = raw.get("build_spec")
    return [*needed, str(spliced["hash"])] if spliced else needed


def joined(documents: Sequence[Mapping[str, Any]], record: Record) -> bytes:
    """The lockfiles of several targets as one, with our record.

    Args:
        documents: what Spack wrote for each target; of the same Spack, so of the same format.
    """
    roots = {(root["hash"], root["spec"]): root for document in documents for root in document["roots"]}
    specs = {digest: raw for document in documents for digest, raw in document["concrete_specs"].items()}
    whole = {
        **_spacks_own(documents[0]),
        RECORD: record.to_dict(),
        "roots": list(roots.values()),
        "concrete_specs": specs,
    }
    return json.dumps(whole, indent=1).encode() + b"\n"


def _spacks_own(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in ("_meta", "spack") if key in document}


def asked_beside(lock_specs: Iterable[str], specs: Iterable[str]) -> list[str]:
    """Those of ``specs`` that the lockfile was not made for; blanks between the parts of a spec mean nothing."""
    known = {"".join(spec.split()) for spec in lock_specs}
    return [spec for spec in specs if "".join(spec.split()) not in known]
