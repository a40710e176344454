"""How long a test waits for what ends by itself. Benchmarks measure how fast it is; a test shows that it ends."""

from __future__ import annotations

SOON = 30  # s: far above limits of a few seconds on a machine under load, below every wait that the test rules out
