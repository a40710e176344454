"""Builds ``dist/``: the archive, its checksum, the hook scripts as single files, and a manifest.

Run as ``python -m bootstrap.archive.build`` (``make dist``) in a checkout, with a Python that has pip. The third-party
packages come from the hash-locked ``bootstrap/requirements.txt``; they are fetched once for each state of that file and
kept in ``build/vendor``. The same tree gives the same bytes: names are sorted, dates and modes are fixed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootstrap import __version__

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
EVENTS = ("start", "configured", "updated")
PYTHON_FLOOR = "3.9"
MACHINES = ("x86_64", "aarch64")
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")  # pip takes each of them literally
NATIVE = "psutil/_psutil_linux.abi3.so"  # the only compiled file: one for every CPython 3.6+ of a machine
SHARED_OBJECT = re.compile(r"\.so[^/]*$")
RESOURCES = ("spack_envs", "modulefiles")
BUILD_ONLY = ("archive/", "requirements.txt")  # of bootstrap/
MAX_BYTES = 4 * 1024 * 1024
DATE = (2020, 1, 1, 0, 0, 0)  # of every member: the bytes must not depend on when they were built
LEVEL = 9
RULES = 1  # raise it when what is kept of the packages changes: part of the key of build/vendor

# What no node needs. The licences stay.
DROPPED = re.compile(
    r"(^|/)(__pycache__|tests?|bin)/|\.(so|pyc|pyi|pyx|typed|h|c)$"
    r"|^psutil/_ps(aix|bsd|osx|sunos|windows)\.py$"
    r"|\.dist-info/(?!METADATA$|(licenses/)?(LICEN[CS]E|NOTICE|COPYING|AUTHORS))"
)
# How zlib compresses this at LEVEL: another implementation (zlib-ng) makes valid archives with other bytes.
ZLIB_SAMPLE = bytes(i * i % 251 for i in range(20000)) + b"petal-node " * 500
ZLIB_DIGEST = "17967f45f64957114280ee9cf7e8ca922e43b160ab1cf4105f24a61d7f8d3928"


class BuildError(Exception):
    """The archive cannot be built; the text says what to do."""


@dataclass(frozen=True)
class Built:
    """What one build made. ``files`` are paths in ``dist``; sizes in bytes, times in seconds."""

    archive: Path
    sha256: str
    size: int
    content: str
    files: tuple[Path, ...]
    seconds: float


def build(dist: Path, root: Path = ROOT, vendor: Path | None = None) -> Built:
    """Builds everything into ``dist``.

    Args:
        dist: the directory to write to; made if missing.
        root: the checkout.
        vendor: where fetched packages are kept, ``build/vendor`` of the checkout if not given.

    Raises:
        BuildError: packages cannot be fetched, or the result breaks a promise (compiled files, size).
    """
    started = time.monotonic()
    packages = vendored(root / "bootstrap/requirements.txt", vendor or root / "build/vendor")
    members = collect(root, packages)
    check_compiled(members)
    content = digest(members)
    data = zipped(header(content), members | programs(content))
    if len(data) > MAX_BYTES:
        raise BuildError(f"the archive has {len(data)} bytes, more than {MAX_BYTES}")
    files = {"petal-node": data, "petal-node.sha256": f"{sha256(data)}  petal-node\n".encode()}
    files |= {f"on_node_{event}.sh": hook(root / "actions", event) for event in EVENTS}
    files["petal-node.json"] = manifest(files, members, content)
    written = tuple(write(dist / name, text) for name, text in files.items())
    return Built(written[0], sha256(data), len(data), content, written, time.monotonic() - started)


# the packages


def vendored(requirements: Path, kept: Path) -> Path:
    """The directory with the packages for this state of ``requirements``: ``site/`` and ``arch/<machine>/``."""
    key = sha256(requirements.read_bytes() + f"{RULES} {PYTHON_FLOOR} {MACHINES}".encode())[:16]
    place = kept / key
    if not place.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as work:
            trees = {machine: _pip_install(requirements, machine, Path(work) / machine) for machine in MACHINES}
            ready = Path(work) / "ready"
            _merge(trees, ready)
            if not place.is_dir():
                ready.rename(place)
    return place


def _pip_install(requirements: Path, machine: str, target: Path) -> Path:
    """What pip installs for one machine. Needs the network."""
    print(f"fetching the node's packages for {machine} (pip, checked against {requirements.name})", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(target), "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", PYTHON_FLOOR, "--root-user-action", "ignore"]
    command += [f"--platform={platform}_{machine}" for platform in PLATFORMS]
    done = subprocess.run(
        [*command, "-r", str(requirements)], check=False, timeout=900, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "WARNING" not in line]
        what = f"pip could not fetch the packages for {machine} from PyPI or a mirror:"
        raise BuildError("\n".join([what, *errors[-12:]]))
    return target


def _merge(trees: Mapping[str, Path], ready: Path) -> None:
    """Makes one neutral ``site/`` and one ``arch/<machine>/`` each, and refuses Python files that differ by machine."""
    neutral = {machine: dict(_kept(tree)) for machine, tree in trees.items()}
    first, *others = neutral.values()
    for other in others:
        differing = {name for name in first.keys() | other.keys() if first.get(name) != other.get(name)}
        if differing:
            raise BuildError(f"the packages differ between machines: {', '.join(sorted(differing)[:5])}")
    for name, data in first.items():
        write(ready / "site" / name, data)
    for machine, tree in trees.items():
        write(ready / "arch" / machine / NATIVE, (tree / NATIVE).read_bytes())


def _kept(tree: Path) -> Iterator[tuple[str, bytes]]:
    for name, path in walk(tree):
        if not DROPPED.search(name):
            data = path.read_bytes()
            yield name, data.split(b"\n\n")[0] + b"\n" if name.endswith("/METADATA") else data


# the tree


def collect(root: Path, packages: Path) -> dict[str, bytes]:
    """Every file of the tree by its name in the archive: ``tree/`` is for all machines, ``arch/<machine>/`` for one."""
    members = {f"tree/{name}": path.read_bytes() for name, path in walk(packages / "site")}
    members |= {f"arch/{name}": path.read_bytes() for name, path in walk(packages / "arch")}
    for folder in ("bootstrap", *RESOURCES):
        for name, path in walk(root / folder):
            if not (folder == "bootstrap" and name.startswith(BUILD_ONLY)):
                members[f"tree/{folder}/{name}"] = path.read_bytes()
    return dict(sorted(members.items()))


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below ``folder`` with its relative name, without what tools leave behind."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        left_behind = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not left_behind and not path.name.endswith(("~", ".pyc")):
            yield "/".join(parts), path


def check_compiled(members: Mapping[str, bytes]) -> None:
    """Refuses any compiled file but psutil's, one for each machine."""
    compiled = {name for name, data in members.items() if data.startswith(b"\x7fELF") or SHARED_OBJECT.search(name)}
    expected = {f"arch/{machine}/{NATIVE}" for machine in MACHINES}
    if compiled != expected:
        raise BuildError(f"compiled files in the archive: {sorted(compiled)}, expected {sorted(expected)}")


def digest(members: Mapping[str, bytes]) -> str:
    """The content hash: names and bytes of the tree and the programs around it, whatever compresses them."""
    total = hashlib.sha256()
    parts = {name: (HERE / name).read_bytes() for name in ("header.sh", "loader.py", "unpack.py")}
    for name, data in [*members.items(), *parts.items()]:
        total.update(f"{name}\0{len(data)}\0".encode() + data)
    return total.hexdigest()[:32]


def programs(content: str) -> dict[str, bytes]:
    """The loader (what Python runs) and what it imports on a first start."""
    return {
        "__main__.py": _filled(HERE / "loader.py", content),
        "petal_unpack.py": _filled(HERE / "unpack.py", content),
    }


def header(content: str) -> bytes:
    """The sh part. It ends with an exit, so sh never reads the zip."""
    return _filled(HERE / "header.sh", content)


def _filled(path: Path, content: str) -> bytes:
    text = path.read_text(encoding="utf-8").replace("@CONTENT@", content).replace("@VERSION@", __version__)
    return text.encode("ascii")


# the files


def zipped(start: bytes, members: Mapping[str, bytes]) -> bytes:
    """A zip behind ``start``, whose bytes depend on these arguments alone."""
    with tempfile.TemporaryFile() as out:
        out.write(start)
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in sorted(members.items()):
                info = zipfile.ZipInfo(name, DATE)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED, LEVEL)
        out.seek(0)
        return out.read()


def hook(actions: Path, event: str) -> bytes:
    """The hook script of one event."""
    script = (actions / "on_node.sh").read_text(encoding="ascii")
    if script.count("@EVENT@") != 1:
        raise BuildError("actions/on_node.sh must contain @EVENT@ once")
    return script.replace("@EVENT@", event).encode("ascii")


def manifest(files: Mapping[str, bytes], members: Mapping[str, bytes], content: str) -> bytes:
    """``petal-node.json``: what is in dist and what is in the archive."""
    names = (re.fullmatch(r"tree/(.+)-([^-/]+)\.dist-info/METADATA", name) for name in members)
    facts = {
        "format": 1,
        "version": __version__,
        "content": content,
        "python": f">={PYTHON_FLOOR}",
        "machines": list(MACHINES),
        "files": {name: {"sha256": sha256(data), "size": len(data)} for name, data in sorted(files.items())},
        "packages": {found[1]: found[2] for found in names if found},
        "reference_zlib": reference_zlib(),
    }
    return (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()


def reference_zlib() -> bool:
    """False where zlib compresses in another way: the archive works, but its checksum is not everybody's."""
    return sha256(zlib.compress(ZLIB_SAMPLE, LEVEL)) == ZLIB_DIGEST


def write(path: Path, data: bytes) -> Path:
    """Writes a file with its directory; programs (no ``.json``, ``.sha256``, ``.py``) can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.chmod(0o755 if path.suffix in {"", ".sh"} else 0o644)
    new.replace(path)
    return path


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Builds and says what was made."""
    parser = argparse.ArgumentParser(prog="python -m bootstrap.archive.build", description=__doc__.split("\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to write (default: dist/)")
    parser.add_argument("--clean", action="store_true", help="fetch the packages anew")
    options = parser.parse_args(arguments)
    if options.clean:
        shutil.rmtree(ROOT / "build/vendor", ignore_errors=True)
    try:
        built = build(options.dist)
    except BuildError as error:
        print(f"make dist: {error}", file=sys.stderr)
        return 1
    if not reference_zlib():
        print(f"note: this Python's zlib ({zlib.ZLIB_RUNTIME_VERSION}) compresses differently; the checksum is its own")
    print(f"{built.archive}  {built.size / 1e6:.2f} MB  sha256 {built.sha256}  ({built.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
