"""Machine images in the lab: a stack with real Spack, and the image build that carries it."""

from __future__ import annotations

import json
from typing import Any

from tests.lab import stack
from tests.lab.cluster import Lab
from tests.lab.demo import DIST, publish

BUILDER = "head"  # any machine that is no node of a cluster yet
S3 = {"AWS_ENDPOINT_URL": "http://s3:5000"}


def config_of(lab: Lab) -> dict[str, Any]:
    """Binary packages and libsigsegv; the sources lie on the node's own disk, since an image build has no storage."""
    lab.unpack(BUILDER, "/srv/mirror", stack.mirror_files(stack.LIBSIGSEGV))
    config = stack.lab_config(lab, spack=True, shown=stack.LIBSIGSEGV)
    return {**config, "spack": {**config["spack"], "mirrors": {"sources": "/srv/mirror"}}}


def bake(lab: Lab, layout: str, config: dict[str, Any]) -> dict[str, str]:
    """What somebody types in an image build; the outcome of each step."""
    publish(lab, config)
    program = (DIST / "petal-node").read_bytes()
    lab.exec(BUILDER, ("sh", "-c", "cat >/tmp/petal-node; chmod 755 /tmp/petal-node"), stdin=program).check()
    uri = "s3://petal/petal-node/petal.yaml"
    argv = ("/tmp/petal-node", "bootstrap", "--layout", layout, "--config", uri, "--json")
    answer = json.loads(lab.exec(BUILDER, argv, env=S3, timeout=300).check().stdout)
    return {step["name"]: step["outcome"] for step in answer["data"]["run"]["steps"]}
