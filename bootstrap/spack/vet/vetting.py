"""What is wrong with specs, told in seconds from the recipes alone, before anything is solved or built.

Only what is certain is a mistake: a package that nobody has, a version or a variant that its recipe cannot have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.errors import ConfigError, did_you_mean
from .recipes import NAMESPACE, Recipe, Repository
from .specs import Node, read_spec
from .versions import nearest, takes

SHOWN_PROVIDERS = 4
# Under these a language's packages stand in Spack; people leave them out.
PREFIXES = ("py-", "r-", "perl-", "netlib-")
# What others call something, and the package that Spack has it in: no likeness of letters finds these.
OTHER_NAMES = {
    "bonnie++": "bonniepp",
    "clang-format": "llvm",
    "lldb": "llvm",
    "perf": "linux-perf",
    "pnetcdf": "parallel-netcdf",
}


@dataclass(frozen=True)
class Asked:
    """One spec, and where it is written."""

    place: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What is wrong, each mistake with its place; and what is right and still worth a word."""

    mistakes: tuple[tuple[str, str], ...]
    advice: tuple[str, ...]

    def refuse(self) -> None:
        """Raises for mistakes.

        Raises:
            ConfigError: ``spec-unknown``.
        """
        if self.mistakes:
            number = len({place for place, _ in self.mistakes})
            what = "1 spec asks" if number == 1 else f"{number} specs ask"
            raise ConfigError(
                f"{what} for what Spack's recipes do not have",
                self.mistakes,
                why="\n".join(f"{place}: {said}" for place, said in self.mistakes),
                remedy=("correct the specs, then: petal-node plan --config FILE", *self.advice),
                code="spec-unknown",
            )


@dataclass(frozen=True)
class Vetting:
    """Judges specs.

    Args:
        elsewhere: versions that packages have although no recipe says so: what the system carries.
    """

    repository: Repository
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def judge(self, specs: Iterable[Asked]) -> Verdict:
        """All mistakes of all specs, each taken by itself."""
        mistakes: list[tuple[str, str]] = []
        advice: list[str] = []
        for asked in specs:
            nodes = _nodes(asked.text)
            mistakes += [(asked.place, said) for node in nodes for said in self._mistakes(node)]
            advice += self._advice(nodes[0]) if nodes else []
        return Verdict(tuple(mistakes), tuple(dict.fromkeys(advice)))

    def judge_stack(self, specs: Iterable[Asked]) -> Verdict:
        """Also those that exclude each other: a stack is solved as one environment (``unify: true``)."""
        asked = tuple(specs)
        verdict = self.judge(asked)
        return replace(verdict, mistakes=(*verdict.mistakes, *self._excluded(asked)))

    def _mistakes(self, node: Node) -> Iterator[str]:
        recipe = self.repository.recipe(node.name)
        if recipe is not None:
            yield from self._wrong_version(node, recipe)
            yield from _wrong_variants(node, recipe)
        elif node.name not in self.repository.virtuals:
            yield f"there is no package {node.name}{self._like(node.name)}"

    def _excluded(self, specs: Iterable[Asked]) -> Iterator[tuple[str, str]]:
        """Where a package is asked for again, in no version that suits what was asked of it before."""
        before: dict[str, list[Node]] = {}
        for asked in specs:
            for root in _nodes(asked.text)[:1]:
                others = before.setdefault(root.name, [])
                other = next((other for other in others if self._exclude(root, other)), None)
                if other is not None:
                    yield asked.place, f"{_written(root)} cannot stand beside {_written(other)} in one stack"
                others.append(root)

    def _exclude(self, one: Node, other: Node) -> bool:
        mine, theirs = self._fitting(one), self._fitting(other)
        return bool(mine and theirs) and not mine & theirs

    def _fitting(self, node: Node) -> frozenset[str]:
        """The versions that a constraint takes; none where they are not known."""
        recipe = self.repository.recipe(node.name)
        known = [*recipe.versions, *self.elsewhere.get(node.name, ())] if recipe and recipe.versions_known else []
        return frozenset(version for version in known if takes(node.version or ":", version))

    def _like(self, name: str) -> str:
        choices = (OTHER_NAMES.get(name, ""), *(prefix + name for prefix in PREFIXES))
        found = next((choice for choice in choices if choice in self.repository.names), None)
        known = [found] if found else sorted({*self.repository.names, *self.repository.virtuals})
        return did_you_mean(found or name, known)

    def _wrong_version(self, node: Node, recipe: Recipe) -> Iterator[str]:
        others = self.elsewhere.get(node.name, ())
        known = [*recipe.versions, *others]
        if not node.version or not recipe.versions or not recipe.versions_known:
            return
        if node.version.startswith("=") and not recipe.fetches:
            return
        fitting = [version for version in known if takes(node.version, version)]
        if not fitting:
            yield f"{node.name} has no version {node.version.lstrip('=')}{_near(node, recipe)}"
        elif all(recipe.versions.get(version) and version not in others for version in fitting):
            yield f"{node.name} {fitting[0]} is deprecated, and Spack does not take it{_near(node, recipe)}"

    def _advice(self, root: Node) -> list[str]:
        """Spack takes a virtual package too, and then chooses itself."""
        if root.name in self.repository.names or root.name not in self.repository.virtuals:
            return []
        providers = self.repository.virtuals[root.name]
        more = ", ..." if len(providers) > SHOWN_PROVIDERS else ""
        names = ", ".join(sorted(providers, key=lambda name: (root.name not in name, name))[:SHOWN_PROVIDERS])
        return [f"{root.name} is what {names}{more} provide, and Spack would choose: name one"]


def expanded(place: str, specs: Iterable[Any], definitions: Iterable[Any] = ()) -> Iterator[Asked]:
    """The specs of a spack.yaml with the lists of its ``definitions`` that they name; a matrix is passed over."""
    lists: dict[str, list[Any]] = {}
    for definition in definitions:
        for name, items in definition.items() if isinstance(definition, dict) else ():
            lists.setdefault(str(name), []).extend(items if isinstance(items, list) and name != "when" else [])
    for number, spec in enumerate(specs):
        if isinstance(spec, str) and spec.startswith("$"):
            named = lists.pop(spec[1:], [])  # each list once, so that two that name each other come to an end
            yield from expanded(f"{place}: definitions {spec[1:]}", named, [lists])
        elif isinstance(spec, str):
            yield Asked(f"{place}[{number}]", spec)


def _in_our_namespace(node: Node) -> Node | None:
    """With its bare name; None in another namespace, whose recipes are not read here."""
    namespace, _, name = node.name.rpartition(".")
    return Node(name, node.version, node.variants) if namespace in ("", NAMESPACE) else None


def _nodes(text: str) -> list[Node]:
    """The packages of a spec whose recipes are read here; a name as ``bonnie++`` is none that Spack could read."""
    name = text.partition("@")[0].strip()
    if name.endswith("++") and name in OTHER_NAMES:
        return [Node(name)]
    return [node for node in map(_in_our_namespace, read_spec(text)) if node]


def _written(node: Node) -> str:
    return f"{node.name}@{node.version}"


def _wrong_variants(node: Node, recipe: Recipe) -> Iterator[str]:
    if recipe.variants_known:
        for variant in dict.fromkeys(node.variants):
            if variant not in recipe.variants:
                yield f"{node.name} has no variant {variant}{did_you_mean(variant, sorted(recipe.variants))}"


def _near(node: Node, recipe: Recipe) -> str:
    usable = [version for version, deprecated in recipe.versions.items() if not deprecated]
    found = [f"{node.name}@{version}" for version in nearest(node.version, usable)]
    return f" (near it: {', '.join(found)})" if found else ""
