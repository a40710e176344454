"""Errors of the kernel as errors of petal-node: the remedy names the refused path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootstrap.core.errors import from_os_error, full_disk_code, full_disk_remedy

MOUNT = Path("/shared")
LIMITS = "the limits of this user for processes and memory"
EFS = "EFS limits the open files and locks of a client"


@pytest.mark.parametrize(
    ("number", "path", "code", "remedy"),
    [
        (errno.ENOENT, "/etc/petal.conf", "file-missing", "ls -ld /etc/petal.conf /etc"),
        (errno.ENOENT, "/shared/petal/state/token.json", "file-missing", "ls -ld /shared /shared/petal"),
        (errno.ENOENT, "/opt/petal/current", "file-missing", "ls -ld /shared /shared/petal"),
        (errno.ENOSPC, "/var/cache/x", "file-no-space", "df -h /var/cache; df -i /var/cache"),
        (errno.ENOSPC, "/shared/x", "file-no-space", "df -h /shared; df -i /shared"),
        (errno.EDQUOT, "/home/ec2-user/x", "file-quota", "quota -v; df -h /home/ec2-user"),
        (errno.EDQUOT, "/shared/x", "file-quota", f"quota -v; df -h /shared; lsof /shared | wc -l    # {EFS}"),
        (errno.ENOTCONN, "/shared/x", "file-failed", "dmesg | tail; findmnt /shared"),
        (errno.EACCES, "/etc/shadow", "file-permission", "id; ls -ld /etc/shadow"),
        (errno.ESTALE, "/shared/x", "file-stale", "umount -l /shared && mount /shared"),
        (errno.ENOTDIR, "/usr/local/bin/x", "file-failed", "ls -ld /usr/local/bin/x /usr/local/bin"),
        (
            errno.EAGAIN,
            "fork",
            "process-failed",
            "ulimit -u; ulimit -v    # the limits of this user for processes and memory",
        ),
        (errno.ENOTEMPTY, "/etc/x", "file-failed", "petal-node status"),
    ],
)
def test_the_remedy_names_the_refused_path(number: int, path: str, code: str, remedy: str) -> None:
    error = from_os_error(OSError(number, os.strerror(number), path), MOUNT)
    assert (error.code, error.remedy) == (code, (remedy,))
    assert path in error.what


def test_the_remedy_names_the_file_and_not_its_unfinished_copy() -> None:
    part = f"/etc/profile.d/.zz-petal.sh.{os.uname().nodename}-{os.getpid()}.part"
    error = from_os_error(OSError(errno.EPERM, "", part), MOUNT)
    assert (error.what, error.remedy) == (
        "a file operation failed: /etc/profile.d/zz-petal.sh",
        ("id; ls -ld /etc/profile.d/zz-petal.sh",),
    )


def test_without_a_configuration_no_mount_is_guessed() -> None:
    """The configuration may name another mount than the default."""
    full = OSError(errno.ENOSPC, "No space left on device", "/opt/petal/store/x")
    assert from_os_error(full, None).remedy == ("df -h /opt/petal/store; df -i /opt/petal/store",)
    assert from_os_error(OSError(errno.EIO, "Input/output error"), None).remedy == ("petal-node status",)


def test_a_refused_operation_without_a_path_gets_the_remedy_for_the_mount() -> None:
    error = from_os_error(OSError(errno.EIO, "Input/output error"), MOUNT)
    assert (error.code, error.remedy) == ("file-failed", ("dmesg | tail; findmnt /shared",))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("cp: error writing '/shared/x': Disk quota exceeded", "file-quota"),
        ("==> Error: OSError: [Errno 122] Disk quota exceeded: '/opt/petal/store/x'", "file-quota"),
        ("/usr/bin/ld: final link failed: disk quota exceeded", "file-quota"),
        ("tar: x: Cannot write: No space left on device", "file-no-space"),
        ("[Errno 28] No space left on device", "file-no-space"),
        ("x:  write error (disk full?).  Continue? (y/n/^C)", "file-no-space"),
        ("ServiceQuotaExceededException", ""),
        ("checking whether a full disk is reported... yes", ""),
    ],
)
def test_the_output_of_a_program_that_names_a_full_disk_or_quota_gets_its_code(text: str, code: str) -> None:
    assert full_disk_code(text) == code


def test_the_command_for_a_full_disk_or_quota_names_the_paths() -> None:
    assert full_disk_remedy("file-quota", MOUNT) == "quota -v; df -h /shared"
    assert full_disk_remedy("file-no-space", MOUNT, Path("/var")) == "df -h /shared /var; df -i /shared /var"
