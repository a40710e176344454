"""What may be mounted as shared storage, and how: the rules of ``storage.source`` and ``storage.options``."""

from __future__ import annotations

import re

from marshmallow import ValidationError, validate

SOURCE = validate.Regexp(
    r"^(fs-[0-9a-f]{8,40}"
    r"|([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(@(tcp|o2ib)\d*)?:/[A-Za-z0-9._+/-]*)\Z",
    error="must be the id of an EFS file system (fs-0123abcd...), HOST:/EXPORT or, of type lustre, HOST@tcp:/NAME",
)
# Options that would take away what petal-node relies on, or that mount(8) does not take here.
REFUSED_OPTIONS = {
    **dict.fromkeys(("soft", "softerr"), "half reads and writes would look like whole ones"),
    **dict.fromkeys(("nolock", "local_lock", "noflock", "localflock"), "locks would not exclude other nodes"),
    **dict.fromkeys(("vers=2", "vers=3", "nfsvers=2", "nfsvers=3"), "NFS has locks that survive from version 4 on"),
    **dict.fromkeys(("bg", "noauto", "remount", "bind", "rbind", "move", "user", "users"), "petal-node mounts it once"),
    **dict.fromkeys(("ro", "noexec"), "software is installed and run there"),
}


def option(text: str) -> None:
    """One option of mount(8). It reaches a unit file and a command line: no blank, comma, quote, % or backslash."""
    if not re.match(r"^[a-z_][a-z0-9_]*(=[A-Za-z0-9._:/@-]+)?\Z", text):
        raise ValidationError("must be one option of mount(8), such as noatime or nconnect=4")
    name = text.partition("=")[0]
    why = REFUSED_OPTIONS.get(text) or REFUSED_OPTIONS.get(name)
    if why:
        raise ValidationError(f"{text} is refused: {why}")
