"""Makes the ``Context`` of a run from its options: the node, its configuration, and its desired release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ..cluster import detect
from ..cluster.targets import BuildTargets
from ..config.model import LMOD_SPEC, Config, SpackConfig
from ..core.deadlines import DOCUMENT, LOOK, PROBE
from ..core.errors import ConfigError, FetchError, PetalError, Problem, ReleaseError, SpackError, UsageError
from ..core.facts import External, Facts
from ..core.model import Mode, Role
from ..core.options import BOOT, Options
from ..core.paths import Paths
from ..core.text import count
from ..host import systemd
from ..host.atomic import scratch_dir
from ..lmod.bundle import names_lmod
from ..lmod.find import image_lmod
from ..modules import templates
from ..spack import environments
from ..spack.externals import find_compiler, find_externals, unconfigured
from ..spack.scope import scope_digest_inputs
from ..state.context import Context, Services
from ..state.desired import DesiredState
from ..state.release import build_targets_of, check_queue, release_id
from ..state.request import kept_request, kept_role
from ..state.store import KnownStorage
from ..steps.base import Step
from ..steps.module_tree import ModuleTree
from ..steps.packages import Packages
from .configuration import desired_state_on, find_desired_state, mount_in, read_config, restore_desired_state
from .handover import hand_over
from .inputs import is_mistake, look_up
from .registry import STEPS

# Errors of the node, not mistakes of the configuration: the step that needs the input fails, and other steps go on.
OF_THE_NODE = frozenset({"fetch-region", "fetch-no-credentials", "fetch-forbidden", "fetch-refused"})


def prepare(options: Options, services: Services, *, follow: bool = False, may_hand_over: bool = False) -> Context:
    """The context of a run on a node, in a tree, or on a machine that becomes an image.

    On compute and login nodes the desired state counts before ``--config``, because an update of the cluster cannot
    change the arguments of their hooks. On the head node a hook or an operator sets the desired state; a run after a
    boot follows it.

    Args:
        follow: use the desired state and never change it, for commands that only read.
        may_hand_over: if the cluster should have another version of petal-node, that version replaces this process.

    Raises:
        PetalError: a value that the run needs is unknown.
        ReleaseError: as for ``restore_desired_state``, unless ``follow`` is given.
    """
    _take_environment(options)
    if options.layout is not None:
        return _prepare_image(options, services)
    facts = detect.gather(options.paths, services.system, options.role or kept_role(options))
    role = detect.role_of(facts)
    problems: dict[str, PetalError] = {}
    lost: list[PetalError] = []
    decides = role is Role.HEAD and _sets_desired_state(options, follow=follow)
    desired = None if decides else find_desired_state(options.root, facts, services.system, problems)
    if desired is None and role is Role.HEAD and not decides:
        try:
            desired = restore_desired_state(options.root, facts, services, problems)
        except ReleaseError as error:
            if not follow:
                raise
            lost.append(error)
    if may_hand_over and (role is not Role.HEAD or options.event == BOOT):
        hand_over(desired, services.tool, Paths(options.root, mount_in(desired)), services.system)
    errors = (*problems.values(), *lost)
    try:
        config = read_config(options, facts, desired, services.system, errors, follow=follow)
    except ConfigError as error:
        mistakes: dict[str, PetalError] = {"": error}
        if options.command == "plan" and error.stack is not None:  # its file may have mistakes too
            uri, checksum, place = error.stack
            known = Config(uri, checksum, spack=SpackConfig(specs=("any",)), places={"stack": place})
            with _collected(mistakes, "stack"):
                environments.load(known, Paths(options.root).scratch, facts.cluster.region, LOOK)
            raise _joined(mistakes, options, known) from error
        raise
    ctx = Context(
        options,
        services,
        Paths(options.root, config.storage.mount),
        facts,
        role,
        config,
        release=desired.release if desired else None,
        environment=desired.environment if desired else {},
        build_targets=BuildTargets(desired.targets, desired.cuda) if desired and desired.targets else None,
        sets_desired_state=decides,
        resumes_pending=decides and (options.event == BOOT or not options.config),
    )
    return _with_release(ctx, desired) if role is Role.HEAD and not (follow and desired) else ctx


def prepare_lockfile(options: Options, services: Services) -> Context:
    """The context of a solve, as an install on a head node of the same kind of machine would have it.

    It needs neither a role nor shared storage; the desired state is read only without ``--config``. Spack is
    installed on the disk of this machine, as for an image.

    Raises:
        PetalError: a value that the solve needs is unknown.
    """
    _take_environment(options)
    facts = detect.gather(options.paths, services.system, Role.HEAD)
    problems: dict[str, PetalError] = {}
    desired = None
    if options.config is None:
        desired = find_desired_state(options.root, facts, services.system, problems)
    config = read_config(options, facts, desired, services.system, tuple(problems.values()))
    paths = Paths(options.root, config.storage.mount)
    local = replace(config, layout=config.layout if config.spack_in_image else "hybrid")
    return _with_release(Context(options, services, paths, facts, Role.HEAD, local), None)


def prepare_without_config(options: Options, services: Services) -> Context:
    """The context for steps that need no configuration: petal-node itself, and the unit that repeats a run.

    Raises:
        PetalError: ``facts-role``, the role of this node is not known.
    """
    facts = detect.gather(options.paths, services.system, options.role or kept_role(options))
    known = KnownStorage.load(options.paths)
    paths = Paths(options.root, known.mount) if known else options.paths
    return Context(options, services, paths, facts, detect.role_of(facts), Config())


def _prepare_image(options: Options, services: Services) -> Context:
    """The context of a head node without a cluster, for a machine that becomes an image.

    Raises:
        UsageError: the machine is a node of a cluster.
    """
    role = detect.read_cluster(options.paths).role if options.paths.live else None
    if role is not None:
        what = f"--layout builds a machine image, but this is the {role.value} node of a cluster"
        raise UsageError(what, remedy=f"set the layout in the configuration: layout: {options.layout}")
    facts = detect.gather(options.paths, services.system, Role.HEAD)
    config = replace(read_config(options, facts, None, services.system, []), layout=str(options.layout))
    paths = Paths(options.root, config.storage.mount)
    ctx = Context(options, services, paths, facts, Role.HEAD, config, sets_desired_state=True)
    return _with_release(ctx, None)


def _take_environment(options: Options) -> None:
    """A command that an operator types reaches servers as the last hook did."""
    if options.paths.live:
        systemd.take_environment()


def _sets_desired_state(options: Options, *, follow: bool) -> bool:
    """True if this run on the head node decides the desired state of the cluster.

    An operator's ``--config``, an update's hook and the first OnNodeConfigured decide. A repeated OnNodeConfigured has
    old arguments, so the desired state counts. A hook's decision that was not recorded, because the hook was killed or
    shared storage came late, is recorded by the next run.
    """
    kept = kept_request(options.paths)
    if options.event == BOOT or not options.config:
        return not follow and kept.pending
    return options.event != "configured" or not kept.configured


def _with_release(ctx: Context, desired: DesiredState | None) -> Context:
    """The context with the release of this configuration and this petal-node; a known stack is not read again."""
    errors: dict[str, PetalError] = {}
    uses_spack, environment, build_targets = ctx.config.uses_spack, ctx.environment, None
    if not desired:
        with _collected(errors, "stack"):
            environment = _environment(ctx)
    externals = unconfigured(find_externals(ctx.paths, ctx.system) if uses_spack else (), environment, ctx.config.specs)
    facts = detect.with_queues(ctx.facts, ctx.paths) if uses_spack and ctx.config.root_is_shared else ctx.facts
    if ctx.sets_desired_state and ctx.mode is not Mode.IMAGE:
        with _collected(errors, "install.queue"):
            check_queue(ctx.config, facts.cluster.queues)
    with _collected(errors, "spack.target"):
        build_targets = choose_targets(ctx.config, facts, desired)
    ctx = replace(ctx, facts=facts, environment=environment, build_targets=build_targets, externals=externals)
    asked: list[Step] = []
    if errors and ctx.options.command == "plan":
        asked = [step for step in STEPS if "stack" not in errors or not isinstance(step, ModuleTree)]
    elif ctx.sets_desired_state and ctx.options.command == "bootstrap" and ctx.mode is not Mode.IMAGE:
        asked = [Packages()]  # all wrong ones at once, before other nodes get this configuration
    ignored = OF_THE_NODE if ctx.options.command == "bootstrap" else frozenset()
    for (_, key), answer in look_up(asked, replace(ctx, release=ctx.release or "unknown")).items():
        if isinstance(answer, PetalError) and is_mistake(answer, ctx) and answer.code not in ignored:
            problem = Problem(key, str(answer), ctx.config.places.get(key, ""))
            what = f"{ctx.options.config or 'the configuration'} has 1 mistake"
            errors[key] = ConfigError(what, [problem], remedy=answer.remedy, code=answer.code)
    if errors:
        raise _joined(errors, ctx.options, ctx.config)
    inputs = {**environment, "system": _scope_inputs(ctx, externals)}
    return replace(ctx, release=release_id(ctx.config, facts.host, inputs, templates.digest(), build_targets))


@contextmanager
def _collected(errors: dict[str, PetalError], key: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, FetchError) as error:
        errors[key] = error


def _joined(errors: Mapping[str, PetalError], options: Options, config: Config) -> PetalError:
    """All mistakes as one error, each with its line. ``errors`` are by the keys of the configuration."""
    first = next(iter(errors.values()))
    if len(errors) == 1:
        return first
    problems: list[Problem] = []
    for key, error in errors.items():
        own = error.problems if isinstance(error, ConfigError) else ()
        problems += own or [Problem(key, str(error), config.places.get(key, ""))]
    what = f"{options.config or 'the configuration'} has {count(len(problems), 'mistake')}"
    remedy = dict.fromkeys(line for error in errors.values() for line in error.remedy)
    return ConfigError(what, problems, remedy=remedy, code=first.code)


def choose_targets(config: Config, facts: Facts, desired: DesiredState | None) -> BuildTargets:
    """The CPU targets of the release. If cluster-config.yaml cannot be read now, the earlier choice stays."""
    queues_unknown = config.root_is_shared and not facts.cluster.queues
    if config.uses_spack and queues_unknown and desired is not None and desired.targets:
        return BuildTargets(desired.targets, desired.cuda)
    return build_targets_of(config, facts.cluster.queues, facts.host.machine)


def _scope_inputs(ctx: Context, externals: tuple[External, ...]) -> Mapping[str, object]:
    if not ctx.config.uses_spack:
        return {}
    try:
        compiler = find_compiler(ctx.system)
    except SpackError:  # the step of the stack reports it; the other steps continue
        compiler = None
    return scope_digest_inputs(compiler, externals)


def _environment(ctx: Context) -> Mapping[str, object]:
    """The stack's spack.yaml, with an Lmod of its own if the nodes need one."""
    if not ctx.config.uses_spack:
        return {}
    scratch = scratch_dir(ctx.paths.scratch)
    region, seconds = ctx.facts.cluster.region, LOOK if ctx.options.command == "plan" else DOCUMENT
    environment = environments.load(ctx.config, scratch, region, seconds)
    specs = environment.get("specs", ())
    has_lmod = environments.LOCK in environment or names_lmod([*specs, *ctx.config.specs])
    return environment if has_lmod or not _needs_lmod(ctx) else {**environment, "specs": [*specs, LMOD_SPEC]}


def _needs_lmod(ctx: Context) -> bool:
    """True if the stack must build Lmod: by the configuration, or because the image of this machine has none.

    Once a release of the cluster contains Lmod, later releases do too, because nodes may depend on it, even if Lmod
    was installed on the head node later. An Lmod that does not report a version, on a busy machine, counts as usable.
    """
    if ctx.config.modules.lmod == "stack":
        return True
    lmod = image_lmod(ctx.system)
    return lmod is None or bool(lmod.version and lmod.problem) or _release_has_lmod(ctx)


def _release_has_lmod(ctx: Context) -> bool:
    if ctx.paths.live and ctx.facts.mount_of(ctx.paths.mount) is None:
        return False
    read = partial(desired_state_on, ctx.paths, ctx.facts)
    desired = ctx.system.try_storage(read, ctx.paths.shared_mount, PROBE)
    return desired is not None and LMOD_SPEC in desired.environment.get("specs", ())
