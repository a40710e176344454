"""Whether a lockfile is for this node: every thing that differs, what the lockfile has and what is here.

Spack itself installs from any lockfile and checks nothing of this (run with 1.1.1): binaries that do not start, or
a compiler that is not there, would be the first to say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..config.model import SpackConfig
from ..core.errors import ConfigError
from ..core.facts import External, Host
from .compiler import Compiler
from .lockfile import FORMATS, Lockfile, Node, Record, asked_beside

Difference = tuple[str, str]
SHOWN = 12
# Written down of Spack's own in every lockfile; the compiler has a rule of its own.
SYSTEMS = frozenset({"gcc", "glibc"})


@dataclass(frozen=True)
class Here:
    """What a lockfile has to fit.

    Args:
        compiler: None where there is none; that has an error of its own.
        specs: what the configuration asks for beside the stack.
        exists: whether a directory of the node is there.
    """

    host: Host
    compiler: Compiler | None
    externals: tuple[External, ...]
    targets: tuple[str, ...]
    cuda: tuple[str, ...]
    spack: SpackConfig
    specs: tuple[str, ...]
    exists: Callable[[str], bool]


def check_fit(lock: Lockfile, here: Here, name: str) -> None:
    """Refuses a lockfile that was made for something else.

    Raises:
        ConfigError: ``lock-unfit``, with everything that differs.
    """
    found = tuple(differences(lock, here))
    if found:
        shown = found[:SHOWN] + ((("...", f"and {len(found) - SHOWN} more"),) if found[SHOWN:] else ())
        raise ConfigError(
            f"the lockfile {name} does not fit {here.host.name}",
            shown,
            remedy=(
                "petal-node lockfile --config FILE --output URI    (on this node: solves the same stack for it)",
                *(
                    [f"or build for what it is for: spack: {{target: {lock.targets[0]}}}"]
                    if _only_target(found)
                    else ()
                ),
                "or name a spack.yaml as stack in the configuration, which is solved on the head node",
            ),
            code="lock-unfit",
        )


def _only_target(found: Iterable[Difference]) -> bool:
    return {thing for thing, _ in found} == {"target"}


def differences(lock: Lockfile, here: Here) -> Iterator[Difference]:
    """Each thing that does not fit, in the order of causes, as ``(thing, lockfile and node)``."""
    yield from _spack(lock, here.spack)
    yield from _system(lock, here.host)
    if here.compiler is not None:
        yield from _compiler(lock, here.compiler)
    yield from _targets(lock, here)
    yield from _externals(lock, here)
    for spec in asked_beside((*lock.specs, *map(str, lock.environment.get("specs", ()))), here.specs):
        yield "spec", f"the configuration asks for {spec}, and the lockfile was made without it"


def _differ(thing: str, wanted: str, found: str) -> Difference:
    return thing, f"the lockfile is for {wanted}, here it is {found}"


def _spack(lock: Lockfile, spack: SpackConfig) -> Iterator[Difference]:
    """The version; where both sides have checksums of Spack and of the recipes, those too."""
    if lock.spack is not None and lock.spack != spack.version:
        yield _differ("spack", f"Spack {lock.spack}", f"spack.version {spack.version}")
    elif lock.format != FORMATS[spack.family]:
        yield _differ("spack", f"lockfile format {lock.format}", f"Spack {spack.version} with {FORMATS[spack.family]}")
    origins = {"spack.source": spack.origin, "spack.recipes": spack.recipes}
    for thing, origin in origins.items():
        wanted = lock.record.sources.get(thing) if lock.record else None
        if wanted and origin and origin.sha256 and origin.sha256 != wanted:
            yield _differ(thing, f"sha256 {wanted[:12]}...", f"sha256 {origin.sha256[:12]}...")


def _system(lock: Lockfile, host: Host) -> Iterator[Difference]:
    for os in sorted({node.os for node in lock.nodes.values()} - {host.os}):
        yield _differ("os", os, host.os)
    libraries = {node.version for node in lock.externals() if node.name == "glibc"}
    if lock.record:
        libraries.add(lock.record.glibc)
    for glibc in sorted(libraries - {host.glibc}):
        yield _differ("glibc", f"glibc {glibc}", f"glibc {host.glibc}")


def _compiler(lock: Lockfile, compiler: Compiler) -> Iterator[Difference]:
    """Its version, and that each driver lies where the lockfile says: Spack calls it by that path."""
    wanted = {f"gcc@{node.version}" for node in _gccs(lock)}
    wanted |= {node.compiler for node in lock.built() if node.compiler}
    if lock.record:
        wanted.add(lock.record.compiler)
    for spec in sorted(wanted - {compiler.spec}):
        yield _differ("compiler", spec, compiler.spec)
    languages = {name: path for node in _gccs(lock) for name, path in node.compilers.items()}
    recorded = dict.fromkeys(lock.record.languages, "") if lock.record else {}
    for language, path in {**recorded, **languages}.items():
        yield from _driver(language, path, compiler)


def _gccs(lock: Lockfile) -> list[Node]:
    return [node for node in lock.externals() if node.name == "gcc"]


def _driver(language: str, path: str, compiler: Compiler) -> Iterator[Difference]:
    has = compiler.drivers.get(language)
    if has is None:
        yield "compiler", f"the lockfile needs a compiler for {language}, and there is none here"
    elif path and path != has:
        yield _differ("compiler", f"{path} for {language}", has)


def _targets(lock: Lockfile, here: Here) -> Iterator[Difference]:
    for target in here.targets:
        if target not in lock.targets:
            yield "target", f"the lockfile is for {' and '.join(lock.targets)}, this cluster builds for {target}"
    used = {arch for node in lock.built() for arch in node.cuda}
    absent = sorted(set(here.cuda) - used, key=int)
    if used and absent:
        yield _differ("cuda_arch", ",".join(sorted(used)), f"GPUs of {','.join(absent)} too")


def _externals(lock: Lockfile, here: Here) -> Iterator[Difference]:
    """All that is not built must be here as it was there; and what the node carries for good must not be built."""
    recorded = _recorded(lock.record)
    for node in lock.externals():
        if node.name not in SYSTEMS:
            yield from _external(node, recorded.get(node.name, ()), here)
    if lock.record:
        built = {node.name for node in lock.built()}
        for external in here.externals:
            if not external.buildable and external.name in built:
                yield external.name, f"the lockfile builds it, here {external.spec} is at {external.place}"


def _recorded(record: Record | None) -> Mapping[str, tuple[str, ...]]:
    """What petal-node found when the lockfile was made, by package."""
    found: dict[str, tuple[str, ...]] = {}
    for spec, _ in record.externals if record else ():
        name = spec.partition("@")[0]
        found[name] = (*found.get(name, ()), spec)
    return found


def _external(node: Node, recorded: tuple[str, ...], here: Here) -> Iterator[Difference]:
    mine = [external for external in here.externals if external.name == node.name]
    theirs = [spec for spec in recorded if _version(spec) == node.version]
    wanted = f"{theirs[0] if theirs else f'{node.name}@{node.version}'} at {node.external}"
    if not mine and not recorded:  # the stack's own: Spack takes its word for it, and so do we
        if not here.exists(node.external or ""):
            yield node.name, f"the lockfile uses {wanted}, which is not here"
        return
    for external in mine:
        same = external.spec == theirs[0] if theirs else _version(external.spec) == node.version
        if same and str(external.prefix) == node.external:
            return
    found = " and ".join(f"{external.spec} at {external.prefix}" for external in mine)
    yield node.name, f"the lockfile uses {wanted}, here {f'it is {found}' if found else 'it is not'}"


def _version(spec: str) -> str:
    return spec.partition("@")[2].partition(" ")[0]
