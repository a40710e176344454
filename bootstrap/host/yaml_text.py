"""Reads YAML. A file that an administrator writes is read as far as possible, so that all its mistakes are reported.

Duplicate keys and aliases are mistakes, because they hide the content of a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..core.errors import ConfigError, Problem
from ..core.text import A_PAGE, count, is_page
from .files import is_deep

DEEP = "its values are nested too deeply"
NO_MAPPING = "the top level must be a mapping: KEY: VALUE, with a space after the colon"
# Raised by PyYAML if a tag does not fit its value: !!int "", !!bool x, !!map [1], 2026-02-31.
_BY_TAGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_TABS = re.compile(r"(?m)^ *\t[ \t]*")
_SPACES = re.compile(r"(?m)^ *\xa0[ \xa0]*")  # no-break spaces, as copied from a web page
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # PyYAML, reader.py
_SECTION = re.compile(r"(?m)^(?=[^\s#\-\]},])")  # where a key of the top level begins
_TYPOGRAPHIC = ("\u201c", "\u201d", "\u2018", "\u2019", "\u201e")
_ALIAS, _MAP, _LIST = "!alias", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
GZIP = b"\x1f\x8b"
WIDE = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks of UTF-16
MOST_CONTROLS = 16  # control characters in the first KiB; a text has fewer
# Parts of PyYAML's messages, and the usual cause of each.
_CAUSES = {
    "mapping values are not allowed": "wrong indentation, or a second colon: align it, or use quotes",
    "could not find expected ':'": "write KEY: VALUE, with a space after the colon",
    "cannot start any token": "put the value in quotes",
    "unexpected end of stream": "a quote is not closed",
    "expected <block end>": "its indentation differs from that of the lines above, or text follows a quote",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "expected the node content": "a bracket is not closed, or a value is missing",
    "but found another document": "one file has one document: remove the line ---",
}


@dataclass
class Document:
    """A YAML mapping as far as it can be read.

    Args:
        name: the name of the file in messages.
        content: empty for an empty file. A value that cannot be read is None.
        lines: the line of each key and item, by its path.
        problems: the mistakes, each with its line.
        unread: the paths of values that cannot be read. Mistakes there, and of missing keys, may follow from that.
    """

    name: str
    content: dict[Any, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    def report(self, line: int, path: str, message: str) -> None:
        """Adds a mistake at a line."""
        self.problems.append(Problem(path, message, self.place(line)))

    def place(self, line: int) -> str:
        """A line in messages."""
        return f"{PurePosixPath(self.name).name}:{line}"

    def add(self, path: str, message: str) -> None:
        """Adds a mistake of a value, at the line of its key, or of the nearest section if the key is missing."""
        places = [path, *_parents(path)]
        follows = self.unread.intersection(places if path in self.lines else [*places, join(places[1], "<<")])
        if not follows:
            self.report(next((self.lines[each] for each in places if each in self.lines), 1), path, message)

    def error(self, code: str = "", remedy: str = "") -> ConfigError:
        """All mistakes, in the order of the file."""
        remedy = remedy or _remedy(self.name)
        ordered = sorted(dict.fromkeys(self.problems), key=lambda problem: int(problem.place.rpartition(":")[2]))
        return ConfigError(f"{self.name} has {count(len(ordered), 'mistake')}", ordered, remedy=remedy, code=code)


def join(path: str, key: object) -> str:
    """The path of a key."""
    return f"{path}.{key}".lstrip(".") or repr(key)


def _parents(path: str) -> Iterator[str]:
    """The paths above: ``a.b``, ``a`` and an empty string for ``a.b[0]``."""
    while path:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
        yield path


def read_yaml(data: bytes | str) -> dict[str, Any]:
    """A YAML mapping that another program wrote; empty if it cannot be read.

    Aliases and duplicate keys are accepted. The document may contain itself, so do not traverse it completely.
    """
    import yaml

    try:
        loaded = yaml.safe_load(data)
    except (yaml.YAMLError, *_BY_TAGS, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def read_document(data: bytes | str, name: str) -> Document:
    """A file that an administrator wrote, with its mistakes. With wrong syntax, each section is read by itself.

    Raises:
        ConfigError: ``config-syntax``: it is not text or not a mapping, or nested too deeply.
    """
    import yaml

    document = Document(name)
    if isinstance(data, bytes) and _is_binary(data):
        raise _unusable(name, f"it is not text{': it is compressed with gzip' if data[:2] == GZIP else ''}")
    if isinstance(data, bytes) and is_page(data):
        raise _unusable(name, A_PAGE)
    text = _decoded(data, document)
    try:
        _read(text, document)
    except yaml.YAMLError as error:
        if not _read_sections(text, document):
            _report_syntax(error, text, document)
    if is_deep(document.content):
        raise _unusable(name, DEEP)
    return document


def _remedy(name: str) -> str:
    return f"correct the file, then: petal-node plan --config {shlex.quote(name)}"


def _unusable(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name} is not a configuration", why=why, remedy=_remedy(name), code="config-syntax")


def _is_binary(data: bytes) -> bool:
    """True for a tarball or program: each of its bytes would be a mistake."""
    controls = sum(byte < 9 or 13 < byte < 32 for byte in data[:1024])
    return data[:2] == GZIP or (data[:2] not in WIDE and controls >= MOST_CONTROLS)


def _decoded(data: bytes | str, document: Document) -> str:
    """The text of the file. Bytes that are not UTF-8 and control characters are reported and replaced."""
    if isinstance(data, bytes):
        data = data.decode("utf-16", "replace") if data[:2] in WIDE else data.decode("utf-8-sig", "surrogateescape")
    text = data.replace("\r\n", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        found = _CONTROL.search(line)
        if found and "\udc80" <= found[0] <= "\udcff":
            byte = f"has the byte {ord(found[0]) - 0xDC00:#x}"
            document.report(number, "(text)", f"{byte}, which is not UTF-8: iconv -f LATIN1 -t UTF-8 FILE")
        elif found:
            document.report(number, "(text)", f"has the character {ord(found[0]):#x}: remove it")
        if _SPACES.match(line):
            document.report(number, "(indentation)", "has no-break spaces (0xa0): write spaces instead")
    text = _SPACES.sub(lambda found: found[0].replace("\xa0", " "), text)
    return _CONTROL.sub(lambda found: "\ufffd" if found[0] >= "\ud800" else " ", text)


def _read_sections(text: str, document: Document) -> bool:
    """Reads each section of the top level by itself; False if no mistake was found."""
    import yaml

    for number, line in enumerate(text.split("\n"), 1):
        if _TABS.match(line):
            document.report(number, "(indentation)", "has a tab: write spaces instead")
    text = _TABS.sub(lambda found: found[0].replace("\t", "  "), text)
    starts = [0, *(found.start() for found in _SECTION.finditer(text) if found.start())]
    for start, end in zip(starts, [*starts[1:], None]):
        above = "\n" * text.count("\n", 0, start)
        try:
            _read(above + text[start:end], document)
        except yaml.YAMLError as error:
            _report_syntax(error, above + text[start:end], document)
    return bool(document.problems)


def _report_syntax(error: Any, text: str, document: Document) -> None:
    message = " ".join(str(getattr(error, "problem", None) or error).split())
    cause = next((cause for part, cause in _CAUSES.items() if part in message), "see https://yaml.org/spec/1.1")
    # A quote or bracket that is not closed is found at the end of the text, and opens at the context.
    opens = error.context_mark if "quoted" in str(error.context) or "flow" in str(error.context) else None
    line = min((opens or error.problem_mark).line, text.rstrip().count("\n"))
    key = text.strip().partition(":")[0]
    path = key if re.fullmatch(r"[\w-]+", key) else "(file)"
    document.unread.add(path)
    shown = text.split("\n")[line].strip()
    document.report(line + 1, path, f"is not YAML at {shown[:40]!r}: {message}; {cause}")


def _read(text: str, document: Document) -> None:
    """Adds the keys of a text to the document; yaml.YAMLError for a mistake of syntax."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if not self.check_event(yaml.AliasEvent):
                return super().compose_node(parent, index)
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(_ALIAS, event.anchor, event.start_mark, event.end_mark)

    loader: Any = Loader(text)
    reader = _Reader(loader, yaml.YAMLError, document)
    try:
        node = loader.get_single_node()
        if node is None or (node.id == "scalar" and reader.value(node, "") is None):
            return
        if node.id == "mapping" and node.tag == _MAP:
            reader.mapping(node, "", document.content)
        else:
            reader.refuse(node, "", NO_MAPPING)
    except RecursionError as error:
        raise _unusable(document.name, DEEP) from error
    finally:
        loader.dispose()


class _Reader:
    """Makes the values of PyYAML's nodes, with their lines, and reports those that cannot be read."""

    def __init__(self, loader: Any, error: type[Exception], document: Document) -> None:
        self._loader, self._errors, self._document = loader, (error, *_BY_TAGS), document

    def value(self, node: Any, path: str) -> Any:
        """The value of a node, None if it cannot be read."""
        if node.tag == _ALIAS:
            return self.refuse(node, path, f"*{node.value} is an alias, which hides the value: write the value here")
        if node.id == "sequence" and node.tag == _LIST:
            items = [(item, f"{path}[{number}]") for number, item in enumerate(node.value)]
            self._document.lines.update((place, item.start_mark.line + 1) for item, place in items)
            return [self.value(item, place) for item, place in items]
        if node.id == "mapping" and node.tag == _MAP:
            return self.mapping(node, path, {})
        if node.id == "scalar" and node.value[:1] in _TYPOGRAPHIC:
            return self.refuse(node, path, 'begins with a typographic quote: write " instead')
        try:
            return self._loader.construct_object(node, deep=True)
        except self._errors as error:
            why = getattr(error, "problem", None) or error
            return self.refuse(node, path, f"cannot be read ({why}): remove the tag, or put the value in quotes")

    def mapping(self, node: Any, path: str, content: dict[Any, Any]) -> dict[Any, Any]:
        """Adds the keys of a node to ``content``, and returns it."""
        lines = self._document.lines
        for key_node, value_node in node.value:
            if key_node.id != "scalar" or key_node.tag == _ALIAS:
                self.refuse(key_node, path, "has a key that is not text: put {{ }} and * in quotes")
                continue
            key = "<<" if key_node.value == "<<" else self.value(key_node, path)
            place, line = join(path, key), key_node.start_mark.line + 1
            if key in content:
                self._document.report(line, place, f"is written twice, first in line {lines[place]}: keep one")
                continue
            lines[place] = line
            content[key] = self.value(value_node, place)
        return content

    def refuse(self, node: Any, path: str, message: str) -> None:
        """Reports a value that cannot be read."""
        self._document.unread.add(path)
        self._document.report(node.start_mark.line + 1, path or "(file)", message)
