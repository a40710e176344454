"""Users on the clients see a complete release, old or new, while the head node publishes."""

from __future__ import annotations

from .machine import Machine, Running
from .software import current, publish

STOP = "/tmp/stop-reading"
SWITCHES = 40
PAUSE = 0.05  # seconds between two rounds of a reader: the publisher needs the processor too


def readers(nfs: Machine, pause: float) -> list[Running]:
    """Start a reader on each client; ``pause`` seconds between two rounds leave the processor to the publisher."""
    clients = [nfs.client(1), nfs.client(2)]
    for client in clients:
        client.run("rm", "-f", STOP).ok()
    return [client.begin("python3", "/lab/read_release.py", STOP, str(pause), seconds=200) for client in clients]


def end(nfs: Machine, running: list[Running]) -> list[dict[str, object]]:
    for client in (nfs.client(1), nfs.client(2)):
        client.write(STOP, "")
    return [reader.result().ok().json() for reader in running]


def test_clients_see_only_complete_releases_during_bootstraps(nfs: Machine, releases: tuple[str, str]) -> None:
    running = readers(nfs, PAUSE)
    for version, release in (("2.0", releases[1]), ("1.0", releases[0])) * 2:
        assert publish(nfs, version) == release
        nfs.host.sh("echo 2 >/proc/sys/vm/drop_caches").ok()  # a client may cache an old name for 30 s (acdirmin)
        for client in (nfs.client(1), nfs.client(2)):
            client.until("it sees this one", f"readlink /opt/petal/current | grep -q {release}", 90)
    for seen in end(nfs, running):
        assert seen["half"] == []
        assert set(releases) == set(seen["seen"])  # type: ignore[call-overload]
        assert int(str(seen["rounds"])) > 20


def test_clients_see_only_complete_releases_during_many_switches(nfs: Machine, releases: tuple[str, str]) -> None:
    """The same rename as in a bootstrap, in less time."""
    running = readers(nfs, PAUSE)
    nfs.head.run("python3", "/lab/switch.py", str(SWITCHES), releases[1], releases[0], seconds=120).ok()
    for seen in end(nfs, running):
        assert seen["half"] == []
        assert int(str(seen["rounds"])) > 20
    assert current(nfs.head) == releases[0]
