"""One hook script on one node: a directory (PETAL_PREFIX), and substitutes for the archive and the clients on PATH.

The environment is ParallelCluster's: a PATH, no HOME, no LANG.
"""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from bootstrap.host.log import entries

ROOT = Path(__file__).resolve().parents[2]
PCLUSTER_PATH = "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin:/opt/aws/bin"
ARCHIVE = """#!/bin/sh
# A stand-in for the archive.
echo "ran $0"
for argument in "$@"; do printf 'argument [%s]\\n' "$argument"; done
echo "started [${PETAL_HOOK_STARTED-unset}]"
echo "home [${HOME-unset}] lang [${LANG-unset}] umask [$(umask)]"
read -r line && echo "stdin [$line]"
case ${ARCHIVE_ENDS-0} in
KILL) kill -KILL $$ ;;
MOVED)
    installed=$PETAL_PREFIX/opt/petal-node/1.0/petal-node
    [ "$0" != "$installed" ] || exit 0
    mkdir -p "${installed%/*}" && mv "$0" "$installed" && exit 127
    ;;
esac
exit "${ARCHIVE_ENDS-0}"
"""


@dataclass
class Ran:
    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Hook:
    """One hook on one node."""

    shell: str
    script: Path
    prefix: Path
    substitutes: Path
    archive: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.archive.read_bytes()).hexdigest()

    @property
    def home(self) -> Path:
        return self.prefix / "opt/petal-node"

    def arguments(self, package: str, *more: str) -> list[str]:
        return ["--package", package, "--sha256", self.sha256, "--config", "s3://b/petal.yaml", *more]

    def environment(self) -> dict[str, str]:
        path = f"{self.substitutes}:{PCLUSTER_PATH}"
        return {"PATH": path, "PETAL_PREFIX": str(self.prefix), "PETAL_FETCH_SECONDS": "8", **self.env}

    def run(self, *arguments: str, **options) -> Ran:
        started = time.monotonic()
        command = [self.shell, str(self.script), *arguments]
        options = {"stdin": subprocess.DEVNULL, "cwd": "/", **options}
        done = subprocess.run(command, env=self.environment(), capture_output=True, timeout=60, check=False, **options)
        done.stderr.decode("ascii")
        return Ran(done.returncode, done.stdout.decode("ascii"), done.stderr.decode(), time.monotonic() - started)

    def fetch(self, package: str, *more: str, **options) -> Ran:
        return self.run(*self.arguments(package, *more), **options)

    def substitute(self, name: str, text: str) -> Path:
        path = self.substitutes / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def log(self) -> list[str]:
        path = self.prefix / "var/log/petal-node.log"
        return path.read_text("ascii").splitlines() if path.exists() else []

    def left_over(self) -> list[str]:
        incoming = self.home / "incoming"
        return sorted(path.name for path in incoming.iterdir()) if incoming.exists() else []


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll a condition up to a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ran_the_archive(hook: Hook, ran: Ran) -> None:
    assert ran.code == 0, ran
    assert "argument [hook]\nargument [configured]\n" in ran.out
    assert ran.err == ""
    assert hook.log() == []


def failed(hook: Hook, ran: Ran, code: str, *, exit_code: int = 0) -> str:
    """Check the results of a failed hook, and return its log line."""
    assert ran.code == exit_code, ran
    assert "argument [hook]" not in ran.out or code == "archive-failed"
    written = ran.err.splitlines()
    if written and "Killed" in written[0]:  # the shell's message about a killed child
        written = written[1:]
    (line,) = written
    assert ran.out.endswith(line + "\n")
    match = re.fullmatch(r"petal-node configured: .+ \[([a-z-]+)\]: .+\. Remedy: .+", line)
    assert match, line
    assert match[1] == code, line
    (logged,) = hook.log()
    time_of, _, text = logged.partition(" ")
    assert text == line
    assert abs(datetime.now(timezone.utc) - moment(time_of)) < timedelta(seconds=60)
    assert stat.S_IMODE((hook.prefix / "var/log/petal-node.log").stat().st_mode) == 0o640
    (entry,) = entries(hook.prefix / "var/log/petal-node.log")
    assert (entry.message, entry.level, entry.time) == (line, "error", time_of)  # `petal-node log` prints this format
    return line


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


AWS = """
[ "$1 $2" = "s3api get-object" ] || exit 9
echo "aws $*" >>{log}
for last; do before=$target; target=$last; done
{body}
"""


def fake_aws(hook: Hook, tmp_path: Path, body: str) -> Path:
    log = tmp_path / "aws.log"
    hook.substitute("aws", AWS.format(log=log, body=body))
    return log
