"""The one parser of spack.lock: the lockfile of a release, and a lockfile that is itself the stack.

The format is Spack's own (lib/spack/spack/environment/environment.py). ``petal-node lockfile`` adds one key at the top,
RECORD, which Spack ignores. One file can contain several targets, each with its own roots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import decode
from ..core.decode import Sha256
from ..core.errors import ConfigError, StateError
from ..core.model import plain
from ..core.text import quoted
from ..host.files import read_json
from ..state.store import shaped

RECORD = "petal-node"
RECORD_FORMAT = 1
LIMIT = 1 << 26  # bytes of a stack's lockfile; a node of the graph takes 2 KB
READ_LIMIT = 1 << 28
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Locked:
    """One concrete spec of a lockfile.

    Args:
        explicit: it was asked for by name.
        external: it is on the node already, and no package of the store.
        needs: the hashes of its direct dependencies.
        keeps: those of them that it needs after it was built, too: to link or to run.
        system: ``linux-debian12-x86_64_v3``.
        compiler: ``gcc-12.2.0``; empty for Spack 1.x, which has no such attribute.
    """

    name: str
    version: str
    hash: str
    explicit: bool
    external: bool
    needs: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    system: str = ""
    compiler: str = ""
    cuda: tuple[str, ...] = ()

    @property
    def os(self) -> str:
        return self.system.split("-")[1] if self.system else ""

    @property
    def target(self) -> str:
        return self.system.split("-", 2)[2] if self.system else ""

    @classmethod
    def from_dict(cls, digest: str, raw: Mapping[str, Any], roots: set[str]) -> Locked:
        """A node of ``concrete_specs``, in the formats of Spack 0.23 and 1.x."""
        edges = raw.get("dependencies", ())
        kept = (edge for edge in edges if {"link", "run"} & set(edge.get("parameters", {}).get("deptypes", ["run"])))
        system = system_of(raw.get("arch"))
        compiler, cuda = raw.get("compiler"), (raw.get("parameters") or {}).get("cuda_arch")
        architectures = cuda if isinstance(cuda, list) else [cuda]
        return cls(
            name=decode.text(raw["name"]),
            version=decode.text(raw["version"]),
            hash=digest,
            explicit=digest in roots,
            external=raw.get("external") is not None,
            needs=tuple(str(edge["hash"]) for edge in edges),
            keeps=tuple(str(edge["hash"]) for edge in kept),
            system=decode.name(system) if system else "",
            compiler=f"{compiler['name']}-{compiler['version']}" if compiler else "",
            cuda=tuple(str(item) for item in architectures if item not in (None, "none", "None")),
        )


def system_of(arch: Any) -> str:
    """``linux-debian12-x86_64_v3``, a directory of the store; empty without ``arch``."""
    if not isinstance(arch, dict):
        return ""
    target = arch.get("target")
    target = target.get("name") if isinstance(target, dict) else target
    return f"{arch.get('platform')}-{arch.get('platform_os')}-{target}"


def lockfile_name(target: str, targets: int) -> str:
    """The lockfile of a release for one of its targets, of which there are so many."""
    return "spack.lock" if targets == 1 else f"spack-{target}.lock"


def locked_specs(path: Path) -> tuple[Locked, ...]:
    """The concrete specs of a spack.lock, empty without the file; StateError if it is damaged."""
    try:
        document = read_json(path, limit=READ_LIMIT)
        return () if document is None else shaped(path, lambda: tuple(_specs(document).values()))
    except StateError as error:
        remedy = restoring(path) if error.code == StateError.code else error.remedy
        raise StateError(error.what, why=error.why, remedy=remedy, code=error.code) from error


def restoring(path: Path) -> tuple[str, ...]:
    """The commands that bring the lockfile of a release back: Spack's own copy is on the disk of the head node.

    The file is not moved away alone: without it the packages of the release are as unknown.
    """
    copy = f"/var/lib/petal-node/spack/{path.parent.name}/{path.stem.partition('-')[2] or '*'}/environment/spack.lock"
    return (
        f"on the head node: cp {copy} {quoted(path)}",
        f"or solve its stack again: rm {quoted(path)}; petal-node bootstrap --config FILE    # of that release",
    )


def _specs(document: Mapping[str, Any]) -> dict[str, Locked]:
    roots = {str(root["hash"]) for root in document["roots"]}
    return {str(digest): Locked.from_dict(digest, raw, roots) for digest, raw in document["concrete_specs"].items()}


@dataclass(frozen=True)
class Record:
    """What ``petal-node lockfile`` knows and Spack does not write down.

    Args:
        languages: those that the system's compiler had.
        externals: spec and place of every external that Spack was given.
        sources: the checksums of Spack and of its recipes, if known.
        environment: the stack that was solved; an install from the lockfile still uses its ``packages``.
    """

    glibc: str
    compiler: str
    languages: tuple[str, ...]
    externals: tuple[tuple[str, str], ...]
    cuda: tuple[str, ...]
    sources: Mapping[str, Sha256]
    environment: Mapping[str, Any]
    format: int = RECORD_FORMAT


@dataclass(frozen=True)
class Lockfile:
    """A whole lockfile: Spack's document, its specs by hash, and petal-node's record if there is one."""

    document: Mapping[str, Any]
    specs: Mapping[str, Locked]
    record: Record | None

    @property
    def spack(self) -> str:
        """The version of the Spack that wrote it."""
        return decode.text(self.document["spack"]["version"])

    @property
    def targets(self) -> tuple[str, ...]:
        """The CPU targets of its roots."""
        return tuple(dict.fromkeys(self.specs[root["hash"]].target for root in self.document["roots"]))

    @property
    def environment(self) -> Mapping[str, Any]:
        """What a spack.yaml of this stack would contain."""
        specs = dict.fromkeys(decode.text(root["spec"]) for root in self.document["roots"])
        return self.record.environment if self.record else {"specs": list(specs)}

    def built(self) -> tuple[Locked, ...]:
        """The packages of the store."""
        return tuple(spec for spec in self.specs.values() if not spec.external)

    def externals(self) -> tuple[Locked, ...]:
        """The specs that are on the node already."""
        return tuple(spec for spec in self.specs.values() if spec.external)

    def part(self, target: str) -> dict[str, Any]:
        """The lockfile of one target: its roots, and all that they need."""
        roots = [root for root in self.document["roots"] if self.specs[root["hash"]].target == target]
        specs = self.document["concrete_specs"]
        wanted: set[str] = set()
        rest = [root["hash"] for root in roots]
        while rest:
            digest = rest.pop()
            if digest not in wanted:
                wanted.add(digest)
                rest += _needs(specs[digest])
        kept = {digest: raw for digest, raw in specs.items() if digest in wanted}
        return {**_header(self.document), "roots": roots, "concrete_specs": kept}


def is_lockfile(data: bytes) -> bool:
    """True if the file declares itself a spack.lock."""
    return data[:1] == b"{" and b'"spack-lockfile"' in data[:1000]


def parse(data: bytes, name: str) -> Lockfile:
    """Reads a lockfile that is a stack, and checks that nothing is missing in it.

    Args:
        name: its source, for the error.

    Raises:
        ConfigError: ``lockfile-unfit``.
    """
    try:
        document = json.loads(data)
        record = _record(document[RECORD]) if RECORD in document else None
        lock = Lockfile(document, _specs(document), record)
        _check_whole(lock)
    except MALFORMED as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        remedy = "petal-node lockfile --config FILE --output spack.lock    # makes a new one"
        what = f"{name} is not a whole Spack lockfile"
        raise ConfigError(what, why=why, remedy=remedy, code="lockfile-unfit") from error
    return lock


def _record(raw: Mapping[str, Any]) -> Record:
    """The record, if it has this format: its fields may differ in another one."""
    number = raw.get("format")
    if number != RECORD_FORMAT:
        raise ValueError(f"its {RECORD} format is {number}, and this petal-node reads {RECORD_FORMAT}")
    return decode.build(Record, raw)


def _check_whole(lock: Lockfile) -> None:
    """Raises ValueError, or what Python raises for a missing key."""
    roots = [(decode.text(root["hash"]), decode.text(root["spec"])) for root in lock.document["roots"]]
    if not (lock.spack and lock.document["_meta"]):
        raise ValueError("it does not name its Spack and its format")
    if not roots:
        raise ValueError("it has no roots: nothing was asked for")
    if lock.document.get("include_concrete"):
        raise ValueError("it includes other environments, whose lockfiles are missing")
    without = [spec.name for spec in lock.specs.values() if not spec.system]
    if without:
        raise ValueError(f"{without[0]} has no architecture")
    named = {digest for raw in lock.document["concrete_specs"].values() for digest in _needs(raw)}
    absent = sorted((named | {digest for digest, _ in roots}) - set(lock.specs))
    if absent:
        raise ValueError(f"it refers to {absent[0]}, which is missing")


def _needs(raw: Mapping[str, Any]) -> list[str]:
    needed = [str(dependency["hash"]) for dependency in raw.get("dependencies", ())]
    spliced = raw.get("build_spec")
    return [*needed, str(spliced["hash"])] if spliced else needed


def joined(documents: Sequence[Mapping[str, Any]], record: Record) -> bytes:
    """The lockfiles of several targets, written by the same Spack, as one with petal-node's record."""
    roots = {(root["hash"], root["spec"]): root for document in documents for root in document["roots"]}
    specs = {digest: raw for document in documents for digest, raw in document["concrete_specs"].items()}
    whole = {
        **_header(documents[0]),
        RECORD: plain(record),
        "roots": list(roots.values()),
        "concrete_specs": specs,
    }
    return json.dumps(whole, indent=1).encode() + b"\n"


def _header(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in ("_meta", "spack")}
