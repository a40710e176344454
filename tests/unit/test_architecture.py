"""The structure of the package: which module may import which, start processes, print, and use a library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.engine.registry import ALL
from bootstrap.steps.base import Step
from tests.mutants import MUTANTS, outdated

PACKAGE = Path(__file__).parents[2] / "bootstrap"
# From the foundation to the top. A package imports packages of lower layers and packages of its own layer.
LAYERS = (
    {"core"},
    {"host"},
    {"cluster", "remote"},
    {"config", "state"},
    {"spack"},
    {"lmod"},
    {"modules"},
    {"releases", "prove"},
    {"steps"},
    {"engine", "checks", "repair"},
    {"commands", "report"},
    {"cli", "__main__"},
)
LIBRARIES = {
    "yaml": {"host"},
    "marshmallow": {"config"},
    "jinja2": {"modules", "report"},
    "requests": {"remote"},
    "urllib3": {"remote"},
    "requests_aws4auth": {"remote"},
    "tenacity": {"remote"},
    "psutil": {"host"},
    "archspec": {"cluster"},
    "rich": {"report"},
}
PROCESSES = {"subprocess", "multiprocessing", "pty"}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "archive"]


def package_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all imports of a file; our own start with ``bootstrap.``."""
    package = ["bootstrap", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def layer(package: str) -> int:
    (found,) = (number for number, packages in enumerate(LAYERS) if package in packages)
    return found


def own_imports(path: Path) -> set[str]:
    """The packages of ``bootstrap`` from which a file imports, without its own."""
    names = (name.split(".") for name in imports(path) if name.startswith("bootstrap."))
    return {parts[1] for parts in names if any(parts[1] in packages for packages in LAYERS)} - {package_of(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_and_lower_layers(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert own_imports(path) == set()
        return
    assert {name for name in own_imports(path) if layer(name) > layer(package_of(path))} == set()


def test_only_the_registry_and_the_preparation_of_the_engine_know_spack_and_modules() -> None:
    knowing = {
        path.stem
        for path in modules()
        if package_of(path) == "engine" and own_imports(path) & {"spack", "lmod", "modules"}
    }
    assert knowing == {"prepare", "registry"}


def test_imports_have_no_cycle() -> None:
    names = {".".join(("bootstrap", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in modules()}
    arrows = {name: set(imports(path)) & set(names) for name, path in names.items()}
    while arrows:
        leaves = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert leaves, sorted(arrows)
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}


def test_the_top_of_the_package_has_only_three_modules_and_packages() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}
    assert all(not path.read_text() for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("packages", LAYERS, ids=sorted)
def test_no_file_name_is_used_twice_within_a_layer(packages: set[str]) -> None:
    stems = [path.stem for path in modules() if package_of(path) in packages and path.stem != "__init__"]
    assert sorted(stems) == sorted(set(stems))


def test_no_code_compares_the_name_of_a_step_with_a_string() -> None:
    names = {check.name for check in ALL if isinstance(check, Step)}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                sides = (node.left, *node.comparators)
                attributes = [
                    side for side in sides if isinstance(side, ast.Attribute) and side.attr in ("name", "check")
                ]
                strings = {side.value for side in sides if isinstance(side, ast.Constant)}
                assert not (attributes and strings & names), f"{path.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_only_by_their_modules(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert {name for name in used & set(LIBRARIES) if package_of(path) not in LIBRARIES[name]} == set()
    assert not used & PROCESSES or path == PACKAGE / "host" / "system.py"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_host_systemd_calls_systemd(path: Path) -> None:
    """A message may contain the names of the programs; a string that is only the name or a path is a command."""
    texts = {node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)}
    programs = {"systemctl", "systemd-run"}
    called = {text for text in texts if isinstance(text, str) and text.rsplit("/", 1)[-1] in programs}
    assert called == (programs if path == PACKAGE / "host" / "systemd.py" else set())


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_report_prints(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    streams = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")]
    of_sys = [node for node in streams if isinstance(node.value, ast.Name) and node.value.id == "sys"]
    assert not of_sys or package_of(path) in ("report", "cli")  # cli: ``version`` without the cost of importing report


OTHER_DOORS = {
    "system",
    "popen",
    "startfile",
    "posix_spawn",
    "posix_spawnp",
    "spawnl",
    "spawnle",
    "spawnlp",
    "spawnv",
    "spawnvp",
}
OWN_IMAGE = {"execv"}  # handover replaces this process by the desired version, whose checksum was verified


def calls_of(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_shell_string_anywhere(path: Path) -> None:
    """No shell=True, no os.system or similar function, no getoutput, no eval, no exec."""
    for call in calls_of(path):
        assert not [word for word in call.keywords if word.arg in ("shell", "executable", "preexec_fn")], ast.unparse(
            call
        )
        if (
            isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id == "os"
        ):
            name = call.func.attr
            assert name not in OTHER_DOORS, ast.unparse(call)
            assert not name.startswith("exec") or (name in OWN_IMAGE and path.name == "handover.py"), ast.unparse(call)
        if isinstance(call.func, ast.Name):
            assert call.func.id not in ("eval", "exec", "__import__"), ast.unparse(call)
        assert not (isinstance(call.func, ast.Attribute) and call.func.attr in ("getoutput", "getstatusoutput"))


SLURM = {"sinfo", "squeue", "scontrol", "srun", "sbatch", "salloc", "scancel", "sacct", "sacctmgr", "sstat"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_slurm_module_calls_slurm(path: Path) -> None:
    """No other list or tuple starts with the name of one of Slurm's commands."""
    lists = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, (ast.List, ast.Tuple)))
    first = [node.elts[0] for node in lists if node.elts]
    commands = [node.value for node in first if isinstance(node, ast.Constant) and node.value in SLURM]
    assert not commands or path == PACKAGE / "cluster" / "slurm.py"


def words_after_c(path: Path) -> Iterator[ast.expr]:
    """The elements after ``-c``, ``-lc`` or ``-ec`` in any list or tuple."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.List, ast.Tuple)):
            for word, following in zip(node.elts, node.elts[1:]):
                if isinstance(word, ast.Constant) and re.fullmatch(r"-[a-z]*c", str(word.value)):
                    yield following


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_programs_for_bash_and_python_are_constants(path: Path) -> None:
    """The text after -c is a literal of the source; variable values are passed as arguments."""
    constants = {
        target.id
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for word in words_after_c(path):
        literal = isinstance(word, ast.Constant) or (isinstance(word, ast.Name) and word.id in constants)
        assert literal, ast.unparse(word)


def test_the_constant_programs_are_found() -> None:
    found = {path.name: len(list(words_after_c(path))) for path in modules()}
    assert {name for name, number in found.items() if number} >= {"login_shell.py", "driver.py", "hook.py"}


def test_the_hook_scripts_do_not_use_eval() -> None:
    for script in (PACKAGE.parent / "actions").glob("*.sh"):
        text = re.sub(r"(?m)^\s*#.*$", "", script.read_text("ascii"))
        assert not re.search(r"\beval\b|\bsh -c\b|\bxargs\b|\$\(\$", text), script.name


def test_no_temporary_file_is_in_a_directory_that_others_can_write() -> None:
    """tempfile uses /tmp: only the first start of the archive may use it, with its private cache as directory."""
    assert [path.name for path in modules() if "tempfile" in {name.split(".")[0] for name in imports(path)}] == []
    looks = PACKAGE / "checks" / "storage.py"  # looks at free space of /tmp
    for path in modules():
        assert path == looks or not re.search(r"[\"'](?:/var)?/tmp\b", path.read_text("utf-8")), path.name


def test_only_host_atomic_renames_files() -> None:
    """A wrong order of rename and fsync loses data in a power cut, and no other test detects it."""
    others = {"host/log.py", "host/files.py"}  # the rotated log; a tree that is removed
    others |= {"spack/cache/push.py", "remote/tarball.py"}  # in a private directory
    renaming = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if re.search(r"\.rename\(|\bos\.(rename|replace|link)\(|\bshutil\.move\(|fsync\(", path.read_text("utf-8"))
        or any(is_replace_of_a_path(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    }
    assert renaming - others == {"host/atomic.py"}


def is_replace_of_a_path(node: ast.AST) -> bool:
    """``Path.replace`` has one argument, ``str.replace`` at least two."""
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace"
    return named and isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords


def test_no_file_is_too_long() -> None:
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: size for name, size in sizes.items() if size > 420} == {}


def test_every_package_is_in_the_wheel() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    (packages,) = re.findall(r"(?ms)^packages = \[(.*?)^\]", text)
    listed = set(re.findall(r'"(bootstrap[a-z_.]*)"', packages))
    there = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert {name for name in listed if not name.startswith("bootstrap.data")} == there - {"bootstrap.archive"}


def test_every_mutant_is_of_the_code_of_today() -> None:
    """`make mutants` takes an hour, so that it runs rarely: a change of a line that it breaks has to show here."""
    assert outdated(MUTANTS) == []
