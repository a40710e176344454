"""Real Spack of both families: a cluster installs the packages of another cluster from a build cache without building.

Both clusters have the same root, like all clusters: the first one's tree is moved away before the second one starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.model import Outcome, RunRecord, Status
from bootstrap.core.paths import Paths
from bootstrap.spack import database
from bootstrap.spack.cache.entries import SIGNED
from tests.gpg import Key
from tests.lab.recipes import IN_SPACK, PACKAGES
from tests.spack.conftest import Site
from tests.spack.test_spack import bootstrap, steps, store_of

VERSIONS = ("1.1.1", "0.23.0")
BUILT = ("cachedlib", "cachedapp")
LIBRARY = """
        if os.path.exists("{switch}"):
            raise InstallError("this package is not to be built again")
        mkdirp(prefix.lib)
        with open("lib.c", "w") as stream:
            stream.write('const char *place(void) {{ return "' + str(prefix) + '"; }}')
        Executable(spack_cc)("-shared", "-fPIC", "lib.c", "-o", join_path(prefix.lib, "libplace.so"))
"""
PROGRAM = """
        if os.path.exists("{switch}"):
            raise InstallError("this package is not to be built again")
        library = spec["cachedlib"].prefix
        mkdirp(prefix.bin)
        with open("app.c", "w") as stream:
            stream.write("#include <stdio.h>\\nconst char *place(void);int main(void) {{ puts(place()); return 0; }}")
        Executable(spack_cc)("app.c", "-L" + library.lib, "-lplace", "-o", join_path(prefix.bin, "app"))
        with open(join_path(prefix.bin, "script"), "w") as stream:
            stream.write("#!/bin/sh\\nexec " + str(prefix.bin.app) + "\\n")
        os.symlink(str(library.lib), join_path(prefix, "linked"))
"""
RECIPE = """import os

{imports}from spack.package import *


class {name}(Package):
    has_code = False
    version("1")
    depends_on("c", type="build")
    {needs}

    def install(self, spec, prefix):{body}"""


@dataclass(frozen=True)
class Stack:
    """A program and its library; while ``switch`` exists, neither can be built."""

    version: str
    config: str
    switch: Path


@pytest.fixture
def built(version: str, sites: Callable[[str], Site], tmp_path: Path) -> Stack:
    switch = tmp_path / "broken"
    site = sites(version)
    layout = PACKAGES if version != "0.23.0" else IN_SPACK
    packages = next(tmp_path.rglob("packages/probe/package.py")).parents[1]
    for name, body, needs in (("cachedlib", LIBRARY, ""), ("cachedapp", PROGRAM, 'depends_on("cachedlib")')):
        recipe = packages / name / "package.py"
        recipe.parent.mkdir()
        values = {"imports": layout.imports, "name": name.title(), "needs": needs}
        recipe.write_text(RECIPE.format(**values, body=body.format(switch=switch)))
    return Stack(version, site.config.replace("specs: [probe]", "specs: [cachedapp]"), switch)


def signed(url: object, key: Key, *, push: bool = True) -> str:
    sign = f", push: true, signing_key: {{source: {key.secret}}}" if push else ""
    return f"  mirrors: {{site: {{url: {url}, keys: [{{source: {key.public}}}]{sign}}}}}\n"


def unsigned(url: object, *, push: bool = True) -> str:
    return f"  mirrors: {{site: {{url: {url}, signed: false, push: {str(push).lower()}}}}}\n"


def build_first(built: Stack, mirror: str, tmp_path: Path) -> Path:
    """Let the first cluster build and push; move its tree away and return it."""
    prefix = tmp_path / "head"
    record = bootstrap(prefix, built.config + mirror)
    assert record.status is Status.CHANGED, record
    assert steps(record)["build-cache"].outcome is Outcome.CHANGED
    prefix.rename(tmp_path / "first")
    return tmp_path / "first"


def contents(store: Path) -> dict[str, str]:
    """Every file and link of the packages by its path in the store, except build times."""
    found = {}
    for path in (path for package in store.glob("linux-*/cached*") for path in package.rglob("*")):
        if path.name == "install_times.json":
            continue
        name = str(path.relative_to(store))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def phases(prefix: Path) -> str:
    """Spack's output in the runs below a prefix."""
    return "".join(path.read_text() for path in Paths(prefix).log.parent.rglob("spack-*.log"))


def assert_nothing_was_built(record: RunRecord, built: Stack, prefix: Path) -> None:
    assert record.status is Status.CHANGED, record
    assert steps(record)["spack"].outcome is Outcome.CHANGED, steps(record)["spack"]
    assert "Executing phase" not in phases(prefix)
    program = next(store_of(prefix, built.version).glob("linux-*/cachedapp-1-*/bin/app"))
    library = next(store_of(prefix, built.version).glob("linux-*/cachedlib-1-*"))
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == f"{library}\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_cluster_installs_from_the_cache_without_building_or_relocating(
    built: Stack, key: Key, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    first = build_first(built, signed(cache, key), tmp_path)
    built.switch.touch()
    prefix, notes = tmp_path / "head", []
    record = bootstrap(prefix, built.config + signed(cache, key), notes)
    assert_nothing_was_built(record, built, prefix)
    total = steps(record)["spack"].reason.rpartition("from a build cache: ")[2].split(" of ")
    assert total[0] == total[1], "all of them"
    store = store_of(prefix, built.version)
    before, after = contents(first / "shared/petal/root" / store.name), contents(store)
    assert len(before) > len(BUILT)
    added = {name for name in after if name not in before}
    assert {Path(name).name for name in added} <= {"binary_distribution"}
    assert {name: after[name] for name in before} == before
    assert not list(Paths(prefix).scratch.rglob("pulled")), "a tarball of the cache is left on the disk"

    _leave_a_killed_unpack(cache, store)
    notes.clear()
    again = bootstrap(prefix, built.config + signed(cache, key), notes)
    assert_nothing_was_built(again, built, prefix)
    assert contents(store) == after
    assert any("did not finish: cachedapp-1-" in note for note in notes), notes


def _leave_a_killed_unpack(cache: Path, store: Path) -> None:
    """Leave the state of a killed unpack: the first files exist, including the manifest, and Spack has no record."""
    (prefix,) = store.glob("linux-*/cachedapp-1-*")
    shutil.rmtree(prefix)
    (tarball,) = (path for path in cache.rglob("*") if path.is_file() and _holds(path, prefix.name))
    with tarfile.open(tarball) as archive:
        for member in archive:
            archive.extract(member, "/")
            if member.name.endswith("install_manifest.json"):
                break
    assert database.is_whole(prefix)
    assert not (prefix / "bin" / "app").exists()
    index = database.index_of(store)
    document = json.loads(index.read_text())
    installs = document["database"]["installs"]
    document["database"]["installs"] = {
        digest: record for digest, record in installs.items() if record["spec"]["name"] != "cachedapp"
    }
    index.write_text(json.dumps(document))


def _holds(path: Path, name: str) -> bool:
    try:
        with tarfile.open(path) as archive:
            return any(Path(member).name == name for member in archive.getnames())
    except tarfile.ReadError:
        return False


def test_a_failed_push_does_not_fail_the_release_and_is_retried(
    built: Stack, key: Key, other: Key, s3: Any, tmp_path: Path
) -> None:
    """The mirror is in S3. A second cluster with another key reports it, builds, and replaces the entries."""
    prefix, mirror = tmp_path / "head", signed("s3://petal/spack cache", key)
    record = bootstrap(prefix, built.config + mirror)
    found = steps(record)
    assert (record.status, record.exit) == (Status.DEGRADED, 3)
    assert found["publish"].outcome is Outcome.CHANGED
    assert found["build-cache"].error is not None
    assert found["build-cache"].error["code"] == "cache-push"
    assert found["build-cache"].error["remedy"]

    s3.create_bucket(Bucket="petal")
    second = bootstrap(prefix, built.config + mirror)
    assert second.status is Status.CHANGED, second
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket="petal")["Contents"]]
    pushed = [name for name in listed if "/manifests/spec/cached" in name]
    assert len(pushed) == len(BUILT)
    assert all(s3.get_object(Bucket="petal", Key=name)["Body"].read().startswith(SIGNED) for name in pushed)
    assert bootstrap(prefix, built.config + mirror).status is Status.OK
    next((prefix / "var/lib/petal-node").rglob("pushed.json")).write_text('{"pushed"')
    asked = bootstrap(prefix, built.config + mirror)
    assert (asked.status, steps(asked)["build-cache"].outcome) == (Status.CHANGED, Outcome.CHANGED)
    assert bootstrap(prefix, built.config + mirror).status is Status.OK

    prefix.rename(tmp_path / "first")
    notes: list[str] = []
    rotated = signed("s3://petal/spack cache", other)
    record = bootstrap(prefix, built.config + rotated, notes)
    assert record.status is Status.CHANGED, record
    assert "build cache" not in steps(record)["spack"].reason
    assert any("not one of the mirror's keys" in note for note in notes), notes
    assert "try: list the public key of who pushed it under spack.mirrors.site.keys" in notes
    assert "cachedapp: Executing phase" in phases(prefix)
    assert "; replaced in site: " in steps(record)["build-cache"].reason
    assert "not one of the mirror's keys)" in steps(record)["build-cache"].reason
    prefix.rename(tmp_path / "second")
    built.switch.touch()
    assert_nothing_was_built(bootstrap(prefix, built.config + rotated), built, prefix)


def test_an_image_build_uses_the_cache_and_builds_corrupt_packages(built: Stack, tmp_path: Path) -> None:
    """The mirror is unsigned. The file of the library has the right checksum and is not a tarball."""
    cache = tmp_path / "cache"
    cache.mkdir()
    build_first(built, unsigned(cache), tmp_path)
    (manifest,) = cache.glob("v3/manifests/spec/cachedlib/*.json")
    document = json.loads(manifest.read_text())
    (part,) = (part for part in document["data"] if "tar" in part["mediaType"])
    part["checksum"] = hashlib.sha256(b"no tarball").hexdigest()
    blob = cache / "blobs" / "sha256" / part["checksum"][:2] / part["checksum"]
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"no tarball")
    manifest.write_text(json.dumps(document))

    prefix, notes = tmp_path / "head", []
    record = bootstrap(prefix, built.config + unsigned(cache), notes, image="ami")
    assert record.status is Status.CHANGED, record
    assert any("cachedlib cannot be unpacked from a build cache" in note for note in notes), notes
    output = phases(prefix)
    assert "cachedlib: Executing phase" in output
    assert "cachedapp: Executing phase" not in output
    assert "from a build cache" in steps(record)["spack"].reason
    assert steps(record)["build-cache"].reason.endswith("; replaced in site: cachedlib@1 (Spack could not unpack it)")
    assert json.loads(manifest.read_text())["data"] != document["data"]


def test_plain_spack_and_petal_node_install_packages_that_the_other_has_signed(
    built: Stack, key: Key, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    with closing(PlainSpack(build_first(built, signed(ours, key), tmp_path), tmp_path)) as plain:
        plain.trust(key)
        built.switch.touch()
        plain.run("install", "--only-concrete", "--cache-only", mirror=ours)
        plain.run("buildcache", "push", "--signed", "--without-build-dependencies", f"file://{theirs}", mirror=ours)
    shutil.rmtree(tmp_path / "head")
    prefix = tmp_path / "head"
    record = bootstrap(prefix, built.config + signed(theirs, key, push=False))
    assert record.status is Status.CHANGED, record
    assert not [name for name in BUILT if f"{name}: Executing phase" in phases(prefix)]


class PlainSpack:
    """Spack with petal-node's configuration in another tree; it checks signatures itself."""

    def __init__(self, tree: Path, tmp_path: Path) -> None:
        (self.work,) = (path.parent for path in tree.glob("var/lib/petal-node/spack/*/*/scope"))
        self.extra = tmp_path / "extra"
        self.extra.mkdir()
        bootstrapping = {"enable": True, "root": str(tmp_path / "b"), "sources:": [], "trusted:": {}}
        (self.extra / "bootstrap.yaml").write_text(json.dumps({"bootstrap": bootstrapping}))
        self.spack = next(tmp_path.glob("1.1.1/*/bin/spack"))
        self.clingo = next(tree.glob("shared/petal/root/spack/clingo-*"))
        self.home = Path(tempfile.mkdtemp(prefix="gpg"))  # a short path, because gpg's agent has a socket in it

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True)
        shutil.rmtree(self.home)

    def trust(self, key: Key) -> None:
        self.run("gpg", "trust", str(key.secret), mirror=Path("/none"))

    def run(self, *arguments: str, mirror: Path) -> None:
        mirrors = {"mirrors:": {"site": {"url": f"file://{mirror}", "source": False, "signed": True}}}
        (self.extra / "mirrors.yaml").write_text(json.dumps(mirrors))
        defaults = self.spack.parents[1] / "etc" / "spack" / "defaults"
        scope = self.work / "scope"
        scopes = (scope / "nothing", defaults / "base", defaults / "linux", scope / "stack", scope, self.extra)
        flags = [word for place in scopes for word in ("-C", str(place))]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.extra),
            "PYTHONPATH": str(self.clingo),
            "SPACK_PYTHON": sys.executable,
            "SPACK_DISABLE_LOCAL_CONFIG": "1",
            "SPACK_USER_CACHE_PATH": str(self.extra / "user"),
            "SPACK_GNUPGHOME": str(self.home),
        }
        command = [str(self.spack), *flags, "-e", str(self.work / "environment"), *arguments]
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
