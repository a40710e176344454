"""How long a hook may wait: its own budget, and never what ParallelCluster's limit would not allow.

The head node's WaitCondition counts Chef, the hook and the static compute nodes' own boot: 2100 s, 1800 s before 3.13,
or ``DevSettings/Timeouts/HeadNodeBootstrapTimeout`` (aws-parallelcluster: constants.py, cluster_config.py). A login
node's launch has 600 s, hard-coded; compute and login hooks never wait for the head: they end within 10 s.
"""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import ConfigError
from ..core.model import Role
from ..core.paths import Paths
from ..host.yaml_text import read_yaml
from .detect import CLUSTER_CONFIG

OTHER_SECONDS = 9.0  # from the start of the hook script; its end takes the rest of the 10
HEAD_LIMIT = 2100.0
HEAD_LIMIT_BEFORE_3_13 = 1800.0
# Chef's finalize and the static nodes' boot come after the hook, inside the same limit.
RESERVED = 600.0
LONGEST = 43_200  # of a WaitCondition (CloudFormation user guide)
VERSION = "/opt/parallelcluster/.bootstrapped"


def hook_budget(role: Role, event: str, budget: int, paths: Paths, uptime: float) -> float:
    """Seconds that a hook of this node may wait for its worker.

    Args:
        budget: ``install.budget`` of the configuration.
        uptime: seconds since this node booted.
    """
    if role is not Role.HEAD:
        return OTHER_SECONDS
    limit = head_limit(_text(paths, VERSION), _text(paths, CLUSTER_CONFIG))
    if event != "configured" or uptime >= limit:  # run by hand later, or under an update's own limit
        return float(budget)
    return max(0.0, min(float(budget), limit - RESERVED - uptime))


def head_limit(version: str, cluster_config: str) -> float:
    """The head node's limit in seconds, from the texts of .bootstrapped and cluster-config.yaml."""
    configured = _configured(cluster_config)
    if configured is not None:
        return configured
    found = re.search(r"([0-9]{1,4})\.([0-9]{1,4})\.[0-9]", version)
    old = found is not None and (int(found.group(1)), int(found.group(2))) < (3, 13)
    return HEAD_LIMIT_BEFORE_3_13 if old else HEAD_LIMIT


def _configured(text: str) -> float | None:
    try:
        value: Any = read_yaml(text, CLUSTER_CONFIG, aliases=True)
    except ConfigError:
        return None
    for key in ("DevSettings", "Timeouts", "HeadNodeBootstrapTimeout"):
        value = value.get(key) if isinstance(value, dict) else None
    is_time = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LONGEST
    return float(value) if is_time else None


def _text(paths: Paths, path: str) -> str:
    try:
        return paths.at(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
