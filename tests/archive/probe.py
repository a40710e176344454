"""Replaces bootstrap/cli.py in the archives of these tests: prints its environment, and imports every package."""

from __future__ import annotations

import io
import json
import os
import signal
import sys


def entry() -> None:
    from bootstrap.core import resources

    answer: dict[str, object] = {
        "python": list(sys.version_info[:2]),
        "flags": [sys.flags.isolated, sys.flags.no_site, sys.flags.utf8_mode],
        "tree": sys.path[0],
        "archive": os.environ["PETAL_ARCHIVE"],
        "interrupt": str(signal.getsignal(signal.SIGINT)),
        "tried": os.environ.get("PETAL_TRIED"),
        "arguments": sys.argv[1:],
        "spack_envs": str(resources.path("spack_envs")),
    }
    if sys.argv[1:] == ["libs"]:
        answer["libs"] = _libs()
    print(json.dumps(answer))
    sys.exit(int(sys.argv[2]) if sys.argv[1:2] == ["exit"] else 0)


def _libs() -> list[str]:
    import archspec.cpu
    import jinja2
    import marshmallow
    import psutil
    import requests
    import requests_aws4auth
    import rich.console
    import rich.progress
    import rich.table
    import tenacity
    import yaml

    assert psutil.virtual_memory().total > 0
    assert archspec.cpu.host().name
    assert jinja2.Template("{{ a }}").render(a=1) == "1"
    assert yaml.safe_load("a: [1]") == {"a": [1]}
    table = rich.table.Table("a")
    table.add_row("b")
    rich.console.Console(file=io.StringIO()).print(table, rich.progress.ProgressBar())
    modules = (archspec, jinja2, marshmallow, psutil, requests, requests_aws4auth, rich, tenacity, yaml)
    return [str(module.__file__) for module in modules]
