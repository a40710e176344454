"""Errors of the kernel as errors of petal-node: the remedy names the refused path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootstrap.core.errors import from_os_error

MOUNT = Path("/shared")


@pytest.mark.parametrize(
    ("number", "path", "code", "remedy"),
    [
        (errno.ENOENT, "/etc/petal.conf", "file-missing", "ls -ld /etc/petal.conf /etc"),
        (errno.ENOENT, "/shared/petal/state/token.json", "file-missing", "ls -ld /shared /shared/petal"),
        (errno.ENOENT, "/opt/petal/current", "file-missing", "ls -ld /shared /shared/petal"),
        (errno.ENOSPC, "/var/cache/x", "file-no-space", "df -h /var/cache; df -i /var/cache"),
        (errno.ENOSPC, "/shared/x", "file-no-space", "df -h /shared; df -i /shared"),
        (errno.EDQUOT, "/home/ec2-user/x", "file-no-space", "quota -v; df -h /home/ec2-user"),
        (errno.EACCES, "/etc/shadow", "file-permission", "id; ls -ld /etc/shadow"),
        (errno.ESTALE, "/shared/x", "file-stale", "umount -l /shared && mount /shared"),
        (errno.ENOTEMPTY, "/etc/x", "file-failed", "petal-node status"),
    ],
)
def test_the_remedy_names_the_refused_path(number: int, path: str, code: str, remedy: str) -> None:
    error = from_os_error(OSError(number, os.strerror(number), path), MOUNT)
    assert (error.code, error.remedy) == (code, (remedy,))
    assert path in error.what


def test_without_a_configuration_no_mount_is_guessed() -> None:
    """The configuration may name another mount than the default."""
    full = OSError(errno.ENOSPC, "No space left on device", "/opt/petal/store/x")
    assert from_os_error(full, None).remedy == ("df -h /opt/petal/store; df -i /opt/petal/store",)
    assert from_os_error(OSError(errno.EIO, "Input/output error"), None).remedy == ("petal-node status",)


def test_a_refused_operation_without_a_path_gets_the_remedy_for_the_mount() -> None:
    error = from_os_error(OSError(errno.EIO, "Input/output error"), MOUNT)
    assert (error.code, error.remedy) == ("file-failed", ("dmesg | tail; findmnt /shared",))
