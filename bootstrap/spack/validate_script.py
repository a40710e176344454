"""Checks the specs of the active environment against Spack's recipes, without solving anything.

``spack -e ENVIRONMENT python validate_script.py OUTPUT`` runs this with Spack 0.23, 1.1 and 1.2; petal-node never
imports it. Spack parses the specs and expands definitions, matrices and toolchains. OUTPUT gets a JSON object:

    problems: [[index of the entry in ``specs``, message], ...]
    advice: [message, ...] for specs that are right, and leave a choice to Spack
"""

from __future__ import annotations

import bisect
import copy
import difflib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import spack.config
import spack.environment
import spack.error
import spack.repo
import spack.spec
import spack.variant
import spack.version

PREFIXES = ("py-", "r-", "perl-", "netlib-")  # of packages that people often name without it
# Names that projects are known by, and the package that has them in Spack. Similar spelling does not find these.
OTHER_NAMES = {
    "bonnie++": "bonniepp",
    "clang-format": "llvm",
    "lldb": "llvm",
    "perf": "linux-perf",
    "pnetcdf": "parallel-netcdf",
}
# May be set on every package (variant.py; the name changed in 1.0).
RESERVED = getattr(spack.variant, "RESERVED_NAMES", None) or spack.variant.reserved_names
# A spec that cannot be parsed raises an error that is not a SpackError.
ERRORS = (spack.error.SpackError, spack.error.SpecSyntaxError)
SHOWN_PROVIDERS = 4


def near(word: str, names: Iterable[str]) -> str:
    """``, did you mean 'x' or 'y'?`` with at most three names, or an empty string."""
    close = [f"'{name}'" for name in difflib.get_close_matches(word, names, n=3)]
    return f", did you mean {' or '.join(close)}?" if close else ""


def unknown_package(name: str) -> str:
    """The message for a name that is neither a package nor a virtual package."""
    names = set(spack.repo.PATH.all_package_names(include_virtuals=True))
    for choice in (OTHER_NAMES.get(name), *(prefix + name for prefix in PREFIXES)):
        if choice in names:
            return f"there is no package {name}, did you mean '{choice}'?"
    return f"there is no package {name}{near(name, sorted(names))}"


def recipe_of(node: Any) -> Any:
    """The class of a package, None for a virtual or unknown one."""
    if not spack.repo.PATH.exists(node.name):
        return None
    recipe = spack.repo.PATH.get_pkg_class(node.fullname)
    return None if recipe.virtual else recipe


def version_problem(node: Any, recipe: Any) -> str | None:
    """Why no version fits, by the rules of input_spec_version_check in solver/asp.py; None if one does."""
    if of_git(node) or (node.versions.concrete and not recipe.has_code):  # Spack takes them without a checksum
        return None
    section = spack.config.get("packages").get(node.name, {})
    configured = [external["spec"] for external in section.get("externals", ())]
    configured += [f"{node.name}@{version}" for version in section.get("version", ())]
    specs = [spack.spec.Spec(text) for text in configured]
    if not recipe.versions or any(
        s.name == node.name and (of_git(s) or s.versions.intersects(node.versions)) for s in specs
    ):
        return None
    fitting = [version for version in recipe.versions if version.satisfies(node.versions)]
    usable = [version for version, details in recipe.versions.items() if not details.get("deprecated")]
    if any(version in usable for version in fitting) or (fitting and spack.config.get("config:deprecated")):
        return None
    numbered = sorted(version for version in usable if not version.isdevelop())
    lowest = node.versions[0]
    place = bisect.bisect_left(numbered, getattr(lowest, "lo", lowest))
    choices = dict.fromkeys([*numbered[max(place - 1, 0) : place], *numbered[place : place + 1], *numbered[-1:]])
    close = f" (near it: {', '.join(f'{node.name}@{version}' for version in choices)})" if choices else ""
    if fitting:
        return f"{node.name} {fitting[0]} is deprecated, and Spack does not take it{close}"
    return f"{node.name} has no version {str(node.versions).lstrip('=')}{close}"


def node_problems(node: Any) -> Iterator[str]:
    """The mistakes of one package of a spec."""
    if not node.name or node.abstract_hash or node.concrete:
        return
    recipe = recipe_of(node)
    if recipe is None:
        if not spack.repo.PATH.is_virtual(node.name):
            yield unknown_package(node.name)
        return
    problem = version_problem(node, recipe)
    if problem:
        yield problem
    known = sorted({*recipe.variant_names(), *RESERVED})
    for name, variant in node.variants.items():
        if name not in known and not variant.propagate:
            yield f"{node.name} has no variant {name}{near(name, known)}"


def edge_problems(edge: Any) -> Iterator[str]:
    """The virtual packages that a dependency is to provide (``^[virtuals=mpi] openmpi``) and does not."""
    recipe = recipe_of(edge.spec) if edge.spec.name else None
    if recipe is None:
        return
    for virtual in edge.virtuals:
        if virtual not in recipe.provided_virtual_names():
            if spack.repo.PATH.is_virtual(virtual):
                yield f"{edge.spec.name} does not provide {virtual}, which is provided by {providers_of(virtual)}"
            else:
                virtuals = sorted(spack.repo.PATH.provider_index.providers)
                yield f"there is no virtual package {virtual}{near(virtual, virtuals)}"


def providers_of(virtual: str) -> str:
    """The packages that provide a virtual package, those with its name in theirs first; a few of many."""
    providers = {provider.name for provider in spack.repo.PATH.providers_for(spack.spec.Spec(virtual))}
    names = sorted(providers, key=lambda name: (virtual not in name, name))
    return ", ".join(names[:SHOWN_PROVIDERS]) + (", ..." if len(names) > SHOWN_PROVIDERS else "")


def problems_of(spec: Any) -> list[str]:
    """Every mistake of one spec."""
    edges = list(spec.traverse_edges(root=True))
    # A toolchain's edges have a condition, and count only if it holds.
    edges = [edge for edge in edges if getattr(edge, "when", None) in (None, spack.spec.Spec())]
    nodes = {id(edge.spec): edge.spec for edge in edges}.values()
    found = [problem for node in nodes for problem in node_problems(node)]
    return found + [problem for edge in edges for problem in edge_problems(edge)]


def expanded(environment: Any, speclist: Any, entry: Any) -> list[Any]:
    """The entry of a list with the named lists in it replaced, as Spack does that."""
    parser = getattr(environment, "_spec_lists_parser", None)
    items = speclist._expand_references([entry]) if parser is None else parser._expand_yaml_list([entry])
    return list(items)


def parsed(speclist: Any, entry: Any) -> list[Any]:
    """The specs of one expanded entry; a matrix has several, or none."""
    part = copy.copy(speclist)
    part._constraints = part._specs = None
    if isinstance(getattr(type(speclist), "specs_as_yaml_list", None), property):
        part._expanded_list = [entry]  # 0.23
    else:
        part.specs_as_yaml_list = [entry]
    return list(part.specs)


def check_entry(environment: Any, speclist: Any, entry: Any) -> tuple[list[Any], list[str]]:
    """The specs and the mistakes of one entry of ``specs``."""
    specs: list[Any] = []
    problems: list[str] = []
    try:
        items = expanded(environment, speclist, entry)
    except ERRORS as error:
        return [], [first_line(entry, error)]
    for item in items:
        name = str(item).partition("@")[0].strip()
        if name in OTHER_NAMES and name.endswith("++"):  # which Spack cannot parse
            problems.append(unknown_package(name))
            continue
        try:
            members = parsed(speclist, item)
            problems += [problem for spec in members for problem in problems_of(spec)]
            specs += members
        except ERRORS as error:
            problems += (isinstance(item, dict) and matrix_problems(item)) or [first_line(item, error)]
    return specs, list(dict.fromkeys(problems))


def matrix_problems(matrix: dict[str, Any]) -> list[str]:
    """The mistakes of a matrix that Spack cannot expand, because a package or variant is unknown."""
    found: list[str] = []
    for texts in itertools.product(*matrix["matrix"]):
        text = " ".join(str(text) for text in texts)
        try:
            found += problems_of(spack.spec.Spec(text))
        except ERRORS as error:
            found.append(first_line(text, error))
    return found


def first_line(text: object, error: Exception) -> str:
    """Spack's message without the picture of where in the spec it is."""
    return f"{text}: {str(error).strip().splitlines()[0]}"


def exclusions(roots: list[tuple[int, Any]]) -> Iterator[tuple[int, str]]:
    """Specs that exclude an earlier one of the same package, because all are solved together."""
    for number, (index, spec) in enumerate(roots):
        for _, other in roots[:number]:
            # only git can compare a version of git's with others
            comparable = other.name == spec.name and not of_git(other) and not of_git(spec)
            if comparable and not spec.intersects(other, deps=False):
                yield index, f"{spec} and {other} exclude each other in one stack (concretizer: unify: true)"
                break


def of_git(spec: Any) -> bool:
    """True if a version of the spec is a commit, branch or tag: Spack would clone the repository to compare it."""
    return any(isinstance(version, spack.version.GitVersion) for version in spec.versions)


def advice(spec: Any) -> list[str]:
    """A virtual package is right, and leaves the choice to Spack."""
    # The first question for a virtual package reads all recipes, so a name with a recipe of its own is not asked for.
    if not spec.name or recipe_of(spec) or not spack.repo.PATH.is_virtual(spec.name):
        return []
    return [f"{spec.name} is provided by {providers_of(spec.name)}, and Spack would choose: name one"]


def main(output: str) -> None:
    """Checks every list of specs; Spack 1.2 has one for each group."""
    environment = spack.environment.active_environment()
    problems: list[tuple[int, str]] = []
    notes: list[str] = []
    roots: list[tuple[int, Any]] = []
    index = 0
    for key, speclist in environment.spec_lists.items():
        if key != "specs" and not key.startswith("specs:"):
            continue
        for entry in speclist.yaml_list:
            specs, found = check_entry(environment, speclist, entry)
            problems += [(index, problem) for problem in found]
            if not found:
                roots += [(index, spec) for spec in specs]
                notes += [note for spec in specs for note in advice(spec)]
            index += 1
    problems += exclusions(roots)
    answer = {"problems": sorted(problems), "advice": list(dict.fromkeys(notes))}
    Path(output).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
