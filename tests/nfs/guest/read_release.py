"""Reads the current release like a user's shell, repeatedly until STOP exists: it must always be complete.

    read_release.py STOP SECONDS

A round starts SECONDS after the last. Each round resolves ``current`` once, then reads its manifest, modules and
programs. An old release is allowed (NFS caches), an incomplete one is not. Prints one line of
JSON: rounds, releases, incomplete files.
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
    """Resolve ``current``. A link that is replaced twice while it is read is stale for NFS clients (the kernel retries
    once): that is not an incomplete release, and the next attempt finds the link."""
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
