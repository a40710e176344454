"""A node in a directory: everything that a step needs; ``FakeSystem`` emulates the programs of the node.

Real programs exercise the same contracts in tests/real (processes, locks, shells), tests/spack (Spack) and tests/lab
(mounts, systemd, Slurm).
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bootstrap.cluster.targets import BuildTargets
from bootstrap.config import load, model
from bootstrap.core.errors import PetalError, ProcessFailed
from bootstrap.core.facts import Cluster, External, Facts, Host, Mount, Queue, SharedDir
from bootstrap.core.model import Finding, NodeReport, Role, Severity, Tool
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.host.files import sha256_of
from bootstrap.host.system import Completed, System
from bootstrap.host.times import timestamp
from bootstrap.lmod.find import image_places
from bootstrap.modules import templates
from bootstrap.prove.fleet import report_line
from bootstrap.spack.externals import find_compiler, find_externals, unconfigured
from bootstrap.spack.scope import scope_digest_inputs
from bootstrap.state import release
from bootstrap.state.context import Context, Services

T = TypeVar("T")
PROGRAMS = ("gcc", "g++", "gfortran", "sinfo", "srun")
LMOD_VERSION = "Modules based on Lua: Version 8.6.19  2022-04-16"
HOST = Host("ip-10-0-0-10", "debian12", "2.36", "x86_64", "x86_64_v3", 2, 8 << 30, "boot-1")


class LivePaths(Paths):
    """A prefix that is treated as a running node, so that mounts, units and Slurm are part of the test."""

    @property
    def live(self) -> bool:
        return True


def hosts(text: str) -> list[str]:
    """The names of a hostlist with at most one bracket."""
    before, bracket, rest = text.partition("[")
    if not bracket:
        return text.split(",")
    parts = [part.partition("-") for part in rest.rstrip("]").split(",")]
    return [f"{before}{number}" for first, _, last in parts for number in range(int(first), int(last or first) + 1)]


class FakeSystem(System):
    """Answer commands from a table and record them; no process is started."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commands: list[tuple[str, ...]] = []
        self.answers: dict[str, Callable[[Sequence[str]], str]] = {
            "lmod": lambda _: LMOD_VERSION,
            "update_lmod_system_cache_files": self._spider,
            "lua": lambda _: "",
            "squeue": lambda _: "",
            "gcc": lambda _: "12.2.0\n",
            "mount": self._mount,
            "systemctl": self._systemctl,
            "sinfo": lambda _: "q1-st-c5-1|idle|q1*|none\nq1-st-c5-2|idle|q1*|none\n",
            "srun": self._srun,
            "spack": self._spack,
            "python": lambda _: "",
        }
        self.codes: dict[str, int] = {}
        self.ended: list[str] = []
        self.systemd = False
        self.root = True
        self.memory = 4 << 30
        self.checked_specs: dict[str, Any] = {"problems": [], "advice": []}

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        self.commands.append(tuple(argv))
        name = Path(argv[0]).name
        answer = self.answers.get(name) or next(
            (self.answers[known] for known in ("python", "lua") if name.startswith(known)), None
        )
        if answer is None:
            raise ProcessFailed(f"{argv[0]} cannot be started", why="it is not in this world")
        text = answer(argv)
        for line in text.splitlines() if options.get("on_line") else ():
            options["on_line"](line)
        return Completed(self.codes.get(name, 0), text, "")

    def on_storage(self, action: Callable[[], T], where: Path | str, seconds: float) -> T:  # noqa: ARG002
        return action()

    def with_deadline(self, action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:  # noqa: ARG002
        return action()

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in (*PROGRAMS, "mount.nfs4", "mount.lustre") else None

    def has_systemd(self) -> bool:
        return self.systemd

    def other_runs(self, run_id: str) -> frozenset[str]:  # noqa: ARG002
        return frozenset()

    def end_run(self, run_id: str) -> int:
        self.ended.append(run_id)
        return 0

    def is_root(self) -> bool:
        return self.root

    def hostname(self) -> str:
        return self.world.host.name

    def boot_id(self) -> str:
        return self.world.host.boot_id

    def uptime(self) -> float:
        return 120.0

    def available_memory(self) -> int:
        return self.memory

    def mounts(self) -> tuple[Mount, ...]:
        return self.world.mounts

    def _mount(self, argv: Sequence[str]) -> str:
        if "--bind" in argv:
            _bind(Path(argv[-2]), Path(argv[-1]))
        else:
            self.world.mount(argv[-2], argv[argv.index("-t") + 1])
        return ""

    def _systemctl(self, argv: Sequence[str]) -> str:
        if argv[1] == "start" and argv[2].endswith("opt-petal.mount"):
            _bind(self.world.paths.shared_root, self.world.paths.root)
        elif argv[1] == "start":
            unit = (self.world.paths.units / argv[2]).read_text()
            values = dict(re.findall(r"^(What|Type)=(.*)$", unit, re.MULTILINE))
            self.world.mount(values["What"], values["Type"])
        if "enable" in argv:
            wants = self.world.paths.units / "multi-user.target.wants"
            wants.mkdir(exist_ok=True)
            (wants / argv[-1]).unlink(missing_ok=True)
            (wants / argv[-1]).symlink_to(self.world.paths.units / argv[-1])
        return ""

    def _srun(self, argv: Sequence[str]) -> str:
        nodes = hosts(next(word for word in argv if word.startswith("--nodelist=")).partition("=")[2])
        reports = [_report(node, self.world.release) for node in nodes]
        return "".join(report_line(report, argv[-1]) + "\n" for report in reports)

    def _spider(self, argv: Sequence[str]) -> str:
        for option, name in (("-t", None), ("-d", "spiderT.lua")):
            place = Path(argv[argv.index(option) + 1])
            (place / name if name else place).write_text("")
        return ""

    def _spack(self, argv: Sequence[str]) -> str:
        if "uninstall" in argv:
            _fake_uninstall(self.world.paths.store, [word[1:] for word in argv if re.fullmatch("/[a-z0-9]{32}", word)])
            return ""
        environment = Path(argv[argv.index("-e") + 1])
        verb = next(word for word in argv if word in ("concretize", "install", "module", "reindex", "python"))
        if verb == "python":
            Path(argv[-1]).write_text(json.dumps(self.checked_specs))
        elif verb == "concretize":
            (environment / "spack.lock").write_text(json.dumps(LOCKFILE))
        elif verb == "install":
            _fake_install(self.world.paths.store)
        elif verb == "reindex":
            _fake_reindex(self.world.paths.store)
        else:
            core = modules_root(argv) / "Core"
            (core / "fftw").mkdir(parents=True, exist_ok=True)
            (core / "fftw" / "3.3.10.lua").write_text("-- fftw\n")
        return ""


def modules_root(argv: Sequence[str]) -> Path:
    """The directory into which this command of Spack writes modules."""
    (root,) = (word for word in argv if word.startswith("modules:default:roots:lmod:"))
    return Path(root.rpartition(":")[2])


LOCKFILE = {
    "roots": [{"hash": "a" * 32, "spec": "fftw"}],
    "concrete_specs": {
        "a" * 32: {"name": "fftw", "version": "3.3.10", "hash": "a" * 32},
        "b" * 32: {"name": "gcc", "version": "12.2.0", "hash": "b" * 32, "external": {"path": "/usr"}},
    },
}


def _fake_install(store: Path) -> None:
    prefix = store / "linux-debian12-x86_64_v3" / "fftw-3.3.10-aaaaaaa"
    (prefix / ".spack").mkdir(parents=True, exist_ok=True)
    (prefix / ".spack" / "install_manifest.json").write_text("{}")
    index = {"database": {"installs": {"a" * 32: {"installed": True, "path": str(prefix)}}}}
    (store / ".spack-db").mkdir(exist_ok=True)
    (store / ".spack-db" / "index.json").write_text(json.dumps(index))


def _fake_uninstall(store: Path, hashes: Sequence[str]) -> None:
    path = store / ".spack-db" / "index.json"
    index = json.loads(path.read_text())
    for digest in hashes:
        shutil.rmtree(index["database"]["installs"].pop(digest)["path"], ignore_errors=True)
    path.write_text(json.dumps(index))


def _fake_reindex(store: Path) -> None:
    path = store / ".spack-db" / "index.json"
    index = json.loads(path.read_text())
    for record in index["database"]["installs"].values():
        record["installed"] = Path(record["path"], ".spack").is_dir()
    path.write_text(json.dumps(index))


def _bind(source: Path, target: Path) -> None:
    """Use a symbolic link instead of a bind mount."""
    if target.is_dir() and not target.is_symlink():
        target.rmdir()
    if not target.is_symlink():
        target.symlink_to(source)


def _report(node: str, release_id: str) -> NodeReport:
    return NodeReport(node, "compute", timestamp(), release_id, (Finding("storage", Severity.OK, "mounted"),))


def lmod_of_this_machine() -> Path | None:
    """The directory of this machine's Lmod."""
    return next(iter(image_places()), None)


def tarball(path: Path, members: Mapping[str, str | tarfile.TarInfo]) -> Path:
    """A tar.gz with text files, or with the given members."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content.encode()), 0o755
            tar.addfile(member, io.BytesIO(content.encode()))
    return path


@dataclass
class World:
    """One node: its prefix, its facts, and the context of steps."""

    prefix: Path
    role: Role = Role.HEAD
    live: bool = False
    config_text: str = "stack: none"
    host: Host = HOST
    mounts: tuple[Mount, ...] = ()
    tool: Tool = field(default_factory=lambda: Tool("0.1.0"))
    environment: Mapping[str, Any] = field(default_factory=dict)
    queues: tuple[Queue, ...] = (Queue("q1", ("c6a.large",)),)
    cluster: str = "demo"

    def __post_init__(self) -> None:
        self.system = FakeSystem(self)
        self.prefix.mkdir(exist_ok=True)
        (self.prefix / "shared").mkdir(exist_ok=True)
        if self.live:
            self.mounts = (Mount("/dev/nvme1n1", "/shared", "ext4", ("rw",)),)

    @property
    def config(self) -> model.Config:
        return load.parse(self.config_text)

    @property
    def paths(self) -> Paths:
        return (LivePaths if self.live else Paths)(self.prefix, self.config.storage.mount)

    @property
    def release(self) -> str:
        system = scope_digest_inputs(find_compiler(self.system), self.externals) if self.config.uses_spack else {}
        environment = {**self.environment, "system": system}
        return release.release_id(self.config, self.host, environment, templates.digest(), self.build_targets)

    @property
    def build_targets(self) -> BuildTargets:
        return release.build_targets_of(self.config, self.queues, self.host.machine)

    @property
    def externals(self) -> tuple[External, ...]:
        found = find_externals(self.paths, self.system) if self.config.uses_spack else ()
        return unconfigured(found, self.environment, self.config.specs)

    @property
    def context(self) -> Context:
        shared = (SharedDir("/shared", "ebs"),)
        cluster = Cluster(self.role, self.cluster, region="us-east-1", shared=shared, queues=self.queues)
        known = Facts(cluster, self.host, self.mounts)
        return Context(
            Options("bootstrap", root=self.prefix),
            self.services,
            self.paths,
            known,
            self.role,
            self.config,
            release=self.release,
            environment=self.environment,
            build_targets=self.build_targets,
            externals=self.externals,
            sets_desired_state=self.role is Role.HEAD,
        )

    @property
    def services(self) -> Services:
        return services(self.system, self.tool)

    def options(self, config: Path | str | None = None, command: str = "bootstrap", **options: Any) -> Options:
        """The options of a command line on this node."""
        return Options(command, str(config) if config else None, root=self.prefix, **options)

    def mount(self, source: str, kind: str, *options: str) -> None:
        """Mount this file system as shared storage."""
        self.mounts = (*self.mounts, Mount(source, self.config.storage.mount, kind, ("rw", *options)))

    def as_node(self, name: str, role: Role) -> World:
        """Another node of the same cluster: its own prefix, the same shared directory."""
        other = World(
            self.prefix.with_name(name), role, self.live, self.config_text, replace(self.host, name=name),
            environment=self.environment, queues=self.queues, cluster=self.cluster,
        )  # fmt: skip
        shared = other.prefix / "shared"
        if not shared.is_symlink():
            shared.rmdir()
            shared.symlink_to(self.prefix / "shared")
        return other


def services(system: System, tool: Tool | None = None, run_id: str = "run-1", **listeners: Any) -> Services:
    """The services of a run that prints nothing."""
    silent = {"listen": lambda _: None, "note": lambda _: None}
    return Services(tool or Tool("0.1.0"), system, run_id, **{**silent, **listeners})


def typed(ctx: Context, **options: Any) -> Context:
    """The context with other options."""
    return replace(ctx, options=replace(ctx.options, **options))


def with_package(tmp_path: Path) -> str:
    """A configuration with one tarball as package."""
    archive = tarball(tmp_path / "hello.tar.gz", {"hello-1.0/bin/hello": "#!/bin/sh\necho hello\n"})
    return (
        f"packages: [{{name: hello, version: '1.0', source: {archive}, sha256: {sha256_of(archive)}}}]\n"
        "check: {run: [hello]}\n"
    )


def with_spack(tmp_path: Path) -> str:
    """A configuration with a Spack stack; the tree has only the files that the version check reads."""
    spack = tarball(tmp_path / "spack.tar.gz", {"spack-1.1.1/lib/spack/spack/__init__.py": '__version__ = "1.1.1"\n'})
    top = "packages/repos/spack_repo/builtin"
    recipe = 'class Fftw(Package):\n    version("3.3.10")\n'
    recipes = tarball(
        tmp_path / "recipes.tar.gz",
        {f"{top}/repo.yaml": "repo: {}\n", f"{top}/packages/fftw/package.py": recipe},
    )
    return with_package(tmp_path) + (
        f"spack: {{source: {spack}, sha256: {sha256_of(spack)}, specs: [fftw], "
        f"recipes: {{source: {recipes}, sha256: {sha256_of(recipes)}}}}}\n"
    )
