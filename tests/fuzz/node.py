"""One command line in one directory tree, and the law that holds whatever stands in its files.

The law: an exit code that docs/output.md knows and never 70, no traceback, an error with a code and a remedy or a
reason, and not a byte changed outside of ``--root``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from bootstrap.cli import main
from bootstrap.core.errors import ExitCode, PetalError
from bootstrap.host import system
from bootstrap.host.log import close_log
from tests.world import LMOD_VERSION, with_package

T = TypeVar("T")
DNA = {
    "cluster": {"node_type": "HeadNode", "cluster_name": "demo", "region": "us-east-1", "ebs_shared_dirs": "/shared"}
}
READING = ("status", "plan")
ALLOWED = {int(code) for code in ExitCode} - {int(ExitCode.BUG)}


class QuickSystem(system.System):
    """The real one without its waits: a look at storage needs no child here, and Lmod's version is known."""

    def run(self, argv: Sequence[str], **options: Any) -> system.Completed:
        if Path(argv[0]).name == "lmod":
            return system.Completed(tuple(argv), 0, LMOD_VERSION, "", 0.0)
        return super().run(argv, **options)

    def on_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T:  # noqa: ARG002
        return action()

    def with_deadline(self, action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:  # noqa: ARG002
        return action()


def install(top: Path) -> Path:
    """A head node's tree after one bootstrap with a package."""
    prefix = top / "node"
    (prefix / "shared").mkdir(parents=True)
    (prefix / "etc" / "chef").mkdir(parents=True)
    (prefix / "etc" / "chef" / "dna.json").write_text(json.dumps(DNA))
    (top / "petal.yaml").write_text(with_package(top))
    code, out = call(["bootstrap", "--config", f"{top}/petal.yaml", "--root", str(prefix)])
    assert code in (0, 3), out  # 3: without Lmod on this machine the step shell is blocked
    return prefix


@contextlib.contextmanager
def copied(prefix: Path) -> Iterator[Path]:
    """A copy of a node's tree; links lead to the copy."""
    top = prefix.parent / uuid.uuid4().hex
    other = top / "node"
    try:
        shutil.copytree(prefix, other, symlinks=True)
        for path in other.rglob("*"):
            if path.is_symlink() and str(path.readlink()).startswith(str(prefix)):
                target = other / path.readlink().relative_to(prefix)
                path.unlink()
                path.symlink_to(target)
        yield other
    finally:
        shutil.rmtree(top)


@contextlib.contextmanager
def empty(top: Path) -> Iterator[Path]:
    """A node's tree that holds nothing but the mount point."""
    prefix = top / uuid.uuid4().hex / "node"
    try:
        (prefix / "shared").mkdir(parents=True)
        yield prefix
    finally:
        shutil.rmtree(prefix.parent)


def call(argv: Sequence[str], *, quick: bool = True) -> tuple[int, str]:
    """The exit code of one command line and everything that it printed."""
    streams = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    fast = patch.object(system, "System", QuickSystem) if quick else contextlib.nullcontext()
    handlers = keep_signals()
    with fast, handlers, contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams):
        code = main(list(argv))
    close_log()
    streams.flush()
    return code, streams.buffer.getvalue().decode(errors="surrogateescape")  # type: ignore[attr-defined]


@contextlib.contextmanager
def keep_signals() -> Iterator[None]:
    """A run takes SIGTERM and SIGHUP over; the test process wants its own back."""
    import signal

    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def obeys(argv: Sequence[str], prefix: Path, *, quick: bool = True) -> dict[str, Any]:
    """Runs a command line on ``prefix`` and checks the law; returns the envelope."""
    outside = prefix.parent
    before = fingerprint(outside, but=prefix)
    code, out = call([*argv, "--json", "--root", str(prefix)], quick=quick)
    assert code in ALLOWED, f"exit code {code}\n{out}"
    assert "Traceback" not in out
    assert fingerprint(outside, but=prefix) == before, "something was written outside of --root"
    envelope: dict[str, Any] = json.loads(out, parse_constant=_no_number)
    assert '"code": "bug"' not in out, out
    for error in envelope["errors"]:
        assert error["code"], error
        assert error["what"], error
        assert error["remedy"] or error["why"] or error.get("problems"), error
    if argv[0] in READING:  # they change nothing, so the same again as people see it
        again, text = call([*argv, "--root", str(prefix)], quick=quick)
        assert again == code, text
        assert "Traceback" not in text
        assert text.isascii()
    return envelope


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def fingerprint(top: Path, but: Path | None = None) -> dict[str, tuple[object, ...]]:
    """What lies below ``top``: kind, mode, size, time of change, and the content of small files or links."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        if but is not None and Path(directory, but.name) == but:
            names.remove(but.name)
        for name in names + files:
            path = Path(directory, name)
            info = path.lstat()
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)  # noqa: PTH115 - also where it is no valid text
            elif stat.S_ISREG(info.st_mode):
                content = path.read_bytes()
            found[str(path)] = (info.st_mode, info.st_nlink if stat.S_ISREG(info.st_mode) else 0, content)
    return found
