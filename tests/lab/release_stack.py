"""A stack of which every version is a new release: two slow recipes for real Spack, and a binary package.

The packages are almost empty, but Spack really concretizes, forks its builders, registers prefixes and writes
modules. ``slowly@N`` takes N seconds.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.lab import recipes, stack
from tests.lab.cluster import Lab
from tests.lab.stack import Bucket

NAMES = ("piece", "brick")
VERSIONS = 260
FILES = 40
RECIPE = '''\
import time

from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class {name}(Package):
    """Says its version."""

    has_code = False
{versions}

    def install(self, spec, prefix):
        mkdirp(prefix.bin, prefix.share)
        for number in range({files}):
            with open(join_path(prefix.share, str(number)), "w") as stream:
                stream.write(str(spec.version))
            time.sleep({pause})
        program = join_path(prefix.bin, self.name)
        with open(program, "w") as stream:
            stream.write("#!/bin/sh\\necho %s\\n" % spec.version)
        set_executable(program)
'''


def recipe(name: str, versions: range | tuple[int, ...], pause: str, files: int) -> str:
    """The text of one package.py."""
    lines = "\n".join(f'    version("{number}")' for number in versions)
    return RECIPE.format(name=name.capitalize(), versions=lines, pause=pause, files=files)


def packed_recipes() -> Path:
    """The repository as a tarball."""
    texts = {name: recipe(name, range(1, VERSIONS), "0.02", FILES) for name in NAMES}
    texts["slowly"] = recipe("slowly", (30, 3600), "int(str(spec.version))", 1)
    return pack("release-stack", texts)


def pack(kind: str, texts: dict[str, str]) -> Path:
    """A repository of these recipes and a compiler's, packed once for each version of the code that creates it."""
    code = Path(recipes.__file__).read_bytes() + json.dumps(texts).encode()
    version = hashlib.sha256(code).hexdigest()[:12]
    archive = stack.lab_cache() / f"{kind}-{version}.tar.gz"
    if not archive.is_file():
        tree = stack.lab_cache() / f"{kind}-{version}"
        if not tree.is_dir():
            part = tree.with_name(f".{tree.name}.part")
            recipes.subset(stack.spack_cache() / stack.RECIPES, part, ())
            for name, text in texts.items():
                place = part / "repos" / "spack_repo" / "builtin" / "packages" / name
                place.mkdir()
                (place / "package.py").write_text(text, encoding="utf-8")
            part.rename(tree)
        recipes.pack(tree, archive)
    return archive


def program(number: int) -> bytes:
    """The binary package of one release; its program prints the number too."""
    return stack.packed_program(f"#!/bin/sh\necho {number}\n".encode())


def spack_section(lab: Lab, bucket: Bucket, repository: Path | None = None) -> dict[str, Any]:
    """The section of the configuration that is the same for every release; its objects are collected in ``bucket``."""
    ask = "import os, sys; print('%d.%d' % sys.version_info[:2], os.uname().machine)"
    version, machine = lab.exec("head", ("python3", "-c", ask)).check().stdout.split()
    wheels = stack.clingo_wheels(version, machine)
    return {
        "version": "1.1.1",
        **bucket.put(f"{stack.SPACK}.tar.gz", stack.packed_spack().read_bytes()).origin(),
        "recipes": bucket.put("recipes.tar.gz", (repository or packed_recipes()).read_bytes()).origin(),
        "clingo": [bucket.put(f"wheels/{path.name}", path.read_bytes()).origin() for path in wheels],
    }


def config(bucket: Bucket, section: dict[str, Any], number: int, specs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The configuration of release ``number``."""
    hello = bucket.put(f"packages/hello-{number}.tar.gz", program(number))
    wanted = [*(f"{name}@{number}" for name in NAMES), *specs]
    return {
        "stack": "none",
        "packages": [{"name": "hello", "version": str(number), **hello.origin()}],
        "spack": {**section, "specs": wanted},
        "check": {"load": ["hello", *NAMES], "run": ["hello", *NAMES], "wait": 0},
    }
