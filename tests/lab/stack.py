"""The objects of the demo and the lab's tests in S3: the archive, a binary package, Spack, recipes, clingo, sources.

Spack's tree, its recipes and one upstream patch come from PETAL_SPACK_CACHE (``make spack`` fills it); the tarballs
of the sources are Debian's, with the checksums of the recipes; clingo comes from PyPI.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from tests.lab import recipes, sources
from tests.lab.cluster import Lab
from tests.lab.engine import LabError, print_progress

BUCKET = "petal"
SPACK = "spack-1.1.1"
OLD_SPACK = "spack-0.23.0"
RECIPES = "spack-packages-2025.11.0"
WHEELS = ("clingo==5.8.3", "cffi==2.1.1", "pycparser==3.12")
FFTW_PATCH = "872cff9a7d346e91a108ffd3540bfcebeb8cf86c7f40f6b31fd07a80267cbf53"
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    const char *root = getenv("HELLO_ROOT");
    printf("hello from %s, installed in %s\n", host, root ? root : "nowhere");
    return 0;
}
"""


@dataclass(frozen=True)
class Shown:
    """A package that real Spack builds from its real recipe and Debian's tarball, and the program that a user runs.

    ``system``: dependencies that the node's system provides; ``bare``: those of them that are requested with
    variants. ``also``: recipes of other built packages, in the versions of ``pins``; ``edit`` changes them in the
    repository into which they are copied, and ``files`` are their sources.
    """

    name: str
    spec: str
    run: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    edit: Callable[[Path], None] = lambda _: None
    files: Callable[[], dict[str, bytes]] = dict


# One precision and static only: a third of the recipe's default work, and the same recipe.
FFTW = Shown("fftw", "fftw@3.3.10 ~mpi ~shared precision=long_double", ("fftwl-wisdom -n cof8",), (FFTW_PATCH,))
# It takes a tenth of FFTW's time; the demo builds FFTW.
BZIP2 = Shown("bzip2", "bzip2@1.0.8 ~shared", ("bzip2 --help",), system=("diffutils@3.8",))
LIBSIGSEGV = Shown("libsigsegv", "libsigsegv@2.14")


def spack_cache() -> Path:
    """The directory in which the tests look for real Spack."""
    default = Path.home() / ".cache" / "petal-node" / "spack"
    return Path(os.environ.get("PETAL_SPACK_CACHE") or default)


def lab_cache() -> Path:
    """The lab's cache directory; everything in it can be created again."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petal-node" / "lab"
    place.mkdir(parents=True, exist_ok=True)
    return place


def no_spack() -> str | None:
    """Return why real Spack cannot be used here, or None if it can."""
    for name in (SPACK, RECIPES):
        if not (spack_cache() / name).is_dir():
            return f"{name} is not in {spack_cache()} (make spack)"
    patch = _patch()
    return None if patch.is_file() else f"{patch.name} is not in {patch.parent} (make spack)"


def _patch() -> Path:
    return spack_cache() / "sources" / "_source-cache" / "archive" / FFTW_PATCH[:2] / FFTW_PATCH


@dataclass(frozen=True)
class Uploaded:
    """An object that the nodes can fetch."""

    uri: str
    sha256: str

    def origin(self) -> dict[str, str]:
        """Its entry in the configuration."""
        return {"source": self.uri, "sha256": self.sha256}


class Bucket:
    """The lab's S3. Objects are collected and sent together, because each call into a container takes half a second."""

    def __init__(self, lab: Lab) -> None:
        """Collect for a lab that is up."""
        self._lab = lab
        self._objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> Uploaded:
        """Add an object and return its URI."""
        self._objects[key] = data
        return Uploaded(f"s3://{BUCKET}/{key}", hashlib.sha256(data).hexdigest())

    def send(self) -> None:
        """Put everything that was collected into S3."""
        self._lab.put_all(BUCKET, self._objects)
        self._objects = {}


class Folder:
    """A directory in place of S3, for the demo without containers."""

    def __init__(self, top: Path) -> None:
        """Keep objects below ``top``."""
        self._top = top

    def put(self, key: str, data: bytes) -> Uploaded:
        """Write an object."""
        path = self._top / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return Uploaded(f"file://{path}", hashlib.sha256(data).hexdigest())

    def send(self) -> None:
        """Do nothing: ``put`` has written the objects."""


Place = Union[Bucket, Folder]


def packed_program(program: bytes) -> bytes:
    """A binary package like a vendor's: a program in a tarball with one directory at its top."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("hello-1.0/bin/hello")
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    return buffer.getvalue()


def compiled_program(lab: Lab) -> bytes:
    """PROGRAM, compiled for the nodes."""
    lab.write("s3", "/tmp/hello.c", PROGRAM)
    lab.exec("s3", ("gcc", "-O2", "-o", "/tmp/hello", "/tmp/hello.c")).check()
    copied = subprocess.run(["docker", "cp", f"{lab.container('s3')}:/tmp/hello", "-"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as outer:
        stream = outer.extractfile("hello")
        if stream is None:
            raise LabError("the compiled program could not be copied")
        return stream.read()


def base_config(hello: Uploaded) -> dict[str, Any]:
    """The configuration with binary packages only: a tarball, and the image's MPI."""
    return {
        "stack": "none",
        "packages": [
            {"name": "hello", "version": "1.0", "summary": "Says where it runs", **hello.origin()},
            {"name": "openmpi", "version": "4.1", "prefix": "/opt/amazon/openmpi", "summary": "Open MPI of the image"},
        ],
        "check": {"load": ["hello", "openmpi"], "run": ["hello", "mpirun --version"]},
    }


def add_spack(
    config: dict[str, Any], place: Place, wheels: list[Path], make: str, mirror: str, shown: Shown = FFTW
) -> dict[str, Any]:
    """Add real Spack and the packages that it builds to the configuration.

    Args:
        make: the version of the system's GNU make.
        mirror: the directory of ``mirror_files`` on the head node.
    """
    packages = {
        spec.partition("@")[0]: {"externals": [{"spec": spec, "prefix": "/usr"}], "buildable": False}
        for spec in (f"gmake@{make}", *shown.system)
    }
    packages |= {pin.partition("@")[0]: {"require": [pin]} for pin in shown.pins}
    environment = {"spack": {"specs": [shown.spec], "packages": packages}}
    uploaded = place.put(f"stacks/{shown.name}/spack.yaml", json.dumps(environment, indent=1).encode())
    check = config["check"]
    return {
        **config,
        "stack": uploaded.uri,
        "stack_sha256": uploaded.sha256,
        "spack": {
            "version": "1.1.1",
            **place.put(f"{SPACK}.tar.gz", packed_spack().read_bytes()).origin(),
            "recipes": place.put("recipes.tar.gz", packed_recipes(shown).read_bytes()).origin(),
            "clingo": [place.put(f"wheels/{path.name}", path.read_bytes()).origin() for path in wheels],
            "mirrors": {"sources": mirror},
        },
        "check": {"load": [*check["load"], shown.name], "run": [*check["run"], *shown.run]},
    }


def lab_config(lab: Lab, *, spack: bool, shown: Shown = FFTW) -> dict[str, Any]:
    """Prepare a running lab: objects in S3, sources on the storage that becomes /shared."""
    bucket = Bucket(lab)
    config = base_config(bucket.put("packages/hello-1.0.tar.gz", packed_program(compiled_program(lab))))
    if spack:
        ask = "import os, sys; print('%d.%d' % sys.version_info[:2], os.uname().machine)"
        version, machine = lab.exec("head", ("python3", "-c", ask)).check().stdout.split()
        make = lab.exec("head", ("make", "--version")).check().stdout.split()[2]
        config = add_spack(config, bucket, clingo_wheels(version, machine), make, "/shared/mirror", shown)
        lab.unpack("head", "/lab/shared/mirror", mirror_files(shown))
    bucket.send()
    return config


def packed_spack() -> Path:
    """Spack's tree as a tarball, packed once."""
    archive = lab_cache() / f"{SPACK}.tar.gz"
    if not archive.is_file():
        recipes.pack(spack_cache() / SPACK, archive)
    return archive


def packed_recipes(shown: Shown = FFTW) -> Path:
    """The subset of the recipes that a package needs, packed again if the code that creates it has changed."""
    code = Path(recipes.__file__).read_bytes() + inspect.getsource(inspect.getmodule(shown.edit) or recipes).encode()
    name = "-".join((shown.name, *shown.also))
    version = f"{name}-{hashlib.sha256(code).hexdigest()[:12]}"
    archive = lab_cache() / f"recipes-{version}.tar.gz"
    if not archive.is_file():
        tree = lab_cache() / f"recipes-{version}"
        if not tree.is_dir():
            part = tree.with_name(f".{tree.name}.{os.getpid()}")
            recipes.subset(spack_cache() / RECIPES, part, (shown.name, *shown.also), shown.bare)
            shown.edit(part / recipes.PACKAGES.repository)
            part.rename(tree)
        recipes.pack(tree, archive)
    return archive


def packed_old_spack(*keep: str) -> Path:
    """Spack 0.23 with a subset of its recipes, packed again if the code that creates it has changed."""
    code = Path(recipes.__file__).read_bytes() + " ".join(keep).encode()
    archive = lab_cache() / f"{OLD_SPACK}-{hashlib.sha256(code).hexdigest()[:12]}.tar.gz"
    if not archive.is_file():
        with tempfile.TemporaryDirectory(dir=lab_cache()) as place:
            recipes.spack_with(spack_cache() / OLD_SPACK, Path(place, OLD_SPACK), keep)
            recipes.pack(Path(place, OLD_SPACK), archive)
    return archive


def clingo_wheels(version: str, machine: str) -> list[Path]:
    """clingo and its dependencies, for the nodes' Python."""
    place = lab_cache() / f"wheels-{version}-{machine}"
    if len(list(place.glob("*.whl"))) < len(WHEELS):
        print_progress(f"fetching from PyPI: {' '.join(WHEELS)}")
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(place), "--only-binary=:all:"]
        platforms = [f"--platform=manylinux2014_{machine}", f"--platform=manylinux_2_28_{machine}"]
        if subprocess.run([*command, "--python-version", version, *platforms, *WHEELS], check=False).returncode:
            raise LabError("clingo cannot be had: PyPI does not answer")
    return sorted(place.glob("*.whl"))


def mirror_files(shown: Shown = FFTW) -> dict[str, bytes]:
    """Source and patches, by their names in Spack's mirror format."""
    source = sources.SOURCES[shown.name]
    tarball = sources.place(sources.mirror(shown.name), source)
    archive = "_source-cache/archive"
    files = {f"{archive}/{source.sha256[:2]}/{tarball.name}": tarball.read_bytes()}
    patches = {f"{archive}/{digest[:2]}/{digest}": _patch().read_bytes() for digest in shown.patches}
    return files | patches | shown.files()
