#!/usr/bin/env python3
"""Write the files that describe a ParallelCluster node, for this node's role.

The keys are those of ParallelCluster 3.16's templates: dna.json from cluster_stack.py, queues_stack.py and
login_nodes_stack.py; cfnconfig from the cookbook's init/cfnconfig.erb; the Slurm node files from
recipes/init.rb of the cookbook's slurm part.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

VERSION = "3.16.1"
REGION = "us-east-1"
HEAD_ADDRESS = "ip-10-0-0-10"
STORAGE_KEYS = (
    "raid_shared_dir",
    "raid_type",
    "raid_vol_ids",
    "efs_fs_ids",
    "efs_shared_dirs",
    "efs_encryption_in_transits",
    "efs_iam_authorizations",
    "efs_access_point_ids",
    "fsx_fs_ids",
    "fsx_fs_types",
    "fsx_shared_dirs",
    "fsx_dns_names",
    "fsx_mount_names",
    "fsx_volume_junction_paths",
)


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write one file, making its folder."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)


def head_address() -> str:
    """Return the head node's IP address in the lab's network."""
    return socket.gethostbyname(HEAD_ADDRESS)


def dna(lab: str, role: str) -> dict[str, object]:
    """Return the ``cluster`` object of /etc/chef/dna.json."""
    known: dict[str, object] = {
        "stack_name": lab,
        "stack_arn": f"arn:aws:cloudformation:{REGION}:123456789012:stack/{lab}/0a1b2c3d",
        "base_os": "alinux2023",
        "region": REGION,
        "node_type": role,
        "cluster_user": "ec2-user",
        "scheduler": "slurm",
        "shared_storage_type": "ebs",
        "default_user_home": "shared",
        "ebs_shared_dirs": "/shared",
        "ephemeral_dir": "/scratch",
        "proxy": "NONE",
        "cluster_s3_bucket": "parallelcluster-0a1b2c3d-v1-do-not-delete",
        "cluster_config_s3_key": f"parallelcluster/{VERSION}/clusters/{lab}/configs/cluster-config.yaml",
        "cluster_config_version": "0a1b2c3d",
        "dns_domain": f"{lab}.pcluster.",
        "hosted_zone": "Z0123456789",
        "use_private_hostname": "false",
        "launch_template_id": "lt-0123456789abcdef0",
        "log_group_name": f"/aws/parallelcluster/{lab}",
        "enable_intel_hpc_platform": "false",
    }
    known.update(dict.fromkeys(STORAGE_KEYS, ""))
    if role == "HeadNode":
        known.update(
            {
                "volume": "vol-0123456789abcdef0",
                "ddb_table": f"parallelcluster-{lab}",
                "slurm_ddb_table": f"parallelcluster-slurm-{lab}",
                "head_node_imds_secured": "true",
                "compute_node_bootstrap_timeout": 2100,
                "dcv_enabled": "false",
                "dcv_port": "NONE",
            }
        )
    else:
        known.update({"cluster_name": lab, "head_node_private_ip": head_address()})
    if role == "ComputeFleet":
        known.update(
            {
                "scheduler_queue_name": "queue1",
                "scheduler_compute_resource_name": "c5",
                "enable_efa": "NONE",
                "slurm_ddb_table": f"parallelcluster-slurm-{lab}",
            }
        )
    if role == "LoginNode":
        known["pool_name"] = "login"
    return known


def cfnconfig(lab: str, role: str) -> str:
    """Return /etc/parallelcluster/cfnconfig: bash assignments, never exported."""
    known = {
        "stack_name": lab,
        "cfn_preinstall": "NONE",
        "cfn_preinstall_args": "(NONE)",
        "cfn_postinstall": "NONE",
        "cfn_postinstall_args": "(NONE)",
        "cfn_postupdate": "NONE",
        "cfn_postupdate_args": "(NONE)",
        "cfn_region": REGION,
        "cfn_scheduler": "slurm",
        "cfn_scheduler_slots": "cores",
        "cfn_instance_slots": str(os.cpu_count() or 1),
        "cfn_ephemeral_dir": "/scratch",
        "cfn_ebs_shared_dirs": "/shared",
        "cfn_proxy": "NONE",
        "cfn_node_type": role,
        "cfn_cluster_user": "ec2-user",
    }
    if role == "ComputeFleet":
        known.update(
            {
                "cfn_head_node": HEAD_ADDRESS,
                "cfn_head_node_private_ip": head_address(),
                "cfn_scheduler_queue_name": "queue1",
            }
        )
    if role == "HeadNode":
        known["cfn_volume"] = "vol-0123456789abcdef0"
    return "".join(f"{key}={value}\n" for key, value in known.items())


def slurm_node(lab: str, name: str) -> dict[str, str]:
    """Return slurm_node_spec.json of a static compute node."""
    return {
        "region": REGION,
        "cluster-name": lab,
        "queue-name": "queue1",
        "compute-resource": "c5",
        "name": name,
        "node-type": "static",
        "instance-type": "c6a.xlarge",
        "availability-zone": REGION + "a",
        "address": socket.gethostbyname(name),
    }


def main() -> None:
    """Write the files, and replace existing ones, as on a new instance."""
    me = json.loads(Path("/etc/lab/node.json").read_text(encoding="utf-8"))
    lab, role = me["lab"], me["role"]
    write("/etc/chef/dna.json", json.dumps({"cluster": dna(lab, role)}, indent=1) + "\n")
    write("/etc/parallelcluster/cfnconfig", cfnconfig(lab, role))
    link = Path("/opt/parallelcluster/cfnconfig")
    if not link.is_symlink():
        link.symlink_to("/etc/parallelcluster/cfnconfig")
    write("/opt/parallelcluster/.bootstrapped", f"aws-parallelcluster-cookbook-{VERSION}\n")
    if role == "ComputeFleet":
        name = socket.gethostname()
        plugin = "/etc/parallelcluster/slurm_plugin/"
        write(plugin + "slurm_nodename", name + "\n")
        write(plugin + "slurm_node_spec.json", json.dumps(slurm_node(lab, name)) + "\n")


if __name__ == "__main__":
    main()
