"""The inventory of a package's files at its install, and differences from it.

The form is that of Spack's ``.spack/install_manifest.json`` (lib/spack/spack/verify.py): a mapping of absolute paths to
mode, and ``dest`` of a link, or size, time and ``hash`` (SHA-1 in base32) of a file. petal-node writes one for
binary packages.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
# Spack writes the times after the manifest, and Python compiles modules again.
CHANGING = (".pyc", "/.spack/install_times.json")


@dataclass(frozen=True)
class Difference:
    """A file that differs from the installed one.

    Args:
        lost: a new install would overwrite no changes.
        empty: it has no content, and had some.
    """

    path: str
    what: str
    lost: bool
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def take(directory: Path, final: Path) -> dict[str, Any]:
    """The inventory of a directory that will be moved to ``final``."""
    entries = {}
    for top, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = os.path.join(top, name)  # noqa: PTH118 - thousands of them
            entries[str(final) + path[len(str(directory)) :]] = _entry(path)
    return entries


def _entry(path: str) -> dict[str, Any]:
    info = os.lstat(path)
    entry: dict[str, Any] = {"mode": info.st_mode}
    if stat.S_ISLNK(info.st_mode):
        return {**entry, "dest": _target(path)}
    if stat.S_ISREG(info.st_mode):
        return {**entry, "size": info.st_size, "time": info.st_mtime, "hash": hash_of(path)}
    return entry


def hash_of(path: str) -> str:
    """Spack's ``compute_hash``. It detects damage, but does not protect against an attacker."""
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:  # noqa: PTH123
        while block := file.read(CHUNK):
            digest.update(block)
    return base64.b32encode(digest.digest()).decode()


def differences(entries: Mapping[str, Any], *, contents: bool, every_byte: bool = False) -> Iterator[Difference]:
    """The differences of the files from an inventory.

    Args:
        contents: also compare the hash of each file whose time has changed.
        every_byte: compare the hash of every file.

    Raises:
        OSError: a file cannot be examined.
    """
    for path, entry in entries.items():
        if isinstance(entry, dict):
            found = _difference(path, entry, contents=contents, every_byte=every_byte)
            if found is not None:
                yield found


def _difference(path: str, entry: Mapping[str, Any], *, contents: bool, every_byte: bool) -> Difference | None:
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Difference(path, "is missing", lost=True)
    is_link = "dest" in entry
    is_compared = contents if is_link else "size" in entry and not path.endswith(CHANGING)
    if not is_compared:
        return None
    what, lost, empty = "", False, False
    if is_link and not stat.S_ISLNK(info.st_mode):
        what = "is not a link"
    elif is_link:
        what = "" if _target(path) == entry["dest"] else f"leads to {_target(path)}"
    elif not stat.S_ISREG(info.st_mode):
        what = "is not a regular file"
    elif info.st_size != entry["size"]:
        what, lost = f"has {info.st_size} bytes, not {entry['size']}", info.st_size == 0
        empty = lost
    elif entry.get("mode", 0) & 0o111 and not info.st_mode & 0o111:
        what, lost = "cannot be executed", True
    elif every_byte or (contents and info.st_mtime != entry.get("time")):
        what = "has other contents" if "hash" in entry and hash_of(path) != entry["hash"] else ""
    return Difference(path, what, lost, empty) if what else None


def _target(link: str) -> str:
    """The target as written; pathlib would change ``./a`` to ``a``."""
    return os.readlink(link)  # noqa: PTH115
