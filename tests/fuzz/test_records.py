"""Records with any content: each verb answers, names the damaged file, and loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.core import decode
from bootstrap.core.errors import PetalError, StateError
from bootstrap.core.model import NodeReport, RunRecord, plain
from bootstrap.core.paths import Paths
from bootstrap.host import locks as lock
from bootstrap.spack import database
from bootstrap.spack.lockfile import Locked, locked_specs
from bootstrap.state import release
from bootstrap.state import runs as runs_store
from bootstrap.state import store as state
from tests.fuzz import inputs, node
from tests.fuzz.conftest import EXAMPLES
from tests.world import LOCKFILE

FINDING = {
    "check": "load:a",
    "severity": "fail",
    "message": "ended with 1",
    "why": "no",
    "remedy": ["petal-node check"],
}
REPORT = {"node": "q1-st-1", "role": "compute", "time": "2026-11-24T08:00:00Z", "release": "abc", "findings": [FINDING]}
ERROR = {"code": "fetch-missing", "what": "x is not there", "why": "404", "remedy": ["ls x"]}
STEP = {
    "name": "storage", "outcome": "failed", "reason": "why", "changes": ["a"], "remedy": ["b"],
    "seconds": 1.5, "error": ERROR,
}  # fmt: skip
RUN = {
    "format": 1, "run_id": "20261124T081405.123Z-1a2b3c", "verb": "hook", "event": "configured", "role": "head",
    "host": "h", "package": "0.1.0", "pid": 4711, "boot_id": "b", "started": "2026-11-24T08:00:00Z", "finished": None,
    "status": "running", "exit": None, "release": "abc", "steps": [STEP], "errors": [ERROR], "findings": [FINDING],
    "budget": 300.0, "hook_may_return": False,
}  # fmt: skip
WANTED = {
    "format": 1, "version": "0.1.0", "sha256": None, "release": "abc", "environment": {"specs": ["zlib"]},
    "config": {"storage": {"mount": "/shared"}, "packages": [{"name": "a", "version": "1", "prefix": "/usr"}]},
}  # fmt: skip
HOLDER = {
    "host": "h", "pid": 1, "boot_id": "b", "process_start": 1.5, "since": "2026-11-24T08:00:00Z", "run_id": "r",
}  # fmt: skip
REQUEST = {"format": 1, "uri": "/no/petal.yaml", "configured": True, "role": "head", "config": WANTED["config"]}
MODULES = [{"name": "a/1", "path": "Core/a/1.lua", "origin": "package"}]
TREES = [{"name": "debian12-x86_64_v3", "target": "x86_64_v3", "modules": MODULES}]
MANIFEST = {
    "format": 1, "release": "abc", "created": "2026-11-24T08:00:00Z", "os": "debian12", "glibc": "2.36",
    "specs": ["zlib"], "trees": TREES,
}  # fmt: skip
NOTE = {"release": "abc", "time": "2026-11-24T08:00:00Z", "run_id": "r"}
INDEX = {"database": {"installs": {"a" * 32: {"installed": True, "path": "/opt/petal/store/x"}}}}
# The path of each record; {release} is the target of ``current``.
PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "wanted": ("shared/petal/state/desired.json", WANTED),
    "install": ("shared/petal/state/stack.json", RUN),
    "proof": ("shared/petal/state/proof.json", {"format": 1, "release": "abc", "time": "t", "nodes": [REPORT]}),
    "report": ("shared/petal/state/nodes/q1-st-1.json", {"format": 1, **REPORT}),
    "token": ("shared/petal/state/token.json", {"format": 1, "token": "x" * 32, "host": "h"}),
    "holder": ("shared/petal/lock/stack.holder", HOLDER),
    "request": ("var/lib/petal-node/request.json", REQUEST),
    "run": ("var/lib/petal-node/runs/99991124T081405.123Z-1a2b3c.json", RUN),
    "manifest": ("opt/petal/releases/{release}/manifest.json", MANIFEST),
    "published": ("shared/petal/state/published.json", {"format": 1, "published": [NOTE]}),
    "made": ("opt/petal/releases/{release}/desired.json", WANTED),
    "index": ("opt/petal/releases/{release}/modules.json", {"format": 1, "trees": TREES}),
}  # fmt: skip
VERBS = (["status"], ["plan"], ["converge"], ["check"], ["releases"], ["rollback"], ["gc"])
record_files = st.sampled_from(sorted(PLACES)).flatmap(
    lambda name: st.tuples(st.just(name), inputs.files_of(st.just(PLACES[name][1])))
)


def place(prefix: Path, name: str) -> Path:
    current = release.current_release(Paths(prefix)) or ""
    return prefix / PLACES[name][0].format(release=current)


def read_all(prefix: Path) -> bool:
    """Call every reader of a record on disk; invalid records raise PetalError, and all results are valid JSON.

    Returns:
        False if a reader refused a record.
    """
    paths, shared = Paths(prefix), state.ClusterState(Paths(prefix))
    readers = (
        shared.desired_state, shared.install, shared.proof, shared.token, shared.reports,
        lambda: runs_store.Runs(paths).latest(),
        lambda: release.read_manifest(paths, "r"),
        lambda: release.read_index(paths, "r"),
        shared.published,
        lambda: state.desired_state_of(paths, "r"),
        lambda: lock.holder_of(paths.locks / "stack.lock"),
    )  # fmt: skip
    accepted = True
    for reader in readers:
        try:
            found = reader()
        except StateError as error:
            assert error.code in ("state-corrupt", "state-newer")
            assert str(prefix) in error.what
            assert error.remedy
            accepted = False
            continue
        for record in found if isinstance(found, tuple) else (found,):
            if isinstance(record, (RunRecord, NodeReport)):
                kind = type(record)
                assert decode.build(kind, json.loads(json.dumps(plain(record), allow_nan=False))) == record
    return accepted


@given(record=record_files)
def test_every_reader_returns_a_record_or_an_error(record: tuple[str, bytes], tmp_path: Path) -> None:
    name, data = record
    with node.empty(tmp_path) as prefix:
        path = prefix / PLACES[name][0].format(release="r")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read_all(prefix)
        assert path.read_bytes() == data


@pytest.mark.parametrize("name", sorted(PLACES))
def test_any_value_of_any_record_can_be_replaced(name: str, tmp_path: Path) -> None:
    document = PLACES[name][1]
    with node.empty(tmp_path) as prefix:
        path = prefix / PLACES[name][0].format(release="r")
        path.parent.mkdir(parents=True, exist_ok=True)
        for here in inputs.places(document)[1:]:
            for value in inputs.OTHERS:
                path.write_bytes(inputs.json_bytes(inputs.replaced(document, here, value)))
                try:
                    if not read_all(prefix):  # refused: all errors take the same path to the output
                        continue
                    node.obeys(["status", "--role", "head"], prefix)
                except Exception as error:
                    raise AssertionError(f"{here} = {value!r:.60}") from error


@settings(max_examples=max(50, EXAMPLES // 10))  # each example copies a whole node
@given(record=record_files, verb=st.sampled_from(VERBS[:3]))
def test_every_verb_answers_for_any_content_of_a_record(
    record: tuple[str, bytes], verb: list[str], installed: Path
) -> None:
    name, data = record
    with node.copied(installed) as prefix:
        place(prefix, name).write_bytes(data)
        node.obeys(verb, prefix)


@settings(max_examples=max(5, EXAMPLES // 200))
@given(record=record_files, verb=st.sampled_from(VERBS))
def test_damaged_records_in_a_real_process(record: tuple[str, bytes], verb: list[str], installed: Path) -> None:
    name, data = record
    with node.copied(installed) as prefix:
        place(prefix, name).write_bytes(data)
        node.obeys(verb, prefix, quick=False)
        node.obeys([*verb, "--role", "compute"], prefix, quick=False)


@pytest.mark.parametrize("name", sorted(set(PLACES) - {"holder"}))
def test_a_record_of_a_newer_format_is_reported_and_kept(name: str, installed: Path) -> None:
    with node.copied(installed) as prefix:
        path = place(prefix, name)
        newer = json.dumps({**PLACES[name][1], "format": 2, "more": [1]}).encode()
        path.write_bytes(newer)
        texts = []
        for verb in VERBS:
            texts.append(json.dumps(node.obeys(verb, prefix)))
            assert path.read_bytes() == newer, f"{verb} overwrote the record of a newer petal-node"
        assert any("newer petal-node" in text for text in texts) or name == "report"


@pytest.mark.parametrize("name", sorted(PLACES))
@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "unreadable"])
def test_every_verb_answers_if_a_record_is_not_a_file(kind: str, name: str, installed: Path) -> None:
    with node.copied(installed) as prefix:
        path = place(prefix, name)
        path.unlink(missing_ok=True)
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/etc/passwd")
        else:
            path.write_bytes(b"{}")
            path.chmod(0)
        for verb in VERBS[:3]:
            node.obeys(verb, prefix)


@given(data=inputs.files_of(st.just(LOCKFILE)))
def test_a_lockfile_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    with node.empty(tmp_path) as prefix:
        (prefix / "spack.lock").write_bytes(data)
        try:
            specs = locked_specs(prefix / "spack.lock")
            database.missing(specs, prefix)
        except PetalError as error:
            assert error.code == "state-corrupt"
            assert "spack.lock" in error.what


@given(data=inputs.files_of(st.just(INDEX)))
def test_a_database_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    with node.empty(tmp_path) as prefix:
        (prefix / ".spack-db").mkdir()
        (prefix / ".spack-db" / "index.json").write_bytes(data)
        wanted = Locked("zlib", "1.3", "a" * 32, True, False)
        try:
            assert database.missing((wanted,), prefix) == (wanted,)
        except PetalError as error:
            assert error.code == "spack-database"
            assert error.remedy
