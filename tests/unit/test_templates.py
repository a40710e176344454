"""Values reach Lua, sh, csh and fish as data; a template that does not render is an error before anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.core import resources
from bootstrap.core.errors import ModulesError
from bootstrap.modules import templates
from bootstrap.modules.tree import scan

NASTY = "a\"b'c\\d\ne$(id)`id`!f%g\x7f]]"


def test_lua() -> None:
    assert templates.lua(NASTY) == '"a\\"b\'c\\\\d\\010e$(id)`id`!f%g\\127]]"'


def test_csh_and_fish() -> None:
    assert templates.csh("it's!") == "'it'\"'\"'s\\!'"
    assert templates.fish("it's\\") == "'it\\'s\\\\'"


@pytest.mark.parametrize("text", ["{{ nobody_gives_this }}", "{% if %}"])
def test_a_template_that_does_not_render(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.j2").write_text(text)
    monkeypatch.setattr(resources, "path", lambda _: tmp_path)
    with pytest.raises(ModulesError) as caught:
        templates.render("x.j2", {})
    assert caught.value.code == "modules-template"


def test_hidden_modules_are_not_offered(tmp_path: Path) -> None:
    for name in ("fftw/3.3.10.lua", "gmake/4.3-zv2s45r.lua", "gmake/4.4.lua"):
        (tmp_path / "Core" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Core" / name).write_text("")
    (tmp_path / "Core" / "gmake" / ".modulerc.lua").write_text('hide_version("gmake/4.3-zv2s45r")\n')
    assert [(module.name, module.origin) for module in scan(tmp_path, {"fftw/3.3.10": "package"})] == [
        ("fftw/3.3.10", "package"),
        ("gmake/4.4", "spack"),
    ]
