"""The demo without containers: real hook scripts and the real archive, each node a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import local_demo, stack
from tests.world import lmod_of_this_machine


@pytest.mark.skipif(not (local_demo.DIST / "petal-node").is_file(), reason="dist/petal-node is missing (make dist)")
def test_the_demo_without_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "no_spack", lambda: "left out of this test")
    monkeypatch.setattr(local_demo.tempfile, "mkdtemp", lambda prefix: str(tmp_path))  # noqa: ARG005
    local_demo.local_demo("this is a test")
    output = capfd.readouterr()
    assert "no Slurm: so no job proves it" in output.err
    for node in local_demo.NODES:
        assert f"== {node}: on_node_configured.sh" in output.out
    again = output.out.split("== every hook once more")[1]
    assert " changed" not in again
    if lmod_of_this_machine() is not None:
        assert output.out.count("0 failed, 0 warnings") == 4
        assert output.out.count("run:hello: hello from") == 4
