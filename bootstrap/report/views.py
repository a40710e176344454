"""From a result to lines of text, by the type of its answer. Pure: tests compare it with golden files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.model import Result, RunRecord
from .checks_view import fleet_view, lines_view, node_view
from .lines import Line, error_lines
from .releases_view import gc_view, releases_view, rollback_view
from .runs_view import explain_view, lockfile_view, log_view, plan_view, run_view, version_view
from .status_view import status_view

# By the name of the type, because only the module of a verb has to import its type.
VIEWS: Mapping[str, Callable[[Any], list[Line]]] = {
    "Cleanup": gc_view,
    "Explanation": explain_view,
    "FleetReport": fleet_view,
    "Lines": lines_view,
    "LockfileSummary": lockfile_view,
    "LogLines": log_view,
    "NodeReport": node_view,
    "NodeStatus": status_view,
    "Plan": plan_view,
    "ReleaseList": releases_view,
    "Rollback": rollback_view,
    "Tool": version_view,
}


def text_lines(result: Result[Any], *, steps_shown: bool = False) -> list[Line]:
    """The text for stdout, without the steps that were shown while they ran."""
    if result.data is None:  # errors go to stderr, and in a hook also to stdout, which is its log
        return error_lines(result.errors) if result.command == "hook" else []
    if isinstance(result.data, RunRecord):
        return run_view(result, steps_shown=steps_shown)
    return VIEWS[type(result.data).__name__](result)
