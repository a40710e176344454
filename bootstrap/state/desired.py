"""The documents on shared storage as dataclasses: desired state, owner, published releases, proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core import decode
from ..core.model import Finding, NodeReport, Severity
from .owner import Owner


@dataclass(frozen=True)
class DesiredState:
    """The petal-node version, the configuration and the release that this cluster should have.

    ``environment`` is the content of the stack's spack.yaml, so its URI is not read again. ``targets`` (CPUs) and
    ``cuda`` (compute capabilities of the GPUs) are the choice of the head node, which all other nodes use.
    """

    version: str
    sha256: str | None
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    release: str
    targets: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DesiredState:
        config, environment = decode.mapping(raw["config"]), decode.mapping(raw["environment"])
        decode.text(decode.mapping(config.get("storage", {})).get("mount", "/shared"))
        decode.items(environment.get("specs", ()), decode.text)
        return cls(
            version=decode.name(raw["version"]),
            sha256=decode.maybe(raw.get("sha256"), decode.sha256),
            config=config,
            environment=environment,
            release=decode.name(raw["release"]),
            targets=decode.items(raw.get("targets", ()), decode.name),
            cuda=decode.items(raw.get("cuda", ()), decode.name),
        )


@dataclass(frozen=True)
class Published:
    """A release became current at ``time``."""

    release: str
    time: str
    run_id: str

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Published:
        return cls(decode.name(raw["release"]), decode.text(raw["time"]), decode.text(raw["run_id"]))

    @classmethod
    def all_of(cls, raw: Mapping[str, Any]) -> tuple[Published, ...]:
        """All entries of ``published.json``."""
        return decode.items(raw["published"], cls.from_dict)


@dataclass(frozen=True)
class Token:
    """Identifies a shared file system. The head node writes it once.

    ``host`` is the head node that wrote it, ``owner`` the cluster that uses the storage.
    """

    token: str
    host: str
    owner: Owner | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Token:
        owner = decode.maybe(decode.maybe(raw.get("owner"), decode.mapping), Owner.from_dict)
        return cls(decode.text(raw["token"]), decode.text(raw["host"]), owner)


@dataclass(frozen=True)
class Proof:
    """The results of jobs on compute nodes for one release. ``between``: findings about pairs of nodes."""

    release: str
    time: str
    nodes: tuple[NodeReport, ...]
    between: tuple[Finding, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True if at least one node was tested, all tested nodes passed, and so did all pairs."""
        return 0 < self.checked == self.proved and not self.failed_between

    @property
    def failed_between(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.between if finding.severity is Severity.FAIL)

    @property
    def proved(self) -> int:
        """The number of nodes that passed with this release."""
        return sum(node.passed and node.release == self.release for node in self.nodes)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Proof:
        nodes = decode.items(raw["nodes"], NodeReport.from_dict)
        between = decode.items(raw.get("between", ()), Finding.from_dict)
        return cls(decode.text(raw["release"]), decode.text(raw["time"]), nodes, between)

    @property
    def checked(self) -> int:
        """The number of nodes that were tested."""
        return sum(node.was_checked for node in self.nodes)

    def __str__(self) -> str:
        unchecked = [node.node for node in self.nodes if not node.was_checked]
        more = (
            f", not tested: {', '.join(unchecked[:8])}{' and more' if len(unchecked) > 8 else ''}" if unchecked else ""
        )
        apart = "".join(f"; {finding.check}: {finding.message}" for finding in self.failed_between[:1])
        return f"proved on {self.proved} of {self.checked} nodes at {self.time}{more}{apart}"
