"""Signatures and keys of build caches, with real gpg: which entries are accepted, and which keys can sign."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from bootstrap.config.model import Mirror, Origin
from bootstrap.core.errors import CacheError, ProcessTimeout
from bootstrap.core.model import Outcome
from bootstrap.engine.converge import plan
from bootstrap.host.system import Completed, System
from bootstrap.spack.cache.keys import open_keyring, refuse_readable_key
from bootstrap.spack.cache.pull import pull
from bootstrap.spack.cache.record import CacheRecord, key_of
from bootstrap.steps.build_cache import BuildCache
from tests.gpg import Key, made_key
from tests.real.caches import (
    HDF5,
    V2,
    V3,
    ZLIB,
    mirror_of,
    old_entry,
    only_trouble,
    pusher,
    put,
    take,
)
from tests.world import World, services


def test_an_unknown_key_is_named(cache: Path, key: Key, other: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, other)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-unverified"
    assert "zlib@1.0" in trouble.what
    assert "not one of the mirror's keys" in trouble.why
    assert "spack.mirrors.site.keys" in trouble.remedy[0]


def test_a_key_is_accepted_for_its_own_mirror_only(key: Key, other: Key, tmp_path: Path) -> None:
    """Both keys belong to mirrors of one configuration."""
    put(tmp_path / "first", ZLIB, other)
    put(tmp_path / "second", HDF5, other)
    mirrors = {"first": mirror_of(tmp_path / "first", key), "second": mirror_of(tmp_path / "second", other)}
    pulled = pull((ZLIB, HDF5), mirrors, V3, tmp_path / "pulled", System(), None, [].append)
    assert pulled.specs == (HDF5,)
    (trouble,) = pulled.troubles
    assert (trouble.code, "in the mirror first" in trouble.what) == ("cache-unverified", True)


def test_an_entry_that_was_changed_after_signing_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    path = put(cache, ZLIB, key)
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-unverified"
    assert "is wrong" in trouble.why


def test_every_signature_of_an_entry_must_be_good(cache: Path, key: Key, other: Key, tmp_path: Path) -> None:
    """gpg calls one of two signatures good, and ends with an error because of the other."""
    path = put(cache, ZLIB)
    with open_keyring(System(), tmp_path / "ring", [Origin(str(one.secret)) for one in (key, other)], None) as ring:
        gpg = ["gpg", *ring.homedir, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        users = ["--local-user", "site@example.org", "--local-user", "other@example.org"]
        signed = subprocess.run([*gpg, *users, "--clearsign", str(path)], check=False, capture_output=True, text=True)
        assert signed.returncode == 0, signed.stderr
    path.with_name(f"{path.name}.asc").rename(path)
    assert only_trouble(take(tmp_path, mirror_of(cache, key))).code == "cache-unverified"
    assert take(tmp_path, mirror_of(cache, key, other)).specs == (ZLIB,)


def test_an_unsigned_entry_of_a_signed_mirror_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB)
    assert only_trouble(take(tmp_path, mirror_of(cache, key))).why == "it is not signed"


def test_text_around_the_signed_text_is_ignored(cache: Path, key: Key, tmp_path: Path) -> None:
    """Only the text that gpg outputs is read."""
    path = put(cache, ZLIB, key)
    text = path.read_text()
    path.write_text(text + '\n{"version": 3, "data": []}\n')
    pulled = take(tmp_path, mirror_of(cache, key))
    if pulled.specs:
        taken = (tmp_path / "pulled" / V3.description(ZLIB, signed=False)).read_text()
        assert taken.strip() in text
    else:
        assert only_trouble(pulled).code == "cache-unverified"


def test_a_signed_entry_of_another_package_is_refused(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key, of=HDF5)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, key)))
    assert trouble.code == "cache-corrupt"
    assert HDF5.hash in trouble.why


def test_an_unsigned_mirror_also_accepts_signed_entries(cache: Path, key: Key, tmp_path: Path) -> None:
    put(cache, ZLIB, key)
    put(cache, HDF5)
    assert set(take(tmp_path, mirror_of(cache), ZLIB, HDF5).specs) == {ZLIB, HDF5}


def test_an_invalid_or_missing_key_is_an_error(cache: Path, tmp_path: Path) -> None:
    put(cache, ZLIB)
    (tmp_path / "key.pub").write_text("no key")
    for public in (tmp_path / "key.pub", tmp_path / "absent.pub"):
        mirror = Mirror(str(cache), keys=(Origin(str(public)),))
        assert only_trouble(take(tmp_path, mirror)).code == "cache-key"


def test_a_public_key_cannot_sign(key: Key, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    with (
        open_keyring(System(), tmp_path / "ring", [Origin(str(key.public))], None) as ring,
        pytest.raises(CacheError) as caught,
    ):
        ring.sign(tmp_path / "x", tmp_path / "y")
    assert caught.value.code == "cache-key"
    assert not (tmp_path / "ring").exists()


def test_no_secret_key_stays_if_gpgs_agent_does_not_end(key: Key, tmp_path: Path) -> None:
    class Stuck(System):
        def run(self, argv: Sequence[str], **options: Any) -> Completed:
            done = super().run(argv, **options)
            if "--kill" in argv:
                raise ProcessTimeout("gpgconf did not end within 60 s and was stopped")
            return done

    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_keyring(Stuck(), tmp_path / "ring", [Origin(str(key.secret))], None):
        assert (tmp_path / "ring").is_dir()
    assert not (tmp_path / "ring").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_secret_key_that_others_can_read_is_refused(key: Key) -> None:
    refuse_readable_key(Origin(str(key.secret)))
    key.secret.chmod(0o644)
    with pytest.raises(CacheError) as caught:
        refuse_readable_key(Origin(str(key.secret)))
    key.secret.chmod(0o600)
    assert caught.value.code == "cache-key"


def test_without_gpg_the_error_says_what_to_install(cache: Path, key: Key, tmp_path: Path) -> None:
    class Bare(System):
        def which(self, name: str) -> str | None:
            return None if name == "gpg" else super().which(name)

    notes: list[str] = []
    pulled = pull((ZLIB,), {"site": mirror_of(cache, key)}, V3, tmp_path / "pulled", Bare(), None, notes.append)
    assert only_trouble(pulled).code == "cache-key"


def test_an_unsigned_entry_of_the_old_layout_is_reported(cache: Path, key: Key, tmp_path: Path) -> None:
    old_entry(cache, ZLIB)
    pulled = take(tmp_path, mirror_of(cache, key), layout=V2)
    assert only_trouble(pulled).why == "it is not signed"
    assert pulled.refused == {str(cache): {ZLIB.hash: "it is not signed"}}


@pytest.fixture(scope="module", params=["primary", "subkey", "both"])
def expired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A key of which the primary, the subkey that signs, or both have expired."""
    day = "2026-06-01"
    ends = {"primary": (day, ""), "subkey": ("never", day), "both": ("2026-07-01", day)}[request.param]
    past = ("--faked-system-time", "20260101T000000")
    return made_key(tmp_path_factory.mktemp("k"), "old", *past, expires=ends[0], subkey_expires=ends[1])


def test_an_expired_signing_key_is_named_with_its_day_before_anything_is_packed(
    cache: Path, expired: Key, tmp_path: Path
) -> None:
    mirror = replace(mirror_of(cache, expired), push=True, signing_key=Origin(str(expired.secret)))
    push = pusher(tmp_path, mirror, packs=lambda _: pytest.fail("it was packed"))
    with pytest.raises(CacheError, match=r"the signing key [0-9A-F]{16} expired on 2026-06-01") as caught:
        push.send([ZLIB])
    assert caught.value.code == "cache-key"
    assert not list((tmp_path / "scratch").iterdir())
    assert run_remedy(caught.value.remedy[0], expired).startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_a_plan_names_the_line_of_an_expired_signing_key(cache: Path, key: Key, expired: Key, tmp_path: Path) -> None:
    lines = [
        "stack: none",
        "spack:",
        "  source: /spack",
        "  recipes: {source: /recipes}",
        "  specs: [zlib]",
        "  mirrors:",
    ]
    for name, signer in (("good", key), ("old", expired)):
        options = f"push: true, keys: [{{source: {signer.public}}}], signing_key: {{source: {signer.secret}}}"
        lines.append(f"    {name}: {{url: {cache}, {options}}}")
    world = World(tmp_path / "head", config_text="\n".join(lines))
    ctx = replace(world.context, services=services(System(), world.tool))
    (report,) = plan([BuildCache()], ctx)
    assert report.outcome is Outcome.BLOCKED
    assert "spack.mirrors.good.signing_key: it can sign" in report.reason
    assert re.search(r"\.old\.signing_key: the signing key [0-9A-F]{16} expired on 2026-06-01", report.reason)
    assert not list(ctx.paths.scratch.iterdir())


def test_an_entry_whose_key_expired_names_the_day_and_its_extended_key_is_accepted(
    cache: Path, expired: Key, tmp_path: Path
) -> None:
    path = put(cache, ZLIB)
    signed_then(path, expired)
    trouble = only_trouble(take(tmp_path, mirror_of(cache, expired)))
    assert trouble.why.endswith("that signed it expired on 2026-06-01")
    extended = tmp_path / "extended.pub"
    extended.write_text(run_remedy(trouble.remedy[0], expired))
    assert take(tmp_path, mirror_of(cache, Key(extended, expired.secret))).specs == (ZLIB,)


@contextmanager
def home_with(key: Key) -> Iterator[Path]:
    """A GNUPGHOME with the secret key, at a short path: the socket of gpg's agent has at most 107 characters."""
    with TemporaryDirectory(dir=key.secret.parent, ignore_cleanup_errors=True) as home:
        subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", "--import", str(key.secret)], check=True)
        yield Path(home)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def run_remedy(remedy: str, key: Key) -> str:
    """The output of the command of a remedy, run with the secret key."""
    with home_with(key) as home:
        environment = {**os.environ, "GNUPGHOME": str(home)}
        return subprocess.run(
            ["sh", "-c", remedy], check=True, env=environment, stdout=subprocess.PIPE, text=True
        ).stdout


def signed_then(path: Path, key: Key) -> None:
    """Sign when the key was valid."""
    past = ("--faked-system-time", "20260301T000000", "--pinentry-mode", "loopback", "--passphrase", "")
    with home_with(key) as home:
        gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", *past]
        subprocess.run([*gpg, "--output", f"{path}.asc", "--clearsign", str(path)], check=True)
    Path(f"{path}.asc").rename(path)


def test_a_signing_key_that_the_mirror_does_not_accept_is_refused(
    cache: Path, key: Key, other: Key, tmp_path: Path
) -> None:
    mirror = replace(mirror_of(cache, key), push=True, signing_key=Origin(str(other.secret)))
    with pytest.raises(CacheError, match="keys do not accept what its signing_key signs") as caught:
        pusher(tmp_path, mirror, packs=lambda _: pytest.fail("it was packed")).send([ZLIB])
    assert (caught.value.code, "not one of the mirror's keys" in caught.value.why) == ("cache-key", True)


def test_a_key_file_with_another_content_makes_the_packages_not_pushed(key: Key, other: Key, tmp_path: Path) -> None:
    public = tmp_path / "site.pub"
    mirror = Mirror("s3://petal/cache", keys=(Origin(str(public)),))
    public.write_bytes(key.public.read_bytes())
    record = CacheRecord().with_refused({mirror.url: {ZLIB.hash: "x"}}).with_pushed(mirror, {ZLIB.hash: ""})
    record.save(tmp_path)
    kept = CacheRecord.load(tmp_path)
    assert (kept.pushed[key_of(mirror)], kept.refused) == ({ZLIB.hash: ""}, {})
    public.write_bytes(other.public.read_bytes())
    assert key_of(mirror) not in kept.pushed
    assert key_of(Mirror(mirror.url, signed=False)) not in kept.pushed
