"""The real hook scripts in dash and bash: every source of the archive and its possible failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.host.atomic import write_json
from tests.deadlines import SOON
from tests.real.hooks import ARCHIVE, Hook, failed, fake_aws, ran_the_archive
from tests.real.server import (
    Behaviour,
    Handler,
    Server,
    always,
    answer,
    content,
    cut_off,
    dripping,
    endless,
    first,
    issued_certificate,
    leads_to,
    made_certificate,
    serving,
)
from tests.real.test_s3_errors import REFUSALS, REGIONS

# local sources of the archive


def test_an_installed_archive_is_used_without_a_download(hook):
    place = hook.home / "0.1.0/petal-node"
    place.parent.mkdir(parents=True)
    shutil.copy(hook.archive, place)
    place.chmod(0o755)
    ran = hook.fetch("s3://b/not-asked-for")
    ran_the_archive(hook, ran)
    assert f"ran {place}" in ran.out
    assert hook.left_over() == []


def test_an_installed_archive_of_another_version_or_a_link_is_not_used(hook, tmp_path):
    for version in ("0.1.0", "0.2.0"):
        (hook.home / version).mkdir(parents=True)
    (hook.home / "0.1.0/petal-node").write_text("#!/bin/sh\necho WRONG\n")
    (hook.home / "0.2.0/petal-node").symlink_to(hook.archive)
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert f"ran {hook.home}/incoming/{hook.sha256}" in ran.out


@pytest.mark.parametrize("mount", ["/shared", "/efs", "/fsx/a", "/data", "/raid", "/used before"])
@pytest.mark.parametrize("facts", ["dna.json", "cfnconfig"])
def test_declared_storage_is_used_before_the_network(hook, mount, facts):
    dna = {"ebs_shared_dirs": "/shared,data", "efs_shared_dirs": "/efs", "fsx_shared_dirs": "NONE, /fsx/a"}
    if facts == "dna.json":
        cluster = {**dna, "raid_shared_dir": "/raid", "raid_parameters": "NONE"}
        hook.write("etc/chef/dna.json", json.dumps({"cluster": cluster}))
    else:
        lines = "\n".join(f"cfn_{name}='{value}'" for name, value in dna.items())
        hook.write("etc/parallelcluster/cfnconfig", f"{lines}\ncfn_raid_shared_dir=/raid\ncfn_raid_parameters=NONE\n")
    write_json(hook.write("var/lib/petal-node/storage.json", ""), {"format": 1, "mount": "/used before", "token": "x"})
    place = hook.write(f"{mount[1:]}/petal/archive/{hook.sha256}", ARCHIVE)
    ran = hook.fetch("s3://b/not-asked-for")
    ran_the_archive(hook, ran)
    assert place.exists()
    assert f"ran {hook.home}/incoming/" in ran.out


def test_an_undeclared_mount_is_not_read(hook, tmp_path):
    """Any user can mount a file system that looks like another type, and let it hang."""
    hook.write("proc/mounts", "h:/ /efs nfs4 rw 0 0\nx /efs fuse.efs rw,user_id=1000,allow_other 0 0\n")
    hook.write(f"efs/petal/archive/{hook.sha256}", ARCHIVE)
    failed(hook, hook.fetch(f"file://{tmp_path}/none"), "fetch-missing")


def test_an_archive_on_shared_storage_with_a_wrong_checksum_is_not_run(hook):
    hook.write(f"shared/petal/archive/{hook.sha256}", "#!/bin/sh\necho STOLEN\n")
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert "STOLEN" not in ran.out
    assert "wrong checksum" in ran.out


@pytest.mark.parametrize("trap", ["fifo", "directory", "link to a device"])
def test_pipes_and_devices_on_shared_storage_do_not_block_the_hook(hook, trap):
    place = hook.write(f"shared/petal/archive/{hook.sha256}", "")
    place.unlink()
    {"fifo": os.mkfifo, "directory": os.mkdir, "link to a device": lambda at: at.symlink_to("/dev/zero")}[trap](place)
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert ran.seconds < SOON


def test_a_hook_does_not_wait_for_shared_storage_that_hangs(hook):
    """`test` and `timeout` never end, as on a dead NFS mount, where even SIGKILL has no effect."""
    pids = hook.prefix / "pids"
    sleeper = hook.substitute("sleeper", f"echo $$ >>{pids}\nexec sleep 300\n")
    real = shutil.which("timeout")
    hook.substitute("timeout", f'case $* in *shared/petal*) exec {sleeper} ;; *) exec {real} "$@" ;; esac\n')
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert ran.seconds < SOON
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_only_root_can_enter_the_download_directory(hook):
    ran_the_archive(hook, hook.fetch(hook.archive.as_uri()))
    assert stat.S_IMODE((hook.home / "incoming").stat().st_mode) == 0o700
    assert stat.S_IMODE((hook.home / "incoming" / hook.sha256).stat().st_mode) == 0o755
    assert stat.S_IMODE(hook.home.stat().st_mode) == 0o755
    assert hook.left_over() == [hook.sha256]


def test_only_partial_files_of_killed_hooks_are_removed(hook):
    old, new = (hook.write(f"opt/petal-node/incoming/.part.{name}", "part") for name in ("12345", "23456.error"))
    os.utime(old, (time.time() - 7200,) * 2)
    ran_the_archive(hook, hook.fetch(hook.archive.as_uri()))
    assert hook.left_over() == [new.name, hook.sha256]


def test_the_download_of_a_killed_hook_is_used_if_its_checksum_matches(hook):
    left = hook.home / "incoming" / hook.sha256
    left.parent.mkdir(parents=True)
    shutil.copy(hook.archive, left)
    left.chmod(0o755)
    ran_the_archive(hook, hook.fetch("s3://b/not-asked-for"))
    left.write_text("#!/bin/sh\necho half")
    ran_the_archive(hook, hook.fetch(hook.archive.as_uri()))


def test_planted_links_at_download_paths_are_not_followed(hook, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hook.home.mkdir(parents=True)
    (hook.home / "incoming").symlink_to(elsewhere)
    failed(hook, hook.fetch(hook.archive.as_uri()), "archive-local")
    assert list(elsewhere.iterdir()) == []


def test_an_archive_that_another_hook_has_moved_is_found_again(hook):
    """The first run moves the file and fails with 127 because it is missing, as if two hooks install at once."""
    hook.env["ARCHIVE_ENDS"] = "MOVED"
    ran = hook.fetch(hook.archive.as_uri())
    ran_the_archive(hook, ran)
    assert re.findall("ran (.*)", ran.out) == [f"{hook.home}/incoming/{hook.sha256}", f"{hook.home}/1.0/petal-node"]


# the network


@pytest.fixture
def cli(hook: Hook) -> Hook:
    """A hook with the real AWS CLI and access keys."""
    aws = shutil.which("aws")
    if not aws:
        pytest.skip("the AWS CLI is not installed")
    hook.substitute("aws", f'PATH={os.environ["PATH"]} exec {aws} "$@"\n')
    hook.env |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "PETAL_FETCH_SECONDS": "20"}
    hook.write("etc/chef/dna.json", '{"cluster": {"region": "us-east-1"}}')
    return hook


def test_the_aws_cli_gets_the_clusters_region(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    hook.write("etc/chef/dna.json", '{"cluster": {"stack_name": "c", "region": "eu-west-3", "x": 1}}')
    hook.write("etc/parallelcluster/cfnconfig", "cfn_region=us-east-1\n")
    ran_the_archive(hook, hook.fetch("s3://bucket/a key+1"))
    (line,) = log.read_text().splitlines()
    assert "--region eu-west-3 --bucket bucket --key a key+1 /" in line


def test_the_region_comes_from_cfnconfig_and_the_endpoint_can_be_set(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    hook.write("etc/parallelcluster/cfnconfig", 'stack_name=c\ncfn_region="us-east-2"\n')
    hook.env["AWS_ENDPOINT_URL"] = "http://s3:5000"
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))
    assert "--region us-east-2 --endpoint-url http://s3:5000" in log.read_text()


@pytest.mark.parametrize(
    "text",
    [
        '{"cluster": {"region": "eu-west-1", "cw": {"region": "us-east-1", "a": {}}}}',
        '{"before": {"region": "us-east-2"}, "cluster": {"cw": {"region": "us-east-1"}, "region": "eu-west-1"}}',
        '{"cluster":\n {"node_type": "HeadNode",\n "region": "eu-west-1"},\n "other": {"region": "us-west-2"}}',
    ],
)
def test_the_region_is_that_of_the_cluster(hook, tmp_path, text):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    hook.write("etc/chef/dna.json", text)
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))
    assert "--region eu-west-1 " in log.read_text()


CALL = "An error occurred ({}) when calling the GetObject operation: {}"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (CALL.format("NoSuchKey", "The specified key does not exist."), "fetch-missing"),
        (CALL.format("AccessDenied", "Access Denied"), "fetch-forbidden"),
        (CALL.format("AccessDenied", "arn:aws:sts::1:assumed-role/Credentials/i-0 may not"), "fetch-forbidden"),
        (
            CALL.format("AccessDenied", "because no VPC endpoint policy allows the s3:GetObject action"),
            "fetch-forbidden",
        ),
        (CALL.format("AccessDenied", "is not authorized to perform: kms:Decrypt on resource"), "fetch-forbidden"),
        (CALL.format("AccessDenied", "Bucket is requester pays bucket but no requester pays header"), "fetch-refused"),
        (CALL.format("RequestTimeTooSkewed", "The difference is too large"), "fetch-refused"),
        (CALL.format("InvalidObjectState", "The operation is not valid for the storage class"), "fetch-refused"),
        (CALL.format("ExpiredToken", "The provided token has expired."), "fetch-no-credentials"),
        ("SSL validation failed for https://s3 [SSL: CERTIFICATE_VERIFY_FAILED]", "fetch-unreachable"),
        ("Could not connect to the endpoint URL", "fetch-unreachable"),
        ("curl: (28) Failed to connect to b port 443 after 404 ms: Timeout was reached", "fetch-unreachable"),
        ("curl: (56) Received HTTP code 403 from proxy after CONNECT", "fetch-unreachable"),
        ("fatal error: Unable to locate credentials", "fetch-no-credentials"),
    ],
)
def test_the_first_reason_of_the_client_is_reported(hook, tmp_path, message, code):
    body = f'echo >&2; echo "Warning: Python is old" >&2; echo "{message}" >&2; echo "and then this" >&2; exit 1'
    fake_aws(hook, tmp_path, body)
    ran = hook.fetch("s3://bucket/key")
    assert f"s3://bucket/key could not be fetched [{code}]: {message}. Remedy: " in failed(hook, ran, code)
    assert hook.left_over() == []


DENIED = CALL.format("AccessDenied", "User: arn:aws:sts::1:a is not authorized to perform: {} on resource: x {}")
NOT_ALLOWED = "because no {} allows the {} action"
PYTHON = 'Traceback (most recent call last):\n  File "/usr/bin/aws", line 19, in <module>\n    import awscli\n'
MESSAGES = {
    "Deny": (DENIED.format("s3:GetObject", "with an explicit deny in a VPC endpoint policy"), "forbidden", "that Deny"),
    "Deny of the key": (DENIED.format("kms:Decrypt", "with an explicit deny in a x policy"), "forbidden", "that Deny"),
    "boundary": (
        DENIED.format("s3:GetObject", NOT_ALLOWED.format("permissions boundary", "s3:GetObject")),
        "forbidden",
        "allow s3:GetObject in the permissions boundary",
    ),
    "endpoint": (
        DENIED.format("s3:GetObject", NOT_ALLOWED.format("VPC endpoint policy", "s3:GetObject")),
        "forbidden",
        "allow s3:GetObject in the VPC endpoint policy",
    ),
    "key, SCP": (
        DENIED.format("kms:Decrypt", NOT_ALLOWED.format("service control policy", "kms:Decrypt")),
        "forbidden",
        "allow kms:Decrypt in the service control policy",
    ),
    "role": (
        DENIED.format("s3:GetObject", NOT_ALLOWED.format("identity-based policy", "s3:GetObject")),
        "forbidden",
        "(S3Access",
    ),
    "key": (
        DENIED.format("kms:Decrypt", NOT_ALLOWED.format("identity-based policy", "kms:Decrypt")),
        "forbidden",
        "allow kms:Decrypt",
    ),
    "key is disabled": (CALL.format("KMS.DisabledException", "arn:x is disabled."), "forbidden", "enable the KMS key"),
    "key is deleted": (CALL.format("KMS.NotFoundException", "Key arn:x"), "forbidden", "with another key"),
    "clock": (CALL.format("RequestTimeTooSkewed", "x"), "refused", "timedatectl"),
    "tier": (CALL.format("InvalidObjectState", "for the object's access tier"), "refused", "--restore-request '{}'"),
    "class": (CALL.format("InvalidObjectState", "for the object's storage class"), "refused", "Days=7"),
    "busy": (
        "An error occurred (SlowDown) when calling the GetObject operation (reached max retries: 2): Please",
        "unreachable",
        "try again later",
    ),
    "other code": (CALL.format("InvalidRequest", "x"), "refused", "aws s3api head-object --bucket b --key 'a b'"),
    "region": (CALL.format("IllegalLocationConstraintException", "x"), "region", "AWS_REGION"),
    "access point": (CALL.format("NoSuchAccessPoint", "x"), "missing", "correct --package"),
    "page of a proxy": (CALL.format("", ""), "refused", "not an answer of S3: check HTTPS_PROXY"),
    "profile": ("The config profile (x) could not be found", "no-credentials", "correct or unset AWS_PROFILE"),
    "config": (
        PYTHON + "botocore.exceptions.ConfigParseError: Unable to parse config file: /x",
        "no-credentials",
        "AWS_CONFIG_FILE",
    ),
    "process": ("[Errno 2] No such file or directory: '/helper'", "no-credentials", "credential_process"),
    "SSO": ("Error loading SSO Token: Token for x does not exist", "no-credentials", "AWS_PROFILE"),
    "SSO expired": ("Token has expired and refresh failed", "no-credentials", "AWS_PROFILE"),
    "role is wrong": ("Error when retrieving credentials from iam-role: no", "no-credentials", "metadata service"),
    "endpoint URL": ("Invalid endpoint: s3.local:9000", "unreachable", "correct AWS_ENDPOINT_URL"),
    "bucket": ('Parameter validation failed:\nInvalid bucket name "My Bucket"', "missing", "correct --package"),
    "CA": ("SSL validation failed for https://s3/ [Errno 21] Is a directory", "unreachable", "AWS_CA_BUNDLE"),
    "expired": (
        "SSL validation failed certificate verify failed: certificate has expired",
        "unreachable",
        "timedatectl",
    ),
    "early": ("curl: (60) SSL certificate problem: certificate is not yet valid", "unreachable", "timedatectl"),
    "name": (
        "SSL validation failed for https://s3/ hostname 's3' doesn't match 'x'",
        "unreachable",
        "name of the host",
    ),
    "curl, name": (
        "curl: (60) SSL: no alternative certificate subject name matches target host name 's3'",
        "unreachable",
        "name of the host",
    ),
    "authority": ("SSL CERTIFICATE_VERIFY_FAILED unable to get local issuer", "unreachable", "add the authority"),
    "module": (PYTHON + "ModuleNotFoundError: No module named 'awscli'", "unreachable", "is installed and runs"),
    "noexec": ("[1] Error loading Python lib '/tmp/_MEI/x.so'", "unreachable", "a /tmp without noexec"),
    "usage": ("usage: aws [options]\n\n  aws help\naws: error: Invalid choice", "unreachable", "installed and runs"),
    "warning": ("x.py:1: InsecureRequestWarning: Unverified\n  warnings.warn(", "unreachable", "check the route"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_reason_has_its_remedy(hook, tmp_path, name):
    message, code, word = MESSAGES[name]
    (tmp_path / "message").write_text(f"{message}\n")
    fake_aws(hook, tmp_path, f"cat {tmp_path}/message >&2; exit 255")
    line = failed(hook, hook.fetch("s3://b/a b"), f"fetch-{code}")
    reason, _, remedy = line.partition(" Remedy: ")
    assert word in remedy
    shown = message.replace(":\nInvalid", ": Invalid").splitlines()
    assert reason.endswith(f": {shown[-1 if 'import' in message or 'usage' in message else 0]}.")


def test_a_session_token_with_a_line_break_is_not_printed(hook, cli):
    cli.env |= {"AWS_SESSION_TOKEN": "S3CRET\r", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ran = cli.fetch("s3://b/x")
    assert "S3CRET" not in ran.out + failed(cli, ran, "fetch-no-credentials")


@pytest.mark.parametrize("code", [126, 127, 137])
def test_a_client_that_does_not_run_is_not_a_missing_route(hook, tmp_path, code):
    """127 is also the code of a program that lacks a shared library, 137 of one that the kernel has killed."""
    fake_aws(hook, tmp_path, f"echo 'cannot open shared object file: No such file or directory' >&2; exit {code}")
    remedy = failed(hook, hook.fetch("s3://b/key"), "fetch-unreachable").partition("Remedy: ")[2]
    assert "is installed and runs" in remedy


@pytest.mark.parametrize(
    ("words", "code", "remedy"),
    [
        ("Permission denied", "fetch-forbidden", "ls -ld '/nfs/KMS a'"),
        ("Stale file handle", "fetch-unreachable", "findmnt -T '/nfs/KMS a'"),
        ("Input/output error", "fetch-unreachable", "findmnt -T '/nfs/KMS a'"),
    ],
)
def test_the_remedy_of_a_file_is_about_its_file_system(hook, words, code, remedy):
    hook.substitute("cat", f'echo "cat: $2: {words}" >&2; exit 1\n')
    assert failed(hook, hook.fetch("file:///nfs/KMS a"), code).endswith(f"Remedy: {remedy}")


@pytest.mark.parametrize(
    ("status", "remedy"), [(403, "let the proxy allow"), (407, "user and the password"), (502, "check the proxy")]
)
def test_the_answer_of_a_proxy_is_not_that_of_the_server(hook, status, remedy):
    """curl 7.88 prints the same message for both."""
    needs_curl()
    with serving(always(status)) as proxy:
        hook.env |= {"HTTPS_PROXY": proxy.url, "PETAL_FETCH_SECONDS": "3"}
        line = failed(hook, hook.fetch("https://files.corp/x"), "fetch-unreachable")
    assert remedy in line.partition("Remedy: ")[2]


def test_a_missing_file_is_missing_whatever_its_name_contains(hook, tmp_path):
    failed(hook, hook.fetch(f"file://{tmp_path}/KMS credentials: InvalidObjectState/petal-node"), "fetch-missing")


def test_the_aws_cli_gets_the_arn_of_an_access_point(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    arn = "arn:aws:s3:eu-west-1:111122223333:accesspoint"
    for place in (f"{arn}/tools", f"{arn}:tools", "tools-abc-s3alias"):
        ran_the_archive(hook, hook.fetch(f"s3://{place}/a/petal node"))
        assert f"--bucket {place} --key a/petal node {hook.home}" in log.read_text()
        shutil.rmtree(hook.home)


def test_the_aws_cli_reaches_the_endpoint_and_the_metadata_service(hook, tmp_path):
    hook.env |= {"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": "http://s3", "no_proxy": "a.corp"}
    check = '[ "$no_proxy" = "a.corp,169.254.169.254,[fd00:ec2::254]" ] && [ "$NO_PROXY" = "$no_proxy" ]'
    log = fake_aws(hook, tmp_path, f'{check} && cp {hook.archive} "$target"')
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))
    assert "--endpoint-url http://s3 " in log.read_text()


def test_a_public_object_needs_no_credentials(hook, tmp_path):
    fail = 'echo "fatal error: Unable to locate credentials" >&2; exit 1'
    log = fake_aws(hook, tmp_path, f'case $* in *--no-sign-request*) cp {hook.archive} "$target" ;; *) {fail} ;; esac')
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))
    assert ["--no-sign-request" in line for line in log.read_text().splitlines()] == [False, True]


def test_the_aws_cli_retries_itself(hook, tmp_path):
    fake_aws(hook, tmp_path, f'[ "$AWS_RETRY_MODE$AWS_MAX_ATTEMPTS" = standard3 ] && cp {hook.archive} "$target"')
    ran_the_archive(hook, hook.fetch("s3://bucket/key"))


def test_the_error_names_a_missing_client(hook):
    hook.substitute("aws", "exec env no-such-client\n")
    assert "that aws or curl is installed" in failed(hook, hook.fetch("s3://bucket/key"), "fetch-unreachable")


def test_a_hanging_client_is_stopped_at_the_budget(hook, tmp_path):
    fake_aws(hook, tmp_path, "sleep 300")
    hook.env["PETAL_FETCH_SECONDS"] = "2"
    ran = hook.fetch("s3://bucket/key")
    assert "no answer within 2 s" in failed(hook, ran, "fetch-unreachable")
    assert ran.seconds < SOON


def test_an_archive_with_a_wrong_checksum_is_deleted_and_not_executed(hook, tmp_path):
    log = fake_aws(hook, tmp_path, f'printf "#!/bin/sh\\ntouch {tmp_path}/EXECUTED\\n" >"$target"')
    assert f"expected {hook.sha256}, got " in failed(hook, hook.fetch("s3://bucket/key"), "fetch-checksum")
    assert not (tmp_path / "EXECUTED").exists()
    assert len(log.read_text().splitlines()) == 1
    assert hook.left_over() == []


def test_messages_are_one_line_of_ascii_for_any_output_of_a_client(hook, tmp_path):
    fake_aws(hook, tmp_path, r"""printf 'bad "quote" back\\slash \377\303\251 tab\t (404)\n' >&2; exit 1""")
    line = failed(hook, hook.fetch('s3://bucket/k"ey'), "fetch-missing")
    assert 'bad "quote" back\\slash ??? tab  (404)' in line


def plays(archive: Path) -> Behaviour:
    """An object store with one object: the end of the path selects the answer."""

    def behave(handler: Handler, number: int) -> None:
        name = handler.path.rsplit("/", 1)[-1]
        if name.isdigit():
            answer(handler, int(name))
        else:
            first(2 if name == "flaky" else 0, always(503), content(archive.read_bytes()))(handler, number)

    return behave


@pytest.fixture
def tls(hook: Hook, tmp_path: Path) -> Iterator[Server]:
    key, certificate = made_certificate(tmp_path)
    hook.env["CURL_CA_BUNDLE"] = str(certificate)
    with serving(plays(hook.archive), key, certificate) as server:
        yield server


def needs_curl() -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")


def test_an_archive_is_fetched_by_https(hook, tls):
    needs_curl()
    url = f"https://localhost:{tls.server_port}"
    ran_the_archive(hook, hook.fetch(f"{url}/petal-node"))


def test_404_over_https_is_reported_as_missing(hook, tls):
    needs_curl()
    url = f"https://localhost:{tls.server_port}"
    failed(hook, hook.fetch(f"{url}/404"), "fetch-missing")
    assert tls.paths == ["/404"]


def test_403_over_https_is_reported_as_forbidden(hook, tls):
    needs_curl()
    failed(hook, hook.fetch(f"https://localhost:{tls.server_port}/403"), "fetch-forbidden")


def test_https_is_retried_after_503(hook, tls):
    needs_curl()
    ran_the_archive(hook, hook.fetch(f"https://localhost:{tls.server_port}/flaky"))
    assert tls.paths == ["/flaky"] * 3


def test_https_with_an_unknown_certificate_is_refused(hook, tls):
    needs_curl()
    hook.env = {"PETAL_FETCH_SECONDS": "1"}
    failed(hook, hook.fetch(f"https://localhost:{tls.server_port}/petal-node"), "fetch-unreachable")
    assert tls.paths == []


def test_https_is_not_left_by_a_redirect(hook, tls, tmp_path):
    needs_curl()
    with serving(leads_to(f"https://localhost:{tls.server_port}/petal-node")) as unsafe:
        with serving(leads_to(f"{unsafe.url}/x"), tmp_path / "key.pem", tmp_path / "cert.pem") as site:
            failed(hook, hook.fetch(f"{site.url}/petal-node"), "fetch-unreachable")
        assert (unsafe.requests, tls.requests) == ([], [])


def test_an_archive_is_fetched_by_the_real_aws_cli(hook, s3, monkeypatch):
    """The server implements S3; the environment has no HOME, as in a custom action."""
    aws = shutil.which("aws")
    if not aws:
        pytest.skip("the AWS CLI is not installed")
    hook.substitute("aws", f'PATH={os.environ["PATH"]} exec {aws} "$@"\n')
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        hook.env[name] = os.environ[name]
    hook.write("etc/chef/dna.json", '{"cluster": {"region": "us-east-1"}}')
    hook.env["PETAL_FETCH_SECONDS"] = "30"
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="a/petal node+1", Body=hook.archive.read_bytes())
    ran_the_archive(hook, hook.fetch("s3://bucket/a/petal node+1"))
    shutil.rmtree(hook.home)
    assert "(NoSuchKey)" in failed(hook, hook.fetch("s3://bucket/a/wrong"), "fetch-missing")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del hook.env[name]
    hook.env["AWS_EC2_METADATA_DISABLED"] = "true"
    (hook.prefix / "var/log/petal-node.log").unlink()
    hook.env |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "PETAL_FETCH_SECONDS": "10"}
    assert "Unable to locate credentials" in failed(hook, hook.fetch("s3://bucket/a/petal"), "fetch-no-credentials")


only_dash = pytest.mark.parametrize("hook", ["dash"], indirect=True)


@only_dash
@pytest.mark.parametrize("name", ["kms", "archived"])
def test_the_aws_cli_shows_the_own_words_of_s3(hook, cli, name):
    behave, code, _, _ = REFUSALS[name]
    with serving(behave) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        line = failed(cli, cli.fetch("s3://b/petal-node"), code)
    assert re.search(r"An error occurred \((AccessDenied|InvalidObjectState)\)", line)
    word = {"kms": "kms:Decrypt", "archived": "restore-object --bucket b --key 'petal-node'"}
    assert word[name] in line.partition("Remedy: ")[2]


@only_dash
def test_the_aws_cli_follows_the_region_that_s3_names(hook, cli):
    with serving(first(1, REGIONS["named in the text"], content(hook.archive.read_bytes()))) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        ran_the_archive(cli, cli.fetch("s3://b/petal-node"))
        assert [request["Authorization"].split("/")[2] for request in server.requests] == ["us-east-1", "eu-central-1"]


@only_dash
@pytest.mark.parametrize("body", ["endless", "slow"])
def test_the_aws_cli_is_stopped_at_the_limits(hook, cli, body):
    cli.env["PETAL_FETCH_SECONDS"] = "20" if body == "endless" else "3"
    with serving(endless if body == "endless" else dripping(bytes(100), 0.5)) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        ran = cli.fetch("s3://b/petal-node")
    failed(cli, ran, "fetch-too-large" if body == "endless" else "fetch-unreachable")
    assert ran.seconds < SOON
    assert cli.left_over() == [], "the AWS CLI writes whole MiB"


@only_dash
@pytest.mark.parametrize(
    ("client", "then"),
    [
        ("aws", "continues"),
        ("aws", "shorter object"),
        ("curl", "continues"),
        ("curl", "cannot continue"),
        ("curl", "another object"),
        ("curl", "shorter object"),
    ],
)
def test_the_next_try_continues_an_interrupted_transfer(hook, cli, client, then, tmp_path):
    """Or it starts again at once, if the part is not of this object or the server has no ranges."""
    needs_curl()
    data = hook.archive.read_bytes()
    begin = {"another object": bytes(20), "shorter object": bytes(2 * len(data))}.get(then, data[:20])
    key, certificate = made_certificate(tmp_path) if client == "curl" else (None, None)
    cli.env |= {"CURL_CA_BUNDLE": str(tmp_path / "cert.pem"), "no_proxy": "localhost,127.0.0.1"}

    def behave(handler: Handler, number: int) -> None:
        if number == 1:
            cut_off(begin + bytes(100), len(begin))(handler, number)
        elif then == "cannot continue":
            answer(handler, 200, data)
        elif then == "shorter object" and handler.headers["Range"]:
            answer(handler, 416, b"<Error><Code>InvalidRange</Code></Error>")
        else:
            content(data)(handler, number)

    with serving(behave, key, certificate) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        package = "s3://b/petal-node" if client == "aws" else f"{server.url}/petal-node"
        failed(cli, cli.fetch(package), "fetch-unreachable")
        assert (hook.home / f"incoming/.part.{hook.sha256}").read_bytes() == begin
        (hook.prefix / "var/log/petal-node.log").unlink()
        ran_the_archive(cli, cli.fetch(package))
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, f"bytes={len(begin)}-"] + ([] if then == "continues" else [None])
    assert not [name for name in hook.left_over() if name.startswith(".part")]


@only_dash
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_each_client_trusts_the_authority_of_a_variable(hook, cli, variable, tmp_path):
    needs_curl()
    key, certificate = issued_certificate(tmp_path)
    cli.env["no_proxy"] = "localhost"
    with serving(content(hook.archive.read_bytes()), key, certificate) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        assert "AWS_CA_BUNDLE" in failed(cli, cli.fetch(f"{server.url}/petal-node"), "fetch-unreachable")
        cli.env[variable] = str(tmp_path / "ca" / ("" if variable.endswith("DIR") else "ca.crt"))
        (hook.prefix / "var/log/petal-node.log").unlink()
        for source in (f"{server.url}/petal-node", *(["s3://b/petal-node"] if variable == "SSL_CERT_FILE" else [])):
            ran_the_archive(cli, cli.fetch(source))
            shutil.rmtree(hook.home)


@pytest.mark.parametrize("user", ["http://u:S3CRET#pw@", "http://u:S3CRET@pw@", "http://u:S3CRET/pw@", "u:S3CRET?pw@"])
def test_a_proxy_that_no_client_can_parse_is_not_tried_again_nor_printed(hook, cli, user):
    """curl prints the whole variable, and the AWS CLI a part of the password."""
    needs_curl()
    cli.env["HTTPS_PROXY"] = f"{user}127.0.0.1:9"
    for package in ("https://files.corp/x", "s3://b/x"):
        ran = cli.fetch(package)
        line = failed(cli, ran, "fetch-unreachable")
        assert not re.search("S3CRET|pw@", ran.out + ran.err)
        assert "Remedy: correct HTTPS_PROXY (http://HOST:PORT): in its password" in line
        assert ran.seconds < SOON
        (hook.prefix / "var/log/petal-node.log").unlink()


@pytest.mark.parametrize("word", ["'http://u:S3CRET#@/?pw@proxy:1'", "ftp://S3CRET@h", "(https://u:S3CRET@h/a@b)"])
def test_a_record_has_no_password_of_a_url(hook, tmp_path, word):
    fake_aws(hook, tmp_path, f'printf "%s\\n" "\\377 tried {word} for s3://b/k@1" >&2; exit 1')
    ran = hook.fetch("s3://bucket/a@1")
    line = failed(hook, ran, "fetch-unreachable")
    assert "S3CRET" not in ran.out + line
    assert "s3://bucket/a@1 could not" in line
    assert "for s3://b/k@1. Remedy" in line


@only_dash
@pytest.mark.parametrize("mode", ["endpoint", "IPv6", "all hosts"])
def test_metadata_are_never_requested_from_a_proxy(hook, cli, mode):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del cli.env[name]
    with serving(always(404)) as service, serving(always(503)) as proxy, serving(always(403)) as store:
        cli.env |= {
            "HTTP_PROXY": proxy.url,
            "NO_PROXY": "*" if mode == "all hosts" else "other",
            "PETAL_FETCH_SECONDS": "8",
        }
        cli.env |= {"AWS_ENDPOINT_URL": store.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{service.url}/"}
        if mode == "IPv6":
            cli.env["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"] = (
                cli.env.pop("AWS_EC2_METADATA_SERVICE_ENDPOINT") and "IPv6"
            )
        cli.fetch("s3://b/x")
    assert [path for path in proxy.paths if "latest" in path] == []
    assert bool(service.requests) == (mode != "IPv6")


@only_dash
@pytest.mark.parametrize(
    ("variables", "ignored"),
    [
        ({"AWS_CA_BUNDLE": "ca"}, ""),
        ({"REQUESTS_CA_BUNDLE": "ca"}, ""),
        ({"SSL_CERT_DIR": "none:ca"}, ""),
        ({"AWS_CA_BUNDLE": "damaged.pem", "SSL_CERT_FILE": "ca/ca.crt"}, "damaged.pem"),
        ({"AWS_CA_BUNDLE": "cut.pem", "SSL_CERT_FILE": "ca/ca.crt"}, "cut.pem"),
        ({"SSL_CERT_FILE": "key and authority.pem"}, ""),
    ],
)
def test_authorities_are_trusted_in_any_file_of_any_variable(hook, cli, variables, ignored, tmp_path):
    """A file with a damaged certificate is ignored, as the tool does: a client would load none of the others."""
    needs_curl()
    key, certificate = issued_certificate(tmp_path)
    authority = (tmp_path / "ca/ca.crt").read_text()
    (tmp_path / "damaged.pem").write_text(authority.replace("MII", "M!!"))
    (tmp_path / "cut.pem").write_text(authority[: len(authority) // 2])
    (tmp_path / "key and authority.pem").write_text((tmp_path / "ca.key").read_text() + "\ufeff" + authority.rstrip())
    for name, files in variables.items():
        cli.env[name] = ":".join(str(tmp_path / file) for file in files.split(":"))
    cli.env["no_proxy"] = "localhost"
    with serving(content(hook.archive.read_bytes()), key, certificate) as server:
        cli.env["AWS_ENDPOINT_URL"] = server.url
        for source in (f"{server.url}/petal-node", "s3://b/petal-node"):
            ran = cli.fetch(source)
            ran_the_archive(cli, ran)
            assert re.findall(r"ignored .*/(.*): ", ran.out) == ([ignored] if ignored else [])
            shutil.rmtree(hook.home)


def test_an_endless_download_is_stopped_at_the_size_limit(hook, tmp_path):
    """The limit is 64 MiB, also without a Content-Length."""
    needs_curl()
    key, certificate = made_certificate(tmp_path)

    with serving(endless, key, certificate) as server:
        hook.env |= {"CURL_CA_BUNDLE": str(certificate), "PETAL_FETCH_SECONDS": "30"}
        ran = hook.fetch(f"https://localhost:{server.server_port}/petal-node")
    assert "larger than 64 MiB" in failed(hook, ran, "fetch-too-large")
    assert ran.seconds < SOON
    assert hook.left_over() == []


def test_a_slow_download_is_stopped_at_the_time_limit(hook, tmp_path):
    needs_curl()
    key, certificate = made_certificate(tmp_path)
    with serving(dripping(hook.archive.read_bytes(), 0.5), key, certificate) as server:
        hook.env |= {"CURL_CA_BUNDLE": str(certificate), "PETAL_FETCH_SECONDS": "2"}
        ran = hook.fetch(f"https://localhost:{server.server_port}/petal-node")
    assert "no answer within 2 s" in failed(hook, ran, "fetch-unreachable")
    assert ran.seconds < SOON


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a file system")
def test_a_disk_needs_room_for_one_copy_of_the_archive(hook, tmp_path):
    """The AWS CLI writes to a file of its own; a full disk is not reported as another checksum."""
    with hook.archive.open("a") as archive:
        archive.write("\n" * 600_000)
    fake_aws(hook, tmp_path, f'cp {hook.archive} "$target"')
    incoming = hook.home / "incoming"
    incoming.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=1m", "none", str(incoming)], check=True)
    try:
        ran_the_archive(hook, hook.fetch("s3://bucket/key"))
        for path in incoming.iterdir():
            path.unlink()
        (incoming / f".part.{hook.sha256}").write_bytes(b"x" * 600_000)  # of an interrupted transfer
        ran = hook.fetch("s3://bucket/key")
    finally:
        subprocess.run(["umount", str(incoming)], check=True)
    failed(hook, ran, "file-no-space")


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a file system")
@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_disk_without_room_for_another_file_is_reported(hook, files):
    """The hook ends with 0, whichever of its files is the first that cannot be made."""
    incoming = hook.home / "incoming"
    incoming.mkdir(parents=True)
    options = ["mount", "-t", "tmpfs", "-o", f"mode=0700,nr_inodes={files}", "none", str(incoming)]
    subprocess.run(options, check=True)
    try:
        ran = hook.fetch(hook.archive.as_uri())
    finally:
        subprocess.run(["umount", str(incoming)], check=True)
    failed(hook, ran, "archive-local")


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a file system")
@pytest.mark.parametrize(
    ("options", "reason", "remedy"),
    [
        ("noexec", "{} is mounted noexec", "mount -o remount,exec {}"),
        ("ro", "cannot create directory '{}/petal-node': Read-only file system", "findmnt -T {}/petal-node;"),
    ],
)
def test_a_mount_that_cannot_keep_the_archive_is_named(hook, options, reason, remedy):
    opt = hook.home.parent
    opt.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,{options}", "none", str(opt)], check=True)
    try:
        ran = hook.fetch(hook.archive.as_uri())
    finally:
        subprocess.run(["umount", str(opt)], check=True)
    (line,) = hook.log()
    assert ran.code == 0
    assert f"{reason.format(opt)}. Remedy: {remedy.format(opt)}" in line


def test_the_log_has_the_reason_of_a_tool_that_cannot_start(hook):
    text = "petal-node: cannot unpack into /var\\nwhy: No space left\\nremedy: df -h /var\\n"
    hook.archive.write_text(f"#!/bin/sh\nprintf '{text}' >&2\nexit 69\n")
    hook.fetch(hook.archive.as_uri())
    (line,) = hook.log()
    assert line.endswith("[archive-failed]: cannot unpack into /var why: No space left. Remedy: df -h /var")


@pytest.mark.parametrize("seconds", ["", "0", "08", "9" * 20, "six", "2"])
def test_a_missing_file_is_reported(hook, tmp_path, seconds):
    """A shell ends with 2 if a number is octal or too large for it; such a time is ignored."""
    hook.env["PETAL_FETCH_SECONDS"] = seconds
    ran = hook.fetch(f"file://{tmp_path}/none")
    failed(hook, ran, "fetch-missing")
    assert ("ignored PETAL_FETCH_SECONDS" in ran.out) == (seconds not in ("", "2"))


def test_a_directory_instead_of_a_file_is_reported(hook, tmp_path):
    failed(hook, hook.fetch(f"file://{tmp_path}"), "fetch-missing")
