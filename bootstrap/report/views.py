"""Results as lines of text, and one as a page. Pure: a result in, text out; tests compare it with golden files."""

from __future__ import annotations

from collections.abc import Callable

from ..core.model import Result
from .checks_view import CHECK_MARKS, check_view, lines_view, matrix_view
from .lines import MARKS, Line, error_lines, step_lines
from .page import page
from .releases_view import gc_view, releases_view, rollback_view
from .runs_view import (
    error_view,
    facts_view,
    lockfile_view,
    log_view,
    plan_view,
    repair_plan_view,
    repair_view,
    run_view,
    version_view,
)
from .status_view import status_view

VIEWS: dict[str, Callable[[Result, bool], list[Line]]] = {
    "run": run_view,
    "plan": plan_view,
    "repair": repair_view,
    "repair-plan": repair_plan_view,
    "check": check_view,
    "matrix": matrix_view,
    "lines": lines_view,
    "status": status_view,
    "facts": facts_view,
    "lockfile": lockfile_view,
    "log": log_view,
    "releases": releases_view,
    "rollback": rollback_view,
    "gc": gc_view,
    "version": version_view,
    "error": error_view,
}

__all__ = ["CHECK_MARKS", "MARKS", "VIEWS", "Line", "error_lines", "log_view", "page", "step_lines"]
