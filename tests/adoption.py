"""Shared storage of a deleted cluster: its state, and a new head node that adopts it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.facts import Mount
from bootstrap.core.model import NodeReport, RunRecord, StepReport, plain
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import remove_tree
from bootstrap.host.locks import Holder
from bootstrap.state.desired import Proof
from bootstrap.state.store import ClusterState
from tests.world import HOST, World, typed, with_spack

NFS = Mount("fs-1.efs.us-east-1.amazonaws.com:/", "/shared", "nfs4", ("rw",))
EBS = Mount("/dev/nvme1n1", "/shared", "ext4", ("rw",))


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The head node of the cluster ``old`` with an install on a separate disk."""
    lmod = tmp_path / "lmod" / "libexec" / "lmod"
    lmod.parent.mkdir(parents=True)
    lmod.touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"),))
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    world = World(tmp_path / "head", live=True, config_text=with_spack(tmp_path), cluster="old")
    assert all(step.error is None for step in converge(world).values())
    return world


def converge(world: World, *, accept: bool = False, **typed_options: Any) -> dict[str, StepReport]:
    ctx = typed(world.context, accept_storage=accept, **typed_options)
    return {step.name: step for step in engine.converge(STEPS, ctx, lambda _: None)}


def new_head_node(old: World, cluster: str = "demo", mount: Mount = EBS) -> World:
    """A new head node; only shared storage remains of the previous one."""
    for path in old.prefix.iterdir():
        if path.name != "shared":
            remove_tree(path)
    host = replace(HOST, name="ip-10-9-9-9", boot_id="boot-9")
    made = World(old.prefix, config_text=old.config_text, live=old.live, host=host, cluster=cluster)
    made.mounts = (mount,)
    return made


def write_dna(world: World) -> None:
    dna = world.prefix / "etc" / "chef" / "dna.json"
    dna.parent.mkdir(parents=True)
    cluster = {"stack_name": world.cluster, "region": "us-east-1", "node_type": "HeadNode"}
    dna.write_text(json.dumps({"cluster": cluster}))


def write_records_of_dead_head(world: World) -> dict[str, bytes]:
    """Write the records of a head node that died during a run; desired.json has the format of a newer petal-node."""
    report = NodeReport("q9-st-c5-1", "compute", "2026-11-24T08:00:00Z", "r0", ())
    run_record = RunRecord(
        "r-9", "hook", "updated", "head", "ip-10-0-0-10", "9.9", 77, "boot-1", "2026-11-24T08:00:00Z"
    )
    ClusterState(world.paths).save_report(report)
    ClusterState(world.paths).save_install(run_record)
    ClusterState(world.paths).save_proof(Proof("r0", "2026-11-24T08:00:00Z", (report,)))
    (world.paths.state / "desired.json").write_text('{"format": 99, "pending": "newer"}')
    holder = Holder("ip-10-0-0-10", 77, "boot-1", 1.0, "2026-11-24T08:00:00Z", "r-9")
    (world.paths.locks / "stack.holder").write_text(json.dumps(plain(holder)))
    names = ("desired.json", "stack.json", "proof.json", "nodes/q9-st-c5-1.json")
    return {name: (world.paths.state / name).read_bytes() for name in names}
