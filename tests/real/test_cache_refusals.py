"""Build caches in S3 with files that this node may not read, and entries whose description is another file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.config.model import Mirror
from bootstrap.spack.cache import mirror as mirrors
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.mirror import MirrorReader
from bootstrap.spack.cache.record import CacheRecord, key_of
from bootstrap.steps import build_cache
from bootstrap.steps.build_cache import BuildCache
from tests.gpg import Key
from tests.real.caches import HDF5, V2, V3, ZLIB, mirror_of, old_entry, only_trouble, pusher, put, s3_of, take
from tests.real.server import Behaviour
from tests.real.test_s3_errors import BUCKET, DENIED, KEY, Serve, refuses, serve
from tests.world import World

__all__ = ["serve"]
MIRROR = Mirror("s3://petal/cache", signed=False, push=True)
ARCHIVED = refuses(403, "InvalidObjectState", "no", "<StorageClass>GLACIER</StorageClass>")
DENY = refuses(403, "AccessDenied", DENIED.format("s3:GetObject", BUCKET, "with an explicit deny in a policy"))
PLAIN = refuses(403, "AccessDenied", "Access Denied")
# Each with a part of S3's answer, and of the remedy.
REFUSALS = {
    "archived": (ARCHIVED, "InvalidObjectState", "restore-object"),
    "archived by access": (
        refuses(403, "InvalidObjectState", "no", "<StorageClass>INTELLIGENT_TIERING</StorageClass>"),
        "InvalidObjectState",
        "--restore-request '{}'",
    ),
    "key disabled": (refuses(400, "KMS.DisabledException", f"{KEY} is disabled."), "KMS.Disabled", "aws kms"),
    "key forbidden": (
        refuses(403, "AccessDenied", DENIED.format("kms:Decrypt", KEY, "no identity-based policy allows it")),
        "kms:Decrypt",
        "kms:Decrypt",
    ),
    "denied": (DENY, "explicit deny", "Deny statement"),
    "requester pays": (
        refuses(403, "AccessDenied", "Bucket is requester pays bucket"),
        "requester pays",
        "aws s3 cp --recursive --request-payer requester s3://petal/cache/ s3://BUCKET",
    ),
    "forbidden": (PLAIN, "AccessDenied: Access Denied", "Iam/S3Access"),
    "other": (refuses(400, "InvalidRequest", "no"), "InvalidRequest", "head-object"),
}
refusals = pytest.mark.parametrize("name", REFUSALS)


def at(part: str, refusal: Behaviour) -> Callable[[str], Behaviour | None]:
    """Refuses the objects that have a part in their path; all lists are answered."""
    return lambda path: refusal if part in path and not path.startswith("list") else None


@refusals
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/", "/cache/"])
def test_objects_that_this_node_may_not_read_are_the_reason(
    cache: Path, serve: Serve, tmp_path: Path, name: str, part: str
) -> None:
    """The mirror has the packages: neither their hashes nor their entries are wrong."""
    put(cache, ZLIB)
    put(cache, HDF5)
    (cache / "v3/layout.json").write_text("{}")
    refusal, words, remedy = REFUSALS[name]
    serve(s3_of(cache, at(part, refusal)))
    pulled = take(tmp_path, MIRROR, ZLIB, HDF5)
    trouble = only_trouble(pulled)
    assert trouble.code == "cache-unusable"
    assert trouble.what == "no package could be taken from the mirror site, s3://petal/cache"
    assert trouble.why.startswith("this node cannot read its objects: ")
    assert words in trouble.why
    assert "layout.json" not in trouble.why
    assert remedy in "\n".join(trouble.remedy)
    assert not any(pulled.refused.values()), "no entry is replaced"


@pytest.mark.parametrize("tier", ["GLACIER", "INTELLIGENT_TIERING"])
def test_the_remedy_restores_all_archived_objects_of_the_mirror(
    cache: Path, serve: Serve, tmp_path: Path, tier: str
) -> None:
    put(cache, ZLIB)
    serve(s3_of(cache, at("", refuses(403, "InvalidObjectState", "no", f"<StorageClass>{tier}</StorageClass>"))))
    (remedy,) = only_trouble(take(tmp_path, MIRROR)).remedy
    aws, log = tmp_path / "aws", tmp_path / "log"
    aws.write_text(f'#!/bin/sh\necho "$*" >>{log}\n[ $2 != list-objects-v2 ] || printf "cache/a b\\ncache/c\\n"\n')
    aws.chmod(0o755)
    subprocess.run(["sh", "-c", remedy], check=True, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    listed, *restored = log.read_text().splitlines()
    assert listed.startswith("s3api list-objects-v2 --bucket petal --prefix cache/ --output text --query Contents[?")
    assert tier in listed
    how = "Days=7" if tier == "GLACIER" else "{}"
    assert restored == [
        f"s3api restore-object --bucket petal --key {key} --restore-request {how}" for key in ("cache/a b", "cache/c")
    ]


def test_a_plan_has_the_remedy_for_all_objects_if_only_the_marker_could_be_asked_for(
    cache: Path, serve: Serve, tmp_path: Path
) -> None:
    serve(s3_of(cache, lambda path: PLAIN if path.startswith("list") else ARCHIVED))
    problem = MirrorReader("site", MIRROR, V3, "us-east-1", tmp_path).problem()
    assert problem is not None
    assert problem.why.startswith("this node cannot read its objects: ")
    assert "--prefix cache/" in problem.remedy[0]


@refusals
@pytest.mark.parametrize("part", ["/hdf5/", "blob"])
def test_a_package_that_could_not_be_read_is_named_if_others_were_taken(
    cache: Path, serve: Serve, tmp_path: Path, name: str, part: str
) -> None:
    put(cache, ZLIB)
    if part == "blob":
        part = json.loads(put(cache, HDF5).read_text())["data"][0]["checksum"]
    else:
        put(cache, HDF5)
    refusal, words, remedy = REFUSALS[name]
    serve(s3_of(cache, at(part, refusal)))
    pulled = take(tmp_path, MIRROR, ZLIB, HDF5)
    (trouble,) = pulled.troubles
    assert (pulled.specs, trouble.code) == ((ZLIB,), "cache-unusable")
    assert trouble.what == "the mirror site did not send hdf5@1.0"
    assert words in trouble.why
    assert remedy in "\n".join(trouble.remedy)
    assert not any(pulled.refused.values()), "no entry is replaced"


def test_each_kind_of_refusal_has_its_own_report(cache: Path, serve: Serve, tmp_path: Path) -> None:
    """S3 has one code for both."""
    put(cache, ZLIB)
    put(cache, HDF5)
    serve(s3_of(cache, lambda path: at("/hdf5/", DENY)(path) or at("/zlib/", REFUSALS["key forbidden"][0])(path)))
    troubles = {trouble.what: trouble.why for trouble in take(tmp_path, MIRROR, ZLIB, HDF5).troubles}
    assert "explicit deny" in troubles["the mirror site did not send hdf5@1.0"]
    assert "kms:Decrypt" in troubles["the mirror site did not send zlib@1.0"]


def test_a_role_that_may_not_list_gets_no_report_of_packages_that_the_mirror_lacks(
    cache: Path, serve: Serve, tmp_path: Path
) -> None:
    """S3 answers 403 for each missing object."""
    put(cache, ZLIB)
    server = serve(s3_of(cache, lambda path: PLAIN if path.startswith("list") or "/hdf5/" in path else None))
    pulled = take(tmp_path, MIRROR, ZLIB, HDF5)
    assert (pulled.specs, pulled.troubles) == ((ZLIB,), ())
    assert sum("list-type" in path for path in server.paths) == 1
    assert list(pusher(tmp_path, MIRROR).lacking([HDF5], {}).values()) == [""], "the first push is possible"


def test_both_reasons_are_given_if_the_server_does_not_show_which_one_it_is(
    cache: Path, serve: Serve, tmp_path: Path
) -> None:
    (cache / "v3").mkdir()
    (cache / "v3/layout.json").write_text("{}")
    serve(s3_of(cache, lambda path: None if path.endswith("layout.json") else PLAIN))
    trouble = only_trouble(take(tmp_path, mirror_of("s3://petal/cache")))
    assert "it has none with the hash" in trouble.why
    assert "or this node may not read them: s3://petal/cache/v3/manifests/spec/zlib/" in trouble.why
    assert any("Iam/S3Access" in line for line in trouble.remedy)


@pytest.mark.parametrize(
    ("name", "part", "lists"),
    [
        (name, part, lists)
        for name in REFUSALS
        for part in ("/manifests/", "/blobs/")
        for lists in (True, False)
        # a node that may not list gets this answer for a missing entry too
        if (name, part, lists) != ("forbidden", "/manifests/", False)
    ],
)
def test_an_entry_that_this_node_may_not_read_is_not_replaced(
    cache: Path, serve: Serve, tmp_path: Path, name: str, part: str, lists: bool
) -> None:
    put(cache, ZLIB)
    refusal, words, remedy = REFUSALS[name]
    serve(s3_of(cache, lambda path: PLAIN if path.startswith("list") and not lists else at(part, refusal)(path)))
    refused = take(tmp_path, MIRROR).refused[MIRROR.url]
    push = pusher(tmp_path, MIRROR)
    assert push.lacking([ZLIB], refused) == {}
    (error,) = push.unread_errors()
    assert error.code == "cache-push"
    assert "zlib@1.0" in error.what
    assert words in error.why
    assert remedy in "\n".join(error.remedy)


@pytest.mark.parametrize("lists", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("layout", [V3, V2], ids=["v3", "v2"])
def test_an_entry_with_a_missing_file_is_replaced(
    cache: Path, serve: Serve, tmp_path: Path, layout: Layout, lists: bool
) -> None:
    """A server that lists also answers 403 for a missing file if this node may read no file of that directory."""
    write, part = (put, "/blobs/") if layout is V3 else (old_entry, ".spack")
    write(cache, ZLIB)
    for path in [path for path in cache.rglob("*") if path.is_file() and part in str(path)]:
        path.unlink()
    serve(s3_of(cache, at(part, PLAIN) if lists else lambda path: PLAIN if path.startswith("list") else None))
    pulled = take(tmp_path, MIRROR, layout=layout)
    assert only_trouble(pulled).code == "cache-corrupt"
    assert list(pulled.refused[MIRROR.url]) == [ZLIB.hash]
    assert set(pusher(tmp_path, MIRROR, layout).lacking([ZLIB], {})) == {ZLIB}


def test_an_entry_is_not_replaced_because_of_its_unsigned_copy_if_the_signed_one_cannot_be_read(
    cache: Path, key: Key, serve: Serve, tmp_path: Path
) -> None:
    old_entry(cache, ZLIB, key)
    old_entry(cache, ZLIB)
    serve(s3_of(cache, at(".sig", ARCHIVED)))
    pulled = take(tmp_path, mirror_of(MIRROR.url, key), layout=V2)
    assert "InvalidObjectState" in only_trouble(pulled).why
    assert not any(pulled.refused.values())


def test_a_push_replaces_bad_entries_and_names_those_that_it_could_not_read(
    cache: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, ZLIB)
    put(cache, HDF5).write_bytes(b"")
    serve(s3_of(cache, at("/zlib/", ARCHIVED)))
    sent: list[str] = []
    spack = pusher(tmp_path, MIRROR).spack
    monkeypatch.setattr(
        spack, "push", lambda hashes, directory: sent.extend(hashes) or directory.mkdir(), raising=False
    )
    for name, value in {
        "_built": [ZLIB, HDF5],
        "_mirrors": {"site": MIRROR},
        "with_lockfile": spack,
        "locked_specs": [ZLIB, HDF5],
        "lockfile_of": tmp_path,
    }.items():
        monkeypatch.setattr(build_cache, name, lambda *_, value=value: value)
    ctx = World(tmp_path / "node").context
    BuildCache().apply(ctx)
    assert sent == [HDF5.hash]
    pushed = CacheRecord.load(ctx.paths.work(ctx.desired_release)).pushed[key_of(MIRROR)]
    assert list(pushed) == [HDF5.hash]
    failure = build_cache.failure_of(ctx.paths.work(ctx.desired_release) / build_cache.FAILURE, ctx.run_id)
    assert failure is not None
    assert "the mirror site may have zlib@1.0, and this node cannot read these entries" in str(failure)


NO_JSON = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n", "it is empty"),
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "it is an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error/>", "it is XML"),
    "gzip": (gzip.compress(b"{}"), "it is compressed (gzip)"),
    "bzip2": (bz2.compress(b"{}"), "it is compressed (bzip2)"),
    "xz": (lzma.compress(b"{}"), "it is compressed (xz)"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "it is compressed (zstd)"),
    "binary": (b"\x00\xff\xfe\x80", "it is not text"),
    "zeros": (bytes(64), "it is not text"),
    "cut": (b'{"version": 3, "da', "Unterminated string"),
    "list": (b"[]", "it is of another type: list"),
    "null": (b"null", "it is of another type: NoneType"),
}


@pytest.mark.parametrize("content", NO_JSON)
@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("layout", [V3, V2], ids=["v3", "v2"])
def test_a_description_that_is_another_file_is_named_as_such(
    cache: Path, key: Key, tmp_path: Path, layout: Layout, is_signed: bool, content: str
) -> None:
    """Also in a mirror with signatures, where no key could help."""
    data, words = NO_JSON[content]
    path = cache / layout.description(ZLIB, signed=is_signed)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    mirror = mirror_of(cache, key) if is_signed else mirror_of(cache)
    pulled = take(tmp_path, mirror, layout=layout)
    trouble = only_trouble(pulled)
    assert trouble.code == "cache-corrupt"
    assert f"a file of it is not a JSON object: {words}" in trouble.why
    assert "Error" not in trouble.why
    assert trouble.remedy[0] == f"ls -l {path}"
    assert list(pulled.refused[mirror.url]) == [ZLIB.hash]


def test_a_description_that_is_too_large_is_a_bad_entry(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, ZLIB)
    monkeypatch.setattr(mirrors, "LIMIT", 10)
    pulled = take(tmp_path, mirror_of(cache))
    assert only_trouble(pulled).code == "cache-corrupt"
    assert "is larger than 10 bytes" in pulled.refused[str(cache)][ZLIB.hash]
