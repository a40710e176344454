"""The answer of ``check`` as one HTML page that needs no other file: it can be mailed or put on a wiki."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from ..core.decode import storable
from ..core.errors import UsageError
from ..core.model import FleetReport, NodeReport, Result
from ..core.options import Options
from ..host.atomic import write_atomic
from .checks_view import columns_of, problems, total
from .lines import CHECK_MARKS, by_nodes
from .remedies import runnable

TEMPLATE = Path(__file__).with_name("check.html.j2")


def require_writable(file: Path) -> None:
    """Fails before the checks run if the page cannot be written.

    Raises:
        UsageError: the directory is missing or not writable, or ``file`` is a directory, a device or a pipe.
    """
    directory = file.parent
    refusals = {
        "it is a link of another user": file.is_symlink() and not _is_own_link(file),
        f"{directory} is not a directory": not directory.is_dir(),
        f"{directory} is not writable": not os.access(directory, os.W_OK),
        "it is a directory": file.is_dir(),
        "it is not a regular file": file.exists() and not file.is_file(),  # a rename would replace /dev/null
    }
    why = next((why for why, applies in refusals.items() if applies), None)
    if why:
        remedy = shlex.join(["ls", "-ld", str(directory), str(file)])
        raise UsageError(f"cannot write the HTML report to {file}", why=why, remedy=remedy)


def write_page(file: Path, text: str) -> None:
    """Writes the page. A file that is there keeps its mode, and its owner if root writes.

    A link of this user is followed; another one, which may be as new as the results, is replaced.
    """
    file = file.resolve() if _is_own_link(file) else file
    if file.is_symlink() or not file.exists():
        write_atomic(file, text.encode())
        return
    info = file.stat()
    owner = None if os.geteuid() else (info.st_uid, info.st_gid)
    write_atomic(file, text.encode(), mode=stat.S_IMODE(info.st_mode), owner=owner)


def _is_own_link(file: Path) -> bool:
    return file.is_symlink() and file.lstat().st_uid == os.geteuid()


def page(result: Result[NodeReport | FleetReport], options: Options, time: str) -> str:
    """The page of the command line ``options``, with the time of the checks."""
    import jinja2

    data = result.data
    reports, between = (data.nodes, data.between) if isinstance(data, FleetReport) else ((data,), ())
    checked = [report for report in reports if report.was_checked]
    checks, columns = columns_of(checked)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["runnable"] = runnable
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=total(reports),
        options=options,
        time=time,
        run_id=result.run_id,
        releases=sorted({report.release for report in checked if report.release}),
        checks=checks,
        columns=columns,
        unchecked=by_nodes(
            ((finding.message, finding.why), report.node)
            for report in reports
            if not report.was_checked
            for finding in report.findings
        ),
        problems=problems(reports),
        between=between,
        nodes=by_nodes((report.findings, report.node) for report in checked),
        marks=CHECK_MARKS,
    )
    return storable(text)
