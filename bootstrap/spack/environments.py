"""The stack's own Spack environment: a folder of ``spack_envs/``, or a URI of a spack.yaml, spack.lock or seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config.model import Config
from ..core import resources
from ..core.deadlines import DOCUMENT, LOOK
from ..core.errors import ConfigError, PetalError, did_you_mean
from ..host.atomic import write_atomic
from ..host.files import make_dir
from ..host.yaml_text import Document, join, read_document
from ..remote.fetch import SMALL, Source, download, read
from . import lockfile
from .lockfile import Lockfile

READ = frozenset({"specs", "packages", "definitions"})
SPECS = "spack.specs"
LOCK = "lock"  # the checksum of a stack that is a lockfile
IGNORED = frozenset({"view", "concretizer", "modules", "config", "mirrors", "repos", "compilers", "include"})
STACK_REMEDY = "correct the stack's file, then: petal-node plan --config FILE"
SEED = frozenset({"software", "cluster", "compute"})  # the sections that identify a petal seed


def load(config: Config, scratch: Path, region: str | None, seconds: float = DOCUMENT) -> Mapping[str, Any]:
    """The specs, packages and definitions of the stack's spack.yaml; empty for ``stack: none``.

    For a lockfile, the environment that it was made from, and its checksum as ``lock``: the checksum is part of the
    release's id, and ``locked`` finds the file again by it.

    Raises:
        ConfigError: ``stack-invalid``, ``lockfile-unfit``.
        FetchError: its URI cannot be read.
    """
    if config.stack == "none":
        return {}
    data, name = _read(config, scratch, region, seconds)
    if lockfile.is_lockfile(data):
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(_copy_of(scratch, digest), data)
        solved = lockfile.parse(data, config.stack).environment
        environment: Mapping[str, Any] = {**_environment(Document(config.stack), dict(solved)), LOCK: digest}
    elif len(data) > SMALL:
        raise _invalid(f"{config.stack} is not a Spack environment", f"it is larger than {SMALL} bytes")
    else:
        environment = _parse(data, name)
    if not environment.get("specs") and not config.specs:
        why, remedy = "its list of specs is empty", "name specs there or in spack.specs, or write stack: none"
        raise ConfigError(f"the stack {config.stack} asks for no package", why=why, remedy=remedy, code="stack-invalid")
    return environment


def spec_places(config: Config, scratch: Path, region: str | None) -> Mapping[str, str]:
    """FILE:LINE of each spec of the stack's file, for errors; empty if the file cannot be read now."""
    with suppress(PetalError):
        document = read_document(*_read(config, scratch, region, LOOK))
        section, path = _section(document)
        specs = _environment(document, section, path).get("specs", ())
        return {spec: document.place(document.lines[f"{path}[{number}]"]) for number, spec in enumerate(specs)}
    return {}


def _read(config: Config, scratch: Path, region: str | None, seconds: float) -> tuple[bytes, str]:
    """The content of the stack's file, and its name."""
    name = config.stack
    if "/" in name:
        return read(Source(name, config.stack_sha256, region, seconds), scratch, limit=lockfile.LIMIT), name
    shipped = {path.parent.name: path for path in resources.path("spack_envs").glob("*/spack.yaml")}
    if name not in shipped:
        why = f"petal-node ships {', '.join(sorted(shipped)) or 'none'}{did_you_mean(name, shipped)}"
        remedy = "correct stack in the configuration"
        raise ConfigError(f"there is no stack {name!r}", why=why, remedy=remedy, code="stack-invalid")
    return shipped[name].read_bytes(), str(shipped[name])


def _copy_of(scratch: Path, digest: str) -> Path:
    return scratch / f"stack-{digest[:12]}.lock"


def locked(config: Config, environment: Mapping[str, Any], scratch: Path, region: str | None) -> Lockfile | None:
    """The lockfile that is the stack, or None. It is fetched again if this node does not have it.

    Raises:
        FetchError: its URI cannot be read, or contains another file now.
    """
    digest = environment.get(LOCK)
    if digest is None:
        return None
    copy = _copy_of(scratch, str(digest))
    make_dir(scratch)
    download(Source(config.stack, str(digest), region), copy)
    return lockfile.parse(copy.read_bytes(), config.stack)


def unlocked(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """The environment without the checksum of a lockfile."""
    return {key: value for key, value in environment.items() if key != LOCK}


def _parse(data: bytes, name: str) -> Mapping[str, Any]:
    document = read_document(data, name)
    return _environment(document, *_section(document))


def _section(document: Document) -> tuple[Any, str]:
    """The section of an environment, as Spack has it, and the path of its specs."""
    if "spack" not in document.content and SEED & document.content.keys():
        software = document.content.get("software")
        specs = (software.get("spack_packages") or []) if isinstance(software, dict) else []
        return {"specs": specs}, "software.spack_packages"
    return document.content.get("spack"), SPECS


def _environment(document: Document, section: Any, specs: str = SPECS) -> Mapping[str, Any]:
    """The sections that are read; ``specs`` is the path of the specs in the document.

    Raises:
        ConfigError: ``stack-invalid``; ``config-syntax`` if a part of the file is not YAML.
    """
    is_unread, read = bool(document.problems), {}
    if not isinstance(section, dict):
        document.add("spack", "the file has no section spack:")
        section = {}
    for key, value in section.items():
        path = specs if key == "specs" else join("spack", key)
        if key not in READ | IGNORED:
            document.add(path, f"petal-node does not read this section{did_you_mean(key, READ | IGNORED)}")
        elif key == "specs" and not isinstance(value, list):
            document.add(path, "must be a list of strings: [zlib, hdf5+mpi]")
        elif key == "specs":
            wrong = (number for number, spec in enumerate(value) if not isinstance(spec, str))
            for number in wrong:
                document.add(f"{path}[{number}]", 'must be a string such as "zlib@1.3", in quotes')
        if key in READ:
            for place, kind in _not_in_json(value, path):
                document.add(place, f"YAML reads a {kind} here, which other nodes cannot read: put it in quotes")
            read[key] = value
    if document.problems:
        raise document.error("config-syntax" if is_unread else "stack-invalid", STACK_REMEDY)
    return json.loads(json.dumps(read))  # type: ignore[no-any-return]  # with the keys that other nodes read


def _not_in_json(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The values that other nodes could not read from desired.json: their paths and types."""
    if isinstance(value, dict):
        for key, inner in value.items():
            known = isinstance(key, (str, int, float, bool, type(None)))
            yield from _not_in_json(inner, join(path, key)) if known else [(join(path, key), type(key).__name__)]
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _not_in_json(inner, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"number without a value ({value})"
    elif not isinstance(value, (str, int, float, bool, type(None))):
        yield path, type(value).__name__


def _invalid(what: str, why: str) -> ConfigError:
    return ConfigError(what, why=why, remedy=STACK_REMEDY, code="stack-invalid")
