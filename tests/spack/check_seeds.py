"""``make seeds SEEDS=DIR``: check the specs of every petal seed below a directory, and write docs/dev/seeds.md.

The seeds are not part of this repository. Each is loaded unchanged as ``stack``, and its specs are checked
against all recipes, as in ``petal-node plan``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bootstrap.config.model import Config
from bootstrap.core.errors import ConfigError
from bootstrap.spack import environments
from tests.lab import stack as cache
from tests.lab.engine import print_progress
from tests.spack.stacks import RECIPES, checked

PAGE = Path(__file__).parents[2] / "docs" / "dev" / "seeds.md"
BEGIN, END = "<!-- judged -->", "<!-- end of judged -->"
HIDDEN = Path("/nowhere")


@dataclass(frozen=True)
class SeedResult:
    """One seed: its specs, its errors and advice by spec; or the reason why it cannot be loaded."""

    name: str
    specs: int = 0
    wrong: tuple[tuple[str, str], ...] = ()
    advice: tuple[str, ...] = ()
    refused: str = ""


def check(path: Path, top: Path, place: Path) -> SeedResult:
    """Load and check one file."""
    name = str(path.relative_to(top))
    try:
        specs = environments.load(Config(stack=str(path)), HIDDEN, None)["specs"]
    except ConfigError as error:
        reason = f"{error}".replace(str(path), path.name)
        return SeedResult(name, refused=re.sub(r"\s+", " ", reason))
    answer = checked("starter", place, cache.lab_cache() / "stacks", specs) if specs else {"problems": [], "advice": []}
    wrong = tuple((specs[index], message) for index, message in answer["problems"])
    return SeedResult(name, len(specs), wrong, tuple(answer["advice"]))


def tables(judged: Iterable[SeedResult]) -> list[str]:
    """The tables by seed and by message."""
    lines = ["| seed | specs | mistakes |", "|---|---|---|"]
    output: Counter[tuple[str, str]] = Counter()
    for one in judged:
        output.update(dict.fromkeys(one.wrong, 1))
        output.update({("", text): 1 for text in one.advice})
        wrong = ", ".join(f"`{spec}`" for spec in dict.fromkeys(spec for spec, _ in one.wrong))
        lines.append(f"| {one.name} | {one.specs} | {one.refused or wrong or 'none'} |")
    lines += ["", "| spec | seeds | message |", "|---|---|---|"]
    for (spec, text), number in sorted(output.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"| {f'`{spec}`' if spec else 'advice'} | {number} | {text} |")
    return lines


def main() -> int:
    """Check all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a checkout with seeds")
    top = parser.parse_args().directory
    recipes = cache.spack_cache() / cache.RECIPES / RECIPES
    paths = sorted(path for path in top.rglob("*.y*ml") if "/." not in str(path.relative_to(top.parent)))
    if not recipes.is_dir() or not paths:
        print_progress(f"{recipes} is not there (make spack fetches it)" if paths else f"no seeds are below {top}")
        return 1
    with tempfile.TemporaryDirectory() as place:
        judged = [check(path, top, Path(place)) for path in paths]
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)
    body = "\n".join(["", *tables(judged), ""])
    PAGE.write_text(f"{head}{BEGIN}{body}{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
