"""Which versions a constraint such as ``1.2``, ``1.2:1.4`` or ``=1.2`` takes, as Spack orders versions. Pure.

The rules are those of lib/spack/spack/version/version_types.py in 0.23.0 and 1.1.1: digits and letters are components,
letters stand before digits, branch names such as ``develop`` behind them, ``1.2rc1`` before ``1.2``; a constraint
without ``=`` takes everything that begins with it, and so does the end of a range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Union

BRANCHES = ("stable", "nightly", "trunk", "head", "master", "main", "develop")
PRERELEASES = ("alpha", "beta", "rc")
FINAL = (len(PRERELEASES),)
PART = re.compile(r"([0-9]+)|([a-zA-Z]+)")
GIT = re.compile(r"git\.|[0-9A-Fa-f]{40}\Z|.+=")  # a branch, tag or commit: only git knows whether it is there

Part = tuple[int, Union[int, str]]
Key = tuple[tuple[Part, ...], tuple[int, ...]]


def key(version: str) -> Key:
    """What versions are ordered by; separators do not count."""
    parts = [_part(digits, letters) for digits, letters in PART.findall(version)]
    names = [str(value) if kind == 0 else "" for kind, value in parts]
    if len(parts) >= 3 and names[-2] in PRERELEASES and parts[-1][0] == 1:
        return tuple(parts[:-2]), (PRERELEASES.index(names[-2]), int(parts[-1][1]))
    if len(parts) >= 2 and names[-1] in PRERELEASES:
        return tuple(parts[:-1]), (PRERELEASES.index(names[-1]),)
    return tuple(parts), FINAL


def takes(constraint: str, version: str) -> bool:
    """True when the version fits one item of the constraint, or when only git could tell."""
    return any(_takes(item.strip(), version) for item in constraint.split(","))


def nearest(wanted: str, versions: Iterable[str]) -> tuple[str, ...]:
    """The versions next to the wanted one, below and above it, then the newest; branches are none of them."""
    numbered = sorted({version for version in versions if not _is_branch(version)}, key=key)
    start = re.split(r"[:,]", wanted.lstrip("=:"))[0]
    above = [version for version in numbered if key(version) > key(start)]
    below = numbered[: len(numbered) - len(above)]
    return tuple(dict.fromkeys([*below[-1:], *above[:1], *numbered[-1:]]))


def _part(digits: str, letters: str) -> Part:
    if digits:
        return 1, int(digits)
    return (2, BRANCHES.index(letters)) if letters in BRANCHES else (0, letters)


def _is_branch(version: str) -> bool:
    return any(kind == 2 for kind, _ in key(version)[0])


def _takes(item: str, version: str) -> bool:
    exact = item.startswith("=")
    if GIT.match(version) or GIT.match(item.lstrip("=")):
        return True
    if exact:
        return key(item) == key(version)
    low, colon, high = item.partition(":")
    high = high if colon else low
    return (not low or key(low) <= key(version)) and (not high or key(version) < _next(key(high)))


def _next(of: Key) -> Key:
    """The first key behind everything that begins with ``of``."""
    release, prerelease = of
    if prerelease != FINAL:
        number = prerelease[1] + 1 if len(prerelease) > 1 else 0
        return release, (prerelease[0], number)
    if not release:
        return ((0, "A"),), FINAL
    return (*release[:-1], _next_part(release[-1])), FINAL


def _next_part(part: Part) -> Part:
    kind, value = part
    if isinstance(value, int):
        return kind, value + 1
    return kind, value[:-1] + chr(ord(value[-1]) + 1)
