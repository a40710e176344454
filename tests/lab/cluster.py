"""A lab cluster from the host's side: start it, boot its nodes phase by phase, run commands, remove it."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import engine
from tests.lab.agents import Agents
from tests.lab.engine import LabError, until

NODES = ("head", "login-1", "compute-1", "compute-2")
HOSTNAMES = {
    "head": "ip-10-0-0-10",
    "login-1": "ip-10-0-0-20",
    "compute-1": "queue1-st-c5-1",
    "compute-2": "queue1-st-c5-2",
}
S3 = ("/opt/moto/bin/python3", "/opt/lab/s3.py")
PHASES = ("init", "start", "config", "configured", "finalize")
EVENTS = ("OnNodeStart", "OnNodeConfigured", "OnNodeUpdated")
CONFIG_PATHS = tuple(f"/lab/cluster/{part}/cluster-config.yaml" for part in ("shared", "shared_login_nodes"))


@dataclass(frozen=True)
class Action:
    """One custom action of the cluster YAML."""

    script: str
    args: tuple[str, ...] = ()


Actions = Mapping[str, "Action | Sequence[Action]"]


@dataclass(frozen=True)
class Result:
    """The result of a command in a node."""

    what: str
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Return whether the command succeeded."""
        return self.returncode == 0

    @property
    def hook_seconds(self) -> float | None:
        """Return how long the hook took (all steps) according to the executor's log, or None if the log has no time."""
        times = re.findall(r"Script \d+ took ([\d.]+) s", self.stderr)
        return sum(map(float, times)) if times else None

    def check(self) -> Result:
        """Return itself, or raise ``LabError`` with the output of the command."""
        if not self.ok:
            raise LabError(f"{self.what}: exit {self.returncode}\n{self.stdout}\n{self.stderr}")
        return self


class Lab:
    """One lab; its name is the prefix of its containers, network and volumes."""

    def __init__(self, name: str = "petal-lab", base: str | None = None) -> None:
        """Name a lab without starting anything."""
        self.name = name
        self.image: str | None = None
        self._compose: list[str] | None = None
        self._agents = Agents()
        self.base = base or os.environ.get("BASE_IMAGE") or engine.DEFAULT_BASE

    @staticmethod
    def available() -> str | None:
        """Return why no lab can run here, or None if one can."""
        return engine.unavailable()

    def ensure_engine(self) -> None:
        """Make sure that a container engine answers."""
        engine.ensure_engine()

    def build_images(self) -> str:
        """Build the outdated images; return the node image's name."""
        return engine.build_images(self.base)

    # -- the containers -------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return the variables that docker-compose.yml reads."""
        env = {"LAB": self.name, "LAB_IMAGE": self.image or engine.node_image(self.base)}
        if Path("/dev/fuse").exists():
            env["LAB_FUSE"] = "/dev/fuse:/dev/fuse"
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            env["LAB_CGROUP"] = "/sys/fs/cgroup:/lab/cgroup:ro"  # v2: the engine gives each node a separate tree
        return env

    def compose(self, *argv: str) -> None:
        """Run Compose for this lab."""
        if self._compose is None:
            self._compose = engine.compose_command()  # called once, because each call starts Compose
        if self._compose is None:
            raise LabError("no Compose here")
        full = [*self._compose, "-p", self.name, "-f", str(engine.HERE / "docker-compose.yml"), *argv]
        done = subprocess.run(
            full,
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"{' '.join(full)}: exit {done.returncode}\n{done.stdout}")

    def up(self) -> None:
        """Start the engine, build the images, start the containers and wait until each is ready."""
        self.ensure_engine()
        self.build_images()
        self.compose("up", "-d")
        self.wait_ready()

    def fresh(self) -> None:
        """Remove everything and start the lab again with new nodes and storage, without booting the nodes."""
        self.down()
        self.compose("up", "-d")
        self.wait_ready()

    def bake(self, node: str) -> str:
        """Make a machine image of a node's disk, like an image build. Set ``image`` to start nodes from it."""
        image = f"{self.name}-baked"
        argv = ["docker", "commit", self.container(node), image]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        return image

    def wait_ready(self, seconds: float = 90) -> None:
        """Wait for systemd, the metadata service and S3 in every node; create the cluster's munge key."""
        for node in NODES:
            self.wait_systemd(node, seconds)
        probe = ("curl", "-sf", "-o", "/dev/null", "http://s3:5000/")
        until("S3 answers", lambda: self.exec("head", probe).ok, seconds)
        key = secrets.token_hex(64)
        make = (
            "d=/lab/cluster/shared/.munge; umask 077; mkdir -p $d; cd $d; [ -s .munge.key ] || "
            "{ cat >key.new && mv key.new .munge.key; }; chmod 755 /lab/cluster/shared"
        )
        self.exec("head", ("sh", "-c", make), stdin=key.encode()).check()
        if not self.exec("head", ("test", "-e", CONFIG_PATHS[0])).ok:
            self.set_custom_actions({})

    def wait_systemd(self, node: str, seconds: float = 90) -> None:
        """Wait until systemd has started all units of a node; raise ``LabError`` with the names of failed units."""
        command = ("systemctl", "is-system-running")
        state = ""

        def settled() -> bool:
            nonlocal state
            state = self.exec(node, command).stdout.strip()
            return state in ("running", "degraded")

        until(f"systemd runs in {node}", settled, seconds)
        if state != "running":
            raise LabError(f"{node}: " + self.exec(node, ("systemctl", "--failed", "--no-legend")).stdout)

    def restart(self, node: str) -> None:
        """Reboot a node. Its custom actions do not run again, as on a real node."""
        self.hang_up(node)
        argv = ["docker", "restart", "-t", "10", self.container(node)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        self.wait_systemd(node)

    def replace(self, node: str) -> None:
        """Replace a node by a new machine that has not booted, like a replaced instance; shared storage stays."""
        self.hang_up(node)
        self.compose("up", "-d", "--force-recreate", "--no-deps", node)
        self.wait_systemd(node)

    def down(self) -> None:
        """Remove containers, volumes and network."""
        self.hang_up()
        self.compose("down", "-v", "-t", "1", "--remove-orphans")

    def hang_up(self, node: str | None = None) -> None:
        """Close the connections to a node or to all nodes, before the node stops or after the last command."""
        self._agents.close(self.container(node) if node else None)

    # -- in a node ------------------------------------------------------------------------------------------

    def container(self, node: str) -> str:
        """Return a node's container name."""
        return f"{self.name}-{node}"

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
        timeout: float = 300,
    ) -> Result:
        """Run a command in a node. It has only the container's environment and ``env``."""
        # If this process dies, the command goes on: hence a limit inside, and one outside in case the engine hangs.
        limit = ["timeout", "-k", "5", f"{timeout:.0f}"]
        started = time.monotonic()
        try:
            code, out, err = self._agents.run(
                self.container(node), [*limit, *argv], user=user, env=env or {}, cwd=cwd, stdin=stdin,
                timeout=timeout + 15,
            )  # fmt: skip
        except TimeoutError as error:
            raise LabError(f"{node}: no answer in {timeout + 15:.0f} s: {' '.join(argv)}") from error
        stdout, stderr = (stream.decode(errors="replace") for stream in (out, err))
        return Result(f"{node}: {' '.join(argv)}", code, stdout, stderr, time.monotonic() - started)

    def shell(self, node: str, script: str, *, user: str = "ec2-user", timeout: float = 300) -> Result:
        """Run a script in a login shell of a user."""
        return self.exec(node, ("sudo", "-n", "-i", "-u", user, "bash", "-lc", script), timeout=timeout)

    def write(self, node: str, path: str, text: str, mode: str = "644") -> None:
        """Write a file in a node."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
        self.exec(node, ("sh", "-c", script, "write", path, mode), stdin=text.encode()).check()

    def read(self, node: str, path: str) -> str:
        """Return a file's text."""
        return self.exec(node, ("cat", path)).check().stdout

    # -- S3 and the cluster's configuration -----------------------------------------------------------------

    def put(self, bucket: str, key: str, path: Path | str) -> str:
        """Put a file into the lab's S3; return its URI."""
        return self.put_bytes(bucket, key, Path(path).read_bytes())

    def put_bytes(self, bucket: str, key: str, data: bytes) -> str:
        """Put an object into the lab's S3; return its URI."""
        self.exec("s3", (*S3, "put", bucket, key), stdin=data).check()
        return f"s3://{bucket}/{key}"

    def put_all(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Put many objects with one call."""
        self.exec("s3", (*S3, "put-all", bucket), stdin=packed(objects)).check()

    def unpack(self, node: str, directory: str, files: Mapping[str, bytes]) -> None:
        """Write many files below a directory of a node."""
        script = 'mkdir -p "$1" && tar -xf - -C "$1" --no-same-owner'
        self.exec(node, ("sh", "-c", script, "unpack", directory), stdin=packed(files)).check()

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object from the lab's S3."""
        self.exec("s3", (*S3, "delete", bucket, key)).check()

    def set_custom_actions(
        self,
        actions: Actions | None = None,
        *,
        head: Actions | None = None,
        queue: Actions | None = None,
        login: Actions | None = None,
    ) -> str:
        """Write cluster-config.yaml for all nodes; ``actions`` applies to every role without its own actions."""
        text = (engine.HERE / "cluster-config.yaml").read_text(encoding="utf-8")
        for mark, indent, mine in (("head", 2, head), ("queue", 6, queue), ("login", 6, login)):
            wanted = dict(mine if mine is not None else actions or {})
            if mark == "queue":
                wanted.pop("OnNodeUpdated", None)  # a queue does not have OnNodeUpdated (pcluster's schema)
            text = text.replace(f"@{mark}@\n", custom_actions(wanted, " " * indent))
        for path in CONFIG_PATHS:
            self.write("head", path, text)
        return text

    # -- boot -----------------------------------------------------------------------------------------------

    def phase(self, node: str, phase: str, timeout: float = 900) -> Result:
        """Run one phase of a node's boot: init, start, config, configured, finalize; or updated."""
        return self.exec(node, ("python3", "/opt/lab/phase.py", phase), timeout=timeout)

    def boot(self, node: str, phases: Sequence[str] = PHASES) -> list[Result]:
        """Run the phases in ParallelCluster's order and stop after the first that fails, as ParallelCluster does."""
        results = []
        for phase in phases:
            results.append(self.phase(node, phase))
            if not results[-1].ok:
                break
        return results

    def boot_all(self) -> dict[str, list[Result]]:
        """Boot the head node, then all other nodes at the same time, as clustermgtd launches them."""
        results = {"head": self.boot("head")}
        with ThreadPoolExecutor() as pool:
            results.update(zip(NODES[1:], pool.map(self.boot, NODES[1:])))
        return results

    # -- Slurm ----------------------------------------------------------------------------------------------

    def srun(self, *argv: str, user: str = "ec2-user", node: str = "head", timeout: float = 120) -> Result:
        """Run srun on a node as a user, whose login shell puts /opt/slurm/bin on PATH."""
        inner = ("bash", "-lc", 'cd; exec srun "$@"', "srun", *argv)
        return self.exec(node, inner, user=user, env={"HOME": f"/home/{user}"}, timeout=timeout)

    def idle(self) -> int:
        """Return the number of idle compute nodes according to Slurm."""
        done = self.exec("head", ("/opt/slurm/bin/sinfo", "-h", "-N", "-o", "%t"))
        return done.stdout.split().count("idle") if done.ok else 0

    def wait_idle(self, count: int = 2, seconds: float = 60) -> None:
        """Wait until ``count`` compute nodes are idle."""
        until(f"{count} nodes idle", lambda: self.idle() >= count, seconds)


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return files as one tar stream."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def custom_actions(actions: Actions, indent: str) -> str:
    """Return a CustomActions block, or an empty string. Strings are quoted as JSON, which is valid YAML."""
    if not actions:
        return ""
    lines = ["CustomActions:"]
    for event in EVENTS:
        if event not in actions:
            continue
        action = actions[event]
        lines.append(f"  {event}:")
        if isinstance(action, Action):
            lines += ["    " + line for line in step(action)]
            continue
        lines.append("    Sequence:")
        for item in action:
            first, *rest = step(item)
            lines += ["      - " + first, *("        " + line for line in rest)]
    return "".join(f"{indent}{line}\n" for line in lines)


def step(action: Action) -> list[str]:
    """Return the lines of one Script with its Args."""
    lines = ["Script: " + json.dumps(action.script)]
    if action.args:
        lines += ["Args:", *("  - " + json.dumps(arg) for arg in action.args)]
    return lines
