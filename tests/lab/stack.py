"""What the demo and the lab's tests put into S3: the package, a binary package, Spack, recipes, clingo, sources.

Spack's tree, its recipes and one upstream patch come from PETAL_SPACK_CACHE (``make spack`` fills it); the tarballs
of the sources are Debian's, with the checksums that the recipes ask for; clingo comes from PyPI.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import recipes, sources
from tests.lab.cluster import Lab
from tests.lab.engine import LabError, say

BUCKET = "petal"
SPACK = "spack-1.1.1"
RECIPES = "spack-packages-2025.11.0"
WHEELS = ("clingo==5.8.3", "cffi==2.1.1", "pycparser==3.12")
FFTW_PATCH = "872cff9a7d346e91a108ffd3540bfcebeb8cf86c7f40f6b31fd07a80267cbf53"
# One precision and static only: a third of the recipe's default work, and the same recipe.
FFTW_SPEC = "fftw@3.3.10 ~mpi ~shared precision=long_double"
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


def spack_cache() -> Path:
    """Where real Spack is looked for."""
    default = Path.home() / ".cache" / "petal-node" / "spack"
    return Path(os.environ.get("PETAL_SPACK_CACHE") or default)


def lab_cache() -> Path:
    """What the lab keeps between runs: all of it can be made again."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petal-node" / "lab"
    place.mkdir(parents=True, exist_ok=True)
    return place


def no_spack() -> str | None:
    """Why no real Spack can be shown here, or None."""
    for name in (SPACK, RECIPES):
        if not (spack_cache() / name).is_dir():
            return f"{spack_cache() / name} is not there (make spack fetches it)"
    patch = _patch()
    return None if patch.is_file() else f"{patch} is not there (make spack fetches it)"


def _patch() -> Path:
    return spack_cache() / "sources" / "_source-cache" / "archive" / FFTW_PATCH[:2] / FFTW_PATCH


@dataclass(frozen=True)
class Uploaded:
    """An object in the lab's S3."""

    uri: str
    sha256: str

    def origin(self) -> dict[str, str]:
        """As the configuration names it."""
        return {"source": self.uri, "sha256": self.sha256}


def upload(lab: Lab, key: str, data: bytes) -> Uploaded:
    """Put bytes into the lab's bucket."""
    return Uploaded(lab.put_bytes(BUCKET, key, data), hashlib.sha256(data).hexdigest())


def upload_hello(lab: Lab) -> Uploaded:
    """A binary package as a vendor makes one: a compiled program in a tarball with one directory at its top."""
    lab.write("s3", "/tmp/hello.c", PROGRAM)
    lab.exec("s3", ("gcc", "-O2", "-o", "/tmp/hello", "/tmp/hello.c")).check()
    copied = subprocess.run(["docker", "cp", f"{lab.container('s3')}:/tmp/hello", "-"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as outer:
        stream = outer.extractfile("hello")
        if stream is None:
            raise LabError("the compiled program could not be copied")
        program = stream.read()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("hello-1.0/bin/hello")
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    return upload(lab, "packages/hello-1.0.tar.gz", buffer.getvalue())


def base_config(hello: Uploaded) -> dict[str, Any]:
    """The configuration with binary packages only: a tarball, and the MPI that the image carries."""
    return {
        "stack": "none",
        "packages": [
            {"name": "hello", "version": "1.0", "summary": "Says where it runs", **hello.origin()},
            {"name": "openmpi", "version": "4.1", "prefix": "/opt/amazon/openmpi", "summary": "Open MPI of the image"},
        ],
        "check": {"load": ["hello", "openmpi"], "run": ["hello", "mpirun --version"]},
    }


def spack_config(lab: Lab, hello: Uploaded) -> dict[str, Any]:
    """The configuration with real Spack on top: FFTW, built from its real recipe."""
    config = base_config(hello)
    lay_mirror(lab)
    environment = {
        "spack": {
            "specs": [FFTW_SPEC],
            "packages": {"gmake": {"externals": [{"spec": "gmake@4.3", "prefix": "/usr"}], "buildable": False}},
        }
    }
    stack = upload(lab, "stacks/fftw/spack.yaml", json.dumps(environment, indent=1).encode())
    config["stack"] = stack.uri
    config["spack"] = {
        "version": "1.1.1",
        **upload(lab, f"{SPACK}.tar.gz", packed_spack().read_bytes()).origin(),
        "recipes": upload(lab, "recipes.tar.gz", packed_recipes().read_bytes()).origin(),
        "clingo": [upload(lab, f"wheels/{path.name}", path.read_bytes()).origin() for path in clingo_wheels(lab)],
        "mirrors": {"sources": "/shared/mirror"},
    }
    config["check"]["load"].append("fftw")
    config["check"]["run"].append("fftwl-wisdom -n cof8")
    return config


def packed_spack() -> Path:
    """Spack's tree as a tarball, made once."""
    archive = lab_cache() / f"{SPACK}.tar.gz"
    if not archive.is_file():
        recipes.pack(spack_cache() / SPACK, archive)
    return archive


def packed_recipes() -> Path:
    """The subset of the recipes, anew when the code that makes it has changed."""
    version = hashlib.sha256(Path(recipes.__file__).read_bytes()).hexdigest()[:12]
    archive = lab_cache() / f"recipes-{version}.tar.gz"
    if not archive.is_file():
        tree = lab_cache() / f"recipes-{version}"
        if not tree.is_dir():
            part = tree.with_name(f".{tree.name}.{os.getpid()}")
            recipes.subset(spack_cache() / RECIPES, part, ("fftw",))
            part.rename(tree)
        recipes.pack(tree, archive)
    return archive


def clingo_wheels(lab: Lab) -> list[Path]:
    """clingo and what it imports, for the nodes' Python."""
    ask = ("python3", "-c", "import sys, os; print('%d.%d' % sys.version_info[:2], os.uname().machine)")
    version, machine = lab.exec("head", ask).check().stdout.split()
    place = lab_cache() / f"wheels-{version}-{machine}"
    if len(list(place.glob("*.whl"))) < len(WHEELS):
        say(f"fetching from PyPI: {' '.join(WHEELS)}")
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(place), "--only-binary=:all:"]
        platforms = [f"--platform=manylinux2014_{machine}", f"--platform=manylinux_2_28_{machine}"]
        subprocess.run([*command, "--python-version", version, *platforms, *WHEELS], check=True)
    return sorted(place.glob("*.whl"))


def lay_mirror(lab: Lab) -> None:
    """FFTW's source and patch in Spack's mirror format, on the storage that becomes /shared."""
    source = sources.SOURCES["fftw"]
    tarball = sources.place(sources.mirror("fftw"), source)
    for digest, name, path in ((source.sha256, tarball.name, tarball), (FFTW_PATCH, FFTW_PATCH, _patch())):
        target = f"/lab/shared/mirror/_source-cache/archive/{digest[:2]}/{name}"
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1"'
        lab.exec("head", ("sh", "-c", script, "lay", target), stdin=path.read_bytes()).check()
