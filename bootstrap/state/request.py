"""The arguments of this node's last hook. They are kept on the node, because runs after a boot have no arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core import decode
from ..core.model import Role
from ..core.options import BOOT, Options
from ..core.paths import Paths
from .context import Context
from .store import read_as, write_document

KEPT = "request.json"
# configured: OnNodeConfigured has run once. pending: a decision of a hook that is not in the desired state yet.
_SHAPE: dict[str, Callable[[Any], Any]] = {
    "uri": decode.text,
    "configured": bool,
    "pending": bool,
    "role": decode.text,
    "config": decode.mapping,
    "config_sha256": decode.sha256,
}


def kept_request(paths: Paths) -> dict[str, Any]:
    """The kept arguments, empty before the first hook.

    Raises:
        StateError: the file is damaged.
    """
    shape = _SHAPE.items()
    kept = read_as(paths.var / KEPT, lambda raw: {name: read(raw[name]) for name, read in shape if name in raw})
    return kept or {}


def is_pending(paths: Paths) -> bool:
    """True while a decision of a hook of the head node is not in the desired state."""
    return bool(kept_request(paths).get("pending"))


def kept_role(options: Options) -> Role | None:
    """``--role`` of the last hook, for runs without a hook's arguments."""
    name = kept_request(options.paths).get("role") if options.event in ("", BOOT) else None
    return Role(name) if name in {role.value for role in Role} else None


def keep_request(options: Options, ctx: Context | None = None) -> None:
    """Keeps the arguments of a hook and its configuration, so that later runs do not fetch it again.

    Args:
        ctx: None if the configuration is not known yet; a kept configuration of the same URI then stays.
    """
    if not options.config or options.event in ("", BOOT):
        return
    previous = kept_request(options.paths)
    source = {"uri": options.config, "config_sha256": options.config_sha256}
    kept = previous if all(previous.get(key) == value for key, value in source.items()) else {}
    kept |= {key: value for key, value in source.items() if value} | {"configured": bool(previous.get("configured"))}
    if ctx is not None:
        kept["config"] = ctx.config.to_dict()
        if options.event != "start":  # a start hook that is run by hand has the arguments of the node's creation
            kept["pending"] = ctx.sets_desired_state
    if options.role is not None:
        kept["role"] = options.role.value
    write_document(options.paths.var / KEPT, kept)


def mark_request_applied(ctx: Context) -> None:
    """Records that the decision of the head node's hook is in the desired state, which counts from now on."""
    request = kept_request(ctx.paths)
    applied = {**request, "pending": False, "configured": True}
    if request and applied != request:
        write_document(ctx.paths.var / KEPT, applied)
