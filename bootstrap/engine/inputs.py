"""Looks up what the steps of a plan would read: all at the same time, with one short deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Union

from ..core.errors import FetchError, PetalError, from_error
from ..core.model import Outcome, StepReport
from ..state.context import Context
from ..steps.base import Question, Step

SECONDS = 10.0
# The answer is not known: no network, storage that does not answer.
UNKNOWN = frozenset({"fetch-unreachable", "deadline-exceeded", "storage-hangs"})
SHOWN_REMEDIES = 4

Answer = Union[str, PetalError]


def look_up(steps: Sequence[Step], ctx: Context) -> Mapping[tuple[str, str], Answer]:
    """What the inputs of these steps are, or why one cannot be used, by the step's name and the key.

    A child process asks, because a local path may be on storage that hangs.
    """
    try:
        return ctx.system.with_deadline(partial(_ask, steps, ctx), 2 * SECONDS)
    except PetalError as error:
        return {(step.name, ""): error for step in steps}


def _ask(steps: Sequence[Step], ctx: Context) -> Mapping[tuple[str, str], Answer]:
    answers: dict[tuple[str, str], Answer] = {}

    def ask(place: tuple[str, str], question: Question) -> None:
        try:
            answers[place] = question()
        except (PetalError, OSError) as error:
            answers[place] = from_error(error, ctx.paths.shared_mount)

    threads = []
    late = FetchError(f"no answer within {SECONDS:.0f} s")
    for step in steps:
        try:
            questions = step.inputs(ctx)
        except (PetalError, OSError):  # its probe, or its apply, reports that
            continue
        for key, question in questions.items():
            place = step.name, key
            threads.append((place, threading.Thread(target=ask, args=(place, question), daemon=True)))
    for _, thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    for _, thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {place: answers.get(place, late) for place, _ in threads}


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
