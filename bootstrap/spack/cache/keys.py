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

from ...config.model import Mirror, Origin
from ...core.deadlines import DOCUMENT, PROGRAM
from ...core.errors import CacheError, FetchError, PetalError
from ...core.text import quoted
from ...host.atomic import private_dir, write_atomic
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import Completed, System
from ...host.times import timestamp
from ...remote.fetch import Source, local_path, read
from .entries import SIGNED

STATUS = re.compile(r"^\[GNUPG:\] (\w+) ?(\S*)", re.MULTILINE)
OPTIONS = ("--no-options", "--batch", "--no-tty", "--yes", "--trust-model", "always")
# Signatures of an expired key are good again as soon as the new public key is listed.
EXTEND = "{extend} && gpg --armor --export {id}    # where its secret key is; then replace its files"
LIST_KEY = "list the public key of who pushed it under spack.mirrors.NAME.keys"
CHANGED = "find out who can write there"
# The status of gpg, the reason, and what to do. (GnuPG, doc/DETAILS)
REASONS = {
    "NO_PUBKEY": ("it is signed with the key {id}, which is not one of the mirror's keys", LIST_KEY),
    "BADSIG": ("its signature by the key {id} is wrong: it was changed after it was signed", CHANGED),
    "EXPKEYSIG": ("the key {id} that signed it expired on {day}", EXTEND),
    "REVKEYSIG": ("the key {id} that signed it was revoked", LIST_KEY),
    "EXPSIG": ("its signature by the key {id} has expired", LIST_KEY),
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
            word = next((word for word in REASONS if word in status), "")
            why, remedy = REASONS.get(word, (done.tail(3), CHANGED))
            if word:
                day, extend = self._expired().get(status[word], ("an unknown day", "gpg --quick-set-expire ID 2y"))
                why = why.format(id=status[word], day=day)
                remedy = remedy.format(id=status[word], extend=extend)
            raise CacheError(name, why=why, remedy=remedy, code="cache-unverified")
        return content.read_bytes()

    def sign(self, path: Path, signed: Path) -> None:
        """Clear-signs the file ``path`` into ``signed`` with the secret key; CacheError ``cache-key``."""
        no_passphrase = ("--pinentry-mode", "loopback", "--passphrase", "")
        done = self._run(*no_passphrase, "--output", str(signed), "--clearsign", str(path))
        if done.returncode == 0:
            return
        expired = self._expired()
        if expired:
            what = "; ".join(f"the signing key {key} expired on {day}" for key, (day, _) in expired.items())
            remedies = [EXTEND.format(id=key, extend=extend) for key, (_, extend) in expired.items()]
            raise CacheError(what, why=done.tail(3), remedy=remedies, code="cache-key")
        remedy = (
            "gpg --armor --export-secret-keys ID    # of a key without a passphrase",
            "dnf swap gnupg2-minimal gnupg2-full    # Amazon Linux 2023",
        )
        raise CacheError("the signing key cannot sign", why=done.tail(3), remedy=remedy, code="cache-key")

    def _expired(self) -> dict[str, tuple[str, str]]:
        """The day on which each expired signing key ended, and the command that extends it, by the key's id.

        The listing is GnuPG's doc/DETAILS, "colon listings format". A subkey ends with its primary key.
        """
        expired: dict[str, tuple[str, str]] = {}
        key, primary = [""] * 12, ""
        of_primary: list[tuple[int, str]] = []
        for fields in (line.split(":") for line in self._run("--with-colons", "--list-keys").stdout.splitlines()):
            if fields[0] in ("pub", "sub"):
                key = fields
            elif fields[0] == "fpr":  # of that key; gpg extends a key by full fingerprints only
                is_subkey, is_expired, end = key[0] == "sub", key[1] == "e", key[6]
                primary = primary if is_subkey else fields[9]
                command = f"gpg --quick-set-expire {primary} 2y{f' {fields[9]}' if is_subkey else ''}"
                ends = [*(of_primary if is_subkey else ()), *([(int(end), command)] if is_expired and end else ())]
                of_primary = of_primary if is_subkey else ends
                if is_expired and ends and "s" in key[11]:
                    expired[key[4]] = timestamp(min(ends)[0])[:10], " && ".join(command for _, command in ends)
        return expired

    def add(self, key: bytes, source: str) -> None:
        """Imports a key; CacheError ``cache-key``."""
        path = self.home / "key"
        write_atomic(path, key, mode=0o600)
        done = self._run("--import", str(path))
        path.unlink()
        if done.returncode != 0:
            remedy = (
                "gpg --armor --export ID > FILE    # to verify",
                "gpg --armor --export-secret-keys ID > FILE    # to sign",
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


def require_signer(system: System, directory: Path, name: str, mirror: Mirror, region: str | None) -> None:
    """Signs a text and verifies it as a cluster would that takes packages: CacheError ``cache-key``.

    Args:
        directory: a local directory for the keyrings.
        name: of the mirror.
    """
    assert mirror.signing_key is not None
    refuse_readable_key(mirror.signing_key)
    with private_dir(directory) as place:
        text, signed = place / "text", place / "signed"
        text.write_text("{}\n")
        with open_keyring(system, place / "signing", (mirror.signing_key,), region) as ring:
            ring.sign(text, signed)
        with open_keyring(system, place / "keys", mirror.keys, region) as ring:
            try:
                ring.verified(signed.read_bytes(), "text")
            except CacheError as error:
                what = f"spack.mirrors.{name}.keys do not accept what its signing_key signs"
                remedy = ("gpg --armor --export ID > FILE    # and list FILE in keys", *error.remedy[1:])
                raise CacheError(what, why=error.why, remedy=remedy, code="cache-key") from error


def refuse_readable_key(origin: Origin) -> None:
    """Refuses a secret key that other users can read: CacheError ``cache-key``."""
    path = local_path(origin.source)
    if path is not None and path.is_file() and path.stat().st_mode & 0o077:
        remedy = f"chmod 600 {quoted(path)}    # and consider a new key"
        raise CacheError(f"{path} can be read by others", why="it is a secret key", remedy=remedy, code="cache-key")
