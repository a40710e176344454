"""Reads the current release as a user's shell does, again and again until STOP is there: it must always be whole.

    read_release.py STOP SECONDS

A round begins SECONDS after the last. ``current`` is resolved once a round, then its manifest, each of its modules and
the program behind it are read under that name. An old release is fine (NFS caches), a half one is not. One line of
JSON: rounds, releases, what was half.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from pathlib import Path

ROOT = Path("/opt/petal")


def resolve() -> Path:
    """``current``. A link that is replaced twice while it is read is stale to a client of NFS (the kernel looks again
    once): nothing half, and the next look finds it."""
    for _ in range(3):
        try:
            return (ROOT / "current").readlink()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    raise ValueError("current stays stale")


def read_once() -> str:
    release = resolve()
    manifest = json.loads((ROOT / release / "manifest.json").read_text())
    if manifest["release"] != release.name:
        raise ValueError(f"{release} holds the manifest of {manifest['release']}")
    (tree,) = manifest["trees"]
    if not tree["modules"]:
        raise ValueError(f"{release} offers nothing")
    for module in tree["modules"]:
        text = (ROOT / release / "modules" / tree["name"] / module["path"]).read_text()
        (prefix,) = set(re.findall(r'"(/opt/petal/store/[^"/]+/[^"/]+)"', text))
        if not (Path(prefix) / "bin" / "hello").read_text().endswith("# whole\n"):
            raise ValueError(f"{prefix} is half")
    return release.name


stop, pause, seen, half, rounds = Path(sys.argv[1]), float(sys.argv[2]), set(), [], 0
while not stop.exists():
    time.sleep(pause)
    rounds += 1
    try:
        seen.add(read_once())
    except (OSError, ValueError, KeyError) as error:
        half.append(f"round {rounds}: {error!r}")
print(json.dumps({"rounds": rounds, "seen": sorted(seen), "half": half[:20]}))
