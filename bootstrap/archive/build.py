"""Builds ``dist/``: the archive, its checksum, and the hook scripts as single files.

Run as ``python -m bootstrap.archive.build`` (``make dist``) in a checkout, with a Python that has pip. The third-party
packages come from the hash-locked ``bootstrap/requirements.txt``; they are fetched once for each state of that file and
kept in ``build/vendor``. The same tree gives the same bytes: names are sorted, dates and modes are fixed. Only another
implementation of zlib (zlib-ng) compresses to other bytes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import time
import zipfile
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
RESOURCES = ("spack_envs", "modulefiles", "docs")
PROGRAMS = {"__main__.py": "loader.py", "petal_unpack.py": "unpack.py"}
MAX_BYTES = 1_700_000
DATE = (2020, 1, 1, 0, 0, 0)  # of every member: the bytes must not depend on the time of the build

# Files that are not needed on a node. The licences stay. packaging is here for marshmallow, which imports
# packaging.version; rich for console, text, table and progress.
DROPPED = re.compile(
    r"(^|/)(__pycache__|tests?|bin)/|\.(so|pyc|pyi|pyx|typed|h|c)$"
    r"|^psutil/_ps(aix|bsd|osx|sunos|windows)\.py$"
    r"|^packaging/(?!(__init__|_structures|version)\.py$)"
    r"|^urllib3/contrib/emscripten/"
    r"|^rich/(__main__|_inspect|_win32_console|_windows_renderer|diagnose|layout|logging|markdown|prompt|syntax)\.py$"
    r"|\.dist-info/(?!METADATA$|(licenses/)?(LICEN[CS]E|NOTICE|COPYING|AUTHORS))"
)


class BuildError(Exception):
    """The archive cannot be built; the text contains the remedy."""


@dataclass(frozen=True)
class Built:
    """The archive of one build. ``content`` is the hash of its files; the size is in bytes, the time in seconds."""

    archive: Path
    sha256: str
    size: int
    content: str
    seconds: float


def build(dist: Path, root: Path = ROOT, vendor: Path | None = None) -> Built:
    """Builds everything into ``dist``.

    Args:
        root: the checkout.
        vendor: the directory for fetched packages; the default is ``build/vendor`` of the checkout.

    Raises:
        BuildError: packages cannot be fetched, or the archive has a wrong compiled file or is too large.
    """
    started = time.monotonic()
    members = collect(root, vendored(root / "bootstrap/requirements.txt", vendor or root / "build/vendor"))
    check_compiled(members)
    programs = {name: (HERE / file).read_bytes() for name, file in {**PROGRAMS, "header": "header.sh"}.items()}
    content = digest({**members, **programs})
    for name, text in programs.items():
        programs[name] = text.replace(b"@CONTENT@", content.encode()).replace(b"@VERSION@", __version__.encode())
    data = zipped(programs.pop("header"), {**members, **programs})
    if len(data) > MAX_BYTES:
        raise BuildError(f"the archive has {len(data)} bytes, more than {MAX_BYTES}")
    files = {"petal-node": data, "petal-node.sha256": f"{sha256(data)}  petal-node\n".encode()}
    files |= {f"on_node_{event}.sh": hook(root / "actions", event) for event in EVENTS}
    for name, text in files.items():
        write(dist / name, text)
    return Built(dist / "petal-node", sha256(data), len(data), content, time.monotonic() - started)


def vendored(requirements: Path, kept: Path) -> Path:
    """Returns the directory with the packages for this state of ``requirements``: ``site/`` and ``arch/<machine>/``.

    Python files must be the same for each machine, so that one ``site/`` serves all.
    """
    key = sha256(requirements.read_bytes() + f"{DROPPED.pattern} {PYTHON_FLOOR} {MACHINES}".encode())[:16]
    if (kept / key).is_dir():
        return kept / key
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as work:
        ready = Path(work) / "ready"
        first: dict[str, bytes] = {}
        for machine in MACHINES:
            tree = _pip_install(requirements, machine, Path(work) / machine)
            files = {name: path.read_bytes() for name, path in walk(tree) if not DROPPED.search(name)}
            for name in files:
                if name.endswith("/METADATA"):  # its header is enough
                    files[name] = files[name].split(b"\n\n")[0] + b"\n"
            first = first or files
            differing = sorted(name for name in first.keys() | files.keys() if first.get(name) != files.get(name))
            if differing:
                raise BuildError(f"the packages differ between machines: {', '.join(differing[:5])}")
            write(ready / "arch" / machine / NATIVE, (tree / NATIVE).read_bytes())
        for name, data in first.items():
            write(ready / "site" / name, data)
        if not (kept / key).is_dir():
            ready.rename(kept / key)
    return kept / key


def _pip_install(requirements: Path, machine: str, target: Path) -> Path:
    """Installs the packages for one machine into ``target``. Needs the network."""
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


def collect(root: Path, packages: Path) -> dict[str, bytes]:
    """Every file of the tree by its name in the archive: ``tree/`` is for all machines, ``arch/<machine>/`` for one."""
    members = {f"tree/{name}": path.read_bytes() for name, path in walk(packages / "site")}
    members |= {f"arch/{name}": path.read_bytes() for name, path in walk(packages / "arch")}
    for folder in ("bootstrap", *RESOURCES):
        members |= {f"tree/{folder}/{name}": path.read_bytes() for name, path in walk(root / folder)}
    build_only = ("tree/bootstrap/archive/", "tree/bootstrap/requirements.txt", "tree/docs/dev/")
    return {name: data for name, data in sorted(members.items()) if not name.startswith(build_only)}


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below ``folder`` with its relative name, without hidden files, backups and bytecode."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        ignored = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not ignored and not path.name.endswith(("~", ".pyc")):
            yield "/".join(parts), path


def check_compiled(members: Mapping[str, bytes]) -> None:
    """Refuses any compiled file except psutil's, one for each machine: BuildError with the names."""
    compiled = {name for name, data in members.items() if data.startswith(b"\x7fELF") or re.search(r"\.so[^/]*$", name)}
    expected = {f"arch/{machine}/{NATIVE}" for machine in MACHINES}
    if compiled != expected:
        raise BuildError(f"compiled files in the archive: {sorted(compiled)}, expected {sorted(expected)}")


def digest(files: Mapping[str, bytes]) -> str:
    """The content hash: names and bytes of the tree and the programs around it, independent of the compression."""
    total = hashlib.sha256()
    for name, data in files.items():
        total.update(f"{name}\0{len(data)}\0".encode() + data)
    return total.hexdigest()[:32]


def zipped(start: bytes, members: Mapping[str, bytes]) -> bytes:
    """A zip archive after ``start``. The bytes depend only on the arguments."""
    with tempfile.TemporaryFile() as out:
        out.write(start)
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in sorted(members.items()):
                info = zipfile.ZipInfo(name, DATE)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
        out.seek(0)
        return out.read()


def hook(actions: Path, event: str) -> bytes:
    """The hook script of one event. It has the rule of the archive for the paths that root uses."""
    script = (actions / "on_node.sh").read_text(encoding="ascii")
    rule = re.search(r"(?ms)^is_trusted\(\) \(\n.*?^\)\n", (HERE / "header.sh").read_text(encoding="ascii"))
    parts = re.split(r"(?m)@EVENT@|^# @IS_TRUSTED@.*\n", script)
    if len(parts) != 3 or not rule:
        raise BuildError("actions/on_node.sh must contain @EVENT@ and @IS_TRUSTED@ once, and header.sh is_trusted")
    return f"{parts[0]}{event}{parts[1]}{rule[0]}{parts[2]}".encode("ascii")


def write(path: Path, data: bytes) -> None:
    """Writes a file and its directory; programs (no ``.sha256``, ``.py``) are executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.chmod(0o755 if path.suffix in {"", ".sh"} else 0o644)
    new.replace(path)


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    """Builds into ``dist/`` of the checkout, and prints the archive's path, size and checksum."""
    try:
        built = build(ROOT / "dist")
    except BuildError as error:
        print(f"make dist: {error}", file=sys.stderr)
        return 1
    print(f"{built.archive}  {built.size / 1e6:.2f} MB  sha256 {built.sha256}  ({built.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
