"""The configuration: its nouns, the rules of the file, and how it is read."""

from .nouns import (
    SPACK_VERSIONS,
    Check,
    Config,
    Install,
    Mirror,
    Modules,
    Origin,
    Package,
    Program,
    Software,
    Spack,
    Storage,
    Template,
)
from .read import from_mapping, parse, read_yaml
from .uris import problem_of

__all__ = [
    "SPACK_VERSIONS",
    "Check",
    "Config",
    "Install",
    "Mirror",
    "Modules",
    "Origin",
    "Package",
    "Program",
    "Software",
    "Spack",
    "Storage",
    "Template",
    "from_mapping",
    "parse",
    "problem_of",
    "read_yaml",
]
