"""Runs commands in a node for the lab: a request a line on stdin, an answer a line on stdout, both JSON.

It is faster than ``docker exec``, which takes 0.1 s of CPU per command. It ends at the end of its stdin.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

# The environment of the container: Python has added LC_CTYPE to os.environ (PEP 538).
GIVEN = dict(entry.split("=", 1) for entry in Path("/proc/self/environ").read_text().split("\0") if "=" in entry)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the command's result; a missing user, directory or program gives 126, as in the container engine."""
    try:
        account = pwd.getpwnam(asked["user"])
        done = subprocess.run(
            asked["argv"],
            input=base64.b64decode(asked["stdin"]),
            capture_output=True,
            check=False,
            cwd=asked["cwd"] or "/",
            env={**GIVEN, "HOME": account.pw_dir, **asked["env"]},
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
            start_new_session=True,
        )
    except (OSError, KeyError) as error:
        return {"returncode": 126, "stdout": "", "stderr": base64.b64encode(str(error).encode()).decode()}
    out, err = (base64.b64encode(stream).decode() for stream in (done.stdout, done.stderr))
    return {
        "returncode": done.returncode if done.returncode >= 0 else 128 - done.returncode,
        "stdout": out,
        "stderr": err,
    }


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
