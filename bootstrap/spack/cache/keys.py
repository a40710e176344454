"""Signatures of a build cache: made and checked by the system's gpg, each mirror with its own keys and no others.

Spack would do it with one keyring for all mirrors, and only where its bootstrap is switched on. The signatures are the
same: clear-signed text, as ``spack buildcache push --signed`` writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...config.model import Origin
from ...core.deadlines import DOCUMENT, PROGRAM
from ...core.errors import CacheError, FetchError, PetalError
from ...host.atomic import write_atomic
from ...host.files import make_dir, remove_tree
from ...host.system import Completed, System
from ...remote.fetch import Source, local_path, read
from .entries import SIGNED

STATUS = re.compile(r"^\[GNUPG:\] (\w+) ?(\S*)", re.MULTILINE)
WRONG = {
    "NO_PUBKEY": "it is signed with the key {id}, which is none of the mirror's keys",
    "BADSIG": "its signature by the key {id} is wrong: it was changed afterwards",
    "EXPKEYSIG": "the key {id} that signed it has expired",
    "REVKEYSIG": "the key {id} that signed it was revoked",
    "EXPSIG": "its signature by the key {id} has expired",
}


@dataclass(frozen=True)
class Keyring:
    """The keys of one mirror, in a directory of their own (GNUPGHOME) that is removed with ``close``.

    ``handle``: that directory, open. gpg's agent makes a socket in it, whose path may have 107 characters (unix(7)): it
    is called by its name below /proc, since below ``--root`` the true one can be longer.
    """

    system: System
    gpg: str
    home: Path
    handle: int

    @property
    def _homedir(self) -> tuple[str, str]:
        return "--homedir", f"/proc/{os.getpid()}/fd/{self.handle}"

    def verified(self, text: bytes, name: str) -> bytes:
        """What was signed, as gpg gives it out: nothing else of ``text`` counts.

        Raises:
            CacheError: ``cache-unverified``, with the key that would be needed.
        """
        if not text.startswith(SIGNED):
            raise CacheError(name, why="it is not signed", code="cache-unverified")
        signed, inner = self.home / f"{name}.asc", self.home / f"{name}.json"
        write_atomic(signed, text)
        done = self._run("--no-autostart", "--status-fd", "1", "--output", str(inner), "--decrypt", str(signed))
        said = {found.group(1): found.group(2) for found in STATUS.finditer(done.stdout)}
        if done.returncode != 0 or not {"GOODSIG", "VALIDSIG"} <= set(said):
            why = [reason.format(id=said[word]) for word, reason in WRONG.items() if word in said]
            raise CacheError(name, why=why[0] if why else done.tail(3), code="cache-unverified")
        return inner.read_bytes()

    def sign(self, path: Path, signed: Path) -> None:
        """Clear-signs a file with the one secret key.

        Raises:
            CacheError: ``cache-key``.
        """
        no_passphrase = ("--pinentry-mode", "loopback", "--passphrase", "")
        done = self._run(*no_passphrase, "--output", str(signed), "--clearsign", str(path))
        if done.returncode != 0:
            remedy = (
                "gpg --armor --export-secret-keys ID    (of a key without a passphrase)",
                "dnf swap gnupg2-minimal gnupg2-full    (Amazon Linux 2023)",
            )
            raise CacheError("the signing key cannot sign", why=done.tail(3), remedy=remedy, code="cache-key")

    def add(self, key: bytes, source: str) -> None:
        """Takes a key in.

        Raises:
            CacheError: ``cache-key``.
        """
        path = self.home / "key"
        write_atomic(path, key, mode=0o600)
        done = self._run("--import", str(path))
        path.unlink()
        if done.returncode != 0:
            remedy = (
                "gpg --armor --export ID > FILE    (public), gpg --armor --export-secret-keys ID > FILE    (to sign)"
            )
            raise CacheError(f"{source} is no key", why=done.tail(3), remedy=remedy, code="cache-key")

    def close(self) -> None:
        """Ends gpg's agent and removes the keys."""
        gpgconf = self.system.which("gpgconf")
        if gpgconf is not None:
            argv = [gpgconf, *self._homedir, "--kill", "all"]
            self.system.run(argv, timeout=PROGRAM, ok=None)
        os.close(self.handle)
        remove_tree(self.home)

    def _run(self, *arguments: str) -> Completed:
        options = [
            *self._homedir,
            "--no-options",
            "--batch",
            "--no-tty",
            "--yes",
            "--trust-model",
            "always",
        ]
        return self.system.run([self.gpg, *options, *arguments], timeout=PROGRAM, ok=None)


def open_keyring(system: System, home: Path, keys: Iterable[Origin], region: str | None) -> Keyring:
    """A keyring with these keys.

    Raises:
        CacheError: ``cache-gpg``, gpg is not there; ``cache-key``, a key cannot be had or is none.
    """
    gpg = system.which("gpg")
    if gpg is None:
        what, remedy = "gpg is not installed on this node", ("dnf install gnupg2", "apt-get install gnupg")
        raise CacheError(what, why="signatures are made and checked with it", remedy=remedy, code="cache-gpg")
    remove_tree(home)
    make_dir(home, 0o700)
    home.chmod(0o700)
    ring = Keyring(system, gpg, home, os.open(home, os.O_RDONLY | os.O_DIRECTORY))
    try:
        for origin in keys:
            ring.add(_content(origin, home, region), origin.source)
    except PetalError:
        ring.close()
        raise
    return ring


def refuse_open(origin: Origin) -> None:
    """A secret key that others can read is none.

    Raises:
        CacheError: ``cache-key``.
    """
    path = local_path(origin.source)
    if path is not None and path.is_file() and path.stat().st_mode & 0o077:
        remedy = f"chmod 600 {path}, and think of a new key"
        raise CacheError(f"{path} can be read by others", why="it is a secret key", remedy=remedy, code="cache-key")


def _content(origin: Origin, scratch: Path, region: str | None) -> bytes:
    try:
        return read(Source(origin.source, origin.sha256, region, DOCUMENT), scratch)
    except FetchError as error:
        what = f"the key {origin.source} cannot be had"
        raise CacheError(what, why=str(error), remedy=error.remedy, code="cache-key") from error
