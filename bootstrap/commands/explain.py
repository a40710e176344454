"""``explain``: the documentation of an error code, a check, a step, a configuration key or an exit code.

The pages of ``docs/`` ship with petal-node. A name is the first cell of a row in a table of names, or a heading.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core import resources
from ..core.errors import UsageError, did_you_mean
from ..core.model import Result, Status
from ..core.options import Options
from ..state.context import Services

CHECK, STEP, KEY, SECTION = "check", "step", "configuration key", "section"
# Page and first column of the tables of names.
ROWS = {
    ("errors", "code"): "error code",
    ("configuration", "key"): KEY,
    ("output", "code"): "exit code",
    ("output", "step"): STEP,
}
KINDS = ("error code", CHECK, STEP, KEY, "exit code")


@dataclass(frozen=True)
class Topic:
    """One name and its documentation, which is Markdown; lines of an example start with four blanks."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True)
class Explanation:
    """The documentation of one name; without a name all ``names`` by their kind."""

    topics: tuple[Topic, ...]
    names: dict[str, tuple[str, ...]]


def explain(options: Options, services: Services) -> Result[Explanation]:
    """The documentation of one name, or all names. Needs no root, no cluster and no storage.

    Raises:
        UsageError: the name is unknown.
    """
    topics = tuple(_topics())
    if options.topic is None:
        by_kind = {kind: tuple(topic.name for topic in topics if topic.kind == kind) for kind in KINDS}
        return Result("explain", Status.OK, Explanation((), by_kind), run_id=services.run_id)
    name = re.sub(r"^\[(.*)\]$", r"\1", options.topic).lower()  # a code as it is printed
    found = [topic for topic in topics if _is_name_of(name, topic)]
    other = {topic.text for topic in found if topic.kind != SECTION}
    found = [topic for topic in found if topic.kind != SECTION or topic.text not in other]
    if not found:
        names = [topic.name for topic in topics]
        what = f"{options.topic!r} is not documented{did_you_mean(options.topic, names)}"
        longer = [name for name in names if options.topic and name.startswith(options.topic)]
        why = f"documented are {', '.join(longer)}" if longer else ""
        raise UsageError(what, why=why, remedy="petal-node explain    # lists all codes, checks, steps and keys")
    return Result("explain", Status.OK, Explanation(tuple(found), {}), run_id=services.run_id)


def _is_name_of(word: str, topic: Topic) -> bool:
    """Also for ``load:gcc``, ``packages[0].sha256`` and ``spack.mirrors.site.url``."""
    if topic.kind == KEY:
        pattern = re.escape(topic.name.replace("[]", "")).replace("NAME", r"[^.]+")
        return re.fullmatch(pattern, re.sub(r"\[\d*\]", "", word)) is not None
    return topic.name == (word.partition(":")[0] if topic.kind == CHECK else word)


def _topics() -> Iterator[Topic]:
    for path in sorted(resources.path("docs").glob("*.md")):
        text = re.sub(r"\[([^]]+)\]\(([^)]+)\)", _link, path.read_text(encoding="utf-8"))
        text = re.sub(r"(?m)^```\w*\n((?:.*\n)*?)```$", _indented, text)
        headed = re.split(r"(?m)^(#+) (.+)\n", text)
        titles = [*zip(map(len, headed[1::3]), headed[2::3])]
        bodies = [body.strip("\n") or _contents(titles[place:]) for place, body in enumerate(headed[3::3])]
        sections = {_slug(title): body for (_, title), body in zip(titles, bodies)}
        for number, (name, body) in enumerate(sections.items()):
            kind = CHECK if path.stem == "checks" and number else SECTION
            yield Topic(path.stem if number == 0 else name, kind, body)
            for heads, cells in _rows(body):
                if row_kind := ROWS.get((path.stem, heads[0])):
                    pairs = (f"- {head}: {cell}" for head, cell in zip(heads[1:], cells[1:]) if cell != "-")
                    about = sections.get(cells[-1].removeprefix("see "), "\n".join(pairs))
                    yield from (Topic(one, row_kind, about) for one in cells[0].replace("`", "").split(", "))


def _contents(titles: Sequence[tuple[int, str]]) -> str:
    """The sections of the first of these headings, each with its level and title."""
    (own, _), *rest = titles
    within = itertools.takewhile(lambda heading: heading[0] > own, rest)
    return "\n".join(f"- {title} (`petal-node explain {_slug(title)}`)" for level, title in within if level == own + 1)


def _link(link: re.Match[str]) -> str:
    """A link as its text and the command that shows its target."""
    text, target = link[1], link[2]
    if ":" in target:
        return f"{text} ({target})"
    page, _, anchor = target.partition("#")
    name = anchor or page.removesuffix(".md")
    if page.startswith("dev/") or text.lower() == name:
        return text
    return f"`petal-node explain {name}`" if text == page else f"{text} (`petal-node explain {name}`)"


def _indented(fenced: re.Match[str]) -> str:
    return re.sub(r"(?m)^", "    ", fenced[1].rstrip("\n"))


def _slug(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-")


def _rows(body: str) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """The rows of the tables, each with the heads of its columns."""
    heads: list[str] = []
    for line in body.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = cells
        elif not line.startswith("|--"):
            yield heads, cells
