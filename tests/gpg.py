"""Real keys for tests, created by the system's gpg."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Key:
    """A signing key: the files of its public and secret half."""

    public: Path
    secret: Path


def made_key(place: Path, name: str, *options: str, expires: str = "never", subkey_expires: str = "") -> Key:
    """Create a key without a passphrase; ``options`` are gpg's while it does so. A subkey signs for a primary key."""
    if not shutil.which("gpg"):
        pytest.skip("gpg is not installed")
    home = place / name
    home.mkdir(mode=0o700, parents=True)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    kind = (f"{name} <{name}@example.org>", "ed25519", "cert" if subkey_expires else "sign", expires)
    subprocess.run([*gpg, *options, "--quick-generate-key", *kind], check=True)
    if subkey_expires:
        (revocation,) = home.glob("openpgp-revocs.d/*.rev")
        added = ("--quick-add-key", revocation.stem, "ed25519", "sign", subkey_expires)
        subprocess.run([*gpg, *options, *added], check=True)
    made = Key(place / f"{name}.pub", place / f"{name}.sec")
    for path, export in ((made.public, "--export"), (made.secret, "--export-secret-keys")):
        path.touch(mode=0o600)
        path.write_bytes(subprocess.run([*gpg, "--armor", export], check=True, capture_output=True).stdout)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return made


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return made_key(tmp_path_factory.mktemp("k"), "site")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return made_key(tmp_path_factory.mktemp("k"), "other")
