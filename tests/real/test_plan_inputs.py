"""A plan looks at everything that the configuration names: real files, moto's S3, tarballs, and no network."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli import main
from bootstrap.core.errors import FetchError
from bootstrap.core.facts import Mount, Queue
from bootstrap.core.model import Outcome, StepReport
from bootstrap.engine import converge as engine
from bootstrap.engine import inputs
from bootstrap.host import deadline
from bootstrap.host.files import sha256_of
from bootstrap.modules import expected
from bootstrap.remote.fetch import Source
from bootstrap.remote.look import look_at
from bootstrap.steps import storage
from bootstrap.steps.module_tree import ModuleTree
from bootstrap.steps.packages import Packages
from bootstrap.steps.spack import SpackStack
from bootstrap.steps.storage import Storage
from tests.deadlines import SOON
from tests.real.nodes import petal
from tests.real.server import hurry
from tests.world import FakeSystem, World, tarball

INIT = "lib/spack/spack/__init__.py"
REPO = "repos/spack_repo/builtin/repo.yaml"
SHA = "ab" * 32


class Guarded(FakeSystem):
    """The world's node, with real child processes for calls with a deadline."""

    def with_deadline(self, action: Any, seconds: float, error: Any = None) -> Any:
        return deadline.with_deadline(action, seconds, error)

    def on_storage(self, action: Any, where: Any, seconds: float) -> Any:
        return deadline.on_storage(action, where, seconds)


def planned(tmp_path: Path, text: str, **options: Any) -> dict[str, StepReport]:
    world = World(tmp_path / "head", config_text=text, **options)
    world.system = Guarded(world)
    return {report.name: report for report in engine.plan([Packages(), SpackStack(), ModuleTree()], world.context)}


def with_sources(tmp_path: Path, version: str = "1.1.1", api: str = "v2.2", more: str = "") -> str:
    spack = tarball(tmp_path / "s.tar.gz", {f"spack/{INIT}": f'__version__ = "{version}"\n', "spack/bin/spack": "#!"})
    recipes = tarball(tmp_path / "r.tar.gz", {f"recipes/{REPO}": f"repo:\n  namespace: builtin\n  api: {api}\n"})
    return (
        f"spack:\n  source: {spack}\n  sha256: {sha256_of(spack)}\n"
        f"  recipes: {{source: {recipes}, sha256: {sha256_of(recipes)}}}\n  specs: [zlib@1.3.1]\n{more}"
    )


def test_all_sources_are_looked_up_at_once_and_each_answer_names_its_line(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.create_bucket(Bucket="petal")
    s3.put_object(Bucket="petal", Key="a.tar.gz", Body=b"x" * 2048)
    good = tarball(tmp_path / "good.tar.gz", {"a/b": "c"})
    lines = [
        "stack: none\npackages:",
        f"- {{name: good, version: '1', source: {good}, sha256: {sha256_of(good)}}}",
        f"- {{name: changed, version: '1', source: {good}, sha256: {SHA}}}",
        f"- {{name: gone, version: '1', source: file://{tmp_path}/gone.tar.gz, sha256: {SHA}}}",
        f"- {{name: object, version: '1', source: 's3://petal/a.tar.gz', sha256: {SHA}}}",
        f"- {{name: key, version: '1', source: 's3://petal/nokey', sha256: {SHA}}}",
        f"- {{name: bucket, version: '1', source: 's3://no-such-bucket/a', sha256: {SHA}}}",
        f"- {{name: silent, version: '1', source: 'https://127.0.0.1:9/a', sha256: {SHA}}}",
    ]
    config = tmp_path / "petal.yaml"
    config.write_text("\n".join(lines))
    (tmp_path / "node/shared").mkdir(parents=True)
    started = time.monotonic()
    hurry(monkeypatch, 4)
    code = main(["plan", "--config", str(config), "--root", str(tmp_path / "node"), "--role", "head"])
    shown = capsys.readouterr().out
    assert time.monotonic() - started < SOON
    assert code == 3, shown
    for line, answer in enumerate(
        ("checksum verified", "not have the expected checksum", "does not exist", "2.0 KiB", "does not exist"), 3
    ):
        assert any(f"petal.yaml:{line}: packages[{line - 3}].source: " in each and answer in each
                   for each in shown.splitlines()), shown  # fmt: skip
    assert "petal.yaml:8: packages[5].source: the bucket of s3://no-such-bucket/a does not exist" in shown
    assert "petal.yaml:9: packages[6].source: not checked: " in shown
    assert "4 of its 7 inputs cannot be used" in shown
    last = f"the blocked steps (in {config} or on this node), then: petal-node plan --config {config}"
    assert any(last in line for line in shown.splitlines()[-2:]), shown
    assert "petal-node bootstrap" not in shown


def test_bootstrap_reports_all_wrong_packages_before_it_changes_the_desired_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tarball(tmp_path / "good.tar.gz", {"a/b": "c"})
    lines = [
        "packages:",
        f"- {{name: good, version: '1', source: {good}, sha256: {sha256_of(good)}}}",
        f"- {{name: changed, version: '1', source: {good}, sha256: {SHA}}}",
        f"- {{name: gone, version: '1', source: file://{tmp_path}/gone.tar.gz, sha256: {SHA}}}",
        "- {name: none, version: '1', prefix: /opt/none}",
    ]
    config, node = tmp_path / "petal.yaml", tmp_path / "node"
    (node / "shared").mkdir(parents=True)
    arguments = ["bootstrap", "--config", str(config), "--root", str(node), "--role", "head"]
    for wrong in (lines, [*lines[:2], lines[4]]):
        config.write_text("\n".join(wrong))
        assert main(arguments) == 78
        error = capsys.readouterr().err
        assert f"{config} has {'3 mistakes' if wrong is lines else '1 mistake'}" in error
        for number, line in enumerate(wrong[2:], 3):
            key = f"packages[{number - 2}].{'prefix' if 'prefix' in line else 'source'}"
            assert f"petal.yaml:{number}: {key}: " in error
        assert "install none at /opt/none in the image" in error
        assert (f"sha256sum {good}" in error) == (wrong is lines)
    assert not [*node.rglob("desired.json")]
    config.write_text("\n".join(lines[:2]))
    assert main(arguments) in (0, 3), capsys.readouterr().out
    assert [*node.rglob("desired.json")]


@pytest.mark.parametrize(
    ("more", "places"),
    [
        ("layuot: ami\n", ["petal.yaml:3", "spack.yaml:2", "spack.yaml:3"]),
        ("", ["spack.yaml:2", "spack.yaml:3", "petal.yaml:4"]),
    ],
    ids=["wrong petal.yaml", "right petal.yaml"],
)
def test_mistakes_of_the_stacks_file_are_reported_with_the_others(tmp_path: Path, more: str, places: list[str]) -> None:
    stack, config = tmp_path / "spack.yaml", tmp_path / "petal.yaml"
    stack.write_text("spack:\n  specs: zlib\n  concretization: together\n")
    package = f"{{name: a, version: '1', source: {tmp_path}/gone, sha256: {SHA}}}"
    spack = f"spack: {{source: {tmp_path}, recipes: {{source: {tmp_path}}}}}"
    config.write_text(f"stack: {stack}\n{spack}\n{more}packages:\n- {package}\n")
    (tmp_path / "node").mkdir()
    done = petal(tmp_path / "node", "plan", "--config", str(config), "--json")
    problems = json.loads(done.stdout)["errors"][0]["problems"]
    assert [problem["place"] for problem in problems][: len(places)] == places
    assert done.returncode == 78


def test_a_stack_that_does_not_exist_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "petal.yaml").write_text("layout: shard\nstack: starer\n")
    done = petal(tmp_path / "node", "plan", "--config", str(tmp_path / "petal.yaml"), "--json")
    problems = json.loads(done.stdout)["errors"][0]["problems"]
    assert ("stack", "petal.yaml:2") in [(problem["path"], problem["place"]) for problem in problems]


def test_a_local_tarball_is_read_once(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(1 << 20) * 8)

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    assert look_at(Source(str(big), sha256_of(big)), lambda stream: str(len(stream.read(100)))) == (
        "8.0 MiB, checksum verified, 100"
    )
    assert read() - before < 2.2 * big.stat().st_size, "once here, and once by sha256_of in this test"


@pytest.mark.parametrize("is_remote", [False, True], ids=["local", "s3"])
def test_the_version_in_spacks_tarball_is_compared(tmp_path: Path, s3: Any, is_remote: bool) -> None:
    text = with_sources(tmp_path, "1.0.2", "v2.9")
    if is_remote:
        s3.create_bucket(Bucket="petal")
        for name in ("s.tar.gz", "r.tar.gz"):
            s3.upload_file(str(tmp_path / name), "petal", name)
        text = text.replace(f"{tmp_path}/s", "s3://petal/s")
    report = planned(tmp_path, text)["spack"]
    assert report.outcome is Outcome.BLOCKED
    assert (report.error or {})["code"] == "spack-source"
    assert "is not Spack 1.1.1: it is 1.0.2" in report.reason
    assert "they need the package API 2.9, and it has 2.4" in report.reason


def test_a_tarball_on_s3_without_recipes_is_refused(tmp_path: Path, s3: Any) -> None:
    """Of a repository, only the part before its first recipe is read."""
    text = with_sources(tmp_path).replace(f"{tmp_path}/r", "s3://petal/r")
    s3.create_bucket(Bucket="petal")
    recipe, rest = REPO.replace("repo.yaml", "packages/a/package.py"), {"recipes/z": os.urandom(1 << 17).hex()}
    reports = []
    for files in ({f"recipes/{recipe}": "", **rest}, {"recipes/README": "", **rest}, {f"a/b/{recipe}": ""}):
        body = tarball(tmp_path / "r.tar.gz", files).read_bytes()
        is_cut = f"recipes/{recipe}" in files
        s3.put_object(Bucket="petal", Key="r.tar.gz", Body=body[: len(body) // 2] if is_cut else body)
        reports.append(planned(tmp_path, text)["spack"])
    assert [report.outcome for report in reports] == [Outcome.WOULD_CHANGE, Outcome.BLOCKED, Outcome.BLOCKED]
    assert "B, recipes" in reports[0].reason
    for report in reports[1:]:
        assert "spack.recipes.source: the source of the recipes contains none" in report.reason


def test_an_endless_header_in_spacks_tarball_is_not_read_into_memory(tmp_path: Path) -> None:
    text, bomb = with_sources(tmp_path), tmp_path / "s.tar.gz"
    header = tarfile.TarInfo("h")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(bomb, "wb") as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
    report = planned(tmp_path, text)["spack"]
    assert "the header of a member is longer than" in report.reason
    assert (report.error or {})["code"] == "package-archive"


def test_a_mirror_without_a_bucket_is_refused_and_an_empty_one_is_named(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 4)
    s3.create_bucket(Bucket="petal")
    mirrors = (
        "  mirrors:\n    empty: {url: 's3://petal/cache', signed: false}\n"
        "    gone: {url: 's3://no-such-bucket/cache', signed: false, keys: []}\n"
        f"    sources: {tmp_path}/none\n"
        "    silent: https://127.0.0.1:9/m\n"
        "    mine: {url: 's3://petal/mine', signed: false, push: true}\n"
    )
    report = planned(tmp_path, with_sources(tmp_path, more=mirrors))["spack"]
    assert report.outcome is Outcome.BLOCKED
    lines = {line.partition(": ")[0]: line for line in report.reason.splitlines()}
    assert "2 of its 7 inputs cannot be used" in report.reason
    assert "there is no build cache" in lines["petal.yaml:7"]
    assert "NoSuchBucket" in lines["petal.yaml:8"]
    assert "none is not a directory" in lines["petal.yaml:9"]
    assert "not checked" in lines["petal.yaml:10"]
    assert lines["petal.yaml:11"].endswith("spack.mirrors.mine.url: answers"), "it has no packages yet"


def test_fitting_sources_are_named_in_the_plan(tmp_path: Path) -> None:
    report = planned(tmp_path, with_sources(tmp_path))["spack"]
    assert report.outcome is Outcome.WOULD_CHANGE
    assert "petal.yaml:2: spack.source: " in report.reason
    assert "checksum verified, Spack 1.1.1" in report.reason
    assert "recipes for the package API 2.2" in report.reason


@pytest.mark.parametrize("member", ["vendor/bin/tool", f"{INIT}/deep/{INIT}"])
def test_a_tarball_or_directory_without_spack_is_refused(tmp_path: Path, member: str) -> None:
    text = with_sources(tmp_path)
    old = sha256_of(tmp_path / "s.tar.gz")
    new = sha256_of(tarball(tmp_path / "s.tar.gz", {f"a/b/{member}": '__version__ = "1.1.1"\n'}))
    assert "it contains no Spack" in planned(tmp_path, text.replace(old, new))["spack"].reason
    (tmp_path / "s").mkdir()
    text = text.replace(f"{tmp_path}/s.tar.gz", f"{tmp_path}/s").replace(f"  sha256: {old}\n", "")
    assert "it contains no Spack" in planned(tmp_path, text)["spack"].reason


def test_names_of_modules_that_the_stack_cannot_have_are_refused(tmp_path: Path) -> None:
    more = "modules:\n  defaults: [zlib/1.2, tool]\ncheck:\n  load: [site/1, zlib/1.3.1, other]\n"
    packages = "packages:\n- {name: tool, version: '1', prefix: /usr, requires: [nosuch]}\n"
    (tmp_path / "head").mkdir()
    modules = tmp_path / "head/opt/modules/site"
    modules.mkdir(parents=True)
    (modules / "1.lua").touch()
    text = with_sources(tmp_path, more=f"{more}{packages}").replace(
        "modules:\n", "modules:\n  paths: [/opt/modules, /opt/none]\n"
    )
    report = planned(tmp_path, text)["module-tree"]
    assert (report.error or {})["code"] == "modules-config"
    assert "petal.yaml:8: modules.defaults[0]: the release will have no module zlib/1.2" in report.reason
    assert "petal.yaml:10: check.load[2]: no spec of the stack is named other" in report.reason
    assert "petal.yaml:7: modules.paths[1]: modules.paths: this node has no directory /opt/none" in report.reason
    assert report.reason.count("\n") == 4, report.reason
    alone = planned(tmp_path, f"stack: none\n{more}{packages}".replace("[site/1, zlib/1.3.1, other]", "[toool]"))
    assert "check.load[0]: the release will have no module toool: did you mean 'tool'?" in alone["module-tree"].reason


def test_modules_are_checked_also_if_the_lockfile_of_the_stack_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once for all entries, and in the time of the answers."""

    def late(_: object) -> None:
        time.sleep(0.6)

    monkeypatch.setattr(expected, "stack_lockfile", late)
    monkeypatch.setattr(inputs, "PROBE", 0.5)
    monkeypatch.setattr(inputs, "SECONDS", 1.7)
    more = "modules:\n  defaults: [zlib/1.2]\ncheck:\n  load: [zlib/1.4, zlib/1.5]\n"
    report = planned(tmp_path, with_sources(tmp_path, more=more))["module-tree"]
    assert report.reason.count("the release will have no module zlib/1.") == 3, report.reason


def test_a_queue_that_cannot_build_and_sources_that_it_does_not_see_are_refused(tmp_path: Path) -> None:
    queues = (Queue("arm", ("c7g.large",)), Queue("q1", ("c6a.large",)))
    mounts = (Mount("/dev/nvme0n1p1", "/", "ext4", ()), Mount("/dev/nvme1n1", "/shared", "ext4", ("rw",)))
    text = with_sources(tmp_path).replace(f"{tmp_path}/s.tar.gz", str(tmp_path / "s"))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("  sha256"))
    (tmp_path / "s" / INIT).parent.mkdir(parents=True)
    (tmp_path / "s" / INIT).write_text('__version__ = "1.1.1"\n')
    (tmp_path / "m").mkdir()
    text += f"\n  mirrors: {{m: {tmp_path}/m}}\n  target: x86_64_v3\ninstall: {{where: slurm, queue: arm}}\n"
    world = World(tmp_path / "head", config_text=text, queues=queues, live=True)
    world.system, world.mounts = Guarded(world), mounts
    world.system.answers["sinfo"] = lambda _: "arm|up|infinite\nq1|up|infinite\n"
    answers = inputs.look_up([SpackStack()], world.context)
    wrong = {key: str(error) for (_, key), error in answers.items() if not isinstance(error, str)}
    assert set(wrong) == {"install.queue", "spack.source", "spack.mirrors.m.url"}
    assert "they are aarch64" in wrong["install.queue"]
    assert "is on a disk of this head node" in wrong["spack.source"]
    world.system.answers["sinfo"] = lambda _: "q1|up|infinite\n"
    answers = inputs.look_up([SpackStack()], world.context)
    assert "is not a queue of this cluster" in str(answers["spack", "install.queue"])
    world.queues = (Queue("arm", ("c6a.large",)),)
    world.system.answers["sinfo"] = lambda _: "arm|up|infinite\n"
    answers = inputs.look_up([SpackStack()], world.context)
    assert answers["spack", "install.queue"] == "nodes of queue arm have zen3"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become another user")
@pytest.mark.parametrize("mode", [0o600, 0o700])
def test_a_source_that_this_user_cannot_read_is_forbidden_as_in_a_run(mode: int) -> None:
    """Also root cannot, on an NFS server with root_squash."""
    with tempfile.TemporaryDirectory() as top:  # tmp_path is below a directory of root
        file = Path(top, "a")
        file.touch(mode=0o600)
        Path(top).chmod(0o755 if mode == 0o600 else mode)

        def look() -> str:
            os.setuid(65534)
            return look_at(Source(str(file)))

        with pytest.raises(FetchError) as caught:
            deadline.with_deadline(look, 10)
    assert caught.value.code == "fetch-forbidden"


def test_a_source_that_never_answers_is_named_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "SECONDS", 0.5)
    os.mkfifo(tmp_path / "hangs")
    monkeypatch.setattr("bootstrap.remote.look.open_file", lambda path: path.open("rb"))
    text = f"packages: [{{name: a, version: '1', source: {tmp_path}/hangs, sha256: {SHA}}}]"
    started = time.monotonic()
    report = planned(tmp_path, text)["packages"]
    assert time.monotonic() - started < SOON
    assert report.outcome is Outcome.WOULD_CHANGE
    assert "packages[0].source: not checked: no answer within" in report.reason


def test_storage_that_hangs_costs_one_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PROBE", 0.3)
    monkeypatch.setattr(Packages, "inputs", lambda *_: time.sleep(60))
    world = World(tmp_path / "head", config_text=with_sources(tmp_path))
    world.system = Guarded(world)
    started = time.monotonic()
    answers = inputs.look_up([Packages(), SpackStack()], world.context)
    assert time.monotonic() - started < SOON
    assert "no answer within" in str(answers["packages", "(inputs)"])
    assert "Spack 1.1.1" in str(answers["spack", "spack.source"])


def test_a_plan_waits_once_for_storage_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step storage has found out; the inputs that are on it cost 1 s more."""
    monkeypatch.setattr(storage, "PROBE", 0.3)
    monkeypatch.setattr(storage, "_view", lambda _: time.sleep(60))
    monkeypatch.setattr(Packages, "inputs", lambda *_: time.sleep(60))
    package = f"packages: [{{name: a, version: '1', source: {tmp_path}/a.tar.gz, sha256: {SHA}}}]"
    world = World(tmp_path / "head", config_text=with_sources(tmp_path, more=package))
    world.system = Guarded(world)
    started = time.monotonic()
    reports = {report.name: report for report in engine.plan([Storage(), Packages(), SpackStack()], world.context)}
    assert time.monotonic() - started < SOON
    assert "did not answer" in reports["storage"].reason
    assert "not checked: no answer within 1 s" in reports["packages"].reason
    assert "Spack 1.1.1" in reports["spack"].reason
