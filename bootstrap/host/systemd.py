"""systemd on this node: the units that petal-node installs, and the services that it starts without a unit file.

Only this module calls systemctl and systemd-run. Every command has a timeout, because systemd does not answer while it
is frozen or out of memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.deadlines import COMMAND, PROGRAM
from ..core.errors import ProcessFailed, ProcessTimeout
from .atomic import flush_directory, write_atomic
from .files import make_dir, same_content
from .log import LOG
from .system import System, base_env

WANTS = "multi-user.target.wants"
# Every service of petal-node (systemd.service(5)): a killed one starts again, after its processes have ended.
SERVICE = ("Restart=on-abnormal", "RestartSec=2s", "TimeoutStopSec=10s")
# A build that runs out of memory ends alone, not the whole service. Since systemd 243; Red Hat 8 and Rocky 8 have 239.
NEWER = ("OOMPolicy=continue",)
# The transient service of a worker starts again at most five times an hour.
TRANSIENT = ("KillMode=control-group", "StartLimitIntervalSec=1h", "StartLimitBurst=5")
# How to reach S3 and other servers, in upper or lower case. Access keys are not among them, because every user can read
# the environment of a unit.
NETWORK = (
    *("AWS_ENDPOINT_URL", "AWS_USE_", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_"),
    *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
PASSED_ON = (*NETWORK, "PETAL_PREFIX", "PETAL_PYTHON")  # to a worker: also how its hook was started
# Of the last hook that ParallelCluster started. Read by the worker's service, by the convergence after boot and by
# verbs that an operator types; only root may read it.
ENVIRONMENT = Path("/var/lib/petal-node/environment")


@dataclass(frozen=True)
class Unit:
    """A unit file in a directory such as /etc/systemd/system. Its first line identifies it as a file of petal-node."""

    name: str
    text: str

    def needs_write(self, folder: Path) -> bool:
        """True if the file is missing or differs."""
        return not same_content(folder / self.name, self.text.encode())

    def is_enabled(self, folder: Path) -> bool:
        """True if systemd starts it at boot."""
        return (folder / WANTS / self.name).is_symlink()

    def is_current(self, folder: Path) -> bool:
        """True if a reboot starts it as it is written here."""
        return not self.needs_write(folder) and self.is_enabled(folder)

    def is_ours(self, folder: Path) -> bool:
        """True if the file is one that petal-node wrote, perhaps with other values."""
        path = folder / self.name
        return path.is_file() and path.read_bytes().startswith(self.text.splitlines()[0].encode())


def install(units: Sequence[Unit], folder: Path, system: System) -> None:
    """Writes units and enables those that have an ``[Install]`` section.

    Raises:
        ProcessFailed, ProcessTimeout: systemd does not accept them.
    """
    make_dir(folder)
    for unit in units:
        write_atomic(folder / unit.name, unit.text.encode())
    system.run(["systemctl", "daemon-reload"], timeout=PROGRAM)
    for unit in units:
        if "[Install]" in unit.text:
            system.run(["systemctl", "--quiet", "enable", unit.name], timeout=PROGRAM)
    if (folder / WANTS).is_dir():
        flush_directory(folder / WANTS)  # systemctl does not


def disable(name: str, system: System, *, timeout: float = PROGRAM) -> None:
    """Stops a unit; a reboot does not start it."""
    system.run(["systemctl", "disable", "--now", name], timeout=timeout)


def start(name: str, system: System, *, timeout: float = PROGRAM, again: bool = False) -> None:
    """Starts a unit and waits until it runs; ``again`` stops it first."""
    system.run(["systemctl", "restart" if again else "start", name], timeout=timeout)


def request(verb: str, name: str, system: System) -> None:
    """Asks systemd to ``start`` or to ``stop`` a unit, and does not wait for it."""
    system.run(["systemctl", "--no-block", verb, name], timeout=PROGRAM)


def state(name: str, system: System, *, timeout: float = PROGRAM) -> str:
    """``active``, ``inactive``, ``failed`` and so on (systemctl(1)); empty if there is no such unit."""
    shown = system.run(["systemctl", "show", "--property=LoadState,ActiveState", name], timeout=timeout, ok=None).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return values.get("ActiveState", "") if values.get("LoadState") == "loaded" else ""


def detach(argv: Sequence[str], system: System, *, unit: str | None, output: Path, is_typed: bool = False) -> None:
    """Starts a program that outlives this process and holds none of its descriptors.

    Under systemd it is the transient service ``unit``: its builders stay in one cgroup, the end of the hook does not
    end it, and systemd starts it again if it is killed. Without ``unit``, without systemd, and if systemd refuses
    because the machine shuts down, it is a new session.

    Args:
        output: where a new session writes to; a service writes to the journal.
        is_typed: an operator started it: its environment counts for it alone, not for later runs.
    """
    passed = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
    env = {**base_env(), **passed}
    file = ENVIRONMENT.with_name("environment-typed") if is_typed and ENVIRONMENT.exists() else ENVIRONMENT
    if not (unit and system.has_systemd() and system.is_root() and run_transient(argv, env, unit, system, file)):
        system.new_session(argv, env, output)


def run_transient(argv: Sequence[str], env: Mapping[str, str], unit: str, system: System, file: Path) -> bool:
    """Starts a transient service; False if systemd refuses. ``env`` may have a proxy's password: ``file`` has it."""
    write_atomic(file, environment_file(env).encode(), mode=0o600)
    properties = (f"EnvironmentFile={file}", *TRANSIENT, *SERVICE)
    for accepted in ((*properties, *NEWER), properties):
        options = [f"--property={text}" for text in accepted]
        command = ["systemd-run", "--quiet", "--collect", "--no-block", f"--unit={unit}", *options, *argv]
        try:
            system.run(command, timeout=COMMAND)
        except ProcessTimeout as error:  # a second try would take as long; the locks exclude a second worker
            LOG.warning("%s", error)
            return False
        except ProcessFailed as error:
            LOG.warning("%s: %s", error, "; ".join(accepted))
            continue
        return True
    return False


def environment_file(env: Mapping[str, str]) -> str:
    """Variables as systemd reads them from a file (systemd.exec(5), EnvironmentFile)."""
    lines = []
    for name, value in sorted(env.items()):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)


def parse_environment(text: str) -> dict[str, str]:
    """Variables that ``environment_file`` wrote; other lines are ignored."""
    matches = (re.fullmatch(r'(\w+)="((?:[^"\\]|\\.)*)"', line) for line in text.splitlines())
    return {match[1]: re.sub(r"\\(.)", r"\1", match[2]) for match in matches if match}


def take_environment() -> None:
    """Sets the variables of the last hook to reach servers, except those that an operator has set."""
    given = {_purpose(name) for name in os.environ}
    os.environ.update({name: value for name, value in _stored().items() if _purpose(name) not in given})


def taken_environment() -> dict[str, str]:
    """The variables to reach servers that this process has from the last hook; a shell of an operator lacks them."""
    return {name: value for name, value in _stored().items() if os.environ.get(name) == value}


def _stored() -> dict[str, str]:
    try:
        stored = parse_environment(ENVIRONMENT.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # no worker has run here under systemd, or this user is not root
        return {}
    return {name: value for name, value in stored.items() if name.upper().startswith(NETWORK)}


def _purpose(name: str) -> str:
    """The same for variables that replace each other."""
    name = name.upper().replace("AWS_DEFAULT_REGION", "AWS_REGION")
    return "AWS_ENDPOINT_URL" if name.startswith("AWS_ENDPOINT_URL") else name
