"""How long a hook may wait: ``install.budget``, and at most the time that ParallelCluster's limits leave.

The head node's WaitCondition counts Chef, the hook and the boot of the static compute nodes. Its limit is 2100 s,
1800 s before 3.13, or ``DevSettings/Timeouts/HeadNodeBootstrapTimeout`` (aws-parallelcluster: constants.py,
cluster_config.py). The launch of a login node has 600 s, hard-coded. Hooks of compute and login nodes never wait for
the head node.
"""

from __future__ import annotations

import re
from typing import Any

from ..core.model import Role
from ..core.paths import Paths
from ..host.files import text_or_empty
from ..host.yaml_text import read_yaml
from .detect import CLUSTER_CONFIG

OTHER_SECONDS = 9.0  # for compute and login nodes, whose hooks end within 10 s
HEAD_LIMIT = 2100.0
HEAD_LIMIT_BEFORE_3_13 = 1800.0
RESERVED = 600.0  # of the head node's limit, for the steps after the hook: Chef's finalize, the static nodes' boot
LONGEST = 43_200  # the maximum timeout of a WaitCondition (CloudFormation user guide)
VERSION = "/opt/parallelcluster/.bootstrapped"


def hook_budget(role: Role, event: str, budget: int, paths: Paths, uptime: float) -> float:
    """Seconds that a hook of this node may wait for its worker.

    Args:
        budget: ``install.budget`` of the configuration.
        uptime: seconds since this node booted.
    """
    if role is not Role.HEAD:
        return OTHER_SECONDS
    limit = head_limit(text_or_empty(paths.at(VERSION)), text_or_empty(paths.at(CLUSTER_CONFIG)))
    if event != "configured" or uptime >= limit:  # an update has its own limit, a run by hand has none
        return float(budget)
    return max(0.0, min(float(budget), limit - RESERVED - uptime))


def head_limit(version: str, cluster_config: str) -> float:
    """The head node's limit in seconds, from the content of .bootstrapped and of cluster-config.yaml."""
    value: Any = read_yaml(cluster_config)
    for key in ("DevSettings", "Timeouts", "HeadNodeBootstrapTimeout"):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LONGEST:
        return float(value)
    match = re.search(r"([0-9]{1,4})\.([0-9]{1,4})\.[0-9]", version)
    old = match is not None and (int(match.group(1)), int(match.group(2))) < (3, 13)
    return HEAD_LIMIT_BEFORE_3_13 if old else HEAD_LIMIT
