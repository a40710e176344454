"""petal seeds are valid configurations and stacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.config import load
from bootstrap.core.errors import ConfigError
from bootstrap.spack import environments

SEED = """
cluster: {name: bio-cluster, region: us-east-1}
compute:
  head_node: t3.xlarge
  queues: [{name: memory, instance_types: [r5.4xlarge], min_count: 0, max_count: 20}]
software:
  spack_packages:
    - gcc@11.3.0
    - samtools@1.17
users: [{name: user1, uid: 5001, gid: 5001}]
data:
  s3_mounts: [{bucket: b, mount_point: /shared/data}]
"""
SPACK = "spack: {source: /s, recipes: {source: /r}, specs: [zlib]}\n"


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load.parse(text)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_seed_with_a_section_spack_is_a_configuration() -> None:
    read = load.parse(SEED + SPACK)
    assert read.uses_spack
    assert read.specs == ("zlib", "gcc@11.3.0", "samtools@1.17")
    assert load.from_mapping(json.loads(json.dumps(read.to_dict()))) == read


def test_a_seed_without_a_section_spack_gets_a_hint() -> None:
    output = problems(SEED)["spack"]
    assert "spack.source and spack.recipes" in output
    assert "spack: {source: URI" in output
    assert "as stack" in output


def test_a_seed_without_software_needs_no_spack() -> None:
    assert not load.parse("cluster: {name: a, region: b}\nusers:\ndata:\n").uses_spack


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("shared_storage: [{mount_dir: /apps, storage_type: Ebs}]", "/apps"),
        ("shared_storage: [{mount_dir: /a}, {mount_dir: /b}]\nstorage: {mount: /b}", "/b"),
        ("shared_storage: []", "/shared"),
    ],
)
def test_shared_storage_of_a_seed_sets_the_mount_point(text: str, mount: str) -> None:
    assert load.parse(text).storage.mount == mount


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("shared_storage: [{mount_dir: /a}, {mount_dir: /b}]", "storage.mount", "which of /a, /b"),
        ("shared_storage: [{name: a}]", "shared_storage[0].mount_dir", "required"),
        ("shared_storage: [{mount_dir: a}]", "shared_storage[0].mount_dir", "absolute"),
        ("software: {spack_packages: ['a;b']}", "software.spack_packages[0]", "Spack spec"),
        ("software: {spack_package: [a]}", "software.spack_package", "did you mean 'spack_packages'?"),
    ],
)
def test_mistakes_in_a_seed_have_their_path(text: str, path: str, says: str) -> None:
    assert says in problems(text)[path]


def test_invalid_yaml_is_reported_with_file_and_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load.parse("compute:\n  queues:\n    - min_count: 0\n        max_count: 15\n", "rna-seq.yaml")
    assert caught.value.code == "config-syntax"
    assert "rna-seq.yaml:4: compute" in caught.value.why


def test_a_seed_can_be_the_stack(tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text(SEED)
    read = load.parse(f"stack: {tmp_path}/seed.yaml\n{SPACK}")
    assert environments.load(read, tmp_path, None) == {"specs": ["gcc@11.3.0", "samtools@1.17"]}


@pytest.mark.parametrize("rest", ["", "software:\n", "software: {spack_packages: []}\n", "users:\ndata:\n"])
def test_a_seed_without_software_needs_other_specs(rest: str, tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text("cluster: {name: a, region: b}\ncompute: {head_node: t3.micro}\n" + rest)
    stack = f"stack: {tmp_path}/seed.yaml\n"
    assert environments.load(load.parse(stack + SPACK), tmp_path, None)["specs"] == []
    with pytest.raises(ConfigError) as caught:
        environments.load(load.parse(stack + SPACK.replace("[zlib]", "[]")), tmp_path, None)
    assert caught.value.code == "stack-invalid"
    assert "asks for no package" in str(caught.value)
    assert "stack: none" in caught.value.remedy[0]


def test_a_cluster_configuration_is_refused_as_a_stack(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("Region: us-east-1\nHeadNode: {InstanceType: t3.micro}\n")
    with pytest.raises(ConfigError) as caught:
        environments.load(load.parse(f"stack: {tmp_path}/cluster.yaml\n{SPACK}"), tmp_path, None)
    assert caught.value.code == "stack-invalid"


def test_all_mistakes_of_a_spack_yaml_are_reported_at_once_with_their_lines() -> None:
    text = (
        b"spack:\n  spec: []\n  concretization: together\n  specs:\n  - zlib\n  - 1.2\n  - {matrix: []}\n  specs: []\n"
        b"  packages:\n    all:\n      a: [x, 2026-01-01]\n      b: .inf\n"
    )
    with pytest.raises(ConfigError) as caught:
        environments._parse(text, "/s/spack.yaml")
    found = [(path, place) for path, _, place in caught.value.problems]
    paths = ("spack.spec", "spack.concretization", "spack.specs[1]", "spack.specs[2]", "spack.specs")
    paths += ("spack.packages.all.a[1]", "spack.packages.all.b")
    assert found == [(path, f"spack.yaml:{line}") for path, line in zip(paths, (2, 3, 6, 7, 8, 11, 12))]
    assert "did you mean 'specs'" in caught.value.problems[0].message
