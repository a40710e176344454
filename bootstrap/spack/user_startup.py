"""Runs at each start of the Python of the users' Spack (site.py); ``users`` copies it next to ``petal.pth``."""

import getpass
import os
import pwd
import re
import sys
from contextlib import suppress
from pathlib import Path

# Spack puts the user's name into the path of every stage (stage.py: _resolve_paths). Builds fail below a backslash, as
# in CORP\\name, and Spack fails without an entry in passwd: then the user id takes the place of the name.
getpwuid = pwd.getpwuid


def entry_of(uid: int) -> pwd.struct_passwd:
    """The entry of passwd with a name that every build accepts in a path."""
    try:
        name, *rest = getpwuid(uid)
    except KeyError:
        name, rest = "", ["x", uid, os.getgid(), "", os.environ.get("HOME", "/"), "/bin/sh"]
    return pwd.struct_passwd((name if re.fullmatch(r"[A-Za-z0-9._@-]+", name) else f"uid-{uid}", *rest))


pwd.getpwuid = entry_of
getpass.getuser = lambda: entry_of(os.geteuid()).pw_name

# Byte code of the site's files goes to the user's cache or nowhere.
cache = os.environ.get("SPACK_USER_CACHE_PATH")
sys.dont_write_bytecode = not cache
sys.pycache_prefix = str(Path(cache, "pycache")) if cache else None
# Without a directory for the user's configuration, 1.1 would write to its own tree (config.py: _scope, optional).
with suppress(OSError):  # the home directory is missing or full: Spack reports that if it has to write there
    Path(os.environ.get("SPACK_USER_CONFIG_PATH") or "~/.spack").expanduser().mkdir(parents=True, exist_ok=True)
