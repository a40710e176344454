"""The house: what may import what, who starts processes, who prints, who may use which library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bootstrap"
# From the top of the house to its foundation: a module imports only what stands below it.
ORDER = (
    "__main__", "cli", "report", "views", "verbs", "run", "prepare", "handover", "engine", "checks", "steps", "fleet",
    "spack", "tarball", "templates", "slurm", "context", "converge", "limits", "environments", "facts", "release",
    "lock", "state", "fetch", "aws", "config", "resources", "tool", "system", "processes", "guard", "files", "log",
    "paths", "model", "shapes", "errors", "__init__",
)  # fmt: skip
LIBRARIES = {
    "yaml": {"config"},
    "marshmallow": {"config"},
    "jinja2": {"templates"},
    "requests": {"fetch", "aws"},
    "urllib3": {"fetch"},
    "requests_aws4auth": {"aws"},
    "tenacity": {"fetch"},
    "psutil": {"system", "processes"},
    "archspec": {"facts"},
    "rich": {"report"},
}
PROCESSES = {"subprocess", "multiprocessing", "pty"}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "archive"]


def band(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports; our own start with ``bootstrap.``."""
    package = ["bootstrap", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def own_bands(path: Path) -> set[str]:
    parts = (name.split(".") for name in imports(path) if name.startswith("bootstrap."))
    return {part[1] for part in parts if part[1] in ORDER}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_below_it(path: Path) -> None:
    here = band(path)
    assert here in ORDER, f"{here} has no place in the house yet"
    assert {name for name in own_bands(path) if ORDER.index(name) < ORDER.index(here)} == set()


def test_steps_do_not_import_each_other() -> None:
    for path in (PACKAGE / "steps").glob("*.py"):
        if path.name != "__init__.py":
            inner = {name for name in imports(path) if name.startswith("bootstrap.steps.")}
            assert all(name.startswith("bootstrap.steps.base") for name in inner), path.name


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_used_where_they_belong(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert {name for name in used & set(LIBRARIES) if band(path) not in LIBRARIES[name]} == set()
    assert not used & PROCESSES or band(path) == "system"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_report_prints(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    streams = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")]
    of_sys = [node for node in streams if isinstance(node.value, ast.Name) and node.value.id == "sys"]
    assert not of_sys or band(path) in ("report", "cli")  # cli: ``version`` without the cost of importing report


def test_no_shell_and_no_name_of_a_shell_string() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert "shell=True" not in text, path
        assert "os.system" not in text, path


def test_files_are_of_a_size_to_feel_at_home_in() -> None:
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
