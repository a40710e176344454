"""The arguments of this node's last hook. They are kept on the node, because runs after a boot have no arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.decode import Sha256
from ..core.model import Role, plain
from ..core.options import BOOT, Options
from ..core.paths import Paths
from .context import Context
from .store import read_as, write_document

KEPT = "request.json"


@dataclass(frozen=True)
class Request:
    """The arguments of a hook.

    Args:
        role: ``--role``.
        config: the configuration, None until it is known.
        configured: OnNodeConfigured has run once.
        pending: a decision of a hook of the head node is not in the desired state yet.
    """

    uri: str | None = None
    config_sha256: Sha256 | None = None
    role: Role | None = None
    config: Mapping[str, Any] | None = None
    configured: bool = False
    pending: bool = False


def kept_request(paths: Paths) -> Request:
    """The kept arguments, empty before the first hook.

    Raises:
        StateError: the file is damaged.
    """
    return read_as(paths.var / KEPT, Request) or Request()


def kept_role(options: Options) -> Role | None:
    """``--role`` of the last hook, for runs without a hook's arguments."""
    return kept_request(options.paths).role if options.event in ("", BOOT) else None


def keep_request(options: Options, ctx: Context | None = None) -> None:
    """Keeps the arguments of a hook and its configuration, so that later runs do not fetch it again.

    Args:
        ctx: None if the configuration is not known yet; a kept configuration of the same URI then stays.
    """
    if not options.config or options.event in ("", BOOT):
        return
    previous = kept_request(options.paths)
    request = Request(options.config, options.config_sha256, configured=previous.configured)
    if (previous.uri, previous.config_sha256) == (request.uri, request.config_sha256):
        request = previous
    if ctx is not None:
        request = replace(request, config=ctx.config.to_dict())
        if options.event != "start":  # a start hook that is run by hand has the arguments of the node's creation
            request = replace(request, pending=ctx.sets_desired_state)
    _write(options.paths, replace(request, role=options.role or request.role))


def mark_request_applied(ctx: Context) -> None:
    """Records that the decision of the head node's hook is in the desired state, which counts from now on."""
    request = kept_request(ctx.paths)
    if request.uri is not None and (request.pending or not request.configured):
        _write(ctx.paths, replace(request, pending=False, configured=True))


def _write(paths: Paths, request: Request) -> None:
    known = {name: value for name, value in plain(request).items() if value is not None}
    write_document(paths.var / KEPT, known)
