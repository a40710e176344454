"""A document is decoded to a dataclass with the types of its fields, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytest

from bootstrap.core import decode
from bootstrap.core.decode import Name
from bootstrap.core.model import Finding, NodeReport, Role, RunRecord, Severity, StepReport, plain
from bootstrap.host.locks import Holder
from bootstrap.host.log import Entry
from bootstrap.spack.job.directory import JobReport, Order
from bootstrap.spack.lockfile import Record
from bootstrap.state.desired import DesiredState, History, Owner, Proof, Published, Token
from bootstrap.state.release import Manifest, ModuleFile, ModuleIndex, Tree
from bootstrap.state.request import Request
from bootstrap.state.store import KnownStorage


@dataclass(frozen=True)
class Inner:
    name: Name


@dataclass(frozen=True)
class Outer:
    number: int
    role: Role | None
    inner: Inner
    names: tuple[Name, ...] = ()
    more: tuple[Inner, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    lists: Mapping[Name, tuple[str, ...]] | None = None
    seconds: float = 0.5
    done: bool = False


WHOLE: dict[str, Any] = {
    "number": 1, "role": "head", "inner": {"name": "a"}, "names": ["b"], "more": [{"name": "c"}],
    "pairs": [["d", "e"]], "lists": {"f": ["g", "h"]}, "seconds": 2, "done": True,
}  # fmt: skip


def test_every_field_is_read_by_its_annotation() -> None:
    more = (Inner("c"),)
    lists = {"f": ("g", "h")}
    assert decode.build(Outer, WHOLE) == Outer(
        1, Role.HEAD, Inner("a"), ("b",), more, (("d", "e"),), lists, 2.0, done=True
    )


def test_a_missing_key_gives_the_default_and_unknown_keys_are_ignored() -> None:
    raw = {"number": 1, "role": None, "inner": {"name": "a", "new": 1}, "new": [2]}
    assert decode.build(Outer, raw) == Outer(1, None, Inner("a"))


@pytest.mark.parametrize("key", ["number", "role", "inner"])
def test_a_field_without_a_default_is_required(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        decode.build(Outer, {name: value for name, value in WHOLE.items() if name != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", "1"), ("number", True), ("number", 1 << 60), ("number", 1.5), ("number", None), ("role", "master"),
        ("role", ["head"]), ("inner", None), ("inner", []), ("inner", {"name": "../a"}), ("names", "b"),
        ("names", [1]), ("names", ["a/b"]), ("names", None), ("more", [None]), ("pairs", [["d"]]),
        ("pairs", [["d", "e", "f"]]), ("lists", {"../f": []}), ("lists", {"f": "g"}), ("lists", {"f": ["\0"]}),
        ("seconds", "2"), ("seconds", None), ("done", 1), ("done", "yes"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(key: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode.build(Outer, {**WHOLE, key: value})


@pytest.mark.parametrize("raw", [None, [], "x", 1])
def test_a_document_that_is_not_a_mapping_is_refused(raw: Any) -> None:
    with pytest.raises(TypeError, match="is not a mapping"):
        decode.build(Outer, raw)


@pytest.mark.parametrize(
    "kind",
    [
        RunRecord, NodeReport, Finding, StepReport, DesiredState, History, Published, Token, Owner, Proof, Manifest,
        Tree, ModuleFile, ModuleIndex, Request, KnownStorage, Holder, Order, JobReport, Record, Entry,
    ],
)  # fmt: skip
def test_every_annotation_of_a_document_has_a_reader(kind: type) -> None:
    """An annotation without a reader would look like a damaged document."""
    for field in fields(kind):
        assert callable(decode._reader(field.type, kind.__module__))


def test_a_record_with_any_file_name_can_be_read_again() -> None:
    finding = Finding("permissions", Severity.FAIL, "/x/caf" + os.fsdecode(b"\xe9"), "a\0b")
    read = decode.build(Finding, plain(finding))
    assert (read.message, read.why) == (r"/x/caf\udce9", r"a\0b")
