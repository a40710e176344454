"""A machine image made from a node: the memory of that node does not count on another instance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.cli import main
from bootstrap.core.paths import Paths
from bootstrap.state.machine import INSTANCE, MEMORY, Machine, forget_other_machine
from bootstrap.state.store import KnownStorage

DMI, CLOUD = INSTANCE
DNA = "/etc/chef/dna.json"


def write(paths: Paths, name: str, text: str) -> None:
    path = paths.at(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stack(arn: str) -> str:
    return json.dumps({"cluster": {"stack_arn": arn, "node_type": "HeadNode"}})


def remembers(paths: Paths) -> bool:
    """Starts as a run does, with a memory."""
    paths.runs.mkdir(parents=True, exist_ok=True)
    (paths.runs / "1.json").write_text("{}")
    KnownStorage("/shared", "0" * 32).save(paths)
    forget_other_machine(paths)
    left = {name for name in MEMORY if (paths.var / name).exists()}
    assert left in (set(), {"storage.json", "runs"})
    return bool(left)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        (CLOUD, "i-0123456789abcdef0\n", "i-0fedcba9876543210\n"),
        (DMI, "i-0123456789abcdef0\n", "i-0fedcba9876543210\n"),
        (DNA, stack("arn:a/0a1b"), stack("arn:a/2c3d")),
    ],
)
def test_another_instance_or_cluster_has_another_memory(name: str, first: str, second: str, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write(paths, name, first)
    assert remembers(paths)
    assert remembers(paths)
    write(paths, name, second)
    assert not remembers(paths)
    assert remembers(paths)


def test_the_id_in_the_file_of_the_image_does_not_hide_the_one_of_the_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """cloud-init has not replaced its file yet."""
    paths = Paths(tmp_path)
    for name in (CLOUD, DMI):
        write(paths, name, "i-0123456789abcdef0\n")
    write(paths, DNA, stack("arn:a/0a1b"))
    assert remembers(paths)
    write(paths, DMI, "i-0fedcba9876543210\n")
    assert not remembers(paths)
    assert "the memory of instance i-0123456789abcdef0 of arn:a/0a1b is removed" in caplog.text


def test_ids_that_become_known_later_or_are_unreadable_do_not_count(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for name, text in (
        (CLOUD, "i-0123456789abcdef0"),
        (DNA, stack("arn:a/0a1b")),  # ParallelCluster writes it after the first boot
        (DNA, "{"),
        (CLOUD, "iid-local"),  # another cloud
        (DMI, "Not Specified"),
        (DNA, "[]"),
    ):
        write(paths, name, text)
        assert remembers(paths), text
    write(paths, DNA, stack("arn:a/2c3d"))
    assert not remembers(paths)
    assert Machine.here(paths) == Machine(None, "arn:a/2c3d")


def test_a_run_on_a_copy_reads_no_memory_of_the_original(tmp_path: Path) -> None:
    paths, run = Paths(tmp_path), ["bootstrap", "--role", "login", "--root", str(tmp_path)]
    write(paths, CLOUD, "i-0123456789abcdef0")
    main(run)
    KnownStorage("/shared", "0" * 32).save(paths)
    main(run)
    assert KnownStorage.load(paths) is not None
    write(paths, CLOUD, "i-0fedcba9876543210")
    main(["status", "--root", str(tmp_path)])  # only reads
    assert KnownStorage.load(paths) is not None
    main(run)
    assert KnownStorage.load(paths) is None
