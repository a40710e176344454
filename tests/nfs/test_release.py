"""What users on the clients see while the head node publishes: a whole release, old or new."""

from __future__ import annotations

from .machine import Machine, Running
from .software import current, publish

STOP = "/tmp/stop-reading"
SWITCHES = 40
PAUSE = 0.05  # between two looks of a reader: who publishes needs the processor too


def readers(nfs: Machine, pause: float) -> list[Running]:
    """A reader on each client, at work; ``pause`` seconds between two looks leave the processor to who publishes."""
    clients = [nfs.client(1), nfs.client(2)]
    for client in clients:
        client.run("rm", "-f", STOP).ok()
    return [client.begin("python3", "/lab/read_release.py", STOP, str(pause), seconds=200) for client in clients]


def end(nfs: Machine, running: list[Running]) -> list[dict[str, object]]:
    for client in (nfs.client(1), nfs.client(2)):
        client.write(STOP, "")
    return [reader.result().ok().json() for reader in running]


def test_bootstraps_that_switch_releases_are_seen_whole(nfs: Machine, releases: tuple[str, str]) -> None:
    running = readers(nfs, PAUSE)
    for version, release in (("2.0", releases[1]), ("1.0", releases[0])) * 2:
        assert publish(nfs, version) == release
        nfs.host.sh("echo 2 >/proc/sys/vm/drop_caches").ok()  # a client may look at an old name for 30 s (acdirmin)
        for client in (nfs.client(1), nfs.client(2)):
            client.until("it sees this one", f"readlink /opt/petal/current | grep -q {release}", 90)
    for seen in end(nfs, running):
        assert seen["half"] == []
        assert set(releases) == set(seen["seen"])  # type: ignore[call-overload]
        assert int(str(seen["rounds"])) > 20


def test_many_switches_are_seen_whole(nfs: Machine, releases: tuple[str, str]) -> None:
    """More of them than bootstraps have time for, by the same rename."""
    running = readers(nfs, PAUSE)
    nfs.head.run("python3", "/lab/switch.py", str(SWITCHES), releases[1], releases[0], seconds=120).ok()
    for seen in end(nfs, running):
        assert seen["half"] == []
        assert int(str(seen["rounds"])) > 20
    assert current(nfs.head) == releases[0]
