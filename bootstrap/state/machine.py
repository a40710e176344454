"""The machine that this node's memory belongs to: a machine image made from a node carries the memory of that node."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..core.errors import StateError
from ..core.model import plain
from ..core.paths import Paths
from ..host.files import make_dir, remove_tree, text_or_empty
from ..host.locks import open_private
from ..host.log import LOG
from .store import read_as, write_document

# The firmware of Nitro instances has the id (AWS: "Detect whether a host is EC2"). The file of cloud-init is the one of
# the image until cloud-init runs.
INSTANCE = ("/sys/devices/virtual/dmi/id/board_asset_tag", "/var/lib/cloud/data/instance-id")
MEMORY = ("request.json", "storage.json", "report.json", "environment", "environment-typed", "runs")


@dataclass(frozen=True)
class Machine:
    """The ids of the instance and of its cluster's stack in CloudFormation; None if unknown."""

    instance: str | None = None
    stack: str | None = None

    @classmethod
    def here(cls, paths: Paths) -> Machine:
        return cls(next(_instances(paths), None), _stack(text_or_empty(paths.at("/etc/chef/dna.json"))))

    def __str__(self) -> str:
        return f"instance {self.instance or 'unknown'} of {self.stack or 'an unknown cluster'}"

    def differs(self, other: Machine) -> bool:
        """True if an id is known on both sides and not the same."""
        pairs = ((self.instance, other.instance), (self.stack, other.stack))
        return any(mine and its and mine != its for mine, its in pairs)


def forget_other_machine(paths: Paths) -> None:
    """Removes the memory of another machine, and records this one. Called before a run reads the memory.

    A full disk is not an error, because ``gc`` has to run on one.
    """
    try:
        make_dir(paths.var)
        lock = open_private(paths.var / "machine.lock")  # at boot the service and a hook start together
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _forget(paths)
        finally:
            os.close(lock)
    except OSError as error:
        LOG.warning("the machine of the memory is not recorded: %s", error)


def _forget(paths: Paths) -> None:
    path, here = paths.var / "machine.json", Machine.here(paths)
    try:
        recorded = read_as(path, Machine) or Machine()
    except StateError as error:
        LOG.warning("%s", error)
        recorded = Machine()
    if here.differs(recorded):
        LOG.warning("the memory of %s is removed, because this is %s", recorded, here)
        for name in MEMORY:
            remove_tree(paths.var / name)
        recorded = Machine()
    current = Machine(here.instance or recorded.instance, here.stack or recorded.stack)
    if current != recorded:
        write_document(path, plain(current))


def _instances(paths: Paths) -> Iterator[str]:
    for name in INSTANCE:
        if found := re.match(r"i-[0-9a-f]{8,17}\s*\Z", text_or_empty(paths.at(name))):
            yield found[0].strip()


def _stack(dna: str) -> str | None:
    with suppress(ValueError, RecursionError, AttributeError):
        arn = json.loads(dna).get("cluster", {}).get("stack_arn")
        return arn if isinstance(arn, str) else None
    return None
