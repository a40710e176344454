"""The facts of this node, read once at the start of a run: role, cluster, host, mounts. Parsers are pure.

Sources, best first: ``/etc/chef/dna.json``, ``/etc/parallelcluster/cfnconfig``, instance metadata (tags).
ParallelCluster calls the roles HeadNode, ComputeFleet and LoginNode; the tag on an instance says Compute.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..core.errors import PetalError
from ..core.facts import Cluster, Facts, Host, Queue, SharedDir
from ..core.model import Role
from ..core.paths import Paths
from ..host.files import text_or_empty
from ..host.system import System
from ..host.yaml_text import read_yaml
from ..remote.metadata import metadata
from .targets import own_cpu

ROLES = {
    "HeadNode": Role.HEAD,
    "ComputeFleet": Role.COMPUTE,
    "Compute": Role.COMPUTE,
    "LoginNode": Role.LOGIN,
}
DNA = "/etc/chef/dna.json"
CFNCONFIG = "/etc/parallelcluster/cfnconfig"
CLUSTER_CONFIG = "/opt/parallelcluster/shared/cluster-config.yaml"
SLURM_NAME = "/etc/parallelcluster/slurm_plugin/slurm_nodename"
SHARED_KEYS = (
    ("ebs", "ebs_shared_dirs"),
    ("efs", "efs_shared_dirs"),
    ("fsx", "fsx_shared_dirs"),
    ("raid", "raid_shared_dir"),
)
# Names of regions, users and queues; any other text is ignored.
WORD = re.compile(r"[A-Za-z0-9._@\\+:-]{1,255}\Z")
DIRECTORY = re.compile(r"[A-Za-z0-9._+/-]{1,1000}\Z")
INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]{1,30}\.[a-z0-9-]{1,30}\Z")
# Queues, resources of a queue, instance types of a resource: ParallelCluster allows 50, YAML aliases any number.
MOST = 100
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z")


def gather(paths: Paths, system: System, role: Role | None = None) -> Facts:
    """All facts of this node; ``role`` is that of ``--role``, which has precedence."""
    cluster = read_cluster(paths)
    if role is not None:
        cluster = replace(cluster, role=role, sources=("--role", *cluster.sources))
    elif cluster.role is None and paths.live:
        tag = (metadata("meta-data/tags/instance/parallelcluster:node-type") or "").strip()
        if tag in ROLES:
            cluster = replace(cluster, role=ROLES[tag], sources=(*cluster.sources, "instance tags"))
    host = Host(
        name=node_name(paths, system),
        os=parse_os_release(text_or_empty(paths.at("/etc/os-release")) or text_or_empty(Path("/etc/os-release"))),
        glibc=(os.confstr("CS_GNU_LIBC_VERSION") or "unknown").rpartition(" ")[2],
        machine=os.uname().machine,
        target=own_cpu(),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        boot_id=system.boot_id(),
    )
    return Facts(cluster, host, system.mounts())


def node_name(paths: Paths, system: System) -> str:
    """The node's name; on a compute node Slurm's, which differs from the host name with Dns/UseEc2Hostnames."""
    names = (text_or_empty(paths.at(SLURM_NAME)).strip(), os.environ.get("SLURMD_NODENAME", ""))
    return next((name for name in names if HOST_NAME.match(name)), "") or system.hostname()


def with_queues(known: Facts, paths: Paths) -> Facts:
    """The facts with the cluster's queues too. PyYAML needs 0.1 s for every 10 KiB of cluster-config.yaml."""
    return replace(known, cluster=replace(known.cluster, queues=parse_queues(text_or_empty(paths.at(CLUSTER_CONFIG)))))


def role_of(facts: Facts) -> Role:
    """The node's role; PetalError ``facts-role`` if no source names it."""
    if facts.cluster.role is None:
        raise PetalError(
            "this node's role is unknown",
            why=f"{DNA}, {CFNCONFIG} and the tags of the instance do not name it",
            remedy="give --role head, --role compute or --role login",
            code="facts-role",
        )
    return facts.cluster.role


def read_cluster(paths: Paths) -> Cluster:
    """The cluster according to the files of the node, without any network access."""
    return merge(parse_dna(text_or_empty(paths.at(DNA))), parse_cfnconfig(text_or_empty(paths.at(CFNCONFIG))))


def parse_dna(text: str) -> Cluster:
    """The cluster according to dna.json (aws-parallelcluster: templates/*_stack.py)."""
    try:
        loaded = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        loaded = {}
    raw = loaded.get("cluster") if isinstance(loaded, dict) else None
    return _cluster(raw, DNA) if isinstance(raw, dict) else Cluster(role=None)


def parse_cfnconfig(text: str) -> Cluster:
    """The cluster according to cfnconfig: lines of bash assignments (aws-parallelcluster-cookbook: cfnconfig.erb)."""
    pairs = [line.partition("=") for line in text.splitlines()]
    raw = {name.strip().removeprefix("cfn_"): _unquoted(value.strip()) for name, equals, value in pairs if equals}
    return _cluster(raw, CFNCONFIG) if raw else Cluster(role=None)


def _cluster(raw: Mapping[str, Any], source: str) -> Cluster:
    """The cluster from the values of one file."""
    return Cluster(
        role=ROLES.get(str(raw.get("node_type"))),
        name=_word(raw, "cluster_name") or _word(raw, "stack_name"),
        region=_word(raw, "region"),
        user=_word(raw, "cluster_user"),
        queue=_word(raw, "scheduler_queue_name"),
        head_ip=_word(raw, "head_node_private_ip"),
        shared=tuple(SharedDir(mount, kind) for kind, key in SHARED_KEYS for mount in _dirs(raw.get(key))),
        sources=(source,),
    )


def parse_queues(text: str) -> tuple[Queue, ...]:
    """The queues of cluster-config.yaml; none where it cannot be read.

    A compute resource names one InstanceType or several Instances, and neither with a capacity reservation
    (aws-parallelcluster: schemas/cluster_schema.py). Then the type is ``unknown``.
    """
    scheduling = read_yaml(text).get("Scheduling")
    queues = []
    for raw in _mappings(scheduling.get("SlurmQueues") if isinstance(scheduling, dict) else None):
        types: dict[str, None] = {}
        for resource in _mappings(raw.get("ComputeResources")):
            several = [item.get("InstanceType") for item in _mappings(resource.get("Instances"))]
            for name in several or [resource.get("InstanceType")]:
                types[name if isinstance(name, str) and INSTANCE_TYPE.match(name) else "unknown"] = None
        queues.append(Queue(_word(raw, "Name") or "unknown", tuple(types)))
    return tuple(queues)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value[:MOST] if isinstance(item, dict)] if isinstance(value, list) else []


def merge(first: Cluster, second: Cluster) -> Cluster:
    """The union of both; ``first`` has precedence."""
    absent = [field.name for field in fields(Cluster) if not getattr(first, field.name)]
    filled = {name: getattr(second, name) for name in absent}
    return replace(first, **{**filled, "sources": first.sources + second.sources})


def _word(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) and value != "NONE" and WORD.match(value) else None


def _dirs(value: Any) -> list[str]:
    if not isinstance(value, str):
        return []
    names = [part.strip().strip("/") for part in value.split(",")]
    return ["/" + name for name in names if name != "NONE" and DIRECTORY.match(name) and ".." not in name.split("/")]


def _unquoted(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if words else ""


def parse_os_release(text: str) -> str:
    """Spack's name of an operating system: id and version without blanks, ``debian12``, ``ubuntu24.04``, ``rocky9``.

    Spack keeps the minor version for Ubuntu alone and drops it elsewhere (its operating_systems/linux_distro.py).
    """
    values = {name: _unquoted(value) for name, _, value in (line.partition("=") for line in text.splitlines())}
    name = re.sub(r"[^a-z0-9]", "", values.get("ID", "linux").lower())
    version = re.sub(r"[^A-Za-z0-9.]", "", values.get("VERSION_ID", ""))
    return name + (version if name == "ubuntu" else version.split(".")[0])
