"""Unlikely input: junk of every type, valid documents with a few changed values, and damaged bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

# Characters with a meaning in a shell, Lua, YAML, a path or a terminal.
NASTY = (
    "", ".", "..", "/", "//", "../../../../tmp/petal-fuzz", "/etc/passwd", "~root", "-rf", "--", "-", "a b", "a'b",
    'a"b', "a\\", "$(id)", "`id`", "${IFS}", "a;id", "a|id", "a&id", "a>x", "a\nb", "a\rb", "a\tb", "\x00", "a\x00b",
    "\x1b[2J", "]]", "--[[", "]==]", "%s%n", "{{ 7 }}", "{% raw %}", "{prefix}", "*", "?", "[a]", "!", "!!1", "#x",
    "a: b", "- a", "&a", "*a", "<<", "null", "~", "yes", "0x10", "1e3", "1_000", "24.10", ".inf", "2026-11-24",
    "\u2028", "\ufeff", "\u202e", "\u00e9", "\u00b2", "\u0661", "\ud800", "\U0001f600", "a" * 300, "a/" * 3000,
    "S3://b/k", "s3://", "http://h/x", "file:///etc/shadow", "https://user:secret@h/x", "javascript:1",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 99, 2**31, 2**63, -(2**63), 10**30, 10**400)


def _nest(depth: int, mapping: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=20), st.text("abc./-'\"$\\;{}[]:#&*!|>%@` \n\t\0", max_size=12)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(),
    texts,
)
junk = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=3),
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
    ),
    st.builds(_nest, st.integers(1, 600), st.booleans()),
)


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document, starting with the document itself."""
    found = [here]
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found += places(value, (*here, key))
    return found


# One value of each kind that a reader could confuse with another.
OTHERS: tuple[Any, ...] = (
    None, True, -1, 10**400, float("nan"), "", "a/../../b", "\ud800", [1], {"a": 1}, _nest(480, mapping=True),
)  # fmt: skip


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a document with another value at one path."""
    if not path:
        return value
    copied = copy.copy(document)
    copied[path[0]] = replaced(document[path[0]], path[1:], value)
    return copied


@st.composite
def mutated(draw: Callable[..., Any], documents: st.SearchStrategy[Any]) -> Any:
    """A valid document with one to three values replaced, removed or doubled, or with an additional key."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(document)))
        if not path:
            document = _grown(document, draw(texts), draw(junk)) if draw(st.integers(0, 9)) else draw(junk)
            continue
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(("replace", "replace", "replace", "remove", "grow", "wrap", "text")))
        if how == "remove":
            del parent[path[-1]]
        elif how == "grow":
            parent[path[-1]] = _grown(parent[path[-1]], draw(texts), draw(junk))
        elif how == "wrap":
            parent[path[-1]] = [parent[path[-1]]]
        elif how == "text":
            parent[path[-1]] = draw(texts)
        else:
            parent[path[-1]] = draw(junk)
    return document


def _grown(value: Any, key: str, item: Any) -> Any:
    if isinstance(value, dict):
        return {**value, key: item}
    return [*value, item] if isinstance(value, list) else [value, item]


@st.composite
def damaged(draw: Callable[..., Any], whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which a few are changed, removed, doubled or inserted."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("flip", "cut", "drop", "insert")))
        if how == "flip" and data:
            data[min(at, len(data) - 1)] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + draw(st.integers(1, 600))]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


def json_bytes(document: Any) -> bytes:
    """JSON as Python writes it, including NaN and Infinity; lone surrogates stay escapes."""
    return json.dumps(document).encode()


def files_of(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """The content of a JSON file: a mutated document, damaged bytes, anything."""
    return st.one_of(
        mutated(valid).map(json_bytes),
        mutated(valid).map(json_bytes),
        junk.map(json_bytes),
        damaged(valid.map(json_bytes)),
        st.binary(max_size=200),
        st.sampled_from(
            [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe{\0}\0"]
        ),
    )


# YAML with special meaning: tags, aliases, bombs, keys that are duplicate or not strings.
YAML_LINES = (
    "a: 1\na: 2", "a: &a [1]\nb: *a", "a: &a [*a]", "<<: {a: 1}", "<<: [1]", "? [1, 2]\n: 3", "? {a: 1}\n: 3",
    "!!int '': 1", "stack: !!int ''", "stack: !!bool x", "stack: !!float x", "stack: !!timestamp x",
    "stack: !!map [1]", "stack: !!map x", "stack: !!seq {a: 1}", "stack: !!set {a, b}", "stack: !!omap [a: 1]",
    "stack: !!omap [1]", "stack: !!pairs x", "stack: !!binary '*'", "stack: !!binary aGk=", "stack: !!str {a: 1}",
    "stack: !!null x", "stack: =", "stack: !x y", "stack: !!python/object/apply:os.system [id]",
    "stack: !!python/name:os.system", "stack: 2026-02-31", "stack: 2026-11-24", "stack: 190:20:30", "stack: 0b",
    "stack: 0x", "stack: 08", "stack: 1:99", "stack: .nan", "stack: " + "9" * 5000, "%YAML 9.9\n---\na: 1",
    "%TAG ! tag:x,2000:\n---\na: !b c", "a: 1\n---\nb: 2", "\ttab: 1", "a: b: c", "- a\nb: 1", "a: |\n x",
    "a: >-\n x", "a: 'x", 'a: "\\x"', 'a: "\\ud800"', "a: @x", "a: %x", "1: 2", "true: 1", "~: 1", "1.5: x",
    "[" * 3000, "{a: " * 3000, "- " * 3000, "x: " + "[" * 400 + "]" * 400, "a: " + "!" * 50, "# only a comment",
    "...", "---", "lol: &a [x,x]\nlol2: &b [*a,*a]\nlol3: &c [*b,*b]\nstack: *c",
)  # fmt: skip


def yaml_of(document: Any) -> bytes:
    """YAML as PyYAML writes it, or JSON if PyYAML cannot write the value."""
    try:
        return yaml.safe_dump(document, allow_unicode=True).encode()
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return json_bytes(document)


def yaml_files(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """The content of a YAML file."""
    lines = st.lists(st.sampled_from(YAML_LINES), min_size=1, max_size=3).map("\n".join)
    return st.one_of(
        mutated(valid).map(yaml_of),
        mutated(valid).map(json_bytes),
        damaged(valid.map(yaml_of)),
        lines.map(lambda text: text.encode(errors="surrogatepass")),
        st.tuples(valid.map(yaml_of), lines.map(str.encode)).map(b"".join),
        st.text(max_size=60).map(lambda text: text.encode("utf-16", "surrogatepass")),
        st.text("abc: -[]{}'\"!&*#|>%@`\n\t,?", max_size=60).map(str.encode),
        st.binary(max_size=100),
    )
