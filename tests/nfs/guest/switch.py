"""Publishes two releases in turn, TIMES times, with petal-node's rename: switch.py TIMES RELEASE RELEASE."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, "/lab/tree")

from bootstrap.host.atomic import replace_link

for number in range(int(sys.argv[1])):
    replace_link(Path("/opt/petal/current"), f"releases/{sys.argv[2 + number % 2]}")
    time.sleep(0.2)  # so that readers see each release
