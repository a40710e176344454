"""The command line: arguments -> ``Options`` -> a verb -> its ``Result`` -> the exit code.

Everything that a verb needs is imported when it is called: ``version`` takes little longer than a bare Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from .core.model import Result
    from .core.options import Options
    from .state.context import Services


def entry() -> None:
    """The program ``petal-node``. The caller's umask applies neither to us nor to Spack and tar."""
    from .host.processes import interrupts_end
    from .report import streams

    interrupts_end()  # the archive's header does it earlier
    os.umask(0o022)
    streams.open_streams()
    try:
        code = main(sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - of the parser, the log or the printer
        code = _unguarded(error, sys.argv[1:])
    if streams.lost() and not code:
        from .core.options import verb_of

        code = 0 if verb_of(sys.argv[1:]) == "hook" else 1  # ParallelCluster ends the start of a node whose hook fails
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if list(argv) in (["version"], ["--version"]):
        sys.stdout.write(f"petal-node {__version__}\n")
        return 0
    from .commands.arguments import parse, parse_refused_hook
    from .core.options import verb_of

    try:
        options = parse(argv or ["--help"])
    except SystemExit as ended:  # argparse has printed the help or the mistake
        code = ended.code if isinstance(ended.code, int) else 2
        if code == 0 or verb_of(argv) != "hook":
            return code
        options = parse_refused_hook(argv)
    return _run(options)


def _run(options: Options) -> int:
    from pathlib import Path

    from .core.model import Tool
    from .host.files import sha256_of
    from .host.log import close_log, open_log
    from .host.processes import mark_run
    from .host.system import System
    from .host.times import new_run_id
    from .report import render as report
    from .state.context import Services

    archive = Path(os.environ.get("PETAL_ARCHIVE", ""))  # the loader of the archive sets it
    tool = Tool(__version__, archive, sha256_of(archive)) if archive.is_file() else Tool(__version__)
    progress = report.Progress(options, tool.archive)
    services = Services(tool, System(), options.run_id or new_run_id(), progress.step, progress.note, progress.answer)
    mark_run(services.run_id)
    may_write = services.system.is_root() or not options.paths.live
    if may_write and (options.paths.log.exists() or not options.only_reads):
        open_log(options.paths.log, services.run_id)
    try:
        result = _guarded(options, services)
    finally:
        progress.close()
    report.show(result, options, tool.archive, steps_shown=progress.shown)
    close_log()
    return result.exit_code


def _unguarded(error: Exception, argv: Sequence[str]) -> int:
    """Prints an error that is not of a verb, and so has no ``Options``, and returns the exit code."""
    from contextlib import suppress
    from pathlib import Path

    from .core.errors import PetalError, from_error
    from .core.model import failed
    from .core.options import Options, root_of, verb_of
    from .engine.recorder import crash
    from .host.times import new_run_id
    from .report import render as report

    verb, root = verb_of(argv), Path("/")
    with suppress(OSError):
        root = root_of(argv)
    options, run_id = Options(verb, root=root, json="--json" in argv, quiet=True), new_run_id()
    if isinstance(error, (PetalError, OSError)):
        result = failed(verb, from_error(error, None), run_id)
    else:
        result = failed(verb, crash(error, options.paths, run_id), run_id)
    report.show(result, options)
    return 0 if verb == "hook" and "--strict" not in argv else result.exit_code


def _guarded(options: Options, services: Services) -> Result[object]:
    """Runs the verb. Expected errors and bugs become results: an operator never sees a traceback.

    A hook exits 0 whatever fails, except with ``--strict``.
    """
    from dataclasses import replace
    from importlib import import_module

    from .commands.arguments import VERBS
    from .core.errors import ExitCode, PetalError, from_error
    from .core.model import failed
    from .engine.recorder import crash
    from .host.log import LOG
    from .host.processes import Terminated, interruptible
    from .state.machine import forget_other_machine

    try:
        if not options.only_reads and (services.system.is_root() or not options.paths.live):
            forget_other_machine(options.paths)
        module, _, name = VERBS[options.command].function.partition(".")
        function = getattr(import_module(f".commands.{module}", __package__), name)
        with interruptible():
            result: Result[object] = function(options, services)
    except (PetalError, OSError) as error:
        LOG.error("%s", error, extra={"step": options.command})
        result = failed(options.command, from_error(error, None), services.run_id)
    except (KeyboardInterrupt, Terminated) as signalled:
        interrupted = PetalError("interrupted", remedy=options.again, code="interrupted")
        code = ExitCode.TERMINATED if isinstance(signalled, Terminated) else ExitCode.INTERRUPTED
        result = replace(failed(options.command, interrupted, services.run_id), exit=int(code))
    except Exception as error:  # noqa: BLE001 - nothing above this catches it
        result = failed(options.command, crash(error, options.paths, services.run_id), services.run_id)
    # ParallelCluster ends the start of a node whose hook fails.
    return replace(result, exit=0) if options.command == "hook" and not options.strict else result
