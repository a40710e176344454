"""The mutants of ``make mutants``: lines of safety code, each with a change that breaks its guarantee."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One line that is broken.

    Args:
        broken: the guarantee that no longer holds.
        file: the file, from the top of the repository.
        old: text that is in the file exactly once.
        new: its replacement.
        tests: the test files that concern it, as ``unit/state`` for tests/unit/test_state.py.
    """

    broken: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    # Files and records
    Mutant(
        "a file is on disk before its rename",
        "bootstrap/host/atomic.py",
        "            os.fsync(stream.fileno())\n",
        "",
        "unit/atomic unit/state unit/files",
    ),
    Mutant(
        "a directory is on disk before its rename",
        "bootstrap/host/atomic.py",
        "        (flush or flush_filesystem)(part)\n",
        "",
        "unit/atomic unit/state",
    ),
    Mutant(
        "the directory of a renamed file is on disk",
        "bootstrap/host/atomic.py",
        "= str(path)\n        raise\n    flush_directory(path.parent)\n",
        "= str(path)\n        raise\n",
        "unit/atomic unit/state unit/files",
    ),
    Mutant(
        "the lock is confirmed before a rename",
        "bootstrap/host/atomic.py",
        "        if confirm is not None:\n            confirm()\n        part.rename(path)\n",
        "        part.rename(path)\n",
        "unit/atomic unit/state unit/files unit/lmod",
    ),
    Mutant(
        "an archive gets its name only with its checksum",
        "bootstrap/host/atomic.py",
        "        if actual != sha256:",
        "        if False:",
        "unit/run unit/prepare unit/atomic unit/files real/security",
    ),
    Mutant(
        "a directory that the group can write is not trusted",
        "bootstrap/host/files.py",
        "    if not info.st_mode & 0o022 or (",
        "    if not info.st_mode & 0o002 or (",
        "unit/state unit/files unit/storage",
    ),
    Mutant(
        "a mount that all can write must be sticky",
        "bootstrap/host/files.py",
        "    if not info.st_mode & 0o022 or (sticky and info.st_mode & stat.S_ISVTX):",
        "    if not info.st_mode & 0o022 or sticky:",
        "unit/state unit/files unit/storage real/security",
    ),
    Mutant(
        "a record is opened without following a link",
        "bootstrap/host/files.py",
        "os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)",
        "os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)",
        "unit/files",
    ),
    Mutant(
        "a pipe in place of a record does not block",
        "bootstrap/host/files.py",
        "os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)",
        "os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)",
        "unit/files",
    ),
    Mutant(
        "a record has a limit of bytes",
        "bootstrap/host/files.py",
        "    if len(data) > limit:",
        "    if False:",
        "unit/files",
    ),
    Mutant(
        "a directory that root made belongs to root",
        "bootstrap/host/files.py",
        "        if owner != os.geteuid():",
        "        if False:",
        "unit/state unit/files unit/storage real/faults",
    ),
    Mutant(
        "a record that others could write is not read",
        "bootstrap/state/store.py",
        "        problem = None if self._trusting else path_problem(",
        "        problem = None if True else path_problem(",
        "unit/state unit/files unit/storage",
    ),
    Mutant(
        "records are written only to the known storage",
        "bootstrap/state/store.py",
        '        if not is_prepared or not (name == "token.json" or state.is_known_storage()):',
        "        if not is_prepared:",
        "unit/state unit/files unit/storage unit/owner",
    ),
    Mutant(
        "a newer format is refused",
        "bootstrap/state/store.py",
        "    if number > FORMAT:",
        "    if False:",
        "unit/state unit/files unit/storage",
    ),
    # Locks
    Mutant(
        "a lock file cannot be opened by users",
        "bootstrap/host/locks.py",
        "    descriptor = os.open(path, OPEN_FLAGS, 0o600)\n    if os.fstat(descriptor).st_mode & 0o077:",
        "    descriptor = os.open(path, OPEN_FLAGS, 0o644)\n    if False:",
        "real/lock real/file_locks real/security",
    ),
    Mutant(
        "a lock is still held if its holder is another one",
        "bootstrap/host/locks.py",
        "_lock_file(self._descriptor) and holder_of(self._path) == self._recorded",
        "_lock_file(self._descriptor)",
        "real/lock unit/engine",
    ),
    Mutant(
        "builders of a killed run end before the next builders start",
        "bootstrap/host/locks.py",
        "        if not _wait(lambda: lock_open_file(descriptor), timeout, lambda: waiting(builders)):",
        "        if False:",
        "real/lock unit/engine unit/file_locks",
    ),
    Mutant(
        "a process with a reused pid is not the holder",
        "bootstrap/host/processes.py",
        "and start in (None, started)",
        "",
        "real/lock real/system unit/engine unit/recovery",
    ),
    Mutant(
        "a run that waited while the storage was taken over stops",
        "bootstrap/engine/run_locks.py",
        "            _refuse_changed_storage(ctx)\n",
        "",
        "unit/engine unit/owner unit/storage",
    ),
    Mutant(
        "a run that waited while a rollback was made stops",
        "bootstrap/engine/run_locks.py",
        "    if desired is not None and desired.release != ctx.release:",
        "    if False:",
        "unit/engine unit/releases unit/run",
    ),
    # Downloads and archives
    Mutant(
        "a redirect never leaves https",
        "bootstrap/remote/attempts.py",
        "        if not is_https:",
        "        if False:",
        "real/fetch",
    ),
    Mutant(
        "a fetched object has the expected checksum",
        "bootstrap/remote/fetch.py",
        "    if actual != expected:",
        "    if False:",
        "real/fetch unit/sources",
    ),
    Mutant(
        "the metadata service is not asked through a proxy",
        "bootstrap/remote/metadata.py",
        "        session.trust_env = False",
        "        session.trust_env = True",
        "real/security real/fetch",
    ),
    Mutant(
        "a signed request does not follow a redirect",
        "bootstrap/remote/attempts.py",
        "if self.region or not answer.is_redirect:",
        "if not answer.is_redirect:",
        "real/fetch",
    ),
    Mutant(
        "another version runs only with its checksum",
        "bootstrap/engine/handover.py",
        "    if not has_sha256(archive, desired.sha256):",
        "    if not archive.is_file():",
        "real/security",
    ),
    Mutant(
        "a setgid member is refused",
        "bootstrap/remote/tarball.py",
        "member.mode & 0o6000",
        "member.mode & 0o4000",
        "unit/tarball fuzz/tarballs",
    ),
    Mutant(
        "a member below a link of the archive is refused",
        "bootstrap/remote/tarball.py",
        "        if real != str(directory) or os.path.commonpath((real, top)) != top:",
        "        if False:",
        "unit/tarball fuzz/tarballs",
    ),
    Mutant(
        "a link that leads outside is refused",
        "bootstrap/remote/tarball.py",
        "        _refuse_escapes(target, top, name)\n",
        "",
        "unit/tarball fuzz/tarballs",
    ),
    Mutant(
        "an archive that unpacks to 200 times its size is refused",
        "bootstrap/remote/tarball.py",
        "        elif self._size > self._most:",
        "        elif False:",
        "unit/tarball fuzz/tarballs",
    ),
    Mutant(
        "the headers of a member have a limit",
        "bootstrap/remote/tarball.py",
        "        if not 0 <= size <= self.left:",
        "        if False:",
        "unit/tarball fuzz/tarballs",
    ),
    Mutant(
        "a member deeper than 64 directories is refused",
        "bootstrap/remote/tarball.py",
        "        if len(member.parts) - (not is_dir) > MAX_DEPTH:",
        "        if False:",
        "unit/tarball fuzz/tarballs",
    ),
    # The hook script and the loader
    Mutant(
        "an archive on shared storage is verified",
        "actions/on_node.sh",
        '            has_checksum "$part" && exit 0\n',
        "            exit 0\n",
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "a fetched archive is verified",
        "actions/on_node.sh",
        '    has_checksum "$part" && return\n    if',
        "    return 0\n    if",
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "an archive that was kept is verified",
        "actions/on_node.sh",
        '[ ! -L "$candidate" ] && has_checksum "$candidate" && archive',
        '[ ! -L "$candidate" ] && archive',
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "only root can enter the download directory",
        "actions/on_node.sh",
        'locally chmod 0700 "$incoming"',
        'locally chmod 0755 "$incoming"',
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "a failed hook exits 0",
        "actions/on_node.sh",
        'systemd starts the unit again\n    [ -n "$strict" ] || exit 0\n',
        "systemd starts the unit again\n",
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "the hook script follows no redirect to http",
        "actions/on_node.sh",
        "--proto '=https' ",
        "",
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "no key is written to a disk by the hook script",
        "actions/on_node.sh",
        "        unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN",
        "        :",
        "real/actions_fetch real/actions real/actions_time",
    ),
    Mutant(
        "code that the group could write is not run",
        "bootstrap/archive/loader.py",
        "    if found.st_mode & 0o022:",
        "    if found.st_mode & 0o002:",
        "archive/start",
    ),
    Mutant(
        "code of another user is not run",
        "bootstrap/archive/loader.py",
        "    if found.st_uid != owner:",
        "    if False:",
        "archive/start",
    ),
    Mutant(
        "an unpacked tree is on disk before its name",
        "bootstrap/archive/unpack.py",
        "        _flush(copy)\n",
        "",
        "archive/start",
    ),
    # Build caches
    Mutant(
        "a signature that gpg does not accept is refused",
        "bootstrap/spack/cache/keys.py",
        '        if done.returncode != 0 or not {"GOODSIG", "VALIDSIG"} <= set(status):',
        '        if not {"GOODSIG", "VALIDSIG"} <= set(status):',
        "real/cache_keys",
    ),
    Mutant(
        "a signature needs to be good",
        "bootstrap/spack/cache/keys.py",
        'not {"GOODSIG", "VALIDSIG"} <= set(status):',
        "False:",
        "real/cache_keys",
    ),
    Mutant(
        "an entry of another package is not taken",
        "bootstrap/spack/cache/pull.py",
        "        if digest != spec.hash:",
        "        if False:",
        "real/caches real/cache_keys",
    ),
    # Releases
    Mutant(
        "a release is on disk before its manifest",
        "bootstrap/steps/publish.py",
        "            ctx.system.flush(ctx.paths.root)\n",
        "",
        "unit/releases unit/engine unit/laws unit/owner real/faults",
    ),
    Mutant(
        "the lock is confirmed before a release is published",
        "bootstrap/releases/publish.py",
        "    record_current(ctx)\n    ctx.confirm()\n",
        "    record_current(ctx)\n",
        "unit/releases unit/engine unit/laws",
    ),
    Mutant(
        "gc keeps the desired release",
        "bootstrap/releases/gc.py",
        '        reasons[desired.release] = "desired"',
        "        pass",
        "unit/releases",
    ),
    Mutant(
        "gc keeps the current release",
        "bootstrap/releases/gc.py",
        '    reasons[current] = "current"',
        "    pass",
        "unit/releases",
    ),
    Mutant(
        "gc keeps releases of running jobs",
        "bootstrap/releases/gc.py",
        "    reasons.update(dict.fromkeys(used, why))\n",
        "",
        "unit/releases",
    ),
    Mutant(
        "gc keeps the packages of kept releases",
        "bootstrap/releases/gc.py",
        "            if digest not in needed and prefix.is_relative_to(store)",
        "            if prefix.is_relative_to(store)",
        "unit/releases spack/recovery",
    ),
    Mutant(
        "gc confirms its lock before it removes",
        "bootstrap/releases/gc.py",
        "    for release, size in plan.drop.items():\n        ctx.confirm()\n",
        "    for release, size in plan.drop.items():\n",
        "unit/releases unit/engine",
    ),
    Mutant(
        "a package with an empty install manifest is incomplete",
        "bootstrap/spack/database.py",
        "        return (prefix / MANIFEST).stat().st_size > 0",
        "        return (prefix / MANIFEST).stat().st_size >= 0",
        "unit/recovery unit/install spack/recovery",
    ),
    Mutant(
        "the copy of an image is on disk before its name",
        "bootstrap/steps/seed_from_image.py",
        ", flush=ctx.system.flush)",
        ", flush=lambda _: None)",
        "unit/layouts real/adopt",
    ),
    Mutant(
        "an Lmod that users could change is not unpacked",
        "bootstrap/lmod/bundle.py",
        "    if distrusted:",
        "    if False:",
        "unit/lmod",
    ),
    # Users, jobs and output
    Mutant(
        "repair takes setuid and the right to write from a file",
        "bootstrap/repair/permissions.py",
        "chmod(stat.S_IMODE(info.st_mode) & ~WRITABLE)",
        "chmod(stat.S_IMODE(info.st_mode))",
        "unit/repairs real/repairs",
    ),
    Mutant(
        "repair changes only the file that it has looked at",
        "bootstrap/repair/permissions.py",
        "        if info.st_uid == one.owner and not stat.S_ISLNK(info.st_mode):",
        "        if not stat.S_ISLNK(info.st_mode):",
        "unit/repairs real/repairs real/security",
    ),
    Mutant(
        "a build job runs only the archive of its name",
        "bootstrap/spack/job/worker.py",
        "is not run; exit 1; }}",
        "is not run; }}",
        "unit/job_worker real/security",
    ),
    Mutant(
        "a control character does not reach the terminal",
        "bootstrap/report/render.py",
        'sign if sign.isprintable() or sign == "\\t" else repr(sign)[1:-1]',
        "sign",
        "unit/views fuzz/records",
    ),
    Mutant(
        "the log cannot be read by users",
        "bootstrap/host/log.py",
        "            path.chmod(0o640)",
        "            path.chmod(0o644)",
        "unit/log real/log real/security",
    ),
    Mutant(
        "no file is made in /tmp",
        "bootstrap/steps/packages.py",
        "    prefix = _prefix(ctx, package)\n    region, seconds",
        '    Path("/tm" + "p/petal-mark").write_bytes(b"")\n    prefix = _prefix(ctx, package)\n    region, seconds',
        "real/security",
    ),
    Mutant(
        "the unit of a worker gets no keys",
        "bootstrap/host/systemd.py",
        '    *("AWS_ENDPOINT_URL",',
        '    *("AWS_SECRET_", "AWS_ENDPOINT_URL",',
        "unit/detach real/system real/security",
    ),
)
