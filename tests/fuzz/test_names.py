"""Names that try to break Lua, a shell or YAML: refused by the configuration, or read back exactly as given."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bootstrap.config import load
from bootstrap.config.model import Config
from bootstrap.core.errors import ConfigError
from bootstrap.modules import templates
from bootstrap.modules.tree import package_values
from bootstrap.spack.externals import Compiler
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.scope import Places, Site, write_scope
from bootstrap.steps.root import TEMPLATE
from bootstrap.steps.shell import _stub
from tests.fuzz import inputs
from tests.fuzz.conftest import EXAMPLES
from tests.world import HOST, World

LUA = next((path for name in ("lua", "lua5.4", "lua5.3", "lua5.1") if (path := shutil.which(name))), None)
needs_lua = pytest.mark.skipif(LUA is None, reason="Lua is not installed (apt-get install lua5.3)")
# Prints every call of a module file with hexadecimal arguments: a file that runs anything else fails.
LUA_READER = r"""
local function hex(text) return (tostring(text):gsub(".", function(c) return string.format("%02x", c:byte()) end)) end
local sandbox = {}
for _, name in ipairs({"help", "whatis", "depends_on", "family", "setenv", "prepend_path"}) do
  sandbox[name] = function(...)
    local said = {name}
    for _, argument in ipairs({...}) do said[#said + 1] = "x" .. hex(argument) end
    print(table.concat(said, " "))
  end
end
local chunk
if setfenv then chunk = setfenv(assert(loadfile(arg[1])), sandbox) end
chunk = chunk or assert(loadfile(arg[1], "t", sandbox))
chunk()
"""
# Texts that can be arguments of a program: no NUL and no lone surrogate.
words = inputs.texts.filter(lambda text: "\0" not in text and "\ud800" not in text and text.isprintable())
anything = st.text(st.characters(codec="utf-8"), max_size=30) | words
SHA = "ab" * 32


def lua_calls(text: str, top: Path) -> list[tuple[str, ...]]:
    """The calls of a module file in real Lua."""
    file, reader = top / f"{uuid.uuid4().hex}.lua", top / "reader.lua"
    reader.write_text(LUA_READER)
    file.write_bytes(text.encode())
    done = subprocess.run([str(LUA), str(reader), str(file)], check=False, capture_output=True, text=True, timeout=20)
    file.unlink()
    assert done.returncode == 0, done.stderr
    lines = (line.split(" ") for line in done.stdout.splitlines())
    return [(name, *(bytes.fromhex(word[1:]).decode() for word in output)) for name, *output in lines]


def shell_output(script: str, top: Path, shell: str = "sh") -> str:
    """The output of a script in a real shell, which first checks the syntax."""
    file = top / f"{uuid.uuid4().hex}.sh"
    file.write_bytes(script.encode())
    subprocess.run([shell, "-n", str(file)], check=True, timeout=20)
    done = subprocess.run([shell, str(file)], check=False, capture_output=True, timeout=20)
    file.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@needs_lua
@settings(max_examples=max(60, EXAMPLES // 4))
@given(values=st.lists(anything, min_size=8, max_size=8))
def test_lua_reads_back_every_value_of_a_module_file(values: list[str], tmp_path: Path) -> None:
    summary, version, prefix, name, variable, value, directory, source = values
    given_values = {
        "name": name, "version": version, "release": "abc", "summary": summary, "source": source, "prefix": prefix,
        "requires": [name], "family": "mpi", "root_variable": "X_ROOT", "search_paths": [(variable, directory)],
        "env": [(variable, value)],
    }  # fmt: skip
    assert lua_calls(templates.render("package.lua.j2", given_values), tmp_path) == [
        ("help", f"{summary}\n\nVersion {version} in {prefix}, from {source}."),
        ("whatis", f"Name: {name}"),
        ("whatis", f"Version: {version}"),
        ("whatis", f"Description: {summary}"),
        ("depends_on", name),
        ("family", "mpi"),
        ("setenv", "X_ROOT", prefix),
        ("prepend_path", variable, directory),
        ("setenv", variable, value),
    ]


@settings(max_examples=max(60, EXAMPLES // 4))
@given(current=words, lmod=words, site=words)
def test_a_shell_reads_back_the_paths_of_an_init_file(current: str, lmod: str, site: str, tmp_path: Path) -> None:
    assume(current)
    values = {
        "current": f"/no/{current}", "tree": "t", "trees": ["t", "u"], "lmod": f"/no/{lmod}", "lmod_version": lmod,
        "lmodrc": f"/no/{lmod}", "site": ["/site", f"/no/{site}"], "image": [f"/no/{site}", f"/image/{site}"],
        "others": [f"/old/{lmod}"], "first_tree": f"/no/{lmod}/first_tree.sh",
    }  # fmt: skip
    text = templates.render("init.sh.j2", values)
    command = shlex.quote(f"/no/{lmod}/libexec/lmod")
    before = f"unset PETAL_RELEASE MODULEPATH; LMOD_CMD={command}; typeset() {{ echo LMOD_CMD; }}; "
    before += 'printf() { command printf "$@"; }\n'
    output = shell_output(f'{before}{text}\nprintf \'%s\\n\' "$PETAL_RELEASE" "$MODULEPATH"\n', tmp_path)
    assert output == f"/no/{current}\n/no/{current}/modules/t/Core:/site:/no/{site}:/image/{site}\n"


@settings(max_examples=max(60, EXAMPLES // 4))
@given(name=words)
def test_a_shell_sources_the_init_file_of_any_directory(name: str, tmp_path: Path) -> None:
    assume(name not in ("", ".", "..") and "/" not in name and len(name.encode()) < 200)
    directory = tmp_path / uuid.uuid4().hex / name
    directory.mkdir(parents=True)
    (directory / "petal.sh").write_text("echo sourced\n")
    assert shell_output(_stub("sh", directory / "petal.sh"), tmp_path) == "sourced\n"


@given(mirrors=st.dictionaries(anything.map(lambda text: text[:100]), anything, max_size=3), store=anything)
def test_yaml_reads_back_every_value_of_spacks_scope(mirrors: dict[str, str], store: str, tmp_path: Path) -> None:
    places = Places(Path("/s", store.replace("\0", "")), Path("/m"), Path("/r"), Path("/x"))
    site = Site(Compiler("12.2.0", {"c": "/usr/bin/gcc"}), "x86_64_v3", mirrors, HOST)
    write_scope(tmp_path, places, site, FAMILIES["1.1"])
    read = yaml.safe_load((tmp_path / "mirrors.yaml").read_text())["mirrors:"]
    assert {name: entry["url"] for name, entry in read.items()} == {
        name: url if "://" in url else f"file://{url}" for name, url in mirrors.items()
    }
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())["config"]["install_tree"]["root"]
    assert tree == str(places.store)


# Every key of petal.yaml that takes a name, and how to find the name in the files of other programs.
def _package(**changes: Any) -> dict[str, Any]:
    return {"packages": [{"name": "cfd", "version": "1", "prefix": "/usr", **changes}]}


FIELDS: dict[str, tuple[Callable[[str], dict[str, Any]], Callable[[Config], str]]] = {
    "packages[0].name": (lambda text: _package(name=text), lambda made: made.packages[0].name),
    "packages[0].version": (lambda text: _package(version=text), lambda made: made.packages[0].version),
    "packages[0].prefix": (lambda text: _package(prefix=text), lambda made: str(made.packages[0].prefix)),
    "packages[0].summary": (lambda text: _package(summary=text), lambda made: made.packages[0].summary),
    "packages[0].requires[0]": (lambda text: _package(requires=[text]), lambda made: made.packages[0].requires[0]),
    "packages[0].env": (lambda text: _package(env={text: "x"}), lambda made: next(iter(made.packages[0].env))),
    "packages[0].env.X": (lambda text: _package(env={"X": text}), lambda made: made.packages[0].env["X"]),
    "packages[0].source": (
        lambda text: {"packages": [{"name": "cfd", "version": "1", "source": text, "sha256": SHA}]},
        lambda made: made.packages[0].origin.source if made.packages[0].origin else "",
    ),
    "storage.mount": (lambda text: {"storage": {"mount": text}}, lambda made: made.storage.mount),
    "spack.target": (lambda text: {"spack": {"target": text}}, lambda made: made.spack.target[0]),
    "spack.mirrors": (lambda text: {"spack": {"mirrors": {text: "/m"}}}, lambda made: next(iter(made.spack.mirrors))),
    "spack.mirrors.m": (lambda text: {"spack": {"mirrors": {"m": text}}}, lambda made: made.spack.mirrors["m"].url),
    "check.load[0]": (lambda text: {"check": {"load": [text]}}, lambda made: made.check.load[0]),
    "check.run[0]": (lambda text: {"check": {"run": [text]}}, lambda made: made.check.run[0].command),
}
# These become parts of paths, module names or unit files: only plain characters are accepted.
PLAIN = {
    "packages[0].name", "packages[0].version", "packages[0].prefix", "packages[0].requires[0]", "packages[0].env",
    "storage.mount", "spack.target", "spack.mirrors", "check.load[0]",
}  # fmt: skip


@given(field=st.sampled_from(sorted(FIELDS)), text=inputs.texts)
def test_a_name_is_refused_with_its_path_or_kept_unchanged(field: str, text: str) -> None:
    build, read = FIELDS[field]
    try:
        made = load.from_mapping(build(text))
    except ConfigError as error:
        section = re.split(r"[.\[]", field)[0]
        assert all(path.startswith(section) for path, *_ in error.problems), error.problems
        return
    assert read(made) == text
    assert text.isprintable() or field in (
        "packages[0].summary",
        "packages[0].env.X",
        "check.run[0]",
        "packages[0].source",
    )
    assert not any(character < " " for character in text)
    if field in PLAIN:
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-/"), text
        assert ".." not in text.split("/")


@needs_lua
@settings(max_examples=max(60, EXAMPLES // 4))
@given(field=st.sampled_from([name for name in sorted(FIELDS) if name.startswith("packages")]), text=inputs.texts)
def test_an_accepted_package_name_is_literal_in_its_module(field: str, text: str, tmp_path: Path) -> None:
    try:
        made = load.from_mapping(FIELDS[field][0](text))
    except ConfigError:
        return
    world = World(tmp_path / "node")
    package, values = made.packages[0], package_values(world.context, made.packages[0])
    calls = lua_calls(templates.render("package.lua.j2", values), tmp_path)
    assert ("whatis", f"Name: {package.name}") in calls
    assert ("whatis", f"Version: {package.version}") in calls
    for name, value in package.env.items():
        assert ("setenv", name, value.replace("{prefix}", values["prefix"])) in calls
    for module in package.requires:
        assert ("depends_on", module) in calls


@given(mount=inputs.texts)
def test_a_mount_cannot_add_a_line_to_the_unit(mount: str) -> None:
    try:
        made = load.from_mapping({"storage": {"mount": mount}})
    except ConfigError:
        return
    unit = TEMPLATE.format(mount=made.storage.mount, backing=f"{made.storage.mount}/petal/root", where="/opt/petal")
    assert len(unit.splitlines()) == len(TEMPLATE.splitlines())
    assert f"What={mount}/petal/root" in unit.splitlines()
    assert "%" not in mount  # a specifier of systemd


@pytest.mark.parametrize("shell", ["csh", "tcsh", "fish"])
def test_tcsh_and_fish_read_back_a_quoted_word(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    quote = templates.fish if shell == "fish" else templates.csh
    for number, text in enumerate(word for word in inputs.NASTY if word.isascii() and word.isprintable() and word):
        file = tmp_path / f"{number}"
        file.write_text(f"printf '%s' {quote(text)}\n")
        done = subprocess.run([shell, str(file)], check=False, capture_output=True, text=True, timeout=20)
        assert done.stdout == text, (text, done.stderr)
