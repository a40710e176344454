"""Checks of single values of petal.yaml.

Each check takes a text and returns what is wrong with it, or None. It refuses characters that have a meaning in Lua, in
a shell, in a file name or in a systemd unit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from ..cluster import targets
from ..core.errors import SECRET_NAME

ValueCheck = Callable[[str], "str | None"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PRESIGNED = re.compile(r"(?i)[?&](x-amz-[a-z-]+|awsaccesskeyid|signature)=")
_URI = re.compile(r"(s3://[^/]+/.|https://[^/]+/.|file:///|/)")
_SIGNED = "contains a password or a signature, which records would show: use s3:// and the role of the node"
_REFUSED_OPTIONS = {
    **dict.fromkeys(("soft", "softerr"), "an interrupted read or write would look complete"),
    **dict.fromkeys(("nolock", "local_lock", "noflock", "localflock"), "locks would not exclude other nodes"),
    **dict.fromkeys(("vers=2", "vers=3", "nfsvers=2", "nfsvers=3"), "locks need NFS 4 or later"),
    **dict.fromkeys(("bg", "noauto", "remount", "bind", "rbind", "move", "user", "users"), "petal-node mounts it once"),
    **dict.fromkeys(("ro", "noexec"), "software is installed there and run from there"),
}


def matching(pattern: str, message: str) -> ValueCheck:
    """A check that a text matches ``pattern`` from its first to its last character."""
    compiled = re.compile(rf"(?:{pattern})\Z")
    return lambda text: None if compiled.match(text) else message


name_problem = matching(
    r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}",
    "must start with a letter or digit and contain only letters, digits and . _ + - (at most 100)",
)
user_problem = matching(r"[A-Za-z0-9_][A-Za-z0-9._@\\+ -]{0,99}", "must be the name of a user")
module_problem = matching(
    r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*",
    "must be a module name such as openmpi or openmpi/4.1.7",
)
environment_problem = matching(
    r"[a-z0-9][a-z0-9-]*", "must be the name of an environment, a URI of a spack.yaml or spack.lock, or none"
)
spec_problem = matching(
    r"[A-Za-z0-9][A-Za-z0-9 ._+~^%@=:,/-]*", "must be a Spack spec such as samtools@1.19 or hdf5+mpi"
)
sha256_problem = matching(r"[0-9a-f]{64}", "must be a SHA-256 checksum: 64 hexadecimal digits in lower case")
variable_problem = matching(r"[A-Za-z_][A-Za-z0-9_]*", "is not a valid name of an environment variable")
mount_source_problem = matching(
    r"fs-[0-9a-f]{8,40}"
    r"|([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(@(tcp|o2ib)\d*)?:/[A-Za-z0-9._+/-]*",
    "must be the id of an EFS file system (fs-0123abcd...), HOST:/EXPORT or, for Lustre, HOST@tcp:/NAME",
)
_path_characters_problem = matching(
    r"/[A-Za-z0-9._+/-]*", "must be an absolute path that contains only letters, digits and . _ + - /"
)
_option_characters_problem = matching(
    r"[a-z_][a-z0-9_]*(=[A-Za-z0-9._:/@-]+)?", "must be one option of mount(8), such as noatime or nconnect=4"
)


def line_problem(text: str) -> str | None:
    """One line of text."""
    return "must be one line without control characters" if _CONTROL.search(text) else None


def path_problem(text: str) -> str | None:
    """An absolute path in its shortest form."""
    if ".." in text.split("/") or (len(text) > 1 and text.endswith("/")) or "//" in text:
        return "must not contain .. or //, or end with a slash"
    return "must not be /" if text == "/" else _path_characters_problem(text)


def uri_problem(text: str) -> str | None:
    """A URI of petal.yaml or of ``--config``."""
    if line_problem(text):
        return line_problem(text)
    if text.startswith("http://"):
        return "uses http://, which others can modify on the way: use https://"
    if not _URI.match(text):
        return "must be s3://BUCKET/KEY, https://HOST/PATH, file:///PATH or an absolute path"
    if text.startswith("s3://"):  # a key may contain a question mark
        return _SIGNED if "@" in text.split("/")[2] or _PRESIGNED.search(text) else None
    return _https_problem(text) if text.startswith("https://") else None


def mirror_problem(text: str) -> str | None:
    """The URL of a mirror. Spack fetches no sources from a registry, and signs nothing there (cmd/buildcache.py)."""
    if text.startswith(("oci://", "oci+")):
        return "is a container registry: Spack signs no packages there and keeps no sources; use s3:// or a directory"
    return uri_problem(text)


def _https_problem(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        valid = parts.hostname and parts.port != 0
    except ValueError as error:
        return f"is not a valid URI: {error}"
    if not valid:
        return "must be https://HOST/PATH"
    if "@" in parts.netloc or any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query, True)):
        return _SIGNED
    return None


def is_remote(uri: str) -> bool:
    """True for a URI that is read over the network."""
    return not uri.startswith(("/", "file:"))


def command_problem(text: str) -> str | None:
    """A program with its arguments. No shell reads it, so pipes and variables would be passed on literally."""
    if len(text) > 1000:
        return "must have at most 1000 characters"
    if line_problem(text):
        return line_problem(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        return f"is not a valid command: {error}"
    if not words or "--" in words:
        return "must be a program and its arguments, without an argument --"
    if re.search(r"[|&;<>$`]", text):
        return "must be one program and its arguments, because no shell reads it: | & ; < > $ and ` are not allowed"
    return None


def summary_problem(text: str) -> str | None:
    """The description of a package."""
    return line_problem(text) if len(text) <= 200 else "must have at most 200 characters"


def mount_option_problem(text: str) -> str | None:
    """One option of mount(8). It becomes part of a unit file and of a command line."""
    reason = _REFUSED_OPTIONS.get(text) or _REFUSED_OPTIONS.get(text.partition("=")[0])
    return f"{text} is refused: {reason}" if reason else _option_characters_problem(text)


def target_problem(text: str) -> str | None:
    """A CPU target of Spack, or ``auto``."""
    return None if text == "auto" else targets.problem_of(text)
