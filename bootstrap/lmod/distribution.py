"""How a machine that becomes an image gets Lmod: the distribution's package is taken.

ParallelCluster's images carry Tcl environment-modules, for EFA and Intel MPI, and
that must stay. Red Hat's packages of both get along (alternatives(8): environment-modules keeps ``modules.sh``).
Debian's and Ubuntu's declare that they conflict. They share no file, but both set ``module`` up in /etc/profile.d. So
there the package gets another name and loses what it has there: apt knows what is installed, and ``zz-petal`` sets Lmod
up as everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import LmodError, PetalError
from ..host.files import make_dir, remove_tree
from ..host.system import Completed, System, base_env
from .find import LOOK_SECONDS, OLDEST, PLACES, dotted, numbers_of

RENAMED = "petal-lmod"
LISTS_SECONDS = 300.0
INSTALL_SECONDS = 900.0
APT = (
    "apt-get", "-q", "-y", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30",
    "-o", "Acquire::https::Timeout=30", "-o", "DPkg::Lock::Timeout=120",
)  # fmt: skip
APT_INSTALL = (*APT, "--no-remove", "--no-install-recommends", "install")
RPM_INSTALL = ("-y", "-q", "install", "Lmod")
PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy"})
BY_HAND = f"or put an Lmod of {'.'.join(map(str, OLDEST))} or later at {PLACES[1]}"
# What the package must not say any more, with the lines that continue it (deb-control(5)).
RELATIONS = re.compile(r"^(?:Conflicts|Breaks|Replaces):.*\n(?:[ \t].*\n)*", re.MULTILINE | re.IGNORECASE)


def install_lmod(system: System, scratch: Path) -> None:
    """Installs the distribution's Lmod, and removes nothing.

    Args:
        scratch: a directory for what is fetched.

    Raises:
        LmodError: ``lmod-no-manager``, ``lmod-unavailable``, ``lmod-too-old``, ``lmod-install``.
    """
    if system.which("apt-get"):
        _install_deb(system, scratch / "lmod")
        return
    manager = next((name for name in ("dnf", "yum") if system.which(name)), None)
    if manager is None:
        raise LmodError(
            "this machine has no Lmod, and no package manager that petal-node knows",
            why="none of apt-get, dnf and yum is here",
            remedy=BY_HAND,
            code="lmod-no-manager",
        )
    _install_rpm(system, manager)


def _install_rpm(system: System, manager: str) -> None:
    done = _run(system, (manager, *RPM_INSTALL), INSTALL_SECONDS)
    if done.returncode:
        raise LmodError(
            f"{manager} could not install Lmod",
            why=done.tail(),
            remedy=(
                f"{manager} install epel-release    (Rocky; on RHEL, EPEL's own rpm)",
                f"{manager} list --available Lmod",
                BY_HAND,
            ),
            code="lmod-unavailable",
        )


def _install_deb(system: System, place: Path) -> None:
    remove_tree(place)
    make_dir(place)
    try:
        package = _fetch_deb(system, place)
        if _has_tcl_modules(system):
            package = _rename_deb(system, package)
        done = _run(system, (*APT_INSTALL, str(package)), INSTALL_SECONDS)
        if done.returncode:
            remedy = (
                "apt-get check; dpkg --audit",
                f"apt-get install lmod    (which says what stands in the way); {BY_HAND}",
            )
            raise LmodError("apt-get could not install Lmod", why=done.tail(), remedy=remedy, code="lmod-install")
    finally:
        remove_tree(place)


def _fetch_deb(system: System, place: Path) -> Path:
    """The package as a file, refused before it is installed where it is too old; lists of before may do."""
    lists = _run(system, (*APT, "update"), LISTS_SECONDS)
    done = _run(system, (*APT, "download", "lmod"), LISTS_SECONDS, cwd=place)
    found = list(place.glob("lmod_*.deb"))
    if done.returncode or not found:
        why = "\n".join(each.tail(4) for each in (lists, done) if each.returncode) or done.tail(4)
        remedy = ("apt-get update; apt-cache policy lmod", "on Ubuntu: add-apt-repository universe", BY_HAND)
        raise LmodError("apt-get could not fetch Lmod", why=why, remedy=remedy, code="lmod-unavailable")
    version = _ask(system, "dpkg-deb", "--field", str(found[0]), "Version")
    if numbers_of(version) < OLDEST:
        raise LmodError(
            f"the distribution's Lmod is {version}, {dotted(OLDEST)} is needed",
            remedy=("build the image from Ubuntu 24.04 or Debian 12, or later ones", BY_HAND),
            code="lmod-too-old",
        )
    return found[0]


def _has_tcl_modules(system: System) -> bool:
    argv = ("dpkg-query", "--show", "--showformat", "${db:Status-Status}", "environment-modules")
    return system.run(argv, timeout=LOOK_SECONDS, ok=None).stdout.strip() == "installed"


def _rename_deb(system: System, package: Path) -> Path:
    """The same package under another name, beside which environment-modules may stay."""
    tree, renamed = package.with_name("tree"), package.with_name(f"{RENAMED}.deb")
    _ask(system, "dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    text = RELATIONS.sub("", control.read_text(encoding="utf-8"))
    control.write_text(re.sub(r"(?m)^Package: .*$", f"Package: {RENAMED}\nConflicts: lmod", text), encoding="utf-8")
    remove_tree(tree / "etc" / "profile.d")
    for name in ("conffiles", "md5sums"):
        _drop_lines(tree / "DEBIAN" / name, "etc/profile.d/")
    _ask(system, "dpkg-deb", "--build", str(tree), str(renamed))
    return renamed


def _drop_lines(path: Path, word: str) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if word not in line), encoding="utf-8")


def _ask(system: System, *argv: str) -> str:
    done = _run(system, argv, LOOK_SECONDS)
    if done.returncode:
        what = f"{argv[0]} could not read or write the package of Lmod"
        raise LmodError(what, why=done.tail(), remedy=("df -h /var", BY_HAND), code="lmod-install")
    return done.stdout.strip()


def _run(system: System, argv: Sequence[str], timeout: float, cwd: Path | None = None) -> Completed:
    """Asks nobody anything, and goes through the proxies that whoever builds the image has set."""
    proxies = {name: value for name, value in os.environ.items() if name.lower() in PROXIES}
    env = {**base_env(), **proxies, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return system.run(argv, timeout=timeout, env=env, cwd=cwd, ok=None)
    except PetalError as error:
        raise LmodError(
            "Lmod could not be installed",
            why=str(error),
            remedy=("see who else installs something: fuser -v /var/lib/dpkg/lock-frontend; ps -ef", BY_HAND),
            code="lmod-install",
        ) from error
