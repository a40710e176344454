"""Entries of build caches as Spack writes them, for the tests of pulls, pushes and keys."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bootstrap.config.model import Mirror, Origin
from bootstrap.core.errors import CacheError
from bootstrap.host.system import System
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.keys import open_keyring
from bootstrap.spack.cache.pull import Pulled, pull
from bootstrap.spack.cache.push import Push
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.lockfile import Locked
from tests.gpg import Key
from tests.real.server import Behaviour, Handler, answer

SYSTEM = "linux-debian12-x86_64_v3"
V3, V2 = FAMILIES["1.1"].cache_layout, FAMILIES["0.23"].cache_layout


def locked(name: str) -> Locked:
    return Locked(name, "1.0", (name * 32)[:32], True, False, system=SYSTEM, compiler="gcc-12.2.0")


ZLIB, HDF5 = locked("zlib"), locked("hdf5")


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


def files_of(cache: Path) -> Callable[[Handler, int], None]:
    """A web server with a build cache."""

    def behave(handler: Handler, _: int) -> None:
        path = cache / handler.path.lstrip("/")
        answer(handler, 200, path.read_bytes()) if path.is_file() else answer(handler, 404)

    return behave


def s3_of(cache: Path, refusal: Callable[[str], Behaviour | None] = lambda _: None) -> Behaviour:
    """S3 with the mirror ``s3://petal/cache``: it lists, and answers a path with ``refusal`` of it, if that is one.

    The path of a list is ``list`` and the prefix.
    """

    def behave(handler: Handler, number: int) -> None:
        parts = urlsplit(handler.path)
        prefix = parse_qs(parts.query).get("prefix", [""])[0]
        bad = refusal(f"list {prefix}" if prefix else parts.path)
        path = cache / parts.path.partition("/cache/")[2]
        if bad is not None:
            bad(handler, number)
        elif prefix:
            names = [str(each.relative_to(cache.parent)) for each in cache.rglob("*") if each.is_file()]
            answer(handler, 200, b"<Contents>" if any(name.startswith(prefix) for name in names) else b"")
        else:
            answer(handler, 200, path.read_bytes()) if path.is_file() else answer(handler, 404)

    return behave


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
