"""Packages from build caches in directories, on web servers and in moto's S3: good entries and unusable ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.host.files import sha256_of
from bootstrap.host.system import System
from bootstrap.remote.fetch import upload
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.pull import pull
from bootstrap.spack.lockfile import Locked
from tests.gpg import Key
from tests.real.caches import (
    HDF5,
    SYSTEM,
    V2,
    V3,
    ZLIB,
    files_of,
    mirror_of,
    old_entry,
    only_trouble,
    put,
    take,
)
from tests.real.server import Handler, always, answer, hurry, made_certificate, serving


def test_a_signed_entry_is_installed_with_its_signed_content(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key)
    pulled = take(tmp_path, mirror_of(cache, key), ZLIB, HDF5)
    assert pulled.specs == (ZLIB,)
    assert pulled.troubles == (), "a package missing in a mirror is not an error"
    text = (tmp_path / "pulled" / V3.description(ZLIB, signed=False)).read_bytes()
    for part in json.loads(text)["data"]:
        digest = part["checksum"]
        assert sha256_of(tmp_path / "pulled" / "blobs" / "sha256" / digest[:2] / digest) == digest


@pytest.mark.parametrize("damage", ["cut", "gone", "no-json", "no-checksum", "no-data", "path"])
def test_a_corrupt_entry_affects_only_its_own_package(cache: Path, tmp_path: Path, damage: str) -> None:
    put(cache, HDF5)
    path = put(cache, ZLIB)
    document = json.loads(path.read_text())
    digest = document["data"][0]["checksum"]
    tarball = cache / "blobs" / "sha256" / digest[:2] / digest
    if damage == "cut":
        tarball.write_bytes(b"x")
    elif damage == "gone":
        tarball.unlink()
    elif damage == "no-json":
        path.write_text("{")
    elif damage == "no-data":
        path.write_text("{}")
    else:
        document["data"][0]["checksum"] = "../../../etc/shadow" if damage == "path" else None
        path.write_text(json.dumps(document))
    pulled = take(tmp_path, mirror_of(cache), ZLIB, HDF5)
    assert pulled.specs == (HDF5,)
    (trouble,) = pulled.troubles
    assert trouble.code == "cache-corrupt"
    assert "zlib@1.0" in trouble.what
    assert ("does not have the shape" in trouble.why) is (damage not in {"cut", "gone"})


def test_a_bug_in_a_transfer_is_not_a_corrupt_entry(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    put(cache, ZLIB)
    monkeypatch.setattr("bootstrap.spack.cache.pull.download", broken)
    with pytest.raises(KeyError):
        take(tmp_path, mirror_of(cache), ZLIB)


@pytest.mark.parametrize("url", ["https://127.0.0.1:9/cache", "{tmp}/absent"])
def test_an_unreachable_mirror_is_reported_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    trouble = only_trouble(take(tmp_path, mirror_of(url.format(tmp=tmp_path)), ZLIB, HDF5))
    assert trouble.code == "cache-unusable"
    assert "the mirror site" in trouble.what


def test_a_package_in_two_mirrors_is_installed_from_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    put(first, ZLIB)
    put(second, ZLIB)
    put(second, HDF5)
    notes: list[str] = []
    mirrors = {"first": mirror_of(first), "second": mirror_of(second)}
    pulled = pull((ZLIB, HDF5), mirrors, V3, tmp_path / "pulled", System(), None, notes.append)
    assert pulled.specs == (ZLIB, HDF5)
    assert notes[-1] == "looking for packages in second: 1 found, 1 of 1 asked for"


def test_an_entry_that_spack_could_not_unpack_is_withdrawn_without_its_dependents(cache: Path, tmp_path: Path) -> None:
    needing = Locked("hdf5", "1.0", HDF5.hash, True, False, needs=(ZLIB.hash,), system=SYSTEM, compiler="gcc-12.2.0")
    put(cache, ZLIB)
    put(cache, needing)
    pulled = take(tmp_path, mirror_of(cache), ZLIB, needing)
    assert pulled.withdraw((ZLIB, needing)) == (ZLIB,)
    assert not (pulled.directory / V3.description(ZLIB, signed=False)).exists()
    assert (pulled.directory / V3.description(needing, signed=False)).exists()
    assert pulled.withdraw((ZLIB, needing)) == (), "the second time it failed from source"


def test_entries_of_the_old_layout_have_spacks_names() -> None:
    document = {"binary_cache_checksum": {"hash_algorithm": "sha256", "hash": "0" * 64}}
    name = f"{SYSTEM}-gcc-12.2.0-zlib-1.0-{ZLIB.hash}"
    assert V2.description(ZLIB, signed=True) == f"build_cache/{name}.spec.json.sig"
    assert V2.description(ZLIB, signed=False) == f"build_cache/{name}.spec.json"
    (tarball,) = V2.blobs(ZLIB, document)
    assert tarball == f"build_cache/{SYSTEM}/gcc-12.2.0/zlib-1.0/{name}.spack"


def test_a_role_without_read_access_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(403)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        trouble = only_trouble(take(tmp_path, mirror_of("s3://petal/cache"), ZLIB, HDF5))
    assert trouble.code == "cache-unusable"
    assert "403" in trouble.why


def test_an_entry_is_installed_from_an_https_server_with_a_known_certificate(
    cache: Path, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, ZLIB, key)
    private, certificate = made_certificate(tmp_path)
    with serving(files_of(cache), private, certificate) as server:
        mirror = mirror_of(f"https://localhost:{server.server_port}", key)
        assert only_trouble(take(tmp_path, mirror)).code == "cache-unusable"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert take(tmp_path, mirror, ZLIB, HDF5).specs == (ZLIB,)


def stalling(cache: Path, part: str) -> Callable[[Handler, int], None]:
    """A web server with a build cache that sends a file with ``part`` in its path only byte by byte."""

    def behave(handler: Handler, number: int) -> None:
        if part not in handler.path:
            files_of(cache)(handler, number)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not handler.server.ended.wait(0.05):
            handler.wfile.write(b"x")

    return behave


@pytest.mark.parametrize("slow", ["description", "tarball"])
def test_a_slow_file_costs_only_its_own_package_if_the_mirror_answers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    path = put(cache, ZLIB)
    put(cache, HDF5)
    tarball = json.loads(path.read_text())["data"][0]["checksum"]
    private, certificate = made_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    hurry(monkeypatch)
    with serving(stalling(cache, tarball if slow == "tarball" else "/zlib/"), private, certificate) as server:
        pulled = take(tmp_path, mirror_of(server.url), ZLIB, HDF5)
    (trouble,) = pulled.troubles
    what = "the mirror site did not send zlib@1.0"
    if slow == "description":
        what = f"only 1 of 2 packages were taken from the mirror site, {server.url}"
    assert (trouble.code, trouble.what, pulled.specs) == ("cache-unusable", what, (HDF5,))
    assert "too slow" in trouble.why
    assert not any(pulled.refused.values()), "the entry is not replaced"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a file system")
def test_a_full_local_disk_is_not_a_fault_of_the_mirror_or_of_an_entry(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transfer is in progress, and is stopped."""
    path = put(cache, HDF5)
    put(cache, ZLIB)
    tarball = json.loads(path.read_text())["data"][0]["checksum"]
    blob_of_zlib = next(path for path in cache.rglob("*") if path.is_file() and path.read_bytes() == b"tarball of zlib")
    blob_of_zlib.write_bytes(bytes(2 << 20))
    small = tmp_path / "small"
    small.mkdir()
    private, certificate = made_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        with serving(stalling(cache, tarball), private, certificate) as server:
            pulled = take(small, mirror_of(server.url), HDF5, ZLIB)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    trouble = only_trouble(pulled)
    assert (trouble.code, trouble.what) == ("cache-local", "an entry cannot be written")
    assert "does not fit on the disk" in trouble.why
    assert not any(pulled.refused.values()), "the entry is not replaced"


class Interrupted(Exception):
    """The exception of a signal that ends a run."""


def test_a_run_that_is_interrupted_does_not_wait_for_a_transfer(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key)
    private, certificate = made_certificate(tmp_path)
    begun, waited_for = threading.Event(), threading.Event()

    def behave(handler: Handler, number: int) -> None:
        if "/blobs/" not in handler.path:
            files_of(cache)(handler, number)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        begun.set()
        for _ in range(400):
            handler.wfile.write(b"a little")
            if handler.server.ended.wait(0.05):
                return
        waited_for.set()

    def interrupt(_: int, __: object) -> None:
        raise Interrupted

    def tell_when_it_comes() -> None:
        assert begun.wait(30)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with serving(behave, private, certificate) as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
            threading.Thread(target=tell_when_it_comes).start()
            with pytest.raises(Interrupted):
                take(tmp_path, mirror_of(f"https://localhost:{server.server_port}", key))
            assert not waited_for.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_unsigned_entry_of_the_old_layout_is_taken_if_the_signed_one_cannot_be_used(
    cache: Path, key: Key, tmp_path: Path
) -> None:
    """A push to an unsigned mirror leaves the signed description, whose tarball it replaces."""
    path = old_entry(cache, ZLIB, key)
    path.write_text(path.read_text().replace("a", "b"))
    old_entry(cache, ZLIB)
    assert take(tmp_path, mirror_of(cache), layout=V2).specs == (ZLIB,)


@pytest.fixture(params=["directory", "s3"])
def uploaded(request: pytest.FixtureRequest, cache: Path) -> Callable[[], str]:
    """The URL of a mirror with the files of ``cache``."""
    if request.param == "directory":
        return lambda: str(cache)
    client = request.getfixturevalue("s3")
    client.create_bucket(Bucket="petal")

    def upload_all() -> str:
        for path in (path for path in cache.rglob("*") if path.is_file()):
            upload(path, f"s3://petal/site+1/{path.relative_to(cache)}", region="us-east-1")
        return "s3://petal/site+1"

    return upload_all


@pytest.mark.parametrize(
    ("content", "layout", "why"),
    [
        ("nothing", V3, "there is no build cache: {url}/v3/manifests/spec/ does not exist"),
        ("v2", V3, "it has the layout of Spack before 1.0 (build_cache/), and this Spack reads v3/manifests/spec/"),
        ("v3", V2, "it has the layout of Spack 1.0 and later (v3/manifests/spec/), and this Spack reads build_cache/"),
        ("v3", V3, "it has none with the hash of one of the 1 that are missing here, such as zlib-1.0-zlibzli: "),
        ("both", V2, "it has none with the hash of one of the 1 that are missing here, such as zlib-1.0-zlibzli: "),
    ],
)
def test_a_mirror_without_a_usable_package_is_reported_with_the_cause(
    cache: Path, uploaded: Callable[[], str], tmp_path: Path, content: str, layout: Layout, why: str
) -> None:
    (cache / "README").write_text("no package")
    if content in ("v2", "both"):
        old_entry(cache, HDF5)
    if content in ("v3", "both"):
        put(cache, HDF5)
    url = uploaded()
    trouble = only_trouble(take(tmp_path, mirror_of(url), layout=layout))
    assert trouble.what == f"no package could be taken from the mirror site, {url}"
    assert trouble.why.startswith(why.format(url=url)), trouble.why
    assert trouble.code == "cache-unusable"


def test_an_empty_mirror_is_in_order_if_this_cluster_pushes_to_it(
    cache: Path, uploaded: Callable[[], str], tmp_path: Path
) -> None:
    assert take(tmp_path, replace(mirror_of(uploaded()), push=True)).troubles == ()


@pytest.mark.parametrize(
    ("lists", "reads", "why"),
    [
        (True, False, "403"),
        (False, True, "it has none with the hash of one of the 1 that are missing here"),
        (False, False, "S3 also answers 403 for a missing key if the role lacks s3:ListBucket"),
    ],
)
def test_a_missing_right_and_a_missing_package_have_their_own_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: bool, reads: bool, why: str
) -> None:
    """The role may list the bucket, or read its objects: S3 answers 403 for a missing object that it may not list."""

    def behave(handler: Handler, _: int) -> None:
        if "list-type" in handler.path:
            found = b"<Contents>" if "manifests" in handler.path else b""
            answer(handler, 200, found) if lists else answer(handler, 403)
        else:
            answer(handler, 200, b"{}") if reads and handler.path.endswith("layout.json") else answer(handler, 403)

    with serving(behave) as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "k")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert why in only_trouble(take(tmp_path, mirror_of("s3://petal/cache"))).why


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become another user")
def test_a_directory_that_may_not_be_read_is_reported_as_such(cache: Path, tmp_path: Path) -> None:
    """Also root may not, on an NFS server with ``root_squash``."""
    code = (
        "import os, sys\n"
        "from bootstrap.spack.cache.mirror import *\n"
        "from bootstrap.spack.families import FAMILIES\n"
        f"mirror = Mirror({str(cache)!r}, signed=False)\n"
        "os.setuid(65534)\n"
        "print(MirrorReader('site', mirror, FAMILIES['1.1'].cache_layout, None, Path('/tmp')).problem().why)\n"
    )
    cache.chmod(0)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "may not be read by this node" in done.stdout, done
