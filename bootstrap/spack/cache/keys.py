"""Signatures of a build cache, made and verified by the system's gpg. Each mirror has its own keys.

Spack's own verification (``signed: true`` and SPACK_GNUPGHOME) does not give this guarantee, so it is not used. One
process of Spack has one GNUPGHOME (spack/util/gpg.py), so a key of one mirror would be accepted for all mirrors. It
refuses every signature unless bootstrapping is enabled (run with 1.1.1: "bootstrapping is currently disabled"). And in
a build job it would need gpg on a compute node. The format is Spack's: clear-signed text, as ``spack buildcache push
--signed`` writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...config.model import Origin
from ...core.deadlines import DOCUMENT, PROGRAM
from ...core.errors import CacheError, FetchError, PetalError
from ...host.atomic import write_atomic
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import Completed, System
from ...remote.fetch import Source, local_path, read
from .entries import SIGNED

STATUS = re.compile(r"^\[GNUPG:\] (\w+) ?(\S*)", re.MULTILINE)
OPTIONS = ("--no-options", "--batch", "--no-tty", "--yes", "--trust-model", "always")
REASONS = {
    "NO_PUBKEY": "it is signed with the key {id}, which is not one of the mirror's keys",
    "BADSIG": "its signature by the key {id} is wrong: it was changed after it was signed",
    "EXPKEYSIG": "the key {id} that signed it has expired",
    "REVKEYSIG": "the key {id} that signed it was revoked",
    "EXPSIG": "its signature by the key {id} has expired",
}


@dataclass(frozen=True)
class Keyring:
    """The keys of one mirror, in a GNUPGHOME of their own.

    ``descriptor``: that directory, open. gpg's agent makes a socket in it, and the path of a socket may have 107
    characters (unix(7)). The name below /proc is short even if the real path is long, as below ``--root``.
    """

    system: System
    gpg: str
    home: Path
    descriptor: int

    def verified(self, text: bytes, name: str) -> bytes:
        """The signed content as gpg outputs it, without text around it; else CacheError ``cache-unverified``."""
        if not text.startswith(SIGNED):
            raise CacheError(name, why="it is not signed", code="cache-unverified")
        signed, content = self.home / f"{name}.asc", self.home / f"{name}.json"
        signed.write_bytes(text)
        done = self._run("--no-autostart", "--status-fd", "1", "--output", str(content), "--decrypt", str(signed))
        status = {match[1]: match[2] for match in STATUS.finditer(done.stdout)}
        if done.returncode != 0 or not {"GOODSIG", "VALIDSIG"} <= set(status):
            reasons = [reason.format(id=status[word]) for word, reason in REASONS.items() if word in status]
            raise CacheError(name, why=reasons[0] if reasons else done.tail(3), code="cache-unverified")
        return content.read_bytes()

    def sign(self, path: Path, signed: Path) -> None:
        """Clear-signs the file ``path`` into ``signed`` with the secret key; CacheError ``cache-key``."""
        no_passphrase = ("--pinentry-mode", "loopback", "--passphrase", "")
        done = self._run(*no_passphrase, "--output", str(signed), "--clearsign", str(path))
        if done.returncode != 0:
            remedy = (
                "gpg --armor --export-secret-keys ID    (of a key without a passphrase)",
                "dnf swap gnupg2-minimal gnupg2-full    (Amazon Linux 2023)",
            )
            raise CacheError("the signing key cannot sign", why=done.tail(3), remedy=remedy, code="cache-key")

    def add(self, key: bytes, source: str) -> None:
        """Imports a key; CacheError ``cache-key``."""
        path = self.home / "key"
        write_atomic(path, key, mode=0o600)
        done = self._run("--import", str(path))
        path.unlink()
        if done.returncode != 0:
            remedy = (
                "gpg --armor --export ID > FILE    (to verify)",
                "gpg --armor --export-secret-keys ID > FILE    (to sign)",
            )
            raise CacheError(f"{source} is not a key", why=done.tail(3), remedy=remedy, code="cache-key")

    @property
    def homedir(self) -> tuple[str, str]:
        """The option for this GNUPGHOME, of every program of GnuPG."""
        return "--homedir", f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def _run(self, *arguments: str) -> Completed:
        return self.system.run([self.gpg, *self.homedir, *OPTIONS, *arguments], timeout=PROGRAM, ok=None)


@contextmanager
def open_keyring(system: System, home: Path, keys: Iterable[Origin], region: str | None) -> Iterator[Keyring]:
    """A keyring with these keys in the directory ``home``, which is removed at the end, when gpg's agent has ended.

    Raises:
        CacheError: ``cache-key``, gpg is missing, or a key cannot be fetched or imported.
    """
    gpg = system.which("gpg")
    if gpg is None:
        what, remedy = "gpg is not installed on this node", ("dnf install gnupg2", "apt-get install gnupg")
        raise CacheError(what, why="signatures are made and verified with it", remedy=remedy, code="cache-key")
    remove_tree(home)
    make_dir(home, 0o700)
    ring = Keyring(system, gpg, home, os.open(home, os.O_RDONLY | os.O_DIRECTORY))
    try:
        for origin in keys:
            try:
                key = read(Source(origin.source, origin.sha256, region, DOCUMENT), home)
            except FetchError as error:
                what = f"the key {origin.source} cannot be fetched"
                raise CacheError(what, why=str(error), remedy=error.remedy, code="cache-key") from error
            ring.add(key, origin.source)
        yield ring
    finally:
        try:
            gpgconf = system.which("gpgconf")
            if gpgconf is not None:
                system.run([gpgconf, *ring.homedir, "--kill", "all"], timeout=PROGRAM, ok=None)
        except PetalError as error:
            LOG.warning("gpg's agent may still run: %s", error)
        finally:  # a secret key is in it
            os.close(ring.descriptor)
            remove_tree(home)


def refuse_readable_key(origin: Origin) -> None:
    """Refuses a secret key that other users can read: CacheError ``cache-key``."""
    path = local_path(origin.source)
    if path is not None and path.is_file() and path.stat().st_mode & 0o077:
        remedy = f"chmod 600 {path}, and consider a new key"
        raise CacheError(f"{path} can be read by others", why="it is a secret key", remedy=remedy, code="cache-key")
