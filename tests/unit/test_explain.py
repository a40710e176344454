"""``explain``: every name of the documentation, without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootstrap.cli import main
from bootstrap.commands import explain as module
from bootstrap.commands.explain import explain
from bootstrap.core.errors import ExitCode, UsageError
from bootstrap.core.model import Result, Status, Tool
from bootstrap.core.options import Options
from bootstrap.engine.registry import ALL
from bootstrap.host.system import System
from bootstrap.report.runs_view import explain_view
from bootstrap.state.context import Services

SERVICES = Services(Tool("0.1.0"), System(), "r", lambda _: None, lambda _: None)


def kinds_of(name: str | None) -> dict[str, str]:
    return {topic.kind: topic.text for topic in explain(Options("explain", topic=name), SERVICES).data.topics}


def test_every_code_check_step_and_key_is_explained_and_no_text_is_empty() -> None:
    names = explain(Options("explain"), SERVICES).data.names
    assert {*names["check"], *names["step"]} >= {name for check in ALL for name in (check.name, *check.more_names)}
    assert set(names["exit code"]) == {str(int(code)) for code in ExitCode}
    assert {"usage", "storage-hangs", "proof-failed"} < set(names["error code"])
    assert {"spack.mirrors.NAME.url", "check", "install.budget"} < set(names["configuration key"])
    for kind, of_kind in names.items():
        for name in of_kind:
            assert kinds_of(name)[kind], name


def test_every_command_in_the_texts_explains_something() -> None:
    texts = [topic.text for topic in module._topics()]
    referred = {name for text in texts for name in re.findall(r"petal-node explain ([a-z][\w.-]+)", text)}
    assert {"where-clingo-comes-from", "build-caches"} < referred
    assert all(kinds_of(name.rstrip(".")) for name in referred)
    assert not [text for text in texts if "](" in text or "```" in text]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("[lock-timeout]", {"error code"}),
        ("load:gcc", {"check"}),
        ("storage", {"check", "configuration key"}),
        ("packages[0].sha256", {"configuration key"}),
        ("packages[0]", {"configuration key"}),
        ("spack.mirrors.site.keys[3].source", {"configuration key"}),
        ("77", {"exit code"}),
        ("lockfiles", {"section"}),
        ("lmod", {"check", "section"}),
        ("users", {"configuration key", "section"}),
    ],
)
def test_a_name_is_found_as_petal_node_prints_it(name: str, expected: set[str]) -> None:
    assert set(kinds_of(name)) == expected


def test_the_command_in_a_text_prints_another_text() -> None:
    (key,) = kinds_of("modules.lmod").values()
    assert "`petal-node explain lmod`" in key
    assert "How it reaches a node" in kinds_of("lmod")["section"]


@pytest.mark.parametrize(("name", "section"), [("output", "exit-codes"), ("threats", "an-attacker-on-the-network")])
def test_a_heading_without_text_lists_its_sections(name: str, section: str) -> None:
    text = kinds_of(name)["section"]
    assert f"(`petal-node explain {section}`)" in text
    assert "record-of-a-run" not in text
    assert kinds_of(section)


def test_a_list_item_of_several_lines_is_one_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    topic = module.Topic("x", "section", "- one two three four five\n  six seven\n- eight")
    lines = explain_view(Result("explain", Status.OK, module.Explanation((topic,), {})))
    assert [line.text for line in lines[1:]] == ["- one two three four five", "  six seven", "- eight"]


def test_a_typo_gets_a_suggestion_and_a_beginning_all_names() -> None:
    with pytest.raises(UsageError, match="did you mean 'lock-timeout'"):
        kinds_of("lock-timeut")
    with pytest.raises(UsageError, match=r"fetch-missing, .*fetch-region"):
        kinds_of("fetch")
    with pytest.raises(UsageError, match="'' is not documented"):
        kinds_of("")


def test_an_unknown_name_gets_the_command_that_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nonsense"]) == 2
    assert re.search(r"(?m)^ +try +\S*petal-node explain +# lists all", capsys.readouterr().err)


def test_text_fits_a_terminal_of_60_columns_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["explain", "storage", "--root", str(tmp_path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
    assert not list(tmp_path.iterdir())
