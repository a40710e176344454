"""Lmod on a node: the machine's own, or that which the stack has built, copied to the node's disk."""

from __future__ import annotations
