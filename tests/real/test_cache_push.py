"""Pushes to build caches: which entries are pushed again, and uploads to directories and to moto's S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import FetchError
from bootstrap.remote.fetch import exists, require_writable, upload
from bootstrap.spack.cache.entries import Layout
from tests.gpg import Key
from tests.real.caches import (
    V2,
    V3,
    ZLIB,
    mirror_of,
    old_entry,
    pusher,
    put,
    sign,
    take,
)
from tests.real.server import always, serving


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


def test_a_file_too_large_for_one_request_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate((5 << 30) + 1)
    with pytest.raises(FetchError) as caught:
        upload(tmp_path / "x", "s3://petal/x", region="us-east-1")
    assert caught.value.code == "fetch-too-large"


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
