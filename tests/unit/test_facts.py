"""dna.json, cfnconfig, os-release: facts from recorded files; a damaged file gives fewer facts, never an exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.cluster import detect as facts
from bootstrap.core.errors import PetalError
from bootstrap.core.facts import Cluster, SharedDir
from bootstrap.core.model import Role
from bootstrap.host.system import parse_mounts
from tests.world import World

DNA_COMPUTE = """{"cluster": {"stack_name": "demo", "cluster_name": "demo", "node_type": "ComputeFleet", "region":
 "us-east-1", "cluster_user": "ec2-user", "scheduler_queue_name": "queue1", "ebs_shared_dirs": "/shared,data",
 "efs_shared_dirs": "NONE", "fsx_shared_dirs": "", "head_node_private_ip": "10.0.0.10"}}"""
CFNCONFIG = """stack_name=demo
cfn_region=eu-west-1
cfn_node_type=LoginNode
cfn_preinstall_args=("--package" "s3://b/k")
cfn_ebs_shared_dirs='/shared'
cfn_proxy=NONE
broken line
"""


def test_facts_of_a_compute_node_come_from_dna_json() -> None:
    found = facts.parse_dna(DNA_COMPUTE)
    assert (found.role, found.name, found.region, found.user) == (Role.COMPUTE, "demo", "us-east-1", "ec2-user")
    assert found.shared == (SharedDir("/shared", "ebs"), SharedDir("/data", "ebs"))
    assert (found.queue, found.head_ip) == ("queue1", "10.0.0.10")


def test_facts_of_a_login_node_come_from_cfnconfig() -> None:
    found = facts.parse_cfnconfig(CFNCONFIG)
    assert (found.role, found.region, found.shared) == (Role.LOGIN, "eu-west-1", (SharedDir("/shared", "ebs"),))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"cluster": 1}', "{" * 5000, '{"cluster": {"node_type": []}}']
)
def test_a_damaged_dna_json_gives_no_facts(text: str) -> None:
    assert facts.parse_dna(text).role is None


@pytest.mark.parametrize("text", ["", "=", "cfn_node_type='unfinished", "\x00\xff", "cfn_node_type"])
def test_a_damaged_cfnconfig_gives_no_facts(text: str) -> None:
    assert facts.parse_cfnconfig(text).role is None


def test_dna_json_takes_precedence_over_cfnconfig() -> None:
    both = facts.merge(facts.parse_dna(DNA_COMPUTE), facts.parse_cfnconfig(CFNCONFIG))
    assert (both.role, both.region) == (Role.COMPUTE, "us-east-1")
    assert facts.merge(Cluster(None), facts.parse_cfnconfig(CFNCONFIG)).role is Role.LOGIN


def test_the_command_line_takes_precedence_over_both(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    for name, text in ((facts.DNA, DNA_COMPUTE), (facts.CFNCONFIG, CFNCONFIG)):
        path = world.paths.at(name)
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert facts.gather(world.paths, world.system).cluster.role is Role.COMPUTE
    assert facts.gather(world.paths, world.system, Role.HEAD).cluster.role is Role.HEAD


def test_an_unknown_role_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    with pytest.raises(PetalError) as caught:
        facts.role_of(facts.gather(world.paths, world.system))
    assert (caught.value.code, "--role" in caught.value.remedy[0]) == ("facts-role", True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('ID=debian\nVERSION_ID="12"', "debian12"),
        ('ID=ubuntu\nVERSION_ID="24.04"', "ubuntu24.04"),
        ('ID="rocky"\nVERSION_ID="9.4"', "rocky9"),
        ('ID="amzn"\nVERSION_ID="2023"', "amzn2023"),
        ("ID=debian", "debian"),
        ("", "linux"),
    ],
)
def test_the_operating_system_has_spacks_name(text: str, name: str) -> None:
    assert facts.parse_os_release(text) == name


def test_mount_points_with_spaces_are_decoded() -> None:
    text = "/dev/a / ext4 rw 0 0\nfs:/x /my\\040data nfs4 rw,hard 0 0\nshort line\n"
    mounts = parse_mounts(text)
    assert [mount.point for mount in mounts] == ["/", "/my data"]
    assert mounts[1].options == ("rw", "hard")
