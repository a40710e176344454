"""Values reach Lua, csh and fish as data."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from bootstrap.core import resources
from bootstrap.modules import templates
from bootstrap.modules.tree import unlisted
from bootstrap.state.release import Tree

NASTY = "a\"b'c\\d\ne$(id)`id`!f%g\x7f]]"


def test_lua_strings_are_escaped() -> None:
    assert templates.lua(NASTY) == '"a\\"b\'c\\\\d\\010e$(id)`id`!f%g\\127]]"'


def test_csh_and_fish_words_are_quoted() -> None:
    assert templates.csh("it's!") == "'it'\"'\"'s\\!'"
    assert templates.fish("it's\\") == "'it\\'s\\\\'"


def test_a_missing_value_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.j2").write_text("{{ missing }}")
    monkeypatch.setattr(resources, "path", lambda _: tmp_path)
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        templates.render("x.j2", {})


def test_hidden_modules_are_not_listed(tmp_path: Path) -> None:
    for name in ("fftw/3.3.10.lua", "gmake/4.3-zv2s45r.lua", "gmake/4.4.lua"):
        (tmp_path / "Core" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Core" / name).write_text("")
    (tmp_path / "Core" / "gmake" / ".modulerc.lua").write_text('hide_version("gmake/4.3-zv2s45r")\n')
    assert unlisted(tmp_path, Tree("debian12-x86_64", "x86_64", ())) == ["fftw/3.3.10", "gmake/4.4"]
