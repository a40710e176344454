"""Machine images in the lab: a stack with real Spack and its own Lmod, and the image build that includes it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import replace
from typing import Any

from tests.lab import engine, stack, stack_lmod
from tests.lab.cluster import Lab, packed
from tests.lab.demo import DIST, publish, wait_for_proof
from tests.lab.engine import LabError, print_progress

BUILDER = "head"  # a machine that is not yet a node of a cluster
S3 = {"AWS_ENDPOINT_URL": "http://s3:5000"}
# Packages of a machine without Lmod, and the package that ParallelCluster's images have instead of Lmod.
LMOD = ("lmod", "lua-filesystem", "lua-json", "lua-posix", "lua-term")
TCL_MODULES = "environment-modules"
# The nodes' image has no Lmod, so the stack builds Lmod.
SHOWN = replace(stack_lmod.SHOWN, name=stack.LIBSIGSEGV.name, spec=stack.LIBSIGSEGV.spec, run=())
# A repository in a directory: the packages and their index (sources.list(5), deb-src-control(5)).
REPOSITORY = r"""
mkdir /srv/packages && cd /srv/packages && exec 3>&1 1>&2 && apt-get -q update && apt-get -q download "$@"
for file in *.deb; do
  dpkg-deb --field "$file"
  sum=$(sha256sum "$file" | cut -d' ' -f1)
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$sum"
done >Packages
tar -c . >&3
"""
AS_ON_AWS = f"""
FROM NODE
COPY packages /srv/packages
RUN echo 'deb [trusted=yes] file:/srv/packages ./' >/etc/apt/sources.list && export DEBIAN_FRONTEND=noninteractive && \\
    apt-get -q -y purge {" ".join(LMOD)} && apt-get -q update && \\
    apt-get -q -y --no-install-recommends install {TCL_MODULES} && rm -r /var/lib/apt/lists
"""


def config_of(lab: Lab) -> dict[str, Any]:
    """Binary packages and libsigsegv; the sources are on the node's disk: an image build has no shared storage."""
    lab.unpack(BUILDER, "/srv/mirror", stack.mirror_files(SHOWN))
    config = stack.lab_config(lab, spack=True, shown=SHOWN)
    return {**config, "spack": {**config["spack"], "mirrors": {"sources": "/srv/mirror"}}}


def image_without_lmod(lab: Lab) -> str:
    """A node's image like ParallelCluster's: with environment-modules, and Lmod only in a package repository."""
    with tarfile.open(fileobj=io.BytesIO(_repository(lab))) as tar:
        files = {f"packages/{member.name}": _content(tar, member) for member in tar if member.isfile()}
    node = engine.node_image(lab.base)
    files["Dockerfile"] = AS_ON_AWS.replace("NODE", node).encode()
    image = f"{node.replace('petal-lab-node', 'petal-lab-tcl')}"
    argv = ["docker", "build", "-q", "--network", "none", "-t", image, "-"]
    done = subprocess.run(argv, input=packed(files), capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"an image without Lmod cannot be made:\n{done.stderr.decode(errors='replace')}")
    return image


def _repository(lab: Lab) -> bytes:
    """The packages of the base image, fetched once."""
    key = hashlib.sha256(f"{lab.base} {REPOSITORY} {LMOD}".encode()).hexdigest()[:12]
    kept = stack.lab_cache() / f"lmod-{key}.tar"
    if not kept.is_file():
        print_progress(f"fetching from the distribution: {' '.join(LMOD)} {TCL_MODULES}")
        image = engine.node_image(lab.base)
        argv = ["docker", "run", "--rm", "--network", "host", "--entrypoint", "sh", image, "-ec", REPOSITORY, "apt"]
        done = subprocess.run([*argv, *LMOD, TCL_MODULES], capture_output=True, check=False, timeout=300)
        if done.returncode:
            raise LabError(f"the packages cannot be had:\n{done.stderr.decode(errors='replace')}")
        part = kept.with_suffix(".part")
        part.write_bytes(done.stdout)
        part.rename(kept)
    return kept.read_bytes()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None:
        raise LabError(f"{member.name} is no file")
    return stream.read()


def bake(lab: Lab, layout: str, config: dict[str, Any]) -> dict[str, str]:
    """Run the command of an image build and return the outcome of each step."""
    publish(lab, config)
    program = (DIST / "petal-node").read_bytes()
    lab.exec(BUILDER, ("sh", "-c", "cat >/tmp/petal-node; chmod 755 /tmp/petal-node"), stdin=program).check()
    uri = "s3://petal/petal-node/petal.yaml"
    argv = ("/tmp/petal-node", "bootstrap", "--layout", layout, "--config", uri, "--json")
    answer = json.loads(lab.exec(BUILDER, argv, env=S3, timeout=300).check().stdout)
    return {step["name"]: step["outcome"] for step in answer["data"]["steps"]}


def bring_up(lab: Lab, config: dict[str, Any]) -> None:
    """Boot all nodes of a fresh lab with a configuration, and wait until the cluster is proved."""
    publish(lab, config)
    booted = lab.boot_all()
    assert [result.returncode for results in booted.values() for result in results] == [0] * 20
    lab.wait_idle()
    wait_for_proof(lab)
