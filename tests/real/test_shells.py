"""Real shells of an ordinary user use the best module tree for their CPU in the current release."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.modules import templates
from tests.world import lmod_of_this_machine

NOBODY = 65534
SHELLS = {
    "bash": ("sh", "source {init}; echo $PETAL_RELEASE; echo $MODULEPATH"),
    "zsh": ("sh", "source {init}; echo $PETAL_RELEASE; echo $MODULEPATH"),
    "dash": ("sh", ". {init}; echo $PETAL_RELEASE; echo $MODULEPATH"),
    "tcsh": ("csh", "source {init}; echo $PETAL_RELEASE; echo $MODULEPATH"),
    "fish": ("fish", "source {init}; echo $PETAL_RELEASE; string join : $MODULEPATH"),
}
# The effect of Tcl environment-modules on a nested shell that already has Lmod's variables.
TCL_MODULES = {
    "bash": "module() {{ echo tcl; }}; export BASH_ENV=/usr/share/Modules/init/bash",
    "zsh": "module() {{ echo tcl; }}",
    "dash": "module() {{ echo tcl; }}",
    "tcsh": "alias module echo tcl",
    "fish": "function module; echo tcl; end",
}
TREES = ("os-zen4", "os-x86_64_v4", "os-x86_64_v3", "os-x86_64_v2")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a space in its name that others can enter."""
    if os.geteuid() != 0:
        pytest.skip("the test starts a shell as another user, which needs root")
    with tempfile.TemporaryDirectory(prefix="petal shells ") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def publish(place: Path, release: str, *trees: str) -> Path:
    for tree in trees:
        (place / "releases" / release / "modules" / tree / "Core").mkdir(parents=True)
    link = place / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(f"releases/{release}")
    return place / "releases" / release


def login(place: Path, shell: str, user: int) -> list[str]:
    """PETAL_RELEASE and the first directory of MODULEPATH in a new shell."""
    _, script = SHELLS[shell]
    release, path = typed(place, shell, script, user).splitlines()[-2:]
    return [release, path.split(":", maxsplit=1)[0]]


def typed(place: Path, shell: str, script: str, user: int, lmod: Path | None = None) -> str:
    """The output of a new shell; ``{init}`` in the script is the init file."""
    return started(place, shell, script, user, lmod).stdout


def started(
    place: Path, shell: str, script: str, user: int, lmod: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A new shell that has ended without an error."""
    program, lmod = shutil.which(shell), lmod or lmod_of_this_machine()
    if program is None or lmod is None:
        pytest.skip(f"{shell if program is None else 'Lmod'} is not installed")
    kind, _ = SHELLS[shell]
    values = {
        "current": str(place / "current"), "tree": "os-x86_64_v4", "trees": TREES, "lmod": str(lmod),
        "lmod_version": "8.6.19", "lmodrc": str(place / "lmodrc.lua"), "site": ["/site", str(place / "modulefiles")],
        "image": ["/ami/b", "/image"], "others": ["/old/lmod"], "first_tree": str(place / "first_tree.sh"),
    }  # fmt: skip
    (place / "first_tree.sh").write_text(templates.text("first_tree.sh"))
    init = place / f"petal.{kind}"
    init.write_text(templates.render(f"init.{kind}.j2", values))
    done = subprocess.run(
        [program, "-c", script.format(init=f"'{init}'")],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "nobody"}, cwd="/", user=user, group=user,
        extra_groups=[], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("shell", SHELLS)
def test_a_users_shell_uses_the_best_tree_of_the_current_release(place: Path, shell: str) -> None:
    first = publish(place, "r1", "os-x86_64_v3", "os-icelake", "os-x86_64_v2")
    assert login(place, shell, NOBODY) == [str(first), f"{first}/modules/os-x86_64_v3/Core"]
    second = publish(place, "r2", "os-x86_64_v2", "os-x86_64_v3", "os-x86_64_v4")
    assert login(place, shell, NOBODY) == [str(second), f"{second}/modules/os-x86_64_v4/Core"]
    publish(place, "r3", "os-neoverse_v1")
    assert login(place, shell, NOBODY) == [f"{place}/current", f"{place}/current/modules/os-x86_64_v4/Core"]


@pytest.mark.parametrize("shell", SHELLS)
def test_module_directories_of_site_and_image_follow_those_of_the_release(place: Path, shell: str) -> None:
    first = publish(place, "r1", "os-x86_64_v3")
    _, script = SHELLS[shell]
    given = {"tcsh": "setenv MODULEPATH /ami/a:/ami/b", "fish": "set -gx MODULEPATH /ami/a /ami/b"}
    before = given.get(shell, "export MODULEPATH=/ami/a:/ami/b")
    path = typed(place, shell, f"{before}\n{script}", NOBODY).splitlines()[-1]
    assert path == f"{first}/modules/os-x86_64_v3/Core:/site:{place}/modulefiles:/ami/a:/ami/b:/image"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_prints_no_error_without_a_release(place: Path, shell: str) -> None:
    """Between the start of a new cluster and the end of its first install."""
    done = started(place, shell, SHELLS[shell][1], NOBODY)
    assert done.stdout.splitlines()[-2] == f"{place}/current"
    assert str(place) not in done.stderr  # fish warns about its home


@pytest.mark.parametrize("shell", SHELLS)
def test_a_root_shell_reads_only_the_init_file(place: Path, shell: str) -> None:
    publish(place, "r1", "os-x86_64_v3")
    assert login(place, shell, 0) == [f"{place}/current", f"{place}/current/modules/os-x86_64_v4/Core"]


@pytest.mark.parametrize("shell", SHELLS)
def test_module_is_lmods_after_environment_modules_was_sourced(place: Path, shell: str) -> None:
    """For example in a job with ``#!/bin/bash -l``: /etc/profile.d/modules.sh is sourced again before our file."""
    publish(place, "r1", "os-x86_64_v3")
    source = f"{'.' if shell == 'dash' else 'source'} {{init}}"
    extra = ["echo $BASH_ENV"] if shell == "bash" else []
    lines = [source, TCL_MODULES[shell], "module list", source, *extra, "module --version"]
    output = typed(place, shell, "\n".join(lines), NOBODY).splitlines()
    assert output[0].startswith("tcl")
    assert not [line for line in output[1:] if line.startswith("tcl")]
    if shell == "bash":
        assert output[-1] == f"{lmod_of_this_machine()}/init/bash"


# ``module`` of another Lmod: its program, and a function that calls it.
OTHER_LMOD = {
    "bash": "export LMOD_CMD=CMD; module() {{ echo $LMOD_CMD; }}",
    "zsh": "export LMOD_CMD=CMD; module() {{ echo $LMOD_CMD; }}",
    "tcsh": "setenv LMOD_CMD CMD; alias module 'echo $LMOD_CMD'",
    "fish": "set -gx LMOD_CMD CMD; function module; echo $LMOD_CMD; end",
}


@pytest.mark.parametrize("shell", OTHER_LMOD)
@pytest.mark.parametrize(("cmd", "stays"), [("/site/lmod/libexec/lmod", True), ("/old/lmod/libexec/lmod", False)])
def test_a_sites_lmod_is_kept_unless_it_is_too_old(place: Path, shell: str, cmd: str, stays: bool) -> None:
    publish(place, "r1", "os-x86_64_v3")
    before = re.sub(r"\bCMD\b", cmd, OTHER_LMOD[shell])
    output = typed(place, shell, f"{before}\nsource {{init}}\nmodule --version", NOBODY)
    assert output.startswith(cmd) is stays, output


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_continues_if_lmod_is_missing(place: Path, shell: str) -> None:
    """dash ends at ``.`` of a missing file (POSIX, dot)."""
    publish(place, "r1", "os-x86_64_v3")
    source = f"{'.' if shell == 'dash' else 'source'} {{init}}"
    assert typed(place, shell, f"{source}\necho goes on", NOBODY, lmod=place / "gone").splitlines()[-1] == "goes on"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_sets_the_version_of_lmod(place: Path, shell: str) -> None:
    """Lmod finds its cache by the version; its init/sh does not set it."""
    publish(place, "r1", "os-x86_64_v3")
    source = f"{'.' if shell == 'dash' else 'source'} {{init}}"
    assert typed(place, shell, f"{source}\necho $LMOD_VERSION", NOBODY).splitlines()[-1] == "8.6.19"


def test_a_script_in_zsh_loads_no_completion(place: Path) -> None:
    """It would write ~/.zcompdump on shared storage for each job of an array."""
    publish(place, "r1", "os-x86_64_v3")
    output = typed(place, "zsh", "source {init}; whence compinit || echo none; module --version", NOBODY)
    assert output.splitlines()[0] == "none"
