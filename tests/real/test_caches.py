"""Packages from build caches with real gpg, from a directory and from moto's S3: good entries and unusable ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootstrap.config.model import Mirror, Origin
from bootstrap.core.errors import CacheError, FetchError, ProcessTimeout
from bootstrap.core.model import Outcome
from bootstrap.engine.converge import plan
from bootstrap.host.files import sha256_of
from bootstrap.host.system import Completed, System
from bootstrap.remote.fetch import exists, require_writable, upload
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.keys import open_keyring, refuse_readable_key
from bootstrap.spack.cache.pull import Pulled, pull
from bootstrap.spack.cache.push import Push
from bootstrap.spack.cache.record import CacheRecord, key_of
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.lockfile import Locked
from bootstrap.steps.build_cache import BuildCache
from tests.gpg import Key, made_key
from tests.real.server import Handler, always, answer, hurry, made_certificate, serving
from tests.world import World, services

SYSTEM = "linux-debian12-x86_64_v3"
V3, V2 = FAMILIES["1.1"].cache_layout, FAMILIES["0.23"].cache_layout


def locked(name: str) -> Locked:
    return Locked(name, "1.0", (name * 32)[:32], True, False, system=SYSTEM, compiler="gcc-12.2.0")


ZLIB, HDF5 = locked("zlib"), locked("hdf5")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return made_key(tmp_path_factory.mktemp("k"), "site")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return made_key(tmp_path_factory.mktemp("k"), "other")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    place = tmp_path / "cache"
    place.mkdir()
    return place


def blob(cache: Path, data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    path = cache / "blobs" / "sha256" / digest[:2] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": kind, "checksumAlgorithm": "sha256", "checksum": digest, "contentLength": len(data)}


def put(cache: Path, spec: Locked, key: Key | None = None, *, of: Locked | None = None) -> Path:
    """Write an entry like Spack 1.1; ``of``: the package that it really contains."""
    document = {"spec": {"nodes": [{"name": spec.name, "hash": (of or spec).hash}]}}
    parts = [
        blob(cache, f"tarball of {spec.name}".encode(), "application/vnd.spack.install.v2.tar+gzip"),
        blob(cache, gzip.compress(json.dumps(document).encode()), "application/vnd.spack.spec.v5+json"),
    ]
    path = cache / V3.description(spec, signed=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 3, "data": parts}, indent=0))
    if key is not None:
        sign(path, key)
    return path


def sign(path: Path, key: Key) -> None:
    with open_keyring(System(), path.parent / "ring", [Origin(str(key.secret))], None) as ring:
        ring.sign(path, path.with_suffix(".signed"))
    path.with_suffix(".signed").rename(path)


def mirror_of(url: object, *keys: Key) -> Mirror:
    return Mirror(str(url), signed=bool(keys), keys=tuple(Origin(str(key.public)) for key in keys))


def take(tmp_path: Path, mirror: Mirror, *specs: Locked, layout: Any = V3) -> Pulled:
    notes: list[str] = []
    mirrors = {"site": mirror}
    return pull(specs or (ZLIB,), mirrors, layout, tmp_path / "pulled", System(), "us-east-1", notes.append)


def only_trouble(pulled: Pulled) -> CacheError:
    assert pulled.specs == ()
    (trouble,) = pulled.troubles
    assert trouble.remedy
    return trouble


def test_a_signed_entry_is_installed_with_its_signed_content(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key)
    pulled = take(tmp_path, mirror_of(cache, key), ZLIB, HDF5)
    assert pulled.specs == (ZLIB,)
    assert pulled.troubles == (), "a package missing in a mirror is not an error"
    text = (tmp_path / "pulled" / V3.description(ZLIB, signed=False)).read_bytes()
    for part in json.loads(text)["data"]:
        digest = part["checksum"]
        assert sha256_of(tmp_path / "pulled" / "blobs" / "sha256" / digest[:2] / digest) == digest


def test_an_unknown_key_is_named(cache: Path, key: Key, other: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, other)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-unverified"
    assert "zlib@1.0" in trouble.what
    assert "not one of the mirror's keys" in trouble.why
    assert "spack.mirrors.site.keys" in trouble.remedy[0]


def test_a_key_is_accepted_for_its_own_mirror_only(key: Key, other: Key, tmp_path: Path) -> None:
    """Both keys belong to mirrors of one configuration."""
    put(tmp_path / "first", ZLIB, other)
    put(tmp_path / "second", HDF5, other)
    mirrors = {"first": mirror_of(tmp_path / "first", key), "second": mirror_of(tmp_path / "second", other)}
    pulled = pull((ZLIB, HDF5), mirrors, V3, tmp_path / "pulled", System(), None, [].append)
    assert pulled.specs == (HDF5,)
    (trouble,) = pulled.troubles
    assert (trouble.code, "in the mirror first" in trouble.what) == ("cache-unverified", True)


def test_an_entry_that_was_changed_after_signing_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    path = put(cache, ZLIB, key)
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-unverified"
    assert "is wrong" in trouble.why


def test_every_signature_of_an_entry_must_be_good(cache: Path, key: Key, other: Key, tmp_path: Path) -> None:
    """gpg calls one of two signatures good, and ends with an error because of the other."""
    path = put(cache, ZLIB)
    with open_keyring(System(), tmp_path / "ring", [Origin(str(one.secret)) for one in (key, other)], None) as ring:
        gpg = ["gpg", *ring.homedir, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        users = ["--local-user", "site@example.org", "--local-user", "other@example.org"]
        signed = subprocess.run([*gpg, *users, "--clearsign", str(path)], check=False, capture_output=True, text=True)
        assert signed.returncode == 0, signed.stderr
    path.with_name(f"{path.name}.asc").rename(path)
    assert only_trouble(take(tmp_path, mirror_of(cache, key))).code == "cache-unverified"
    assert take(tmp_path, mirror_of(cache, key, other)).specs == (ZLIB,)


def test_an_unsigned_entry_of_a_signed_mirror_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB)
    assert only_trouble(take(tmp_path, mirror_of(cache, key))).why == "it is not signed"


def test_text_around_the_signed_text_is_ignored(cache: Path, key: Key, tmp_path: Path) -> None:
    """Only the text that gpg outputs is read."""
    path = put(cache, ZLIB, key)
    text = path.read_text()
    path.write_text(text + '\n{"version": 3, "data": []}\n')
    pulled = take(tmp_path, mirror_of(cache, key))
    if pulled.specs:
        taken = (tmp_path / "pulled" / V3.description(ZLIB, signed=False)).read_text()
        assert taken.strip() in text
    else:
        assert only_trouble(pulled).code == "cache-unverified"


def test_a_signed_entry_of_another_package_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key, of=HDF5)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-corrupt"
    assert HDF5.hash in trouble.why


def test_an_unsigned_mirror_also_accepts_signed_entries(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key)
    put(cache, HDF5)
    assert set(take(tmp_path, mirror_of(cache), ZLIB, HDF5).specs) == {ZLIB, HDF5}


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


def test_an_invalid_or_missing_key_is_an_error(cache: Path, tmp_path: Path) -> None:
    put(cache, ZLIB)
    (tmp_path / "key.pub").write_text("no key")
    for public in (tmp_path / "key.pub", tmp_path / "absent.pub"):
        mirror = Mirror(str(cache), keys=(Origin(str(public)),))
        assert only_trouble(take(tmp_path, mirror)).code == "cache-key"


def test_a_public_key_cannot_sign(key: Key, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    with (
        open_keyring(System(), tmp_path / "ring", [Origin(str(key.public))], None) as ring,
        pytest.raises(CacheError) as caught,
    ):
        ring.sign(tmp_path / "x", tmp_path / "y")
    assert caught.value.code == "cache-key"
    assert not (tmp_path / "ring").exists()


def test_no_secret_key_stays_if_gpgs_agent_does_not_end(key: Key, tmp_path: Path) -> None:
    class Stuck(System):
        def run(self, argv: Sequence[str], **options: Any) -> Completed:
            done = super().run(argv, **options)
            if "--kill" in argv:
                raise ProcessTimeout("gpgconf did not end within 60 s and was stopped")
            return done

    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_keyring(Stuck(), tmp_path / "ring", [Origin(str(key.secret))], None):
        assert (tmp_path / "ring").is_dir()
    assert not (tmp_path / "ring").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_secret_key_that_others_can_read_is_refused(key: Key) -> None:
    refuse_readable_key(Origin(str(key.secret)))
    key.secret.chmod(0o644)
    with pytest.raises(CacheError) as caught:
        refuse_readable_key(Origin(str(key.secret)))
    key.secret.chmod(0o600)
    assert caught.value.code == "cache-key"


def test_without_gpg_the_error_says_what_to_install(cache: Path, key: Key, tmp_path: Path) -> None:
    class Bare(System):
        def which(self, name: str) -> str | None:
            return None if name == "gpg" else super().which(name)

    notes: list[str] = []
    pulled = pull((ZLIB,), {"site": mirror_of(cache, key)}, V3, tmp_path / "pulled", Bare(), None, notes.append)
    assert only_trouble(pulled).code == "cache-key"


def test_an_entry_uploaded_to_s3_is_installed_from_there(s3: Any, cache: Path, key: Key, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="petal")
    put(cache, ZLIB, key)
    uri = "s3://petal/spack cache/ü"
    for path in (path for path in cache.rglob("*") if path.is_file()):
        target = f"{uri}/{path.relative_to(cache)}"
        assert not exists(target, region="us-east-1")
        upload(path, target, region="us-east-1")
        assert exists(target, region="us-east-1")
    listed = s3.list_objects_v2(Bucket="petal")["Contents"]
    assert len(listed) == 3
    assert take(tmp_path, mirror_of(uri, key)).specs == (ZLIB,)


def test_an_upload_to_a_missing_bucket_is_an_error(s3: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(FetchError) as caught:
        upload(tmp_path / "x", "s3://absent/x", region="us-east-1")
    assert caught.value.code == "fetch-missing"


def test_a_destination_is_tried_without_a_trace(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.create_bucket(Bucket="petal")
    require_writable("s3://petal/locks/a lock", region="us-east-1")
    assert "Contents" not in s3.list_objects_v2(Bucket="petal")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="petal")
    require_writable(str(tmp_path / "spack.lock"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FetchError) as caught:
        require_writable("s3://absent/x", region="us-east-1")
    assert caught.value.code == "fetch-missing"
    with serving(always(403)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(FetchError, match="may not be written") as caught:
            require_writable("s3://petal/x", region="us-east-1")
    assert caught.value.code == "fetch-forbidden"


def test_entries_of_the_old_layout_have_spacks_names() -> None:
    document = {"binary_cache_checksum": {"hash_algorithm": "sha256", "hash": "0" * 64}}
    name = f"{SYSTEM}-gcc-12.2.0-zlib-1.0-{ZLIB.hash}"
    assert V2.description(ZLIB, signed=True) == f"build_cache/{name}.spec.json.sig"
    assert V2.description(ZLIB, signed=False) == f"build_cache/{name}.spec.json"
    (tarball,) = V2.blobs(ZLIB, document)
    assert tarball == f"build_cache/{SYSTEM}/gcc-12.2.0/zlib-1.0/{name}.spack"


def test_a_file_too_large_for_one_request_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate((5 << 30) + 1)
    with pytest.raises(FetchError) as caught:
        upload(tmp_path / "x", "s3://petal/x", region="us-east-1")
    assert caught.value.code == "fetch-too-large"


def test_a_role_without_read_access_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(403)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        trouble = only_trouble(take(tmp_path, mirror_of("s3://petal/cache"), ZLIB, HDF5))
    assert trouble.code == "cache-unusable"
    assert "403" in trouble.why


def files_of(cache: Path) -> Callable[[Handler, int], None]:
    """A web server with a build cache."""

    def behave(handler: Handler, _: int) -> None:
        path = cache / handler.path.lstrip("/")
        answer(handler, 200, path.read_bytes()) if path.is_file() else answer(handler, 404)

    return behave


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


def old_entry(cache: Path, spec: Locked, key: Key | None = None) -> Path:
    """Write an entry like Spack 0.23, without an index."""
    tarball = f"tarball of {spec.name}".encode()
    checksum = {"hash_algorithm": "sha256", "hash": hashlib.sha256(tarball).hexdigest()}
    document = {"binary_cache_checksum": checksum, "spec": {"nodes": [{"name": spec.name, "hash": spec.hash}]}}
    for path in V2.blobs(spec, document):
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_bytes(tarball)
    description = cache / V2.description(spec, signed=key is not None)
    description.write_text(json.dumps(document))
    if key is not None:
        sign(description, key)
    return description


def pusher(tmp_path: Path, mirror: Mirror, layout: Layout = V3, packs: Callable[[Path], object] = print) -> Push:
    """A push to the mirror ``site``; ``packs`` writes what Spack would pack into a directory."""
    places = SimpleNamespace(scratch=tmp_path / "scratch")
    program = SimpleNamespace(family=SimpleNamespace(cache_layout=layout))
    spack: Any = SimpleNamespace(
        system=System(), places=places, program=program, push=lambda _, directory: packs(directory)
    )
    return Push("site", mirror, spack, "us-east-1", [].append)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("good", None),
        ("absent", ""),
        ("unsigned", "it is not signed"),
        ("other key", "not one of the mirror's keys"),
        ("changed", "it was changed after it was signed"),
        ("expired blob", "does not exist"),
        ("no JSON", "does not have the shape of its layout"),
        ("refused by the install", "it has another checksum"),
    ],
)
@pytest.mark.parametrize("layout", [V3, V2], ids=["v3", "v2"])
def test_an_entry_that_cannot_be_used_is_pushed_again(
    cache: Path, key: Key, other: Key, tmp_path: Path, layout: Layout, state: str, why: str | None
) -> None:
    write = put if layout is V3 else old_entry
    if state != "absent":
        signer = {"unsigned": None, "other key": other}.get(state, key)
        path = write(cache, ZLIB, signer)
    if state == "changed":
        path.write_text(path.read_text().replace("sha256", "md5"))
    elif state == "expired blob":
        next(path for path in cache.rglob("*") if path.is_file() and path.read_bytes().startswith(b"tarball")).unlink()
    elif state == "no JSON":
        path.write_text("{")
        sign(path, key)
    refused = {ZLIB.hash: "it has another checksum"} if state.startswith("refused") else {}
    lacking = pusher(tmp_path, mirror_of(cache, key), layout).lacking([ZLIB], refused)
    assert set(lacking) == (set() if why is None else {ZLIB})
    if why is not None:
        assert why in lacking[ZLIB]
        assert bool(why) is bool(lacking[ZLIB])
    assert not list((tmp_path / "scratch").iterdir()), "no key and no entry stays"


def test_a_push_says_that_it_could_not_read_what_the_mirror_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(always(403)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        lacking = pusher(tmp_path, mirror_of("s3://petal/cache")).lacking([ZLIB], {})
    assert lacking[ZLIB].startswith("if it has one, because this node cannot read it: s3://petal/cache/v3/")
    assert "403" in lacking[ZLIB]


def test_an_entry_whose_file_s3_has_archived_is_pushed_again_for_that_reason(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, ZLIB)

    def behave(handler: Handler, _: int) -> None:
        path = cache / handler.path.partition("/cache/")[2]
        if not path.is_file():
            answer(handler, 404)
        elif path.read_bytes().startswith(b"tarball"):
            answer(handler, 403, b"<Error><Code>InvalidObjectState</Code></Error>")
        else:
            answer(handler, 200, path.read_bytes())

    with serving(behave) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        lacking = pusher(tmp_path, mirror_of("s3://petal/cache")).lacking([ZLIB], {})
    assert "cannot be read" in lacking[ZLIB]
    assert "InvalidObjectState" in lacking[ZLIB]


def test_an_unsigned_entry_of_the_old_layout_is_taken_if_the_signed_one_cannot_be_used(
    cache: Path, key: Key, tmp_path: Path
) -> None:
    """A push to an unsigned mirror leaves the signed description, whose tarball it replaces."""
    path = old_entry(cache, ZLIB, key)
    path.write_text(path.read_text().replace("a", "b"))
    old_entry(cache, ZLIB)
    assert take(tmp_path, mirror_of(cache), layout=V2).specs == (ZLIB,)


def test_an_unsigned_entry_of_the_old_layout_is_reported(cache: Path, key: Key, tmp_path: Path) -> None:
    old_entry(cache, ZLIB)
    pulled = take(tmp_path, mirror_of(cache, key), layout=V2)
    assert only_trouble(pulled).why == "it is not signed"
    assert pulled.refused == {str(cache): {ZLIB.hash: "it is not signed"}}


@pytest.fixture(scope="module", params=["primary", "subkey", "both"])
def expired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A key of which the primary, the subkey that signs, or both have expired."""
    day = "2026-06-01"
    ends = {"primary": (day, ""), "subkey": ("never", day), "both": ("2026-07-01", day)}[request.param]
    past = ("--faked-system-time", "20260101T000000")
    return made_key(tmp_path_factory.mktemp("k"), "old", *past, expires=ends[0], subkey_expires=ends[1])


def test_an_expired_signing_key_is_named_with_its_day_before_anything_is_packed(
    cache: Path, expired: Key, tmp_path: Path
) -> None:
    mirror = replace(mirror_of(cache, expired), push=True, signing_key=Origin(str(expired.secret)))
    push = pusher(tmp_path, mirror, packs=lambda _: pytest.fail("it was packed"))
    with pytest.raises(CacheError, match=r"the signing key [0-9A-F]{16} expired on 2026-06-01") as caught:
        push.send([ZLIB])
    assert caught.value.code == "cache-key"
    assert not list((tmp_path / "scratch").iterdir())
    assert run_remedy(caught.value.remedy[0], expired, tmp_path).startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_a_plan_names_the_line_of_an_expired_signing_key(cache: Path, key: Key, expired: Key, tmp_path: Path) -> None:
    lines = [
        "stack: none",
        "spack:",
        "  source: /spack",
        "  recipes: {source: /recipes}",
        "  specs: [zlib]",
        "  mirrors:",
    ]
    for name, signer in (("good", key), ("old", expired)):
        options = f"push: true, keys: [{{source: {signer.public}}}], signing_key: {{source: {signer.secret}}}"
        lines.append(f"    {name}: {{url: {cache}, {options}}}")
    world = World(tmp_path / "head", config_text="\n".join(lines))
    ctx = replace(world.context, services=services(System(), world.tool))
    (report,) = plan([BuildCache()], ctx)
    assert report.outcome is Outcome.BLOCKED
    assert "spack.mirrors.good.signing_key: it can sign" in report.reason
    assert re.search(r"\.old\.signing_key: the signing key [0-9A-F]{16} expired on 2026-06-01", report.reason)
    assert not list(ctx.paths.scratch.iterdir())


def test_an_entry_whose_key_expired_names_the_day_and_its_extended_key_is_accepted(
    cache: Path, expired: Key, tmp_path: Path
) -> None:
    path = put(cache, ZLIB)
    signed_then(path, expired)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, expired)))
    assert trouble.why.endswith("that signed it expired on 2026-06-01")
    extended = tmp_path / "extended.pub"
    extended.write_text(run_remedy(trouble.remedy[0], expired, tmp_path))
    assert take(tmp_path, mirror_of(cache, Key(extended, expired.secret))).specs == (ZLIB,)


def run_remedy(remedy: str, key: Key, tmp_path: Path) -> str:
    """The output of the command of a remedy, run with the secret key."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    subprocess.run(["gpg", "--batch", "--quiet", "--import", str(key.secret)], check=True, env=environment)
    done = subprocess.run(["sh", "-c", remedy], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return done.stdout


def signed_then(path: Path, key: Key) -> None:
    """Sign when the key was valid."""
    home = path.parent / "home"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes"]
    subprocess.run([*gpg, "--import", str(key.secret)], check=True)
    past = ("--faked-system-time", "20260301T000000", "--pinentry-mode", "loopback", "--passphrase", "")
    subprocess.run([*gpg, *past, "--output", f"{path}.asc", "--clearsign", str(path)], check=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    shutil.rmtree(home)
    Path(f"{path}.asc").rename(path)


def test_a_signing_key_that_the_mirror_does_not_accept_is_refused(
    cache: Path, key: Key, other: Key, tmp_path: Path
) -> None:
    mirror = replace(mirror_of(cache, key), push=True, signing_key=Origin(str(other.secret)))
    with pytest.raises(CacheError, match="keys do not accept what its signing_key signs") as caught:
        pusher(tmp_path, mirror, packs=lambda _: pytest.fail("it was packed")).send([ZLIB])
    assert (caught.value.code, "not one of the mirror's keys" in caught.value.why) == ("cache-key", True)


def test_a_key_file_with_another_content_makes_the_packages_not_pushed(key: Key, other: Key, tmp_path: Path) -> None:
    public = tmp_path / "site.pub"
    mirror = Mirror("s3://petal/cache", keys=(Origin(str(public)),))
    public.write_bytes(key.public.read_bytes())
    record = CacheRecord().with_refused({mirror.url: {ZLIB.hash: "x"}}).with_pushed(mirror, {ZLIB.hash: ""})
    record.save(tmp_path)
    kept = CacheRecord.load(tmp_path)
    assert (kept.pushed[key_of(mirror)], kept.refused) == ({ZLIB.hash: ""}, {})
    public.write_bytes(other.public.read_bytes())
    assert key_of(mirror) not in kept.pushed
    assert key_of(Mirror(mirror.url, signed=False)) not in kept.pushed


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


def test_an_entry_whose_tarball_is_archived_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers a HEAD of an archived object with 200, and a GET with 403."""
    put(cache, ZLIB)

    def behave(handler: Handler, number: int) -> None:
        if handler.command == "GET" and "/blobs/" in handler.path:
            answer(handler, 403, b"<Error><Code>InvalidObjectState</Code></Error>")
        else:
            files_of(cache)(handler, number)

    private, certificate = made_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(behave, private, certificate) as server:
        url = f"https://localhost:{server.server_port}"
        pulled = take(tmp_path, mirror_of(url))
    assert only_trouble(pulled).code == "cache-corrupt"
    assert list(pulled.refused[url]) == [ZLIB.hash]


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
