"""The promises of docs/security.md with real processes: modes, secrets, credentials, checksums, planted files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from bootstrap.core.errors import PetalError, StateError
from bootstrap.core.facts import Cluster, Facts, Mount, SharedDir
from bootstrap.core.model import Role, plain
from bootstrap.engine.configuration import find_desired_state
from bootstrap.host.files import make_own_dir, sha256_of
from bootstrap.host.system import System
from bootstrap.remote.metadata import _Service, metadata
from bootstrap.spack.job.worker import SCRIPT
from bootstrap.state.desired import DesiredState
from bootstrap.state.store import write_document
from tests.disks import fuse
from tests.world import HOST, tarball

TOP = Path(__file__).parents[2]
START = f"import sys; sys.path.insert(0, {str(TOP)!r}); from bootstrap.cli import entry; entry()"
DNA = {
    "cluster": {"node_type": "HeadNode", "cluster_name": "demo", "region": "us-east-1", "ebs_shared_dirs": "/shared"}
}
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDOFTHEHOOKSCALLER",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-hooks-caller",
    "AWS_SESSION_TOKEN": "token-of-the-hooks-caller",
}
PROXY_PASSWORD = "password-of-the-proxy"
ROLE = {"AccessKeyId": "ASIAOFTHEROLE", "SecretAccessKey": "secret-of-the-role", "Token": "token-of-the-role"}
IMDS_TOKEN = "token-of-the-metadata-service"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tests change the owner of files, which needs root")


class Cloud(ThreadingHTTPServer):
    """S3 in path style and the instance metadata service, versions 1 and 2, at one address; records every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.version_2 = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of_imds(self) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if request[1].startswith("/latest/")]


class Answers(BaseHTTPRequestHandler):
    server: Cloud

    def do_PUT(self) -> None:
        self._remember()
        self._say(200, IMDS_TOKEN.encode()) if self.server.version_2 else self._say(405, b"")

    def do_GET(self) -> None:
        self._remember()
        role = "/latest/meta-data/iam/security-credentials/"
        imds = {
            role: b"petal",
            f"{role}petal": json.dumps(ROLE).encode(),
            "/latest/meta-data/placement/region": b"us-east-1",
        }
        body = {**imds, **self.server.objects}.get(self.path)
        self._say(404, b"") if body is None else self._say(200, body)

    def _remember(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers))

    def _say(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    server = Cloud()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A head node's tree with its role and region."""
    prefix = tmp_path / "head"
    (prefix / "shared").mkdir(parents=True)
    (prefix / "etc" / "chef").mkdir(parents=True)
    (prefix / "etc" / "chef" / "dna.json").write_text(json.dumps(DNA))
    return prefix


def environment(cloud: Cloud | None = None, **more: str) -> dict[str, str]:
    known = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "no_proxy": "127.0.0.1"}
    places = {"AWS_ENDPOINT_URL": cloud.address, "AWS_EC2_METADATA_SERVICE_ENDPOINT": cloud.address} if cloud else {}
    return {**known, **places, **more}


def petal(
    node: Path, *argv: str, umask: int = 0o022, before: Sequence[str] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", START, *argv, "--root", str(node)]
    return subprocess.run(
        command,
        cwd="/",
        env=env or environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        umask=umask,
    )


def package(tmp_path: Path, source: str = "") -> str:
    """A configuration with one tarball, from its path or from ``source``."""
    archive = tarball(
        tmp_path / "hello.tar.gz", {"hello-1.0/bin/hello": "#!/bin/sh\necho hello\n", "hello-1.0/etc/x": "x"}
    )
    return f"packages: [{{name: hello, version: '1.0', source: '{source or archive}', sha256: {sha256_of(archive)}}}]\n"


def configuration(tmp_path: Path, text: str) -> Path:
    (tmp_path / "petal.yaml").write_text(text)
    return tmp_path / "petal.yaml"


# ------------------------------------------------------------------------------------------------- modes and owners


def modes(prefix: Path) -> dict[str, int]:
    """The mode of every file in a tree; names that differ between runs are normalized."""
    found = {}
    for path in prefix.rglob("*"):
        if not path.is_symlink():
            name = re.sub(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]+", "RUN", str(path.relative_to(prefix)))
            found[name] = path.stat().st_mode & 0o7777
    return found


def test_the_same_modes_under_every_umask(tmp_path: Path) -> None:
    config = configuration(tmp_path, package(tmp_path))
    trees = {}
    for umask in (0o000, 0o022, 0o077):
        prefix = tmp_path / f"{umask:03o}"
        (prefix / "shared").mkdir(parents=True)
        (prefix / "shared").chmod(0o1777)
        done = petal(prefix, "bootstrap", "--config", str(config), "--role", "head", umask=umask)
        assert done.returncode in (0, 3), done.stdout + done.stderr
        prefix.chmod(0o755)
        trees[umask] = modes(prefix)
    assert trees[0o000] == trees[0o022] == trees[0o077]
    found = trees[0o000]
    open_to_others = {name for name, mode in found.items() if mode & 0o022 and name != "shared"}
    assert open_to_others == set(), "others can write"
    assert found["shared"] == 0o1777
    modules = [name for name in found if name.endswith("Core/hello/1.0.lua")]
    assert modules
    for name in (*modules, *(name for name in found if name.endswith("state/desired.json"))):
        assert found[name] == 0o644
        parents = [parent for parent in map(str, Path(name).parents) if parent != "."]
        assert all(found[parent] & 0o005 == 0o005 for parent in parents), "users cannot read it"
    program = next(name for name in found if name.endswith("/bin/hello"))
    assert found[program] == 0o755
    assert found["var/log/petal-node.log"] == 0o640


def test_programs_that_we_start_get_our_umask(tmp_path: Path) -> None:
    """Spack builds with this umask: users can read the store, and only root can write it."""
    program = "import os; print(oct(os.umask(0)))"
    script = f"""
import sys
sys.path.insert(0, {str(TOP)!r})
from bootstrap import cli
from bootstrap.host.system import System
cli.main = lambda argv: print(System().run([sys.executable, "-c", {program!r}], timeout=20).stdout)
cli.entry()
"""
    for umask in (0, 0o077):
        done = subprocess.run(
            [sys.executable, "-c", script], check=False, capture_output=True, text=True, umask=umask, timeout=60
        )
        assert done.stdout.split()[0] == "0o22", done.stderr


@needs_root
@pytest.mark.parametrize("kind", ["link", "foreign directory", "open directory", "file"])
def test_a_directory_that_a_user_created_on_shared_storage_is_refused(kind: str, node: Path, tmp_path: Path) -> None:
    shared, victim = node / "shared", tmp_path / "victim"
    shared.chmod(0o1777)
    victim.mkdir()
    planted = shared / "petal"
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "file":
        planted.write_text("x")
    else:
        planted.mkdir()
        planted.chmod(0o777 if kind == "open directory" else 0o755)
        os.chown(planted, 0 if kind == "open directory" else 12345, -1)
    done = petal(node, "bootstrap", "--config", str(configuration(tmp_path, package(tmp_path))), "--json")
    answer = json.loads(done.stdout)
    storage = next(step for step in answer["data"]["steps"] if step["name"] == "storage")
    assert storage["outcome"] in ("blocked", "failed")
    assert storage["remedy"]
    assert list(victim.iterdir()) == []
    assert not planted.is_dir() or list(planted.iterdir()) == []


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_is_written_to_tmp(node: Path, tmp_path: Path) -> None:
    """Neither to the directory of TMPDIR nor to one that all users can write."""
    temporary, trace = tmp_path / "tmp", tmp_path / "trace"
    temporary.mkdir()
    env = environment(TMPDIR=str(temporary), TMP=str(temporary))
    calls = "trace=openat,creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,renameat2"
    strace = ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", str(trace)]
    argv = ["bootstrap", "--config", str(configuration(tmp_path, package(tmp_path)))]
    done = petal(node, *argv, before=strace, **env)
    assert done.returncode in (0, 3), done.stderr
    assert list(temporary.iterdir()) == []
    lines = trace.read_text(errors="replace").splitlines()
    made = [line for line in lines if "openat(" not in line or "O_CREAT" in line]
    assert any(str(node) in line for line in made)
    places = re.compile(r'"(/tmp|/var/tmp|/dev/shm)/')
    assert [line for line in made if places.search(line.replace(f'"{tmp_path}/', ""))] == []


@pytest.mark.parametrize("kept", ["nothing", "another file"])
@pytest.mark.parametrize("shared", ["right", "another file"])
def test_the_desired_version_runs_only_with_its_checksum(kept: str, shared: str, node: Path) -> None:
    """Also if the environment says that it was tried already."""
    program, other = b"#!/bin/sh\necho desired version: $*\n", b"#!/bin/sh\necho EVIL\n"
    sha256 = hashlib.sha256(program).hexdigest()
    desired = DesiredState("9.9.9", sha256, {"stack": "none"}, {}, "a" * 12)
    write_document(node / "shared/petal/state/desired.json", plain(desired))
    local, archive = node / "opt/petal-node/9.9.9/petal-node", node / "shared/petal/archive" / sha256
    for path, content in (
        (local, other if kept != "nothing" else None),
        (archive, program if shared == "right" else other),
    ):
        if content is not None:
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            path.chmod(0o755)
    (node / "own").write_text("this version")
    env = environment(PETAL_ARCHIVE=str(node / "own"), PETAL_HANDED_OVER=sha256)
    done = petal(node, "bootstrap", "--role", "login", **env)
    assert "EVIL" not in done.stdout
    if shared == "right":
        assert done.stdout == f"desired version: bootstrap --role login --root {node}\n"
    else:
        assert "fetch-checksum" in done.stdout + done.stderr


@needs_root
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("user", [0, 1000])
def test_root_does_not_obey_a_file_system_that_a_user_mounted(declared: bool, user: int, tmp_path: Path) -> None:
    """It shows root as the owner of everything (fusermount3 -o subtype=efs,allow_other)."""
    mount = tmp_path / "efs"
    mount.mkdir()
    write_desired(tmp_path / "theirs", str(mount))
    with fuse(mount, tmp_path / "theirs", user):
        shared = (SharedDir(str(mount), "efs"),) if declared else ()
        known = Facts(Cluster(Role.LOGIN, "demo", shared=shared), HOST, System().mounts())
        desired = find_desired_state(Path("/"), known, System(), {})
    assert (desired is not None) == (declared and user == 0)


@needs_root
def test_a_mount_below_shared_storage_is_not_trusted(tmp_path: Path) -> None:
    """A user made the directory petal first, and has mounted a file system there."""
    shared = tmp_path / "shared"
    (shared / "petal").mkdir(parents=True)
    shared.chmod(0o1777)
    write_desired(tmp_path / "theirs", str(shared))
    known = Facts(Cluster(Role.LOGIN, "demo"), HOST, (Mount("x", str(shared), "nfs4", ()),))
    known = replace(known, cluster=replace(known.cluster, shared=(SharedDir(str(shared), "ebs"),)))
    problems: dict[str, PetalError] = {}
    with fuse(shared / "petal", tmp_path / "theirs" / "petal", 1000):
        assert find_desired_state(Path("/"), known, System(), problems) is None
        with pytest.raises(StateError, match="is a mount point"):
            make_own_dir(shared / "petal" / "state", shared)
    assert "is a mount point" in problems[str(shared)].why


def write_desired(top: Path, mount: str) -> None:
    desired = DesiredState("9.9.9", "ab" * 32, {"storage": {"mount": mount}}, {}, "a" * 12)
    write_document(top / "petal" / "state" / "desired.json", plain(desired))


# ---------------------------------------------------------------------------------------------------------- secrets


class Watch:
    """Record the arguments of all processes while it runs."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: set[str] = set()
        self.looks = 0

    def _look(self) -> None:
        while not self._stop.is_set():
            self.looks += 1
            for process in psutil.process_iter():
                try:
                    line = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                self.seen |= {line for word in self._words if word in line}
            time.sleep(0.01)

    def __enter__(self) -> Watch:  # noqa: PYI034 - Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def holding(tree: Path, words: list[str]) -> dict[str, list[str]]:
    """The files of a tree that contain one of the words."""
    found = {}
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            held = [word for word in words if word.encode() in data or word.encode() in bytes(str(path), "utf-8")]
            if held:
                found[str(path.relative_to(tree))] = held
    return found


def test_a_hook_leaves_no_secret_in_records_logs_output_or_arguments(node: Path, cloud: Cloud, tmp_path: Path) -> None:
    """The caller has keys, the proxy a password, the role credentials: all are used, none is stored."""
    text = package(tmp_path, "s3://bucket/hello.tar.gz")
    cloud.objects = {
        "/bucket/hello.tar.gz": (tmp_path / "hello.tar.gz").read_bytes(),
        "/bucket/petal.yaml": text.encode(),
    }
    proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
    words = [*SECRETS.values(), PROXY_PASSWORD, *ROLE.values(), IMDS_TOKEN]
    env = environment(cloud, https_proxy=proxy, http_proxy=proxy, **SECRETS)
    with Watch(words) as watch:
        done = petal(node, "hook", "configured", "--strict", "--config", "s3://bucket/petal.yaml", **env)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert next((node / "shared" / "petal" / "root" / "store").rglob("bin/hello"))
    signed = [headers for _, path, headers in cloud.requests if path.startswith("/bucket/")]
    assert all("Credential=ASIAOFTHEROLE/" in headers["authorization"] for headers in signed), (
        "the worker has keys of its caller"
    )
    assert watch.looks > 5
    assert watch.seen == set()
    assert holding(node, words) == {}
    assert [word for word in words if word in done.stdout + done.stderr] == []


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:hidden-word@127.0.0.1:9/petal.yaml",
        "https://127.0.0.1:9/petal.yaml?X-Amz-Signature=hidden-word",
        "https://127.0.0.1:9/petal.yaml?a=1&sig=hidden-word",
    ],
)
@pytest.mark.parametrize(
    "verb", [("hook", "configured", "--strict"), ("bootstrap",), ("plan",)], ids=lambda verb: verb[0]
)
def test_a_configuration_uri_with_a_secret_is_refused_and_not_printed(
    verb: tuple[str, ...], uri: str, node: Path
) -> None:
    done = petal(node, *verb, "--config", uri)
    assert done.returncode == 78
    assert "config-missing" in done.stderr + done.stdout
    assert "hidden-word" not in done.stdout + done.stderr
    assert holding(node, ["hidden-word"]) == {}
    assert not (node / "var/log/petal-node-worker.log").exists(), "a worker was started with the secret"


# ------------------------------------------------------------------------------------------------------ credentials


def test_no_credentials_are_requested_without_s3(node: Path, cloud: Cloud, tmp_path: Path) -> None:
    config = configuration(tmp_path, package(tmp_path))
    named = ["--config", str(config)]
    for argv in (["bootstrap", *named], ["plan", *named], ["status", "--verbose"], ["check"]):
        assert petal(node, *argv, **environment(cloud)).returncode in (0, 3)
    assert cloud.requests == []


def test_only_version_2_of_the_metadata_service_is_used(node: Path, cloud: Cloud, tmp_path: Path) -> None:
    text = package(tmp_path, "s3://bucket/hello.tar.gz")
    cloud.objects = {"/bucket/hello.tar.gz": (tmp_path / "hello.tar.gz").read_bytes()}
    done = petal(node, "bootstrap", "--config", str(configuration(tmp_path, text)), **environment(cloud))
    assert done.returncode in (0, 3), done.stderr
    asked = cloud.of_imds()
    assert [method for method, path, _ in asked if path == "/latest/api/token"] == ["PUT"] * (len(asked) // 2)
    for method, path, headers in asked:
        if path == "/latest/api/token":
            assert headers["x-aws-ec2-metadata-token-ttl-seconds"] == "300"
        else:
            assert (method, headers.get("x-aws-ec2-metadata-token")) == ("GET", IMDS_TOKEN), path
    assert holding(node, [*ROLE.values(), IMDS_TOKEN]) == {}


def test_a_metadata_service_without_version_2_gets_no_data_request(node: Path, cloud: Cloud, tmp_path: Path) -> None:
    cloud.version_2 = False
    text = package(tmp_path, "s3://bucket/hello.tar.gz")
    cloud.objects = {"/bucket/hello.tar.gz": (tmp_path / "hello.tar.gz").read_bytes()}
    petal(node, "bootstrap", "--config", str(configuration(tmp_path, text)), **environment(cloud))
    assert {method for method, _, _ in cloud.of_imds()} == {"PUT"}
    assert all("authorization" not in headers for _, path, headers in cloud.requests if path.startswith("/bucket/"))


def test_no_proxy_sees_the_metadata_service(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.address)
    monkeypatch.setattr("bootstrap.remote.metadata._service", _Service())  # an earlier test may have had no answer
    assert metadata("meta-data/placement/region") == "us-east-1"


# --------------------------------------------------------------------------------------------------------- checksums


def test_a_tampered_package_is_not_unpacked(node: Path, cloud: Cloud, tmp_path: Path) -> None:
    text = package(tmp_path, "s3://bucket/hello.tar.gz")
    cloud.objects = {"/bucket/hello.tar.gz": tarball(tmp_path / "evil.tar.gz", {"a/bin/hello": "evil"}).read_bytes()}
    done = petal(node, "bootstrap", "--config", str(configuration(tmp_path, text)), "--json", **environment(cloud))
    steps = {step["name"]: step for step in json.loads(done.stdout)["data"]["steps"]}
    assert steps["packages"]["error"]["code"] == "fetch-checksum"
    assert list((node / "shared" / "petal" / "root" / "store").rglob("*")) == []


def test_a_deep_package_is_refused_and_leaves_no_files(node: Path, tmp_path: Path) -> None:
    deep = tarball(tmp_path / "deep.tar.gz", {"hello-1.0/" + "a/" * 1500 + "f": "x", "hello-1.0/bin/hello": "x"})
    text = f"packages: [{{name: hello, version: '1.0', source: '{deep}', sha256: {sha256_of(deep)}}}]\n"
    done = petal(node, "bootstrap", "--config", str(configuration(tmp_path, text)), "--json")
    steps = {step["name"]: step for step in json.loads(done.stdout)["data"]["steps"]}
    assert steps["packages"]["error"]["code"] == "package-unsafe"
    assert list((node / "shared" / "petal" / "root" / "store").glob("*/*")) == []


@pytest.mark.parametrize("place", ["s3", "file"])
def test_a_configuration_with_another_checksum_is_not_read(
    place: str, node: Path, cloud: Cloud, tmp_path: Path
) -> None:
    text = package(tmp_path)
    digest = hashlib.sha256(text.encode()).hexdigest()
    config = configuration(tmp_path, text)
    cloud.objects = {"/bucket/petal.yaml": text.encode()}
    uri = "s3://bucket/petal.yaml" if place == "s3" else str(config)

    def plan() -> dict[str, Any]:
        argv = ("plan", "--config", uri, "--config-sha256", digest, "--json")
        answer: dict[str, Any] = json.loads(petal(node, *argv, **environment(cloud)).stdout)
        return answer

    assert plan()["errors"] == []
    config.write_text(text + "check: {run: [evil]}\n")
    cloud.objects = {"/bucket/petal.yaml": config.read_bytes()}
    assert plan()["errors"][0]["code"] == "fetch-checksum"


def test_a_hook_passes_on_the_configurations_checksum(node: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path, package(tmp_path))
    argv = ("hook", "configured", "--strict", "--config", str(config), "--config-sha256")
    assert petal(node, *argv, "0" * 64).returncode == 1
    kept = json.loads((node / "var/lib/petal-node/request.json").read_text())
    assert "config" not in kept
    assert petal(node, *argv, sha256_of(config)).returncode in (0, 3)


@pytest.mark.parametrize("there", ["nothing", "the right one", "another"])
def test_a_job_runs_the_archive_of_its_name_and_no_other(tmp_path: Path, there: str) -> None:
    """A real shell runs a copy on the node's disk, whose checksum is verified each time."""
    shared, cache = tmp_path / "archive", tmp_path / "a cache"
    good = b'#!/bin/sh\necho "ran $*"\n'
    name = hashlib.sha256(good).hexdigest()
    shared.mkdir()
    cache.mkdir()
    (shared / name).write_bytes(good)
    if there != "nothing":
        (cache / name).write_bytes(good if there == "the right one" else b"#!/bin/sh\necho evil\n")
    values = {"path": "/usr/bin:/bin", "python": "", "run": "run-1", "directory": str(tmp_path)}
    values |= {"sha256": name, "archive": shlex.quote(str(shared / name)), "cache": shlex.quote(str(cache))}
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT.format(**values))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", script], capture_output=True, text=True, check=False)

    assert run().stdout == f"ran build-job --run-id run-1 {tmp_path}\n"
    (shared / name).write_bytes(b"#!/bin/sh\necho evil\n")
    assert run().stdout == f"ran build-job --run-id run-1 {tmp_path}\n", "the copy has changed"
    (cache / name).unlink()
    refused = run()
    assert refused.returncode == 1
    assert refused.stdout == f"{shared / name} has another checksum than its name and is not run\n"
