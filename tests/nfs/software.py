"""Two releases with one binary package each, and a cluster with both."""

from __future__ import annotations

from .machine import Done, Machine, Node

PACK = r"""
set -eu
top=/tmp/pack/hello-$1
mkdir -p "$top/bin"
printf '#!/bin/sh\necho hello %s\n# whole\n' "$1" >"$top/bin/hello"
chmod 755 "$top/bin/hello"
for number in $(seq "$2"); do echo "$number" >"$top/file-$number"; done
tar -C /tmp/pack -czf "/srv/hello-$1.tar.gz" "hello-$1"
sha256sum "/srv/hello-$1.tar.gz" | cut -d' ' -f1
"""


def configure(node: Node, version: str, *, storage: str = "mount: /shared", files: int = 0) -> str:
    """Pack a program that prints its version, with ``files`` further files; return the configuration's path."""
    sha256 = node.sh(PACK, version, str(files)).ok().output.strip()
    package = f'{{name: hello, version: "{version}", source: file:///srv/hello-{version}.tar.gz, sha256: {sha256}}}'
    path = f"/etc/petal-{version}.yaml"
    node.write(path, f"storage: {{{storage}}}\npackages: [{package}]\ncheck: {{run: [hello]}}\n")
    return path


def publish(nfs: Machine, version: str) -> str:
    """Let the head node create and publish the release of this version; return its id."""
    nfs.head.petal("bootstrap", "--config", f"/etc/petal-{version}.yaml").ok()
    return current(nfs.head)


def current(node: Node) -> str:
    return node.run("readlink", "/opt/petal/current").ok().output.strip().rpartition("/")[2]


def codes(done: Done) -> set[str]:
    """The error codes in a run's record and its steps."""
    answer = done.json()
    run = answer["data"]
    errors = [*answer["errors"], *run.get("errors", ()), *(step["error"] for step in run.get("steps", ()))]
    return {error["code"] for error in errors if error}
