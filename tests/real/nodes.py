"""petal-node as real processes on a node that is a directory (--root)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]


def command(node: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "bootstrap", *argv, "--root", str(node), "--role", "head"]


def petal(node: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; of this process's environment it gets only PATH."""
    environment = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9", **env}
    return subprocess.run(
        command(node, *argv), cwd=TOP, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def runs(node: Path) -> list[dict[str, Any]]:
    """The records of a node's runs, oldest first."""
    paths = sorted((node / "var/lib/petal-node/runs").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]
