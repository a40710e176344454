"""Plain technical English: no text has a pattern that CONTRIBUTING.md ("How it reads") rules out."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FOLDERS = ("bootstrap", "actions", "modulefiles", "docs")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "spack_envs/README.md"]
BUILD = ["Makefile", "Dockerfile.test", "noxfile.py", "pyproject.toml", ".ci/need", ".ci/run", ".ci/spack", ".ci/venv"]
SUFFIXES = {".py", ".md", ".sh", ".lua", ".j2", ".txt", ".toml"}
TESTS = TOP / "tests"
FILES = [TOP / name for name in (*PAGES, *BUILD)] + sorted(
    [path for folder in FOLDERS for path in (TOP / folder).rglob("*") if path.suffix in SUFFIXES]
    + [path for path in TESTS.rglob("*") if path.suffix in (".py", ".sh") and path != Path(__file__)]
)
# Each pattern with the words to write instead.
PATTERNS = {
    "is no X, is none: is not an X, is missing": (
        r"(?<!there )(?<!if )\b(?:is|are|was|were) (?:(?-i:none)\b|no (?!longer\b|more\b)(?=\w))"
    ),
    "nobody, somebody, whoever: users, another process": r"\b(?:nobody|somebody|someone|anybody|whoever)\b",
    "anew: again": r"\banew\b",
    "meanwhile: in the meantime, by another process": r"\bmeanwhile\b",
    "told, said, says so: reports, prints, shows": r"\btold\b|\b(?:is|are|was|were) said\b|\b(?:say|says|said) so\b",
    "beside, behind: next to, in addition to, after": r"\bbeside\b|\bbehind\b",
    "of before, from before: earlier, previous": r"\b(?:of|from|as) before\b",
    "what is X, as a noun: name the thing": (
        r"(?:^\W*|[.;:(] ?|\b(?:and|or|of|for|with|from|by|in|on|than|is|all|has|keeps?|removes?|takes?) )"
        r"what (?:is|was|were|are|has|had|it|they|others?|petal-node) (?!(?:it )?would\b)"
    ),
    "stands in, stands under: is in, is listed under": r"\b(?:stands?|stood) (?:in|under|at|with|there|before)\b",
    "mend, cannot be had, costs itself: repair, cannot be fetched, affects only": (
        r"\bmend(?:s|ed)?\b|\bcan(?:not| not) be had\b|\bcosts? (?:(?:only )?itself|nothing|no more|the \w+ only)\b"
    ),
    "None if there is none, where there is none: None if X is missing": r"\b(?:if|where) there is none\b",
    "who is X, as a noun: the user, the process, the holder": (
        r"(?:^(?:test )?|[.;:] )who (?:is|was|has|had|does|holds|takes|asks|waits|ends|gets|comes)\b"
    ),
    "passed over, put aside: ignored, rotated": r"\b(?:passed over|puts? (?:it |them )?aside)\b",
    "test_what_X, test_it_X: the thing that the test is about": r"^test (?:what|whatever|it|its|they) ",
}
# Lines that a pattern matches although they are right: file -> parts of lines, each with the reason.
ALLOWED: dict[str, tuple[str, ...]] = {}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that people read: everything, but of Python comments and strings.

    Of a test in Python these are the comments, names and docstrings, and the reasons of skips and failed assertions:
    its other strings are input and expected output.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        for value, line in words_of_test(node) if TESTS in path.parents else strings(node):
            yield from enumerate(value.splitlines(), line)


def strings(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        yield node.value, node.lineno


def words_of_test(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name.replace("_", " "), node.lineno
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
        yield ast.get_docstring(node, clean=False) or "", node.body[0].lineno if node.body else 1
    if isinstance(node, ast.Assert) and node.msg is not None:
        yield from (found for part in ast.walk(node.msg) for found in strings(part))
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.skip", "pytest.mark.skipif"):
        yield from (found for part in ast.walk(node) for found in strings(part))


def allowed(path: Path, line: str) -> bool:
    return any(part in line for part in ALLOWED.get(str(path.relative_to(TOP)), ()))


def test_the_comment_of_a_command_is_one_of_the_shell() -> None:
    """``petal-node repair    # writes it again``: parentheses after a command are a syntax error of the shell."""
    found = [
        f"{path.relative_to(TOP)}:{node.lineno}: {text}"
        for path in (TOP / "bootstrap").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Constant, ast.JoinedStr))
        and re.search(r"[^ ](?<!\\n) {3,}\(", text := ast.unparse(node))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_no_sentence_has_a_pattern_that_is_ruled_out(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}  ({name})"
        for number, line in prose(path)
        for name, pattern in PATTERNS.items()
        if re.search(pattern, line, re.IGNORECASE) and not allowed(path, line)
    ]
    assert not found, "\n".join(found)
