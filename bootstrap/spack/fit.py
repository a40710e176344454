"""Whether a lockfile is for this node.

Spack itself installs from any lockfile and checks nothing of this (run with 1.1.1): the first sign of a mismatch would
be a binary that does not start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..config.model import SpackConfig
from ..core.errors import ConfigError
from ..core.facts import External, Host
from .externals import Compiler
from .lockfile import Lockfile

Difference = tuple[str, str]
# Spack writes these externals into every lockfile; each has a rule of its own.
SYSTEM = frozenset({"gcc", "glibc"})


@dataclass(frozen=True)
class NodeProfile:
    """What a lockfile has to fit.

    Args:
        compiler: None if the node has none; that has an error of its own.
        specs: the specs of the configuration, in addition to the stack.
    """

    host: Host
    compiler: Compiler | None
    externals: tuple[External, ...]
    targets: tuple[str, ...]
    cuda: tuple[str, ...]
    spack: SpackConfig
    specs: tuple[str, ...]


def check_fit(lock: Lockfile, node: NodeProfile, name: str) -> None:
    """Refuses a lockfile that was made for something else.

    Raises:
        ConfigError: ``lockfile-unfit``, with everything that differs.
    """
    found = tuple(differences(lock, node))
    if not found:
        return
    only_target = {thing for thing, _ in found} == {"target"}
    raise ConfigError(
        f"the lockfile {name} does not fit {node.host.name}",
        found,
        remedy=(
            "petal-node lockfile --config FILE --output URI    # on this node: solves the same stack for it",
            *([f"or build for the lockfile's target: spack: {{target: {lock.targets[0]}}}"] if only_target else ()),
            "or name a spack.yaml as stack in the configuration, which is solved on the head node",
        ),
        code="lockfile-unfit",
    )


def differences(lock: Lockfile, node: NodeProfile) -> Iterator[Difference]:
    """Each thing that does not fit, in the order of causes, as ``(thing, lockfile and node)``."""
    yield from _spack(lock, node.spack)
    record, host = lock.record, node.host
    for os in sorted({spec.os for spec in lock.specs.values()} - {host.os}):
        yield _differ("os", os, host.os)
    libraries = {spec.version for spec in lock.externals() if spec.name == "glibc"}
    libraries |= {record.glibc} if record else set()
    for glibc in sorted(libraries - {host.glibc}):
        yield _differ("glibc", f"glibc {glibc}", f"glibc {host.glibc}")
    if node.compiler is not None:
        yield from _compiler(lock, node.compiler)
    for target in node.targets:
        if target not in lock.targets:
            yield _differ("target", " and ".join(lock.targets), target)
    used = {arch for spec in lock.built() for arch in spec.cuda}
    absent = sorted(set(node.cuda) - used, key=int)
    if used and absent:
        yield _differ("cuda_arch", ",".join(sorted(used)), f"GPUs of {','.join(absent)} too")
    yield from _externals(lock, node)
    known = {"".join(str(spec).split()) for spec in lock.environment.get("specs", ())}
    for text in node.specs:
        if "".join(text.split()) not in known:
            yield "spec", f"the configuration asks for {text}, and the lockfile was made without it"


def _differ(thing: str, wanted: str, found: str) -> Difference:
    return thing, f"the lockfile is for {wanted}, here it is {found}"


def _spack(lock: Lockfile, spack: SpackConfig) -> Iterator[Difference]:
    """The version; if both sides have checksums of Spack and of the recipes, those too."""
    if lock.spack != spack.version:
        yield _differ("spack", f"Spack {lock.spack}", f"spack.version {spack.version}")
    for thing, origin in {"spack.source": spack.origin, "spack.recipes": spack.recipes}.items():
        wanted = lock.record.sources.get(thing) if lock.record else None
        if wanted and origin and origin.sha256 and origin.sha256 != wanted:
            yield _differ(thing, f"sha256 {wanted[:12]}...", f"sha256 {origin.sha256[:12]}...")


def _compiler(lock: Lockfile, compiler: Compiler) -> Iterator[Difference]:
    wanted = {f"gcc@{spec.version}" for spec in lock.externals() if spec.name == "gcc"}
    wanted |= {spec.compiler.replace("-", "@", 1) for spec in lock.built() if spec.compiler}
    if lock.record:
        wanted.add(lock.record.compiler)
    for spec in sorted(wanted - {compiler.spec}):
        yield _differ("compiler", spec, compiler.spec)
    for language in lock.record.languages if lock.record else ():
        if language not in compiler.drivers:
            yield "compiler", f"the lockfile needs a compiler for {language}, and this node has none"


def _externals(lock: Lockfile, node: NodeProfile) -> Iterator[Difference]:
    """Those of the image must have the same version; those that the stack declares itself are not compared."""
    versions: dict[str, set[str]] = {}
    for text, _ in lock.record.externals if lock.record else ():
        versions[text.partition("@")[0]] = set()
    for external in node.externals:
        versions.setdefault(external.name, set()).add(external.spec.partition("@")[2].partition(" ")[0])
    for spec in lock.externals():
        if spec.name not in SYSTEM and spec.version not in versions.get(spec.name, {spec.version}):
            here = " and ".join(sorted(versions[spec.name])) or "missing"
            yield spec.name, f"the lockfile uses {spec.name}@{spec.version}, here it is {here}"
