"""petal.yaml: every mistake at once with its path, nothing that could reach Lua or a shell, and no surprise in YAML."""

from __future__ import annotations

import json

import pytest

from bootstrap import config
from bootstrap.errors import ConfigError, ExitCode, did_you_mean

SHA = "ab" * 32
SPACK = f"spack: {{source: /s, recipes: {{source: /r}}, sha256: {SHA}}}"
FIVE = """
layout: shard
storge: {mount: /shared}
install: {budget: -1}
packages:
  - {name: "a'b", version: "1", prefix: /opt/x}
  - {name: cfd, version: "24.1", source: "http://example.org/cfd.tar.gz", sha256: 12}
"""


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert caught.value.exit is ExitCode.CONFIG
    assert caught.value.remedy
    return dict(caught.value.problems) or {"": f"{caught.value.what}: {caught.value.why}"}


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    found = problems(FIVE)
    assert set(found) == {
        "layout", "storge", "install.budget", "packages[0].name", "packages[1].source", "packages[1].sha256",
    }  # fmt: skip
    assert found["storge"] == "unknown key, did you mean 'storage'?"
    assert found["layout"] == "layout shard is not known: use shared or hybrid or ami"


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("storage: {mount: shared}", "storage.mount", "absolute path"),
        ("storage: {mount: /a/../b}", "storage.mount", ".."),
        ("storage: {mount: /}", "storage.mount", "must not be /"),
        ("packages: [{name: a, version: '1'}]", "packages[0]", "either source"),
        ("packages: [{name: a, version: '1', source: s3://b/k}]", "packages[0].sha256", "needed for every tarball"),
        ("packages: [{name: a, version: 1.10, prefix: /x}]", "packages[0].version", "put it in quotes"),
        ('packages: [{name: "a\\nb", version: "1", prefix: /x}]', "packages[0].name", "only letters"),
        ('packages: [{name: "a\\"b", version: "1", prefix: /x}]', "packages[0].name", "only letters"),
        ("packages: [{name: a, version: '1', prefix: /x, env: {'A-B': x}}]", "packages[0].env", "environment variable"),
        (
            "packages: [{name: a, version: '1', prefix: /x}, {name: a, version: '1', prefix: /y}]",
            "packages",
            "listed twice",
        ),
        ("spack: {version: 0.20.0}", "spack.version", "has not been run"),
        ("spack: {specs: ['zlib; rm -rf /']}", "spack.specs[0]", "Spack spec"),
        ("stack: starter", "spack", "spack.source and spack.recipes"),
        (f"stack: s3://b/k\n{SPACK}", "stack_sha256", "over the network"),
        ("packages: [{name: a, version: '1', prefix: /x, env: {X: 1}}]", "packages[0].env.X", "put it in quotes"),
        ("spack: {mirrors: {'a b': /m}}", "spack.mirrors.a b", "only letters"),
        ("spack:", "spack", "has no value"),
        ("spack: 1", "spack", "must be a section"),
        ("packages: [{version: '1', prefix: /x}]", "packages[0].name", "is required"),
        ("packages: {}", "packages", "must be a list"),
        ("spack: {mirrors: []}", "spack.mirrors", "must be a section"),
        ("spack: {mirrors: {m: 'https://user:secret@h/m'}}", "spack.mirrors.m", "holds a password"),
        ("spack: {mirrors: {m: 'https://h/m?X-Amz-Signature=0'}}", "spack.mirrors.m", "holds a password"),
        ("spack: {mirrors: {m: 'https:///m'}}", "spack.mirrors.m", "https://HOST/PATH"),
        ("check: {run: ['']}", "check.run[0]", "1 to 1000 characters"),
        ("check: {wait: true}", "check.wait", "whole number"),
        ("1: 2", "1", "unknown key"),
        ("stack: !!int ''", "", "not YAML"),
        ("stack: !!bool maybe", "", "not YAML"),
        ("a: " + "[" * 90 + "]" * 90, "", "nested too deeply"),
        ("stack: Ünicode", "stack", "name of an environment"),
        ("stack: none\nspack: {source: 'https://x/y', recipes: {source: /r}}", "spack.sha256", "over the network"),
        ("install: {budget: '300'}", "install.budget", "must be a whole number"),
        ("install: {partial: 1}", "install.partial", "must be true or false"),
        ("install: {partial: 'yes'}", "install.partial", "must be true or false"),
        ("check: {load: ['../x']}", "check.load[0]", "module name"),
        ("[1, 2]", "", "a mapping is needed"),
        ("a: 1\na: 2", "", "written twice"),
        ("a: &x [1]\nb: *x", "", "aliases"),
        ("a: [", "", "not YAML"),
        ("!!python/object/apply:os.system [id]", "", "not YAML"),
        ("\x00", "", "not YAML"),
    ],
)
def test_bad_input_is_refused_with_its_path(text: str, path: str, says: str) -> None:
    found = problems(text)
    assert says in found[path], found


def test_an_empty_file_is_a_configuration() -> None:
    assert config.parse("") == config.Config()
    assert not config.parse("").builds


def test_a_configuration_survives_the_way_through_wanted_json() -> None:
    text = f"""
stack: s3://b/spack.yaml
stack_sha256: {SHA}
spack: {{source: s3://b/spack.tgz, sha256: {SHA}, recipes: {{source: /r}}, specs: [zlib], mirrors: {{a: /m}},
  clingo: [{{source: s3://b/clingo.whl, sha256: {SHA}}}]}}
packages:
  - {{name: a, version: "1", source: s3://b/a.tgz, sha256: {SHA}, env: {{X: "{{prefix}}/x"}}, requires: [b/2]}}
  - {{name: b, version: "2", prefix: /opt/amazon/openmpi}}
check: {{load: [a], run: ["a --version"]}}
"""
    first = config.parse(text)
    again = config.from_mapping(json.loads(json.dumps(first.to_dict())))
    assert again == first


def test_names_that_are_near_are_named() -> None:
    assert did_you_mean("storge", ["storage", "spack"]) == ", did you mean 'storage'?"
    assert did_you_mean("xyz", ["storage"]) == ""
