"""Checks of a node: findings with a remedy. They read and try, and never change anything that stays."""

from __future__ import annotations

from .node import CHECKS, check_node, failed, reaches_storage

__all__ = ["CHECKS", "check_node", "failed", "reaches_storage"]
