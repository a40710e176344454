"""Print size and structure of the package as figures: `make house`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "bootstrap"
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def nodes() -> Iterator[ast.AST]:
    for path in sources():
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)


def figures() -> Iterator[tuple[str, str]]:
    """Name and value of each figure."""
    paths, tree = sources(), list(nodes())
    functions = [node for node in tree if isinstance(node, Function)]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)
    total = lines(paths)
    yield "Python lines in bootstrap/", f"{total:,}"
    yield "files", str(len([path for path in paths if path.read_text(encoding="utf-8").strip()]))
    yield "modules at the top", str(len(list(PACKAGE.glob("*.py"))))
    yield "functions per 1,000 lines", f"{1000 * len(functions) / total:.0f}"
    yield (
        "lines of a function: median, 90 %, longest",
        f"{median(lengths):.0f}, {lengths[len(lengths) * 9 // 10]}, {lengths[-1]}",
    )
    yield "dataclasses", str(sum(map(is_dataclass, tree)))
    deadlines = re.compile(r"(?m)^[A-Z_]*SECONDS\b")
    yield "deadline constants (*_SECONDS)", str(sum(len(deadlines.findall(path.read_text())) for path in paths))
    yield "files over 300 lines", str(sum(lines([path]) > 300 for path in paths))
    yield "sh lines in actions/", str(lines(sorted((TOP / "actions").glob("*.sh"))))
    codes = re.findall(r"(?m)^\| `[a-z0-9-]+` \| [0-9]", (TOP / "docs" / "errors.md").read_text(encoding="utf-8"))
    yield "error codes documented", str(len(codes))
    archive = TOP / "dist" / "petal-node"
    yield "archive", f"{archive.stat().st_size / 1e6:.2f} MB" if archive.is_file() else "not built: make dist"
    yield "lines of tests per line of the package", f"{lines(sorted((TOP / 'tests').rglob('*.py'))) / total:.2f}"
    yield "", ""
    for package in sorted(path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        files = sorted(package.rglob("*.py"))
        yield f"  {package.name}/", f"{lines(files):,} lines, {len(files) - 1} files"


def main() -> None:
    for name, value in figures():
        print(f"{name:<44} {value}".rstrip())


if __name__ == "__main__":
    main()
