"""The archive's __main__: finds or makes the unpacked tree, then calls bootstrap.cli.entry().

This file must parse on every Python since 2.7, because an old one gets a remedy instead of a traceback. It must stay
short, because it is compiled at each start; unpack.py holds the code that only the first start needs. The build
replaces the words between @.
"""

import os
import stat
import sys

MYPY = False
if MYPY:
    from typing import NoReturn, Optional

CONTENT = "@CONTENT@"  # hash of all files of the tree
VERSION = "@VERSION@"
MACHINES = ("x86_64", "aarch64")  # the archive has psutil's compiled part for these
PREFIX = os.environ.get("PETAL_PREFIX", "")  # for tests and image builds
SHARED = PREFIX + "/var/cache/petal-node"  # root's cache, readable by all users


def stop(what, why, remedy):
    # type: (str, str, str) -> NoReturn
    """Exits 69: the program cannot start here."""
    sys.stderr.write("petal-node: %s\nwhy: %s\nremedy: %s\n" % (what, why, remedy))
    sys.exit(69)


def refuse_old_python(archive):
    # type: (str) -> None
    """Returns to the header if the header chose this interpreter, which is too old; else exits 69."""
    if os.environ.get("PETAL_TRIED"):
        os.execv("/bin/sh", ["/bin/sh", archive] + sys.argv[1:])
    stop(
        "Python >= 3.9 is needed",
        "%s is Python %s" % (sys.executable, sys.version.split()[0]),
        "install one (RHEL 8: dnf install -y python39; Ubuntu 20.04: apt-get install -y python3.9), then: sh %s"
        % archive,
    )


def distrust(path, owner):
    # type: (str, int) -> Optional[str]
    """Returns why a directory must not be used as code of ``owner`` (a uid), or None if it may be used."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return "%s: %s" % (path, error.strerror)
    if not stat.S_ISDIR(found.st_mode):
        return "%s is not a directory" % path
    if found.st_uid != owner:
        return "%s belongs to uid %d, not to uid %d" % (path, found.st_uid, owner)
    if found.st_mode & 0o022:
        return "%s can be written by others (mode %04o)" % (path, stat.S_IMODE(found.st_mode))
    return None


def damage(tree):
    # type: (str) -> Optional[str]
    """Returns the first file of a tree that is not as unpack.py wrote it, or None. Takes 1 ms.

    A power cut, a full disk or a cleaner of caches leaves files that are empty, too short or missing.
    """
    try:
        with open(tree + "/.files") as stream:
            text = stream.read()
        for line in text.splitlines()[:-1]:
            size, name = line.split(" ", 1)
            if os.stat(tree + "/" + name).st_size != int(size):
                return tree + "/" + name
        return None if text.endswith("\n\n") else tree + "/.files"  # an empty line ends the list
    except (OSError, ValueError) as error:
        return str(error)


def own_base():
    # type: () -> str
    """Returns the cache of this user: root's is fixed, other users have XDG_CACHE_HOME, ~/.cache or the passwd home."""
    if os.geteuid() == 0:
        return SHARED
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not home.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            import pwd

            try:
                home = pwd.getpwuid(os.geteuid()).pw_dir
            except KeyError:
                home = "/nonexistent"
        home += "/.cache"
    return home + "/petal-node"


def find_tree(archive, machine):
    # type: (str, str) -> str
    """Returns the directory with this archive's tree: root's, else this user's own.

    A tree that is missing or damaged is made again. Each version of Python has its own, because of the byte code.
    """
    key = "/%s-%s-%s" % (CONTENT, sys.implementation.cache_tag, machine)
    own = own_base()
    for base, owner in ((SHARED, 0), (own, os.geteuid())):
        if not (distrust(base, owner) or distrust(base + key, owner) or damage(base + key)):
            return base + key
    sys.path.insert(0, archive)
    import petal_unpack

    del sys.path[0]
    tree = petal_unpack.make_tree(archive, own, key[1:], machine, stop, distrust, damage)  # type: str
    return tree


def main():
    # type: () -> None
    """Runs the tool and exits with its code."""
    archive = os.path.realpath(sys.argv[0])
    if sys.version_info < (3, 9):
        refuse_old_python(archive)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname()[4], os.uname()[4])
    if machine not in MACHINES:
        stop("this machine is not supported", "it is %s" % machine, "use one of " + ", ".join(MACHINES))
    tree = find_tree(archive, machine)
    sys.dont_write_bytecode = True  # on a full disk, Python could leave half a file and read it at the next start
    os.environ["PETAL_ARCHIVE"] = archive
    os.environ.pop("PETAL_TRIED", None)
    sys.path[:] = [tree] + [entry for entry in sys.path if entry not in (sys.argv[0], archive)]
    from bootstrap.cli import entry

    entry()


main()
