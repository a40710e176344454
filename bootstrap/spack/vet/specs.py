"""Reads a spec as it is typed: the packages that it names, their versions and variants. Pure.

The grammar is that of lib/spack/spack/spec_parser.py. What this reader does not understand it says nothing about: Spack
itself has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

NAME = r"[a-zA-Z_0-9][a-zA-Z_0-9\-]*"
DOTTED = rf"{NAME}(?:\.{NAME})*"
GIT = r"(?:git\.[a-zA-Z_0-9][a-zA-Z_0-9./\-]*|[A-Fa-f0-9]{40})"
ONE = r"=?[a-zA-Z0-9_][a-zA-Z_0-9.\-]*\b"
ITEM = rf"(?:(?:{ONE})?:(?:{ONE}(?!\s*=))?|{ONE})"
VIRTUALS = rf"(?:\s*{NAME}(?:,{NAME})*=(?={NAME}))?"
VARIANT = r"[a-zA-Z_0-9][a-zA-Z_0-9.\-]*"
VALUE = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[a-zA-Z_0-9\-+*.,:=%^~/\\]+)"
LONGEST = 1000  # characters: no one types more, and Python reads no number of more than 4300 digits
TOKEN = re.compile(
    rf"""\s*(?:
    (?P<edge>\^|%%?)(?:\[[^\]]*\])?{VIRTUALS}\s*
    |@(?P<git>{GIT}(?:={ONE})?)
    |@\s*(?P<version>{ITEM}(?:\s*,\s*{ITEM})*)
    |(?P<passed>\+\+|~~|--)\s*{VARIANT}
    |[+~-]\s*(?P<switch>{VARIANT})
    |{VARIANT}:?==(?P<passed_value>{VALUE})
    |(?P<key>{VARIANT}):?={VALUE}
    |(?P<name>{DOTTED})
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Node:
    """One package of a spec: its name without a namespace, the constraint behind ``@``, the variants it sets."""

    name: str
    version: str = ""
    variants: tuple[str, ...] = ()


def read_spec(text: str) -> tuple[Node, ...]:
    """The packages of a spec, the root first, without its compilers (``%gcc``); empty where it cannot be read."""
    if len(text) > LONGEST:
        return ()
    nodes: list[tuple[str, Node]] = []
    edge = ""
    for kind, value in _tokens(text):
        if kind == "unknown" or (kind == "edge" and not nodes):
            return ()
        if kind == "edge":
            edge = value
        elif kind == "name":
            if nodes and not edge:
                return ()  # two specs in one text
            nodes.append((edge, Node(value)))
            edge = ""
        elif not nodes or edge:
            return ()
        else:
            where, node = nodes[-1]
            nodes[-1] = (where, _with(node, kind, value))
    return tuple(node for where, node in nodes if not where.startswith("%"))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    text = text.strip()
    place = 0
    while place < len(text):
        found = TOKEN.match(text, place)
        if found is None:
            yield "unknown", text[place:]
            return
        place = found.end()
        yield next(((kind, value) for kind, value in found.groupdict().items() if value is not None))


def _with(node: Node, kind: str, value: str) -> Node:
    if kind in ("git", "version"):
        return replace(node, version=value)
    if kind in ("switch", "key"):
        return replace(node, variants=(*node.variants, value))
    return node
