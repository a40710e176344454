"""Real upstream sources from Debian: .orig tarballs that have the checksums of Spack's recipes.

``python -m tests.lab.sources [NAME...]`` puts them into a Spack source mirror and prints its path. Each is from
bookworm's source package of that name; the sha256 is that of the recipe in Spack's repository, except for Lmod and
LuaRocks (see ``stack_lmod``).
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

MIRRORS = ("http://deb.debian.org/debian", "http://archive.debian.org/debian")


class Source(NamedTuple):
    """One tarball: its path in Debian's pool and its checksum."""

    version: str
    path: str
    sha256: str


SOURCES = {
    "fftw": Source(
        "3.3.10", "f/fftw3/fftw3_3.3.10.orig.tar.gz", "56c932549852cddcfafdab3820b0200c7742675be92179e59e6215b340e26467"
    ),
    "bzip2": Source(
        "1.0.8", "b/bzip2/bzip2_1.0.8.orig.tar.gz", "ab5a03176ee106d3f0fa90e381da478ddae405918153cca248e682cd0c4a2269"
    ),
    "lua": Source(
        "5.4.4", "l/lua5.4/lua5.4_5.4.4.orig.tar.gz", "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61"
    ),
    "libevent": Source(
        "2.1.12",
        "libe/libevent/libevent_2.1.12-stable.orig.tar.gz",
        "92e6de1be9ec176428fd2367677e61ceffc2ee1cb119035037a27d346b0403bb",
    ),
    "ncurses": Source(
        "6.4", "n/ncurses/ncurses_6.4.orig.tar.gz", "6931283d9ac87c5073f30b6290c4c75f21632bb4fc3603ac8100812bed248159"
    ),
    "readline": Source(
        "8.2", "r/readline/readline_8.2.orig.tar.gz", "3feb7171f16a84ee82ca18a36d7b9be109a52c04f492a053331d7d1095007c35"
    ),
    "gdbm": Source(
        "1.23", "g/gdbm/gdbm_1.23.orig.tar.gz", "74b1081d21fff13ae4bd7c16e5d6e504a4c26f7cde1dca0d963a484174bbcacd"
    ),
    "diffutils": Source(
        "3.8",
        "d/diffutils/diffutils_3.8.orig.tar.xz",
        "a6bdd7d1b31266d11c4f4de6c1b748d4607ab0231af5188fc2533d0ae2438fec",
    ),
    "lmod": Source(  # trixie's
        "8.7.60", "l/lmod/lmod_8.7.60.orig.tar.gz", "16e65e52010c49b33a3eaa141385da95c505e4df6ca3fd3f070162f8ebc4b66c"
    ),
    "luarocks": Source(
        "3.8.0",
        "l/luarocks/luarocks_3.8.0+dfsg1.orig.tar.xz",
        "6c691772a341d1873d9bcfb63c91ad0ae213df56a002067f1f9619a8f09e0f77",
    ),
    "libsigsegv": Source(
        "2.14",
        "libs/libsigsegv/libsigsegv_2.14.orig.tar.gz",
        "cdac3941803364cf81a908499beb79c200ead60b6b5b40cad124fd1e06caa295",
    ),
}


class SourceError(RuntimeError):
    """A source cannot be fetched."""


def cache() -> Path:
    """Return the mirror's directory, the same for every work tree of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "petal-node" / "lab" / "sources"


def place(mirror: Path, source: Source) -> Path:
    """Return its path in the mirror: ``_source-cache/archive/<aa>/<sha256>.<ext>`` (Spack's ``fetch_strategy``)."""
    extension = source.path.rsplit(".orig.", 1)[1]
    return mirror / "_source-cache" / "archive" / source.sha256[:2] / f"{source.sha256}.{extension}"


def right(data: bytes, source: Source) -> bool:
    """Return whether these bytes have the checksum of the source."""
    return hashlib.sha256(data).hexdigest() == source.sha256


def fetch(source: Source) -> bytes:
    """Return a source's bytes from the first mirror that has them with the right checksum."""
    output = []
    for mirror in filter(None, (os.environ.get("DEBIAN_MIRROR"), *MIRRORS)):
        url = f"{mirror}/pool/main/{source.path}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                data: bytes = answer.read()
        except (urllib.error.URLError, OSError) as error:
            output.append(f"{url}: {error}")
            continue
        if right(data, source):
            return data
        output.append(f"{url}: not the sha256 {source.sha256}")
    raise SourceError("\n".join(output))


def mirror(*names: str) -> Path:
    """Return a Spack source mirror with these sources (all if no name is given), after fetching the missing ones."""
    top = cache()
    for name in names or SOURCES:
        source = SOURCES[name]
        target = place(top, source)
        if target.is_file() and right(target.read_bytes(), source):
            continue
        data = fetch(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as new:
            new.write(data)
        Path(new.name).chmod(0o644)
        Path(new.name).replace(target)
    return top


if __name__ == "__main__":
    print(mirror(*sys.argv[1:]))
