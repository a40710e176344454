"""What a text of petal.yaml may be: no character that means something to Lua, a shell or a file name."""

from __future__ import annotations

import re
import shlex

from marshmallow import ValidationError, validate

from .uris import CONTROL, problem_of

NAME = validate.Regexp(
    r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z",
    error="only letters, digits and . _ + - are allowed, and it must start with a letter or digit",
)
MODULE = validate.Regexp(
    r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*\Z",
    error="must be a module name such as openmpi or openmpi/4.1.7",
)
SHA256 = validate.Regexp(r"^[0-9a-f]{64}\Z", error="must be the 64 hexadecimal digits of a sha256, in lower case")
PATH = validate.Regexp(r"^/[A-Za-z0-9._+/-]*\Z", error="must be an absolute path of letters, digits and . _ + - /")
CLUSTER = validate.Regexp(r"^[A-Za-z][A-Za-z0-9-]{0,59}\Z", error="must be the name of a cluster")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\Z")
SPEC = validate.Regexp(
    r"^[A-Za-z0-9][A-Za-z0-9 ._+~^%@=:,/-]*\Z",
    error="must be a Spack spec such as samtools@1.19 or hdf5+mpi",
)


def one_line(text: str) -> None:
    if CONTROL.search(text):
        raise ValidationError("must be one line without control characters")


def command(text: str) -> None:
    """A program and its arguments: no shell reads it, so pipes and variables would be taken as they stand."""
    one_line(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValidationError(f"is no command: {error}") from error
    if not words or "--" in words:
        raise ValidationError("must be a program and its arguments, without a bare --")
    if re.search(r"[|&;<>$`]", text):
        raise ValidationError("must be one program and its arguments: no shell reads it")


def uri(text: str) -> None:
    problem = problem_of(text)
    if problem:
        raise ValidationError(problem)


def tidy_path(text: str) -> None:
    if ".." in text.split("/") or (len(text) > 1 and text.endswith("/")) or "//" in text:
        raise ValidationError("must be written without .., // or a slash at its end")
    if text == "/":
        raise ValidationError("must not be /")
