"""Looks up what the steps of a plan would read: all at the same time, with one short deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar, Union

from ..core.deadlines import PROBE
from ..core.errors import FetchError, PetalError, from_error
from ..core.model import Outcome, StepReport
from ..state.context import Context
from ..steps.base import Question, Step

T = TypeVar("T")
SECONDS = 10.0  # for the inputs of all steps
MOMENT = 1.0  # for a step that needs storage, if that is known to hang
# The answer is not known: no network, storage that does not answer.
UNKNOWN = frozenset({"fetch-unreachable", "deadline-exceeded", "storage-hangs"})
SHOWN_REMEDIES = 4

Answer = Union[str, PetalError]  # in a few words, or why the input cannot be used


def look_up(steps: Sequence[Step], ctx: Context, *, storage_hangs: bool = False) -> Mapping[tuple[str, str], Answer]:
    """Returns each input in a few words, or the error that prevents its use, by the step's name and the key.

    A child process asks, because a local path may be on storage that hangs.

    Args:
        storage_hangs: known before: a step whose inputs depend on shared storage is not waited for.
    """
    if not steps:
        return {}
    patience = MOMENT if storage_hangs else PROBE
    late = FetchError(f"no answer within {patience + SECONDS:.0f} s")
    try:
        return ctx.system.with_deadline(partial(_ask, steps, ctx, patience), patience + SECONDS + 2, late)
    except PetalError as error:
        return {(step.name, "(inputs)"): error for step in steps}


def _ask(steps: Sequence[Step], ctx: Context, patience: float) -> Mapping[tuple[str, str], Answer]:
    """The answers of all questions. A step whose inputs depend on storage that hangs has one answer."""
    asked: dict[tuple[str, str], Callable[[], Mapping[str, Question]]]
    asked = {(step.name, "(inputs)"): partial(step.inputs, ctx) for step in steps}
    found = _together(asked, patience, ctx)
    questions: dict[tuple[str, str], Question] = {}
    for (name, _), inputs in found.items():
        known = {key for _, key in questions}  # two steps may use a key
        if not isinstance(inputs, PetalError):
            questions |= {(name, key): question for key, question in inputs.items() if key not in known}
    hangs = {place: error for place, error in found.items() if isinstance(error, PetalError) and error.code in UNKNOWN}
    return {**hangs, **_together(questions, SECONDS, ctx)}


def _together(
    calls: Mapping[tuple[str, str], Callable[[], T]], seconds: float, ctx: Context
) -> dict[tuple[str, str], T | PetalError]:
    """The results or errors of all calls, each in a thread."""
    late = FetchError(f"no answer within {seconds:.0f} s")
    results: dict[tuple[str, str], T | PetalError] = {}

    def call(place: tuple[str, str], function: Callable[[], T]) -> None:
        try:
            results[place] = function()
        except (PetalError, OSError) as error:
            results[place] = from_error(error, ctx.paths.shared_mount)

    threads = [threading.Thread(target=call, args=entry, daemon=True) for entry in calls.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {place: results.get(place, late) for place in calls}


def with_answers(report: StepReport, answers: Mapping[str, Answer], ctx: Context) -> StepReport:
    """The report of a step with the answers about its inputs, by their keys. A wrong input blocks the step."""
    lines, wrong = [], []
    for key, answer in answers.items():
        place = ctx.config.place(key)
        if isinstance(answer, PetalError) and is_mistake(answer, ctx):
            lines.append(f"{place}: {answer}")
            wrong.append(answer)
        elif isinstance(answer, PetalError):
            lines.append(f"{place}: not checked: {answer}")
        elif answer:
            lines.append(f"{place}: {answer}")
    if not wrong:
        return replace(report, reason="\n".join((report.reason, *lines)))
    remedies = dict.fromkeys((*report.remedy, *(line for error in wrong for line in error.remedy)))
    reason = f"{len(wrong)} of its {len(answers)} inputs cannot be used"
    if report.outcome is Outcome.BLOCKED:
        reason = report.reason
    exit_code = max(int(error.exit) for error in wrong)
    error = {**wrong[0].to_dict(), "what": reason, "why": "; ".join(lines), "remedy": list(remedies)[:SHOWN_REMEDIES]}
    return replace(
        report,
        outcome=Outcome.BLOCKED,
        reason="\n".join((reason, *lines)),
        changes=(),
        remedy=tuple(remedies)[:SHOWN_REMEDIES],
        error=report.error or error,
        exit=report.exit or exit_code,
    )


def is_mistake(answer: Answer, ctx: Context) -> bool:
    """False for a usable input, and if the network or the rights of this user prevent the answer."""
    if isinstance(answer, str) or answer.code in UNKNOWN:
        return False
    # only root may use the metadata service of a head node, and read signing keys
    return ctx.system.is_root() or answer.code not in ("fetch-no-credentials", "file-permission")
