"""ParallelCluster's files on a node (dna.json, cfnconfig, cluster-config.yaml and others) with arbitrary bytes."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.cluster import detect as facts
from bootstrap.cluster import limits, targets
from bootstrap.cluster.slurm import parse_sinfo
from bootstrap.core.errors import ConfigError
from bootstrap.core.facts import Cluster
from bootstrap.core.model import Role
from bootstrap.core.paths import Paths
from bootstrap.host.system import System, parse_mounts
from bootstrap.prove.fleet import report_of_lines
from tests.fuzz import inputs, node
from tests.fuzz.conftest import EXAMPLES

DNA = {
    "cluster": {"stack_name": "demo", "cluster_name": "demo", "node_type": "HeadNode", "region": "us-east-1",
    "cluster_user": "ec2-user", "scheduler_queue_name": "q1", "ebs_shared_dirs": "/shared,data",
    "efs_shared_dirs": "NONE", "fsx_shared_dirs": "", "raid_shared_dir": "", "head_node_private_ip": "10.0.0.10" }
}  # fmt: skip
CFNCONFIG = """stack_name=demo
cfn_region=eu-west-1
cfn_node_type=HeadNode
cfn_cluster_user=ec2-user
cfn_postinstall_args=("--package" "s3://b/k")
cfn_ebs_shared_dirs='/shared,/data'
"""
CLUSTER: dict[str, Any] = {
    "Region": "us-east-1",
    "DevSettings": {"Timeouts": {"HeadNodeBootstrapTimeout": 3600}},
    "Scheduling": {
        "Scheduler": "slurm",
        "SlurmQueues": [
            {
                "Name": "q1",
                "ComputeResources": [
                    {"Name": "r1", "InstanceType": "c7i.large"},
                    {"Name": "r2", "Instances": [{"InstanceType": "p5.48xlarge"}]},
                ],
            }
        ],
    },
}
OS_RELEASE = 'ID=ubuntu\nVERSION_ID="24.04"\n'
RELEASE = "aws-parallelcluster-cookbook-3.16.1"
dna_files = inputs.files_of(st.just(DNA))
lines = st.lists(st.tuples(st.sampled_from(CFNCONFIG.split()), inputs.texts), max_size=4).map(
    lambda pairs: "\n".join(line.partition("=")[0] + "=" + value for line, value in pairs)
)
cfn_files = st.one_of(
    inputs.damaged(st.just(CFNCONFIG.encode())),
    lines.map(lambda text: text.encode(errors="surrogatepass")),
    st.binary(max_size=200),
)
yaml_files = inputs.yaml_files(st.just(CLUSTER))


def is_usable(cluster: Cluster) -> None:
    """Assert that a word cannot end a line, leave a directory, or be refused by a system call."""
    words = [cluster.name, cluster.region, cluster.user, cluster.queue, cluster.head_ip]
    for word in words:
        assert word is None or (word.isprintable() and word and len(word) < 300), word
    for shared in cluster.shared:
        assert shared.mount.startswith("/")
        assert ".." not in shared.mount.split("/")
        assert shared.mount.isprintable()


@given(data=dna_files)
def test_dna(data: bytes) -> None:
    is_usable(facts.parse_dna(data.decode(errors="replace")))


def test_any_value_of_dna_json_can_be_replaced() -> None:
    for place in inputs.places(DNA)[1:]:
        for value in (*inputs.NASTY, *inputs.OTHERS):
            is_usable(facts.parse_dna(inputs.json_bytes(inputs.replaced(DNA, place, value)).decode()))


def test_any_value_of_cfnconfig_can_be_replaced() -> None:
    for line in CFNCONFIG.splitlines():
        for value in inputs.NASTY:
            is_usable(facts.parse_cfnconfig(CFNCONFIG.replace(line, f"{line.partition('=')[0]}={shlex.quote(value)}")))


def test_a_nodes_name_is_a_single_path_component(tmp_path: Path) -> None:
    with node.empty(tmp_path) as prefix:
        file = prefix / facts.SLURM_NAME.lstrip("/")
        file.parent.mkdir(parents=True)
        for name in inputs.NASTY:
            file.write_bytes(name.encode(errors="surrogatepass"))
            found = facts.node_name(Paths(prefix), System())
            assert found
            assert found.isprintable()
            assert not set(found) & set("/\\ ;$`'\""), found


def test_a_report_stays_in_its_directory_for_any_node_name(installed: Path) -> None:
    with node.copied(installed) as prefix:
        file = prefix / facts.SLURM_NAME.lstrip("/")
        file.parent.mkdir(parents=True)
        file.write_text("../../../../../../evil")
        node.obeys(["converge", "--role", "compute"], prefix)
        assert list(prefix.parent.rglob("evil*")) == []


@given(data=cfn_files)
def test_cfnconfig(data: bytes) -> None:
    is_usable(facts.parse_cfnconfig(data.decode(errors="replace")))


@settings(max_examples=EXAMPLES // 2)  # PyYAML needs 10 ms for one example
@given(data=yaml_files, version=st.one_of(st.just(RELEASE), inputs.texts, st.from_regex(r"\d{1,5000}\.\d+\.\d+")))
def test_the_head_nodes_time_limit_is_positive_for_any_file(data: bytes, version: str) -> None:
    limit = limits.head_limit(version, data.decode(errors="replace"))
    assert math.isfinite(limit)
    assert limit > 0


@settings(max_examples=EXAMPLES // 2)
@given(data=yaml_files)
def test_the_target_is_valid_for_any_queues(data: bytes) -> None:
    """For any content, the result is one known target or an error with a remedy."""
    queues = facts.parse_queues(data.decode(errors="replace"))
    for queue in queues:
        assert queue.name.isprintable()
        assert all(kind == "unknown" or facts.INSTANCE_TYPE.match(kind) for kind in queue.instances), queue
    for machine in ("x86_64", "aarch64"):
        try:
            build_targets = targets.build_targets((), queues, machine)
        except ConfigError as error:
            assert error.code == "target-mixed"
            assert error.remedy
            continue
        assert build_targets.targets[0] in targets.LEVELS[machine]
        assert all(arch.isdigit() for arch in build_targets.cuda)


def test_any_value_of_the_queues_can_be_replaced() -> None:
    for place in inputs.places(CLUSTER)[1:]:
        for value in (*inputs.NASTY, *inputs.OTHERS):
            facts.parse_queues(inputs.yaml_of(inputs.replaced(CLUSTER, place, value)).decode(errors="replace"))


@given(data=inputs.damaged(st.just(OS_RELEASE.encode())), value=inputs.texts)
def test_the_operating_system_is_a_single_path_component(data: bytes, value: str) -> None:
    for text in (data.decode(errors="replace"), f"ID={value}\nVERSION_ID={value}"):
        name = facts.parse_os_release(text)
        assert "/" not in name
        assert name.isprintable()
        assert name.isascii()


@settings(max_examples=max(50, EXAMPLES // 10))
@given(
    dna=dna_files,
    cfn=cfn_files,
    cluster=yaml_files,
    name=st.one_of(inputs.texts, st.just("q1-st-c5-1")),
    verb=st.sampled_from(["status", "plan", "converge"]),
)  # fmt: skip
def test_every_verb_answers_with_arbitrary_cluster_files(
    dna: bytes, cfn: bytes, cluster: bytes, name: str, verb: str, installed: Path
) -> None:
    with node.copied(installed) as prefix:
        files = {
            facts.DNA: dna, facts.CFNCONFIG: cfn, facts.CLUSTER_CONFIG: cluster, limits.VERSION: cluster,
            facts.SLURM_NAME: name.encode(errors="surrogatepass"),
            "/etc/os-release": cfn + b"\nVERSION_ID=../../" + dna[:9],
        }  # fmt: skip
        for path, data in files.items():
            (prefix / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (prefix / path.lstrip("/")).write_bytes(data)
        node.obeys([verb, "--json"] if verb == "status" else [verb], prefix)
        if verb == "converge":
            node.obeys([verb, "--role", Role.COMPUTE.value], prefix)


@given(
    data=st.one_of(
        st.binary(max_size=200), inputs.texts.map(lambda text: text.encode(errors="surrogatepass")), dna_files
    )
)
def test_invalid_output_of_slurm_and_the_kernel_is_ignored(data: bytes) -> None:
    text = data.decode(errors="replace")
    for given_text in (
        text,
        f"{text}|idle|q1*|none\n",
        f'{{"node": "n", "role": "r", "time": "t", "release": null, "findings": [{text}]}}',
    ):
        parse_sinfo(given_text)
        parse_mounts(given_text)
        report = report_of_lines("n1", given_text.partition(" ")[0], given_text.splitlines())
        assert report is None or report.node == "n1"
