"""Entries of build caches whose description is another file."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from bootstrap.spack.cache.entries import Layout
from tests.gpg import Key
from tests.real.caches import V2, V3, ZLIB, mirror_of, only_trouble, take

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
