"""The archive starts on every Python, for every user, under any file name, many times at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from bootstrap.archive import build, unpack
from tests.archive.conftest import NOBODY, Node, good_python, python, run
from tests.disks import mounted

ABLE = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
OLD = ["2.7", "3.6", "3.7", "3.8"]


def run_json(node, *arguments, **more):
    """The output of the probe, which must succeed without any output to stderr."""
    ran = node.run(*arguments, **more)
    assert (ran.code, ran.err) == (0, ""), ran
    return json.loads(ran.out)


# Pythons


@pytest.mark.parametrize("version", ABLE)
def test_runs_and_loads_every_package(node, version):
    node.env["PETAL_PYTHON"] = python(version)
    answer = run_json(node, "libs")
    assert answer["python"] == [int(part) for part in version.split(".")]
    assert answer["flags"] == [1, 1, 1]
    assert answer["archive"] == str(node.archive)
    assert answer["tried"] is None
    assert "default_int_handler" not in answer["interrupt"]  # Ctrl-C while Python starts: no traceback
    assert answer["spack_envs"] == answer["tree"] + "/spack_envs"
    assert all(place.startswith(answer["tree"] + "/") for place in answer["libs"])
    tag = f"cpython-{version.replace('.', '')}"
    assert tag in Path(answer["tree"]).name
    assert len(list(Path(answer["tree"]).rglob(f"*.{tag}.pyc"))) == len(list(Path(answer["tree"]).rglob("*.py")))


@pytest.mark.parametrize("version", ABLE)
def test_the_shipped_tool_prints_its_version(real, node, version):
    node.env["PETAL_PYTHON"] = python(version)
    ran = node.run("version", archive=Path(shutil.copy(real.archive, node.archive)))
    assert (ran.code, ran.err) == (0, "")
    assert "0.1.0" in ran.out
    assert "exit: 75" in node.run("explain", "lock-timeout").out  # the documentation is in the archive


@pytest.mark.parametrize("version", OLD)
def test_an_old_python_gets_a_remedy(node, version):
    ran = run(["env", "-i", python(version), str(node.archive), "version"])
    assert ran.code == 69
    assert "Python >= 3.9 is needed" in ran.err
    assert "remedy: install one" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("version", OLD)
def test_a_chosen_python_that_is_old_is_refused(node, version):
    node.env["PETAL_PYTHON"] = python(version)
    ran = node.run("version")
    assert ran.code == 69
    assert "PETAL_PYTHON" in ran.err


def fake_python(path, version, log):
    """Create an interpreter that logs each of its starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho {path.name} >>{log}\nexec {python(version)} "$@"\n')
    path.chmod(0o755)


def test_an_old_system_python_is_started_once_and_skipped(node, tmp_path):
    log = tmp_path / "log"
    fake_python(node.prefix / "usr/bin/python3", "3.6", log)
    fake_python(node.prefix / "opt/parallelcluster/pyenv/versions/3.8.20/bin/python3", "3.8", log)
    fake_python(node.prefix / "opt/parallelcluster/pyenv/versions/3.9.20/bin/python3", "3.9", log)
    node.env |= {"PETAL_PYTHON": "", "PATH": "/nonexistent"}
    command = node.command("version")
    command[0] = "/usr/bin/env"
    ran = run(command)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["python"] == [3, 9]
    assert log.read_text() == "python3\npython3\n"


def test_the_error_without_a_python_names_the_distributions_package(node):
    (node.prefix / "etc").mkdir()
    (node.prefix / "etc/os-release").write_text('ID="rocky"\nVERSION_ID="8.10"\n')
    empty = node.prefix / "usr/bin/python3"  # as after a power cut
    empty.parent.mkdir(parents=True)
    empty.touch(mode=0o755)
    node.env |= {"PETAL_PYTHON": "", "PATH": "/nonexistent"}
    command = node.command("version")
    command[0] = "/usr/bin/env"
    ran = run(command)
    assert ran.code == 69
    assert "remedy: dnf install -y python39" in ran.err


def test_arguments_and_exit_code_pass_through(node):
    assert run_json(node, "a b", "$x", "")["arguments"] == ["a b", "$x", ""]
    assert node.run("exit", "3").code == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="the test gives a directory to another user, which needs root")
@pytest.mark.parametrize("name", ["PETAL_PYTHON", "PETAL_PREFIX"])
@pytest.mark.parametrize("owned", ["the path", "the directory above it", "sticky"])
def test_root_uses_no_path_of_a_variable_that_a_user_could_change(node, public, name, owned):
    """sudo -E keeps the variables of a user."""
    program = public / "theirs" / "usr" / "bin" / "python3"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ntouch {public}/started\n")
    program.chmod(0o755)
    path = program if name == "PETAL_PYTHON" else public / "theirs"
    if owned == "sticky":
        path.chmod(0o1777)
    else:
        os.chown(path if owned == "the path" else path.parent, 65534, 65534)
    node.env |= {"PETAL_PYTHON": "", name: str(path)}
    ran = node.run("version")
    os.chown(path.parent, 0, 0)
    assert (ran.code, ran.out) == (69, "")
    assert f"{name}={path} is not used by root" in ran.err
    assert f"remedy: unset {name}" in ran.err
    assert not (public / "started").exists()


def test_a_users_list_of_tried_interpreters_is_ignored(node):
    if os.path.realpath(good_python()) != os.path.realpath("/usr/bin/python3"):
        pytest.skip("/usr/bin/python3 is missing or too old")
    tried = ":".join(["", "/usr/bin/python3", *(f"/usr/bin/python3.{minor}" for minor in range(9, 18))])
    node.env |= {"PETAL_PYTHON": "", "PETAL_PREFIX": "", "PETAL_TRIED": tried}
    assert "too old" not in node.run("version").err


# names and links


def test_the_archive_starts_through_a_link_and_by_sh(node, public):
    (public / "link").symlink_to("petal-node")
    assert run_json(node, archive=public / "link")["archive"] == str(node.archive)
    ran = run(["env", "-i", f"PETAL_PREFIX={node.prefix}", f"PETAL_PYTHON={good_python()}", "sh", str(node.archive)])
    assert json.loads(ran.out)["archive"] == str(node.archive)


def test_dos2unix_does_not_change_the_archive(node):
    if not shutil.which("dos2unix"):
        pytest.skip("dos2unix is not installed")
    before = hashlib.sha256(node.archive.read_bytes()).hexdigest()
    assert run(["dos2unix", str(node.archive)]).code == 0
    assert hashlib.sha256(node.archive.read_bytes()).hexdigest() == before


def test_custom_actions_under_random_names_share_one_tree(node, public):
    """ParallelCluster's executor: temp name without extension, chmod, dos2unix, run, unlink."""
    for name in ("tmp1a2b", "tmpxyz9", "tmp0000"):
        script = Path(shutil.copy(node.archive, public / name))
        script.chmod(0o700)
        if shutil.which("dos2unix"):
            run(["dos2unix", str(script)])
        assert run_json(node, "hook", "configured", archive=script)["arguments"] == ["hook", "configured"]
        script.unlink()
    assert len(node.trees()) == 1


# the cache


def test_simultaneous_starts_without_a_tree_and_with_a_damaged_tree_succeed(node):
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(lambda _: node.run("libs"), range(4)))
        assert {(ran.code, ran.err) for ran in runs} == {(0, "")}
        (tree,) = node.trees()
        empty(tree / "bootstrap/cli.py")


def test_under_any_umask_all_users_can_read_and_only_root_can_write_the_tree(node):
    before = os.umask(0o077)
    try:
        run_json(node)
    finally:
        os.umask(before)
    (tree,) = node.trees()
    for path in (node.cache, tree, *tree.rglob("*")):
        mode = path.stat().st_mode
        assert not mode & 0o022, path
        assert mode & 0o044 == 0o044, path


def test_a_warm_start_unpacks_nothing_and_writes_nothing(node):
    run_json(node)
    (tree,) = node.trees()
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tree, *tree.rglob("*"))}
    run_json(node, "libs")
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tree, *tree.rglob("*"))} == before
    assert node.trees() == [tree]


def test_the_version_is_printed_without_the_modules_of_the_verbs():
    """Their imports are most of the time of a start, which `make bench-start` measures."""
    script = (
        "import sys; from bootstrap.cli import main; main(['version']); "
        "print(*(name for name in sys.modules if name.startswith('bootstrap')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=build.ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "bootstrap bootstrap.cli"


@pytest.fixture
def steps(node, monkeypatch):
    """Unpack in this process, and record in order the steps that matter after a kill or a power cut."""
    log = []

    def record(owner, name, label):
        action = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **more: (log.append(label(*given)), action(*given, **more))[1])

    record(Path, "write_bytes", lambda *_: "write")
    record(unpack, "_flush", lambda *_: "syncfs")
    record(Path, "rename", lambda _, target: f"rename {Path(target).name}")
    record(unpack, "_fsync", lambda *_: "fsync directory")
    return log


def make(node):
    def distrust(path, _):
        return None if Path(path).is_dir() else "it is missing"

    return unpack.make_tree(str(node.archive), str(node.cache), "tree", "x86_64", pytest.fail, distrust, lambda _: None)


def test_a_tree_is_flushed_to_disk_before_it_is_renamed(node, steps):
    make(node)
    assert steps.index("syncfs") > max(number for number, step in enumerate(steps) if step == "write")
    assert steps[steps.index("syncfs") :] == ["syncfs", "rename tree", "fsync directory"]


@pytest.mark.parametrize("moment", ["write", "syncfs", "rename"])
def test_a_tree_of_a_killed_start_is_never_used(node, moment, monkeypatch):
    """The kill happens between two files, before the flush, or before the rename."""
    count = iter(range(100))
    write = Path.write_bytes
    die = {
        "write": (Path, "write_bytes", lambda path, data: write(path, data) if next(count) < 50 else os._exit(9)),
        "syncfs": (unpack, "_flush", lambda *_: os._exit(9)),
        "rename": (Path, "rename", lambda *_: os._exit(9)),
    }
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(*die[moment])
        make(node)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = node.trees()
    assert left.name.startswith(".new-")
    tree = Path(make(node))
    with zipfile.ZipFile(node.archive) as archive:
        names = [name for name in archive.namelist() if name.startswith("tree/")]
        assert all((tree / name[5:]).read_bytes() == archive.read(name) for name in names)


def test_leftovers_of_killed_starts_are_removed_and_other_files_stay(node):
    hour_ago, other = time.time() - 3700, "1" * 32 + "-x86_64"
    for name, when in {other: 1, ".new-a": hour_ago, ".new-b": hour_ago + 600, "scratch": 1}.items():
        (node.cache / name).mkdir(parents=True)
        os.utime(node.cache / name, (when, when))
    node.cache.chmod(0o755)
    tree = Path(run_json(node)["tree"])
    assert {path.name for path in node.trees()} == {tree.name, other, ".new-b", "scratch"}


def test_the_oldest_trees_of_earlier_versions_are_removed(node):
    days = {"8" * 32: 9, "7" * 32: 8, "2" * 32: 2, "3" * 32: 3, "0" * 32: 0.5}
    for name, age in days.items():
        (node.cache / f"{name}-x86_64").mkdir(parents=True)
        os.utime(node.cache / f"{name}-x86_64", (time.time() - age * 86_400,) * 2)
    node.cache.chmod(0o755)
    make(node)
    assert {path.name[:1] for path in node.trees() if path.name != "tree"} == {"0", "2", "3"}


@pytest.mark.parametrize("harm", ["foreign", "writable", "link"])
def test_root_refuses_a_cache_that_others_could_have_filled(node, public, harm):
    if os.geteuid() != 0:
        pytest.skip("the test uses the cache of root, which needs root")
    spoil(node.cache, harm, public)
    ran = node.run("version")
    assert ran.code == 69
    assert "cannot be trusted" in ran.err
    assert f"remedy: remove it (rm -rf {node.cache})" in ran.err


@pytest.mark.parametrize("harm", ["foreign", "writable", "link"])
def test_root_replaces_a_tree_that_others_could_have_changed(node, public, harm):
    if os.geteuid() != 0:
        pytest.skip("the test uses the cache of root, which needs root")
    tree = Path(run_json(node)["tree"])
    shutil.rmtree(tree)
    spoil(tree, harm, public)
    run_json(node, "libs")
    assert not tree.is_symlink()
    assert (tree.stat().st_uid, tree.stat().st_mode & 0o7777) == (0, 0o755)


def spoil(place, harm, public):
    place.parent.mkdir(parents=True, exist_ok=True)
    if harm == "link":
        (public / "elsewhere").mkdir()
        place.symlink_to(public / "elsewhere")
        return
    place.mkdir()
    place.chmod(0o775 if harm == "writable" else 0o755)
    os.chown(place, NOBODY if harm == "foreign" else 0, 0)


# other users


def test_a_user_uses_the_tree_of_root(node, user):
    tree = run_json(node)["tree"]
    assert run_json(user, "libs")["tree"] == tree


@pytest.mark.parametrize("harm", ["foreign", "writable", "link"])
def test_a_user_ignores_a_root_tree_that_cannot_be_trusted(user, public, harm):
    spoil(user.cache, harm, public)
    assert run_json(user, "libs")["tree"].startswith(user.env["HOME"])


def test_a_user_gets_a_separate_tree_if_root_has_none(user):
    for home, expected in (
        ({}, user.env["HOME"] + "/.cache/"),
        ({"XDG_CACHE_HOME": user.env["HOME"] + "/xdg"}, user.env["HOME"] + "/xdg/"),
        ({"XDG_CACHE_HOME": "relative"}, user.env["HOME"] + "/.cache/"),
    ):
        answer = run_json(Node(user.prefix, user.archive, NOBODY, {**user.env, **home}), "libs")
        assert answer["tree"].startswith(expected + "petal-node/")
        assert Path(answer["tree"]).stat().st_uid == NOBODY


def test_a_user_without_a_writable_cache_gets_a_remedy(user):
    for env in ({"HOME": "/nonexistent"}, {"HOME": ""}):
        ran = Node(user.prefix, user.archive, NOBODY, env).run("version")
        assert ran.code == 69
        assert "cannot unpack into /nonexistent/.cache/petal-node" in ran.err
        assert f"sudo {os.path.realpath(user.archive)} version" in ran.err


def test_a_user_refuses_an_own_cache_that_others_can_write(user):
    place = Path(user.env["HOME"], ".cache/petal-node")
    place.mkdir(parents=True)
    place.chmod(0o777)
    os.chown(place, NOBODY, NOBODY)
    ran = user.run("version")
    assert (ran.code, "cannot be trusted" in ran.err) == (69, True)


# damage


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_archive_is_reported(node, kept):
    data = node.archive.read_bytes()
    node.archive.write_bytes(data[: int(len(data) * kept)])
    ran = node.run("version")
    assert ran.code == 69
    assert "the archive is damaged" in ran.err
    assert "Traceback" not in ran.err
    assert node.trees() == []


def test_a_flipped_byte_is_reported_and_leaves_no_tree(node):
    data = bytearray(node.archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    node.archive.write_bytes(data)
    ran = node.run("version")
    assert (ran.code, node.trees()) == (69, [])
    assert "the archive is damaged" in ran.err


def empty(path):
    path.write_bytes(b"")


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


HARMS = {
    "source": ("bootstrap/cli.py", empty),
    "source of a library": ("requests/__init__.py", empty),
    "byte code": ("bootstrap/__pycache__/cli.*.pyc", halve),
    "byte code of a library": ("yaml/__pycache__/__init__.*.pyc", halve),
    "resource": ("spack_envs/probe/spack.yaml", empty),
    "missing": ("jinja2/runtime.py", Path.unlink),
    "list": (".files", halve),
    "empty list": (".files", empty),
    "missing list": (".files", Path.unlink),
}


def harm_tree(tree, harm):
    pattern, action = HARMS[harm]
    (path,) = tree.glob(pattern)
    action(path)


def sizes_of(tree):
    return {str(path.relative_to(tree)): path.stat().st_size for path in tree.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def damage():
    """The loader's function, without the call of its main."""
    text = Path(build.HERE, "loader.py").read_text().rpartition("main()")[0]
    names = {}
    exec(compile(text, "loader.py", "exec"), names)
    return names["damage"]


def test_every_kind_of_damage_is_found(node, damage, tmp_path):
    tree = Path(run_json(node)["tree"])
    assert damage(str(tree)) is None
    for harm in HARMS:
        copy = Path(shutil.copytree(tree, tmp_path / harm))
        harm_tree(copy, harm)
        assert damage(str(copy)), harm


def test_the_list_of_a_tree_is_complete_or_damaged(damage, tmp_path):
    """A list that ends after a whole line would hide the files of the other lines."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
    whole = "1 a\n1 b\n\n"
    for length in range(len(whole)):
        (tmp_path / ".files").write_text(whole[:length])
        assert damage(str(tmp_path)), whole[:length]
    (tmp_path / ".files").write_text(whole)
    assert damage(str(tmp_path)) is None


@pytest.mark.parametrize(("who", "harm"), [("root", "byte code of a library"), ("user", "source")])
def test_a_damaged_tree_is_made_again(node, user, who, harm):
    starter = {"root": node, "user": user}[who]
    tree = Path(run_json(starter, "libs")["tree"])
    before = sizes_of(tree)
    harm_tree(tree, harm)
    assert run_json(starter, "libs")["tree"] == str(tree)
    assert sizes_of(tree) == before
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_a_user_does_not_use_a_damaged_tree_of_root(node, user):
    harm_tree(Path(run_json(node)["tree"]), "byte code of a library")
    assert run_json(user, "libs")["tree"].startswith(user.env["HOME"])


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_disk_that_is_full_at_any_moment_leaves_no_damaged_tree(node, user, who):
    starter, cache = (node, node.cache) if who == "root" else (user, Path(user.env["HOME"], ".cache/petal-node"))
    with mounted(cache, 16) as disk:
        os.chown(disk, starter.uid, starter.uid)
        for free in (0, 3, 8):
            (disk / "filler").write_bytes(bytes(16 - free << 20) if free else b"x" * (os.statvfs(disk).f_bavail * 4096))
            ran = starter.run("version")
            assert (ran.code, "No space left on device" in ran.err) == (69, True), ran
            assert [path.name for path in disk.iterdir()] == ["filler"]
            (disk / "filler").unlink()
        tree = Path(run_json(starter)["tree"])
        before = sizes_of(tree)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        run_json(starter, "libs")
        assert sizes_of(tree) == before


def test_a_cache_on_a_noexec_mount_is_reported(node):
    node.cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "petal-test", str(node.cache)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("the test mounts a file system, which is not possible here")
    try:
        ran = node.run("version")
    finally:
        subprocess.run(["umount", str(node.cache)], check=True)
    assert ran.code == 69
    assert "noexec" in ran.err
    assert "remount,exec" in ran.err
