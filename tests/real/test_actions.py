"""The hook scripts for real, in dash and bash: every source of the archive, and every way in which it can fail.

Each test has a directory as its node (PETAL_PREFIX), a stand-in for the archive that tells how it was run, and
stand-ins for the clients on PATH. The environment is what ParallelCluster gives: a PATH, no HOME, no LANG.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bootstrap.archive import build
from bootstrap.paths import Paths
from bootstrap.state import Runs

ROOT = Path(__file__).resolve().parents[2]
PCLUSTER_PATH = "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin:/opt/aws/bin"
ARCHIVE = """#!/bin/sh
# A stand-in for the archive.
echo "ran $0"
for argument in "$@"; do echo "argument [$argument]"; done
echo "home [${HOME-unset}] lang [${LANG-unset}] umask [$(umask)]"
read -r line && echo "stdin [$line]"
case ${ARCHIVE_ENDS-0} in
KILL) kill -KILL $$ ;;
MOVED)
    installed=$PETAL_PREFIX/opt/petal-node/1.0/petal-node
    [ "$0" != "$installed" ] || exit 0
    mkdir -p "${installed%/*}" && mv "$0" "$installed" && exit 127
    ;;
esac
exit "${ARCHIVE_ENDS-0}"
"""


@dataclass
class Ran:
    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Hook:
    """One hook on one node."""

    shell: str
    script: Path
    prefix: Path
    stand_ins: Path
    archive: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.archive.read_bytes()).hexdigest()

    @property
    def home(self) -> Path:
        return self.prefix / "opt/petal-node"

    def arguments(self, package: str, *more: str) -> list[str]:
        return ["--package", package, "--sha256", self.sha256, "--config", "s3://b/petal.yaml", *more]

    def environment(self) -> dict[str, str]:
        path = f"{self.stand_ins}:{PCLUSTER_PATH}"
        return {"PATH": path, "PETAL_PREFIX": str(self.prefix), "PETAL_FETCH_SECONDS": "8", **self.env}

    def run(self, *arguments: str, **options) -> Ran:
        started = time.monotonic()
        command = [self.shell, str(self.script), *arguments]
        options = {"stdin": subprocess.DEVNULL, "cwd": "/", **options}
        done = subprocess.run(command, env=self.environment(), capture_output=True, timeout=60, check=False, **options)
        done.stderr.decode("ascii")
        return Ran(done.returncode, done.stdout.decode("ascii"), done.stderr.decode(), time.monotonic() - started)

    def fetch(self, package: str, *more: str, **options) -> Ran:
        return self.run(*self.arguments(package, *more), **options)

    def stand_in(self, name: str, text: str) -> Path:
        path = self.stand_ins / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def records(self) -> list[dict]:
        return [json.loads(path.read_bytes()) for path in (self.prefix / "var/lib/petal-node/runs").glob("*")]

    def log(self) -> list[dict]:
        path = self.prefix / "var/log/petal-node.log"
        return [json.loads(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []

    def left_over(self) -> list[str]:
        incoming = self.home / "incoming"
        return sorted(path.name for path in incoming.iterdir()) if incoming.exists() else []


@pytest.fixture(params=["dash", "bash"])
def hook(request: pytest.FixtureRequest, tmp_path: Path) -> Hook:
    shell = shutil.which(request.param)
    if not shell:
        pytest.skip(f"{request.param} is not installed")
    script = tmp_path / "tmp4f3a"
    script.write_bytes(build.hook(ROOT / "actions", "configured"))
    archive = tmp_path / "archive"
    archive.write_text(ARCHIVE)
    for folder in ("node", "stand-ins"):
        (tmp_path / folder).mkdir()
    made = Hook(shell, script, tmp_path / "node", tmp_path / "stand-ins", archive)
    made.stand_in("aws", 'echo "Unable to locate credentials" >&2; exit 255\n')
    return made


def ran_the_archive(hook: Hook, ran: Ran) -> None:
    assert ran.code == 0, ran
    assert "argument [hook]\nargument [configured]\n" in ran.out
    assert ran.err == ""
    assert hook.records() == []


def failed(hook: Hook, ran: Ran, code: str, *, exit_code: int = 0) -> dict:
    """Checks all that a failure must leave, and gives the error of the record."""
    assert ran.code == exit_code, ran
    assert "argument [hook]" not in ran.out or code == "archive-failed"
    told = ran.err.splitlines()
    if told and "Killed" in told[0]:  # the shell's own word on a killed child
        ran.err = ran.err.split("\n", 1)[1]
        told = told[1:]
    assert len(told) == 3
    assert [line.split(":")[0] for line in told] == ["petal-node configured", "why", "remedy"]
    assert ran.out.endswith(ran.err)
    (record,) = hook.records()
    (error,) = record["errors"]
    assert error["code"] == code
    assert error["what"] in told[0]
    assert error["why"] in told[1]
    assert told[2] == "remedy: " + error["remedy"][0]
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{6}", record["run_id"])
    assert abs(datetime.now(timezone.utc) - moment(record["finished"])) < timedelta(seconds=60)
    assert moment(record["started"]) <= moment(record["finished"])
    assert record["host"] == os.uname().nodename
    assert record["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {key: record[key] for key in ("format", "verb", "event", "role", "package", "release", "steps")} == {
        "format": 1, "verb": "hook", "event": "configured", "role": None, "package": None, "release": None, "steps": [],
    }  # fmt: skip
    assert (record["status"], record["exit"]) == ("degraded", 1)
    assert Runs(Paths(hook.prefix)).load(record["run_id"]).errors == (error,)  # the tool can read it
    assert [(line["level"], line["code"], line["run_id"]) for line in hook.log()] == [("error", code, record["run_id"])]
    return error


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


# what it hands on


def test_the_archive_gets_the_event_and_every_argument(hook):
    ran = hook.fetch(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")
    ran_the_archive(hook, ran)
    given = re.findall(r"argument \[(.*)\]", ran.out)
    expected = ["hook", "configured", *hook.arguments(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")]
    assert given == [*expected, "--root", str(hook.prefix)]
    assert "home [unset] lang [unset] umask [0022]" in ran.out
    assert "stdin" not in ran.out


def test_arguments_with_equals_signs_and_capital_letters(hook):
    ran = hook.run(f"--package={hook.archive.as_uri()}", f"--sha256={hook.sha256.upper()}")
    ran_the_archive(hook, ran)


@pytest.mark.parametrize("event", build.EVENTS)
def test_every_event_in_the_single_file_and_in_the_checkout(hook, event):
    hook.script.write_bytes(build.hook(ROOT / "actions", event))
    for script in (hook.script, ROOT / f"actions/on_node_{event}.sh"):
        hook.script = script
        assert f"argument [hook]\nargument [{event}]\n" in hook.fetch(hook.archive.as_uri()).out


def test_a_source_file_that_was_uploaded_says_what_to_upload(hook, tmp_path):
    shutil.copy(ROOT / "actions/on_node_start.sh", hook.script)
    ran = hook.run("--package", "s3://b/k")
    assert (ran.code, ran.err) == (0, "")
    assert "upload dist/on_node_start.sh instead" in ran.out
    assert hook.run("--strict").code == 1


def test_a_common_file_that_anybody_could_have_written_is_not_sourced(hook, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    hook.script = Path(shutil.copy(ROOT / "actions/on_node_start.sh", shared / "tmp123"))
    (shared / "fetch.sh").write_text("echo STOLEN\n")
    assert "STOLEN" not in hook.run().out


def test_closed_stdin_foreign_directory_deleted_script(hook, tmp_path):
    hook.stand_in("aws", f'rm -f {hook.script}\nsleep 0.2\nfor last; do :; done; cp {hook.archive} "$last"\n')
    gone = tmp_path / "gone"
    gone.mkdir()
    hook.script, script = tmp_path / "closed", hook.script
    hook.script.write_text(f'rmdir {gone}; exec {hook.shell} {script} "$@" <&-')
    ran = hook.fetch("s3://b/k", cwd=gone)  # the shell itself complains of the directory on stderr
    assert ran.code == 0
    assert "argument [configured]" in ran.out
    assert not script.exists()


# where it finds the archive


def test_installed_already(hook):
    place = hook.home / "0.1.0/petal-node"
    place.parent.mkdir(parents=True)
    shutil.copy(hook.archive, place)
    place.chmod(0o755)
    ran = hook.fetch("s3://b/not-asked-for")
    ran_the_archive(hook, ran)
    assert f"ran {place}" in ran.out
    assert hook.left_over() == []


def test_another_version_or_a_link_is_not_used_as_installed(hook, tmp_path):
    for version in ("0.1.0", "0.2.0"):
        (hook.home / version).mkdir(parents=True)
    (hook.home / "0.1.0/petal-node").write_text("#!/bin/sh\necho WRONG\n")
    (hook.home / "0.2.0/petal-node").symlink_to(hook.archive)
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert f"ran {hook.home}/incoming/{hook.sha256}" in ran.out


@pytest.mark.parametrize("mount", ["/shared", "/fsx data", "/efs"])
def test_shared_storage_before_the_network(hook, mount):
    hook.write("proc/mounts", "proc /proc proc rw 0 0\n1.2.3.4:/x /fsx\\040data lustre rw 0 0\nh:/ /efs nfs4 rw 0 0\n")
    place = hook.write(f"{mount[1:]}/petal/archive/{hook.sha256}", ARCHIVE)
    ran = hook.fetch("s3://b/not-asked-for")
    ran_the_archive(hook, ran)
    assert place.exists()
    assert f"ran {hook.home}/incoming/" in ran.out


def test_what_stands_on_shared_storage_is_verified_as_a_copy(hook):
    hook.write(f"shared/petal/archive/{hook.sha256}", "#!/bin/sh\necho STOLEN\n")
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert "STOLEN" not in ran.out
    assert "wrong checksum" in ran.out


@pytest.mark.parametrize("trap", ["fifo", "directory", "link to a device"])
def test_traps_on_shared_storage_do_not_hang(hook, trap):
    place = hook.write(f"shared/petal/archive/{hook.sha256}", "")
    place.unlink()
    {"fifo": os.mkfifo, "directory": os.mkdir, "link to a device": lambda at: at.symlink_to("/dev/zero")}[trap](place)
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert ran.seconds < 6


def test_shared_storage_that_hangs_is_given_up(hook):
    """`test` and `timeout` that never end, as on a dead NFS mount: not even SIGKILL would help there."""
    pids = hook.prefix / "pids"
    sleeper = hook.stand_in("sleeper", f"echo $$ >>{pids}\nexec sleep 300\n")
    real = shutil.which("timeout")
    hook.stand_in("timeout", f'case $* in *shared/petal*) exec {sleeper} ;; *) exec {real} "$@" ;; esac\n')
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert 3 <= ran.seconds < 12
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_incoming_is_roots_alone(hook):
    ran_the_archive(hook, hook.fetch(hook.archive.as_uri()))
    assert stat.S_IMODE((hook.home / "incoming").stat().st_mode) == 0o700
    assert stat.S_IMODE((hook.home / "incoming" / hook.sha256).stat().st_mode) == 0o755
    assert stat.S_IMODE(hook.home.stat().st_mode) == 0o755
    assert hook.left_over() == [hook.sha256]


def test_what_a_killed_hook_left_is_verified_and_used_or_replaced(hook):
    left = hook.home / "incoming" / hook.sha256
    left.parent.mkdir(parents=True)
    shutil.copy(hook.archive, left)
    left.chmod(0o755)
    ran_the_archive(hook, hook.fetch("s3://b/not-asked-for"))
    left.write_text("#!/bin/sh\necho half")
    ran_the_archive(hook, hook.fetch(hook.archive.as_uri()))


def test_links_in_the_way_are_not_followed(hook, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hook.home.mkdir(parents=True)
    (hook.home / "incoming").symlink_to(elsewhere)
    failed(hook, hook.fetch(hook.archive.as_uri()), "archive-local")
    assert list(elsewhere.iterdir()) == []


def test_an_archive_that_another_hook_moved_away_is_found_again(hook):
    """The first run moves the file and fails with 127 for want of it, as when two hooks install at once."""
    hook.env["ARCHIVE_ENDS"] = "MOVED"
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert re.findall("ran (.*)", ran.out) == [f"{hook.home}/incoming/{hook.sha256}", f"{hook.home}/1.0/petal-node"]


# the network


AWS = """
[ "$1 $2" = "s3 cp" ] || exit 9
echo "aws $*" >>{log}
for last; do before=$target; target=$last; done
{body}
"""


def fake_aws(hook: Hook, tmp_path: Path, body: str) -> Path:
    log = tmp_path / "aws.log"
    hook.stand_in("aws", AWS.format(log=log, body=body))
    return log


def test_aws_cli_with_the_cluster_s_region(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    hook.write("etc/chef/dna.json", '{"cluster": {"stack_name": "c", "region": "eu-west-3", "x": 1}}')
    hook.write("etc/parallelcluster/cfnconfig", "cfn_region=us-east-1\n")
    ran_the_archive(hook, hook.fetch("s3://bucket/a key+1"))
    (line,) = log.read_text().splitlines()
    assert "--region eu-west-3 s3://bucket/a key+1" in line


def test_region_from_cfnconfig_and_another_endpoint(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    hook.write("etc/parallelcluster/cfnconfig", 'stack_name=c\ncfn_region="us-east-2"\n')
    hook.env["AWS_ENDPOINT_URL"] = "http://s3:5000"
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))
    assert "--region us-east-2 --endpoint-url http://s3:5000" in log.read_text()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("An error occurred (404) when calling the HeadObject operation: Key does not exist", "archive-missing"),
        ("An error occurred (403) when calling the HeadObject operation: Forbidden", "archive-forbidden"),
    ],
)
def test_403_and_404_are_final(hook, tmp_path, message, code):
    log = fake_aws(hook, tmp_path, f'echo "{message}" >&2; exit 1')
    ran = hook.fetch("s3://bucket/key")
    error = failed(hook, ran, code)
    assert message in error["why"]
    assert len(log.read_text().splitlines()) == 1
    assert ran.seconds < 3
    assert hook.left_over() == []


def test_other_errors_are_tried_again(hook, tmp_path):
    tries = tmp_path / "tries"
    fail = '{ echo "Connection reset" >&2; exit 1; }'
    fake_aws(hook, tmp_path, f'echo >>{tries}\n[ $(wc -l <{tries}) -gt 2 ] || {fail}\ncp {hook.archive} "$target"')
    ran = hook.fetch("s3://bucket/key")
    ran_the_archive(hook, ran)
    assert ran.out.count("trying again") == 2


def test_the_budget_ends_the_tries(hook, tmp_path):
    fake_aws(hook, tmp_path, 'echo "Could not connect to the endpoint URL" >&2; exit 1')
    hook.env["PETAL_FETCH_SECONDS"] = "4"
    ran = hook.fetch("s3://bucket/key")
    assert "Could not connect" in failed(hook, ran, "archive-unreachable")["why"]
    assert ran.seconds < 6


def test_a_client_that_hangs_is_stopped_at_the_budget(hook, tmp_path):
    fake_aws(hook, tmp_path, "sleep 300")
    hook.env["PETAL_FETCH_SECONDS"] = "2"
    ran = hook.fetch("s3://bucket/key")
    assert failed(hook, ran, "archive-unreachable")["why"] == "no answer in time"
    assert ran.seconds < 8


def test_a_wrong_checksum_is_final_deleted_and_not_executed(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'printf "#!/bin/sh\\ntouch {tmp_path}/EXECUTED\\n" >"$target"')
    error = failed(hook, hook.fetch("s3://bucket/key"), "archive-checksum")
    assert hook.sha256 in error["why"]
    assert not (tmp_path / "EXECUTED").exists()
    assert len(log.read_text().splitlines()) == 1
    assert hook.left_over() == []


def test_messages_are_ascii_and_valid_json_whatever_a_client_says(hook, tmp_path):
    fake_aws(hook, tmp_path, r"""printf 'bad "quote" back\\slash \377\303\251 tab\t (404)\n' >&2; exit 1""")
    why = failed(hook, hook.fetch('s3://bucket/k"ey'), "archive-missing")["why"]
    assert why.startswith('bad "quote" back\\slash ???')


class Answers(BaseHTTPRequestHandler):
    """An object store of one object: the path decides the answer."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        code = int(name) if name.isdigit() else 200
        if name == "flaky" and len(self.server.asked) < 3:
            code = 503
        body = self.server.body if code == 200 else b"<Error/>"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def plain(hook: Hook) -> Iterator[ThreadingHTTPServer]:
    yield from serve(hook, None, None)


@pytest.fixture
def tls(hook: Hook, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    hook.env["CURL_CA_BUNDLE"] = str(certificate)
    yield from serve(hook, key, certificate)


def serve(hook: Hook, key: Path | None, certificate: Path | None) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked, server.body = [], hook.archive.read_bytes()
    if certificate:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def needs_curl() -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")


def test_https(hook, tls):
    needs_curl()
    url = f"https://localhost:{tls.server_port}"
    ran_the_archive(hook, hook.fetch(f"{url}/petal-node"))


def test_https_answers(hook, tls):
    needs_curl()
    url = f"https://localhost:{tls.server_port}"
    failed(hook, hook.fetch(f"{url}/404"), "archive-missing")
    assert tls.asked == ["/404"]


def test_https_forbidden(hook, tls):
    needs_curl()
    failed(hook, hook.fetch(f"https://localhost:{tls.server_port}/403"), "archive-forbidden")


def test_https_is_tried_again_after_503(hook, tls):
    needs_curl()
    ran_the_archive(hook, hook.fetch(f"https://localhost:{tls.server_port}/flaky"))
    assert tls.asked == ["/flaky"] * 3


def test_https_with_an_unknown_certificate_is_not_believed(hook, tls):
    needs_curl()
    hook.env = {"PETAL_FETCH_SECONDS": "1"}
    failed(hook, hook.fetch(f"https://localhost:{tls.server_port}/petal-node"), "archive-unreachable")
    assert tls.asked == []


def test_s3_without_credentials_from_an_endpoint_by_path(hook, plain):
    needs_curl()
    hook.env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{plain.server_port}/"
    ran_the_archive(hook, hook.fetch("s3://bucket/folder/a key+1"))
    assert plain.asked == ["/bucket/folder/a%20key%2B1"]


@pytest.mark.parametrize(
    ("region", "bucket", "url"),
    [
        ("eu-west-1", "bucket", "https://bucket.s3.eu-west-1.amazonaws.com/k/petal-node"),
        ("eu-west-1", "my.bucket", "https://s3.eu-west-1.amazonaws.com/my.bucket/k/petal-node"),
        ("cn-north-1", "bucket", "https://bucket.s3.cn-north-1.amazonaws.com.cn/k/petal-node"),
        ("", "bucket", "https://bucket.s3.amazonaws.com/k/petal-node"),
    ],
)
def test_s3_without_credentials_over_https(hook, tmp_path, region, bucket, url):
    log = tmp_path / "curl.log"
    body = f'echo "$*" >>{log}\nwhile [ "$1" != --output ]; do shift; done\ncp {hook.archive} "$2"; printf 200\n'
    hook.stand_in("curl", body)
    hook.write("etc/chef/dna.json", json.dumps({"cluster": {"region": region}}, indent=1))
    ran_the_archive(hook, hook.fetch(f"s3://{bucket}/k/petal-node"))
    asked = log.read_text()
    assert asked.endswith(f" {url}\n")
    assert "--proto =https --proto-redir =https --tlsv1.2" in asked


def test_parallelcluster_s_boto3(hook, monkeypatch):
    """Its real client against a server that speaks S3, in the place where ParallelCluster keeps it."""
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    python = hook.prefix / "opt/parallelcluster/pyenv/versions/3.14.6/envs/cookbook_virtualenv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
        hook.env[name] = value
    hook.write("etc/chef/dna.json", '{"cluster": {"region": "us-east-1"}}')
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        hook.env["AWS_ENDPOINT_URL"] = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=hook.env["AWS_ENDPOINT_URL"])
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="a/petal-node", Body=hook.archive.read_bytes())
        ran_the_archive(hook, hook.fetch("s3://bucket/a/petal-node"))
        shutil.rmtree(hook.home)
        failed(hook, hook.fetch("s3://bucket/a/wrong"), "archive-missing")
    finally:
        server.stop()


def test_file_that_is_missing(hook, tmp_path):
    failed(hook, hook.fetch(f"file://{tmp_path}/none"), "archive-missing")


def test_file_that_is_a_directory(hook, tmp_path):
    failed(hook, hook.fetch(f"file://{tmp_path}"), "archive-forbidden")


# wrong use


SECRET = "it holds a password or a signature, and everybody can list the arguments of a process"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--package is not given"),
        (["--package", "s3://b/k"], "--sha256 is not given"),
        (["--package"], "--package has no value"),
        (["--package", "s3://b/k", "--sha256", "123"], "it must be 64 hexadecimal digits"),
        (["--package", "s3://b/k", "--sha256", "g" * 64], "it must be 64 hexadecimal digits"),
        (["--package", "http://b/k", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "/tmp/petal-node", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "s3://bucket", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "https://user:hidden@h/k", "--sha256", "0" * 64], SECRET),
        (["--package", "https://h/k?a=1&X-Amz-Signature=hidden", "--sha256", "0" * 64], SECRET),
        (["--package", "https://h/k?sig=hidden", "--sha256", "0" * 64], SECRET),
    ],
)
def test_wrong_arguments(hook, arguments, why):
    assert failed(hook, hook.run(*arguments), "hook-usage")["why"] == why
    kept = [path for path in hook.prefix.rglob("*") if path.is_file() and b"hidden" in path.read_bytes()]
    assert kept == [], "a secret was written"


def test_strict_turns_every_failure_of_the_hook_into_1(hook, tmp_path):
    failed(hook, hook.run("--strict"), "hook-usage", exit_code=1)
    hook.prefix = tmp_path / "other"
    failed(hook, hook.fetch(f"file://{tmp_path}/none", "--strict"), "archive-missing", exit_code=1)


# how the archive ends


@pytest.mark.parametrize("ends", ["1", "3", "69", "126", "127", "KILL"])
def test_whatever_the_archive_ends_with_the_hook_ends_with_0(hook, ends):
    hook.env["ARCHIVE_ENDS"] = ends
    failed(hook, hook.fetch(hook.archive.as_uri()), "archive-failed")


@pytest.mark.parametrize(("ends", "code"), [("1", 1), ("3", 3), ("78", 78), ("69", 69), ("126", 1), ("KILL", 1)])
def test_strict_hands_the_code_on(hook, ends, code):
    hook.env["ARCHIVE_ENDS"] = ends
    ran = hook.fetch(hook.archive.as_uri(), "--strict")
    assert ran.code == code
    assert len(hook.records()) == (ends in ("69", "126", "KILL"))  # of the others the tool writes its own


def test_a_disk_that_cannot_be_written_costs_the_stack_and_not_the_node(hook, tmp_path):
    hook.prefix = tmp_path / "a-file"
    hook.prefix.write_text("")
    ran = hook.fetch(hook.archive.as_uri())
    assert ran.code == 0
    assert "cannot be kept under" in ran.err
    assert len(ran.err.splitlines()) == 3


def test_a_terminated_hook_leaves_no_part(hook, tmp_path):
    fake_aws(hook, tmp_path, 'echo half >"$target"; sleep 1; exit 1')
    command = [hook.shell, str(hook.script), *hook.arguments("s3://b/k")]
    process = subprocess.Popen(command, env=hook.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not hook.left_over():  # until the transfer is under way
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert hook.left_over() == []
