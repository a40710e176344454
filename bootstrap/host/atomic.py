"""What is fetched and unpacked gets its name when it is whole, also where two processes fetch the same at once.

``petal-node lock`` may run beside a head node's worker, and users run Spack from the tree that is there. So every
process works under a name of its own, the first that is ready gives its work the name, and the others take that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import make_dir, remove_tree
from .processes import has_process


@contextmanager
def own_place(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that is this process's alone; what it put there is gone afterwards.

    What processes that were killed left behind is removed, too.
    """
    make_dir(path.parent)
    _remove_left(path)
    own = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        remove_tree(own)
        yield own
    finally:
        remove_tree(own)


def give_name(own: Path, path: Path, is_whole: Callable[[], bool]) -> None:
    """Gives the directory ``own`` the name ``path``, unless another process was faster.

    Args:
        is_whole: whether what lies at ``path`` is as it should be; else it is replaced.

    Raises:
        OSError: it could not be renamed.
    """
    if is_whole():
        return
    with own_place(path.with_name(f"{path.name}.damaged")) as aside:
        if path.exists():
            path.rename(aside)
        try:
            own.rename(path)
        except OSError:  # ENOTEMPTY: it came in between
            if not is_whole():
                raise


def _remove_left(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*.part"):
        number = left.name[len(path.name) + 2 : -len(".part")]
        if number.isdigit() and not has_process(int(number)):
            remove_tree(left)
