"""The stack's own Spack environment: a folder of ``spack_envs/``, or a URI of a spack.yaml or of a petal seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import resources
from .config import Config, read_yaml
from .errors import ConfigError, did_you_mean
from .fetch import Source, read

READ = frozenset({"specs", "packages", "definitions"})
OURS = frozenset({"view", "concretizer", "modules", "config", "mirrors", "repos", "compilers", "include"})


def load(config: Config, scratch: Path, region: str | None) -> Mapping[str, Any]:
    """What of the stack's spack.yaml counts: its specs, packages and definitions; empty for ``stack: none``.

    Raises:
        ConfigError: ``stack-unknown``, ``stack-invalid``.
        FetchError: its URI cannot be read.
    """
    if config.stack == "none":
        return {}
    if "/" in config.stack:
        return _checked(read(Source(config.stack, config.stack_sha256, region), scratch), config.stack)
    path = resources.path("spack_envs") / config.stack / "spack.yaml"
    if not path.is_file():
        known = sorted(item.parent.name for item in resources.path("spack_envs").glob("*/spack.yaml"))
        why = f"petal-node ships {', '.join(known) or 'none'}{did_you_mean(config.stack, known)}"
        remedy = "correct stack in the configuration"
        raise ConfigError(f"there is no stack {config.stack!r}", why=why, remedy=remedy, code="stack-unknown")
    return _checked(path.read_bytes(), str(path))


def _checked(data: bytes, name: str) -> Mapping[str, Any]:
    document = read_yaml(data, name)
    section = document.get("spack", _of_seed(document))
    if not isinstance(section, dict):
        raise _invalid(f"{name} is no Spack environment", "it has no section spack:")
    wrong = sorted(repr(key) for key in section if key not in READ | OURS)
    if wrong:
        raise _invalid(f"{name} has sections that petal-node does not read", ", ".join(wrong))
    specs = section.get("specs", [])
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise _invalid(f"{name} is no Spack environment", "specs must be a list of texts")
    read = {key: value for key, value in section.items() if key in READ}
    try:  # wanted.json carries it to the other nodes, so it is what JSON makes of it from the start
        carried: dict[str, Any] = json.loads(json.dumps(read, allow_nan=False))
    except (TypeError, ValueError) as error:
        why = f"YAML reads a value as more than text, number, list or mapping ({error}): put it in quotes"
        raise _invalid(f"{name} is no Spack environment", why) from error
    return carried


def _of_seed(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """A petal seed as an environment: it has a list of specs and nothing else that Spack reads."""
    software = document.get("software")
    return {"specs": software.get("spack_packages", [])} if isinstance(software, dict) else None


def _invalid(what: str, why: str) -> ConfigError:
    return ConfigError(what, why=why, remedy="correct the stack's spack.yaml", code="stack-invalid")
