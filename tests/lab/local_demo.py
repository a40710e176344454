"""The demo without containers: the same hook scripts and steps on this machine, each node is a directory.

``PETAL_PREFIX`` moves all paths of a node below its directory (``--root``), and the directories share one
``shared``. The demo prints what it leaves out: mounts, systemd, Slurm (hence the proof by a job), IMDS and S3.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.lab import stack
from tests.lab.demo import DIST, SCRIPTS, heading, show
from tests.lab.engine import LabError, print_progress

NODES = {"head": "HeadNode", "login-1": "LoginNode", "compute-1": "ComputeFleet", "compute-2": "ComputeFleet"}
LEFT_OUT = "no mounts, no systemd, no S3, and no Slurm: so no job proves it, each node only checks itself"
PROGRAM = b'#!/bin/sh\necho "hello from $(uname -n), installed in ${HELLO_ROOT:-nowhere}"\n'
HOOK_SECONDS = 600


def local_demo(reason: str) -> None:
    """Run the demo in a new directory, which is kept."""
    print_progress(f"no container can run here: {reason}")
    print_progress(f"the same hooks run on this machine, each node a directory: {LEFT_OUT}")
    top = Path(tempfile.mkdtemp(prefix="petal-demo-"))
    args = _arguments(top, _config(top))
    for node, role in NODES.items():
        _make_node(top, node, role)
        for event in ("OnNodeStart", "OnNodeConfigured"):
            heading(f"{node}: {SCRIPTS[event]}")
            show(run_hook(top / node, event, args))
    for node in NODES:
        heading(f"petal-node check on {node}")
        show(_petal(top / node, "check"))
    heading("every hook once more: nothing changes")
    for node in NODES:
        last = run_hook(top / node, "OnNodeConfigured", args).splitlines()[-1]
        show(f"{node:<10} {last}")
        if not last.startswith("petal-node hook configured on") or " changed" in last:
            raise LabError(f"{node}: the second run of the hook did something else than nothing")
    heading(f"done; look around below {top}, then: rm -r {top}")


def _config(top: Path) -> dict[str, Any]:
    folder = stack.Folder(top / "bucket")
    config = stack.base_config(folder.put("packages/hello-1.0.tar.gz", stack.packed_program(PROGRAM)))
    config["packages"] = config["packages"][:1]  # /opt/amazon/openmpi is part of a cluster's image
    config["check"] = {"load": ["hello"], "run": ["hello"]}
    reason = stack.no_spack() or _no_compiler()
    if reason:
        print_progress(f"the demo shows binary packages only, because {reason}")
        return config
    for name, data in stack.mirror_files().items():
        path = top / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    make = subprocess.run(["make", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    wheels = stack.clingo_wheels(version, os.uname().machine)
    return stack.add_spack(config, folder, wheels, make, str(top / "mirror"))


def _no_compiler() -> str | None:
    missing = [name for name in ("gcc", "g++", "gfortran", "make") if not shutil.which(name)]
    return f"{', '.join(missing)}: not installed here" if missing else None


def _arguments(top: Path, config: dict[str, Any]) -> list[str]:
    path = top / "bucket" / "petal.yaml"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    package = DIST / "petal-node"
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return ["--package", f"file://{package}", "--sha256", digest, "--config", f"file://{path}"]


def _make_node(top: Path, node: str, role: str) -> None:
    """Create a node's directory: its identity and a link to the shared storage."""
    dna = top / node / "etc" / "chef" / "dna.json"
    dna.parent.mkdir(parents=True)
    cluster = {"stack_name": "demo", "node_type": role, "region": "us-east-1", "ebs_shared_dirs": "/shared"}
    dna.write_text(json.dumps({"cluster": cluster}), encoding="utf-8")
    (top / "shared").mkdir(exist_ok=True)
    (top / node / "shared").symlink_to("../shared")


def run_hook(node: Path, event: str, args: list[str]) -> str:
    """Run one hook as ParallelCluster does: a minimal environment, another directory, stderr is a pipe."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin", "PETAL_PREFIX": str(node)}
    env["PETAL_PYTHON"] = sys.executable  # clingo was fetched for this Python
    argv = ["/bin/sh", str(DIST / SCRIPTS[event]), *args]
    done = subprocess.run(argv, env=env, cwd="/", capture_output=True, timeout=HOOK_SECONDS, check=False)
    if done.returncode:
        raise LabError(f"{event} of {node.name} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


def _petal(node: Path, *argv: str) -> str:
    command = [str(DIST / "petal-node"), *argv, "--root", str(node)]
    env = {"PATH": os.environ["PATH"], "PETAL_PREFIX": str(node), "PETAL_PYTHON": sys.executable}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HOOK_SECONDS, check=False)
    return done.stdout + done.stderr
