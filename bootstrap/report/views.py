"""From a result to lines of text, by the verb and the type of its answer. Pure: tests compare it with golden files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.model import FleetReport, Lines, NodeReport, Plan, Result, RunRecord, Tool
from .checks_view import fleet_view, lines_view, node_view
from .lines import Line, error_lines
from .releases_view import gc_view, releases_view, rollback_view
from .runs_view import lockfile_view, log_view, plan_view, run_view, version_view
from .status_view import status_view

VIEWS: dict[type, Callable[[Any], list[Line]]] = {
    Plan: plan_view,
    NodeReport: node_view,
    FleetReport: fleet_view,
    Lines: lines_view,
    Tool: version_view,
}
# The answers of these verbs have types of their own, which only the verb's module has to import.
VERB_VIEWS: dict[str, Callable[[Any], list[Line]]] = {
    "lockfile": lockfile_view,
    "log": log_view,
    "releases": releases_view,
    "rollback": rollback_view,
    "gc": gc_view,
}


def text_lines(result: Result[Any], *, steps_shown: bool = False, verbose: bool = False) -> list[Line]:
    """The text for stdout.

    Args:
        steps_shown: the steps were printed while they ran.
        verbose: of ``status``, also the facts about the node.
    """
    if result.data is None:  # errors go to stderr, and in a hook also to stdout, which is its log
        return [line for error in result.errors for line in error_lines(error)] if result.command == "hook" else []
    if isinstance(result.data, RunRecord):
        return run_view(result, steps_shown=steps_shown)
    if result.command == "status":
        return status_view(result, verbose=verbose)
    return (VERB_VIEWS.get(result.command) or VIEWS[type(result.data)])(result)
