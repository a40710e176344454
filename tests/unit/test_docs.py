"""The documentation matches the code: error codes, checks, keys, links, and valid examples."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from marshmallow import Schema, fields

from bootstrap.archive import build
from bootstrap.commands.arguments import VERBS
from bootstrap.commands.explain import Explanation
from bootstrap.commands.lockfile import LockfileSummary
from bootstrap.commands.log import LogLines
from bootstrap.commands.releases import ReleaseList, Rollback
from bootstrap.commands.status import NodeStatus
from bootstrap.config.load import parse
from bootstrap.config.model import SPACK_VERSIONS, Config
from bootstrap.config.schema import ConfigSchema
from bootstrap.core.deadlines import RECENT
from bootstrap.core.errors import ExitCode
from bootstrap.core.model import Finding, FleetReport, NodeReport, Plan, Role, RunRecord, Severity, StepReport, Tool
from bootstrap.engine.registry import CHECKS, STEPS
from bootstrap.releases.gc import Cleanup
from bootstrap.report.lines import CHECK_MARKS, MARKS
from bootstrap.state.runs import KEEP_RUNS
from tests.unit.test_architecture import LAYERS

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", TOP / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PACKAGE = TOP / "bootstrap"
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "archive" not in path.parents]
REMOTE = ("http://", "https://", "mailto:")
# Items of a list have no defaults; these keys represent absent values.
NO_DEFAULT = "-"


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row; ``\\|`` is a bar inside of a cell."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def first_cells(text: str) -> list[str]:
    return [cells[0].strip("`") for cells in rows(text) if re.fullmatch(r"`[^`]+`", cells[0])]


def literals(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


# ---------------------------------------------------------------------------------------------------- error codes


def codes_of(tree: ast.AST) -> Iterator[str]:
    """Every ``code="x"``, ``code = "x"``, ``{"code": "x"}``, and the file codes of the table of errno."""
    for node in ast.walk(tree):
        named = isinstance(node, ast.keyword) and node.arg == "code"
        set_here = isinstance(node, ast.Assign) and [getattr(name, "id", "") for name in node.targets] == ["code"]
        if named or set_here:
            yield from literals(node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values):
                yield from literals(value) if "code" in literals(key) else ()
        elif isinstance(node, ast.Tuple) and node.elts:
            yield from (text for text in literals(node.elts[0]) if re.fullmatch(r"file-[a-z-]+", text))


def known_codes() -> set[str]:
    python = {code for path in SOURCES for code in codes_of(ast.parse(path.read_text(encoding="utf-8"))) if code}
    scripts = "".join(path.read_text(encoding="utf-8") for path in (TOP / "actions").glob("*.sh"))
    return python | set(re.findall(r"\b(?:fail |record |code=)([a-z]+(?:-[a-z]+)+)", scripts))


def test_the_codes_are_found() -> None:
    assert {"file-stale", "storage-hangs", "bug", "archive-local", "archive-failed", "hook-usage"} <= known_codes()


def test_exactly_the_error_codes_of_the_code_are_documented() -> None:
    listed = first_cells(text_of("errors.md"))
    assert sorted(listed) == sorted(known_codes())


def test_every_error_row_has_a_meaning_and_an_exit_code() -> None:
    exits = {int(code) for code in ExitCode}
    for cells in rows(text_of("errors.md")):
        if cells[0].startswith("`"):
            assert len(cells) == 4, cells
            assert {int(code) for code in cells[1].split(",")} <= exits, cells
            assert cells[2], cells


# --------------------------------------------------------------------------------------------------------- checks


def first_text(node: ast.AST) -> str:
    """A string, or the part of an f-string before its first value."""
    if isinstance(node, ast.JoinedStr) and node.values:
        return first_text(node.values[0])
    return next(literals(node), "")


def known_checks() -> set[str]:
    """The names of all findings: of the checks, and of the modules that create findings."""
    found = {name for check in CHECKS for name in (check.name, *check.more_names)}
    places = {"Finding": 0, "ok": 0, "warn": 0, "fail": 0, "_failed": 1}
    package = TOP / "bootstrap"
    for file in (*package.glob("checks/*.py"), *package.glob("prove/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = places.get(node.func.id)
                if place is not None and len(node.args) > place:
                    found.add(first_text(node.args[place]))
    return found - {""}


def slugs(text: str) -> list[str]:
    """The anchors that GitHub creates for headings."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-") for title in titles]


def test_every_check_has_the_section_that_its_findings_name() -> None:
    checks = known_checks()
    assert {check.split(":")[0] for check in checks} >= {"slurm", "load", "run", "job", "disk-space", "storage"}
    assert {Finding(check, Severity.FAIL, "").topic for check in checks} == set(slugs(text_of("checks.md"))[1:])


def test_the_table_of_checks_matches_the_code() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text_of("checks.md").splitlines() if "](#" in line
    ]
    expected = [
        [
            ", ".join(f"[{name}](#{name})" for name in (check.name, *check.more_names)),
            f"{check.seconds:.0f} s" if check.seconds else "-",
            "all" if len(check.roles) == len(Role) else " and ".join(sorted(role.value for role in check.roles)),
            ", ".join(earlier.name for earlier in check.after) or "-",
        ]
        for check in CHECKS
    ]
    assert [row for row in rows if len(row) == 4] == expected


# -------------------------------------------------------------------------------------------------- configuration


def keys_of(schema: Schema, before: str = "") -> Iterator[str]:
    for name, field in schema.fields.items():
        key = before + (field.data_key or name)
        yield key
        many = isinstance(field, fields.List)
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(field, fields.Dict) and isinstance(field.value_field, fields.Nested):
            inner, key = field.value_field, f"{key}.NAME"
        if isinstance(inner, fields.Nested):
            yield from keys_of(inner.schema, f"{key}[]." if many else f"{key}.")


def keys_in(value: Any, before: str = "") -> Iterator[str]:
    """The keys of a configuration in the schema's notation: NAME is a user-defined name, env has values."""
    for key, item in value.items():
        name = before + key
        yield name
        if key == "mirrors":
            named = [of_one for of_one in item.values() if isinstance(of_one, dict)]
            yield from (inner for of_one in named for inner in keys_in(of_one, f"{name}.NAME."))
        elif isinstance(item, dict) and key != "env":
            yield from keys_in(item, f"{name}.")
        for element in item if isinstance(item, list) else ():
            yield from keys_in(element, f"{name}[].") if isinstance(element, dict) else ()


def examples(path: Path) -> list[str]:
    """The code blocks that start with the comment petal.yaml."""
    return re.findall(r"^```yaml\n(# petal\.yaml\n.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_exactly_the_keys_of_the_schema_are_documented() -> None:
    assert sorted(first_cells(text_of("configuration.md"))) == sorted(keys_of(ConfigSchema()))


def test_the_documented_defaults_are_those_of_an_empty_file() -> None:
    documented = {
        cells[0].strip("`"): cells[1] for cells in rows(text_of("configuration.md")) if cells[0].startswith("`")
    }
    empty = Config().to_dict()
    for key, default in documented.items():
        value: Any = empty
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict) and value:  # a section
            value = None
        if value is None:
            assert default == NO_DEFAULT or "[]." in key or ".NAME." in key, key
        else:
            assert yaml.safe_load(default.strip("`")) == value, key


@pytest.mark.parametrize("path", [TOP / "README.md", DOCS / "configuration.md"], ids=lambda path: path.name)
def test_the_examples_parse(path: Path) -> None:
    found = examples(path)
    assert found
    for text in found:
        parse(text, path.name)


def test_the_full_example_has_every_key() -> None:
    (example,) = examples(DOCS / "configuration.md")
    assert set(keys_in(yaml.safe_load(example))) == set(keys_of(ConfigSchema()))


def test_the_cluster_configuration_in_the_readme_gives_every_role_its_hooks() -> None:
    (block,) = re.findall(r"^```yaml\n(HeadNode:.*?)^```", (TOP / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    cluster = yaml.safe_load(block)
    sections = [cluster["HeadNode"], *cluster["Scheduling"]["SlurmQueues"], *cluster["LoginNodes"]["Pools"]]
    for section in sections:
        for event in ("OnNodeStart", "OnNodeConfigured"):
            action = section["CustomActions"][event]
            assert action["Args"][::2] == ["--package", "--sha256", "--config"]
            assert Path(action["Script"]).name in [f"on_node_{event}.sh" for event in build.EVENTS]
    assert "OnNodeUpdated" not in cluster["Scheduling"]["SlurmQueues"][0]["CustomActions"]


# -------------------------------------------------------------------------------------------------------- security


def named_tests(cell: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)


def table_rows(page: str) -> list[list[str]]:
    """The rows of all tables of a page, without the headers."""
    bodies = re.findall(r"(?m)^\| .*\|\n\|[-|]+\|\n((?:\| .*\n)+)", text_of(page))
    return [cells for body in bodies for cells in rows(body)]


def test_every_row_of_the_threat_model_names_its_tests() -> None:
    text = text_of("security.md")
    guarded = [
        cells[0] for cells in rows(text[text.index("## What root executes") :]) if cells[0] not in {"what", "threat"}
    ]
    tested = table_rows("dev/security-tests.md")
    assert len(tested) > 30
    assert [cells[0] for cells in tested] == guarded
    for name, tests in tested:
        assert named_tests(tests), f"no test: {name}"
        rest = re.sub(r"`tests/[\w/]+\.py::test_\w+`|[, ]", "", tests)
        assert not rest, f"not the name of a test: {rest}"


def test_every_test_that_the_threat_model_names_exists() -> None:
    for _, tests in table_rows("dev/security-tests.md"):
        for file, name in named_tests(tests):
            tree = ast.parse((TOP / file).read_text(encoding="utf-8"))
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in functions, f"{file}::{name}"


# --------------------------------------------------------------------------------------------- output and the rest


def test_exit_codes_marks_and_verbs_are_documented() -> None:
    output = text_of("output.md")
    documented = {
        int(code)
        for cells in rows(output)
        for code in re.findall(r"^(\d+(?:, \d+)*)$", cells[0])
        for code in code.split(",")
    }
    assert documented == {int(code) for code in ExitCode}
    cells = first_cells(output)
    assert set(MARKS.values()) <= set(cells)
    assert all(f"`{mark}`" in output for mark in CHECK_MARKS.values())
    verbs = [name for name, verb in VERBS.items() if verb.help]
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    assert verbs
    for verb in verbs:
        assert re.search(rf"\|[^|\n]*`(?:petal-node )?{verb}\b", readme), verb
        assert f"`{verb}`" in output, verb


DATA = {
    "plan": Plan, "status": NodeStatus, "releases": ReleaseList, "rollback": Rollback, "gc": Cleanup, "log": LogLines,
    "lockfile": LockfileSummary, "explain": Explanation, "version": Tool, "check --nodes": FleetReport,
}  # fmt: skip


def table_of(page: str, head: str) -> list[list[str]]:
    """The rows below a table's header, in a page at the top."""
    text = (TOP / page).read_text(encoding="utf-8")
    (body,) = re.findall(rf"(?m)^{re.escape(head)}\n\|[-|]+\|\n((?:\| .*\n)+)", text)
    return list(rows(body))


def names_of(document: type) -> set[str]:
    return {field.name for field in dataclass_fields(document)}


@pytest.mark.parametrize("verb", DATA)
def test_the_data_of_each_verb_is_documented(verb: str) -> None:
    (cell,) = (
        text for verbs, text in table_of("docs/output.md", "| verb | `data` |") if f"`{verb}`" in verbs.split(", ")
    )
    assert names_of(DATA[verb]) <= set(re.findall(r"`(\w+)`", cell))


def test_the_keys_of_records_and_reports_are_documented() -> None:
    text = text_of("output.md")
    record = text[text.index("### Record of a run") : text.index("## Files on the nodes")]
    meanings = {key: cells[1] for cells in rows(record) for key in re.findall(r"`(\w+)`", cells[0])}
    report = next(line for line in record.splitlines() if line.startswith("A node report has"))
    assert set(meanings) == {"format", *names_of(RunRecord)}
    assert names_of(StepReport) <= set(re.findall(r"`(\w+)`", meanings["steps"]))
    assert names_of(Finding) <= set(re.findall(r"`(\w+)`", meanings["findings"]))
    assert names_of(NodeReport) == set(re.findall(r"`(\w+)`", report))


def test_every_step_is_in_the_readme() -> None:
    cells = [cell for _, cell in table_of("README.md", "| node | steps, in order |")]
    assert {step.name for step in STEPS} <= {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


def test_spack_versions_and_the_number_of_kept_records_are_documented() -> None:
    assert f"Spack {' and '.join(SPACK_VERSIONS)} only" in (TOP / "README.md").read_text(encoding="utf-8")
    assert f"the newest {KEEP_RUNS} of each verb and all that are younger than an hour" in text_of("output.md")
    assert RECENT == 3600


def test_contributing_lists_the_layers_of_the_architecture_test() -> None:
    rows = table_of("CONTRIBUTING.md", "| layer | package | what you change here |")
    listed: list[set[str]] = []
    for layer, package, _ in rows:
        listed += [set()] if layer else []
        listed[-1].add(package.strip("`/"))
    assert listed[::-1] == [packages - {"__main__"} for packages in LAYERS]


def test_contributing_lists_the_makefile_targets_and_pages_name_no_other() -> None:
    commands = set(re.findall(r"(?m)^([a-z-]+):.*## ", (TOP / "Makefile").read_text(encoding="utf-8")))
    documented = {page.name: set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))) for page in PAGES}
    assert documented["CONTRIBUTING.md"] == commands
    assert {name: strange for name, named in documented.items() if (strange := named - commands)} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_have_existing_targets(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(REMOTE):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in slugs(file.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_readme_or_another_page() -> None:
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in DOCS.rglob("*.md"):
        assert re.search(rf"\]\((?:\.\./)?(?:docs/)?(?:dev/)?{page.name}[)#]", everything), page.name


def test_the_readme_stays_short() -> None:
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) < 180


def repository() -> list[Path]:
    folders = ("actions", "bootstrap", "docs", "modulefiles", "spack_envs", "tests", ".ci")
    inside = [path for folder in folders for path in (TOP / folder).rglob("*") if "__pycache__" not in path.parts]
    top = [TOP / name for name in ("Makefile", "Dockerfile.test", "pyproject.toml", "noxfile.py")]
    return [path for path in [*PAGES, *top, *inside] if path.is_file()]


def test_no_file_contains_a_path_of_a_developers_machine() -> None:
    here = re.escape(str(TOP)) if len(TOP.parts) > 2 else r"(?!)"
    pattern = re.compile(here + r"|/home/(?!ec2-user|\{user\}|<)[a-z][\w-]+/")
    for path in repository():
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(TOP)}: {found and found.group()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_plain_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.isascii(), [character for character in text if not character.isascii()][:5]
    assert text.endswith("\n")
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)


def test_the_example_of_contributing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r'^```python\n(""".*?)^```', text, re.MULTILINE | re.DOTALL)
    step, test = (compile(block, f"CONTRIBUTING.md block {number}", "exec") for number, block in enumerate(blocks))
    module = ModuleType("bootstrap.steps.login_message")
    module.__package__ = "bootstrap.steps"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(step, vars(module))
    names: dict[str, Any] = {}
    exec(test, names)
    names["test_another_text_is_replaced"](tmp_path)
