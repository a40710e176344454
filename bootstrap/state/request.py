"""What was asked for, and what a hook was given: it is kept on the node, since after a boot there are no Args."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import decode as shapes
from ..core.model import Role, Tool
from ..core.paths import Paths
from .context import Context
from .store import KEPT, read_document, shaped, write_document

BOOT = "boot"
KEPT_SHAPE: dict[str, Callable[[Any], Any]] = {
    "uri": shapes.text,
    "configured": bool,
    "pending": bool,
    "role": shapes.text,
    "config": shapes.mapping,
    "config_sha256": shapes.sha256,
}


@dataclass(frozen=True)
class Request:
    """What was asked for, as far as it decides about this node and its configuration.

    Args:
        config: a path or URI, None for what wanted.json says.
        prefix: ``--root``.
        role: ``--role``, None to ask the node.
        event: the hook's event, else empty.
        decides: this run says what the cluster should have; a check takes what wanted.json says.
        accept_storage: ``--accept-storage``: another file system than before, or another cluster's, is meant.
        config_sha256: the checksum that the content of ``config`` must have, None where its place vouches for it.
        may_destroy: ``--yes`` of ``repair``.
        every_byte: ``--deep`` of ``repair``.
        image: the layout for which this machine is to become a machine image, None on the nodes of a cluster.
    """

    tool: Tool
    run_id: str
    config: str | None = None
    prefix: Path = Path("/")
    role: Role | None = None
    event: str = ""
    decides: bool = True
    accept_storage: bool = False
    config_sha256: str | None = None
    image: str | None = None
    may_destroy: bool = False
    every_byte: bool = False


def kept_of(paths: Paths) -> dict[str, Any]:
    """What the last hook of this node was given; empty before the first.

    Raises:
        StateError: it is damaged.
    """
    path = paths.var / KEPT
    raw = read_document(path) or {}
    kept: dict[str, Any] = shaped(
        path, lambda: {name: read(raw[name]) for name, read in KEPT_SHAPE.items() if name in raw}
    )
    return kept


def is_pending(paths: Paths) -> bool:
    """True while what a hook of the head node decided does not stand in wanted.json."""
    return bool(kept_of(paths).get("pending"))


def kept_role(request: Request) -> Role | None:
    """``--role`` of the last hook, for the runs that have no Args."""
    name = kept_of(Paths(request.prefix)).get("role") if request.event in ("", BOOT) else None
    return Role(name) if name in {role.value for role in Role} else None


def keep_request(request: Request, ctx: Context | None = None) -> None:
    """Keeps what a hook was given: after a boot there are no Args, and S3 need not be asked again.

    Args:
        ctx: with the configuration that counted, None while it is not known; what was kept of the same URI stays.
    """
    if not request.config or request.event in ("", BOOT):
        return
    before = kept_of(Paths(request.prefix))
    asked = {"uri": request.config, "config_sha256": request.config_sha256}
    kept = before if all(before.get(key) == value for key, value in asked.items()) else {}
    kept |= {key: value for key, value in asked.items() if value} | {"configured": bool(before.get("configured"))}
    if ctx is not None:
        kept["config"] = ctx.config.to_dict()
        if request.event != "start":  # which comes again with its old Args when somebody runs it by hand
            kept["pending"] = ctx.decides
    if request.role is not None:
        kept["role"] = request.role.value
    write_document(Paths(request.prefix).var / KEPT, kept)


def mark_request_applied(ctx: Context) -> None:
    """The decision of the head node's hook is in the desired state now; from here on the desired state counts."""
    request = kept_of(ctx.paths)
    applied = {**request, "pending": False, "configured": True}
    if request and applied != request:
        write_document(ctx.paths.var / KEPT, applied)
