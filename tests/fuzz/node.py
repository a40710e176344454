"""One command line in one directory tree, and the law that holds for any content of its files.

The law: an exit code of docs/output.md other than 70, no traceback, an error with a code and a remedy or a
reason, and no change outside of ``--root``.
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
    """The real one without its waits: access to storage needs no child process here, and Lmod's version is fixed."""

    def run(self, argv: Sequence[str], **options: Any) -> system.Completed:
        if Path(argv[0]).name == "lmod":
            return system.Completed(0, LMOD_VERSION, "")
        return super().run(argv, **options)

    def on_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T:  # noqa: ARG002
        return action()

    def with_deadline(self, action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:  # noqa: ARG002
        return action()


def install(top: Path) -> Path:
    """Create a head node's tree by one bootstrap with a package."""
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
    """Copy a node's tree; links in it point to the copy."""
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
    """A node's tree with only the mount point."""
    prefix = top / uuid.uuid4().hex / "node"
    try:
        (prefix / "shared").mkdir(parents=True)
        yield prefix
    finally:
        shutil.rmtree(prefix.parent)


def call(argv: Sequence[str], *, quick: bool = True) -> tuple[int, str]:
    """The exit code and the output of one command line."""
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
    """Restore the handlers of SIGTERM and SIGHUP, which a run replaces."""
    import signal

    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def obeys(argv: Sequence[str], prefix: Path, *, quick: bool = True) -> dict[str, Any]:
    """Run a command line on ``prefix`` and check the law; return the envelope."""
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
    if argv[0] in READING:  # these verbs change nothing, so run them again with text output
        again, text = call([*argv, "--root", str(prefix)], quick=quick)
        assert again == code, text
        assert "Traceback" not in text
        assert text.isascii()
    return envelope


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is not valid JSON")


def fingerprint(top: Path, but: Path | None = None) -> dict[str, tuple[object, ...]]:
    """Everything below ``top``: kind, mode, size, change time, and the content of small files and links."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        if but is not None and Path(directory, but.name) == but:
            names.remove(but.name)
        for name in names + files:
            path = Path(directory, name)
            info = path.lstat()
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)  # noqa: PTH115 - the target may be invalid text
            elif stat.S_ISREG(info.st_mode):
                content = path.read_bytes()
            found[str(path)] = (info.st_mode, info.st_nlink if stat.S_ISREG(info.st_mode) else 0, content)
    return found
