"""petal.yaml: all mistakes are reported together with their paths; no value can reach Lua or a shell as code."""

from __future__ import annotations

import gzip
import json

import pytest

from bootstrap.config import load, model
from bootstrap.config.load import parse
from bootstrap.core.errors import ConfigError, ExitCode, did_you_mean

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
        load.parse(text)
    assert caught.value.exit is ExitCode.CONFIG
    assert caught.value.remedy
    return {problem.path: problem.message for problem in caught.value.problems} or {
        "": f"{caught.value.what}: {caught.value.why}"
    }


def test_every_mistake_is_reported_at_once_with_its_path() -> None:
    found = problems(FIVE)
    assert set(found) == {
        "layout", "storge", "install.budget", "packages[0].name", "packages[1].source", "packages[1].sha256",
    }  # fmt: skip
    assert found["storge"] == "unknown key, did you mean 'storage'?"
    assert found["layout"] == "shard is not supported: use shared, hybrid or ami"


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("storage: {mount: shared}", "storage.mount", "absolute path"),
        ("storage: {mount: /a/../b}", "storage.mount", ".."),
        ("storage: {mount: /}", "storage.mount", "must not be /"),
        ("packages: [{name: a, version: '1'}]", "packages[0]", "either source"),
        ("packages: [{name: a, version: '1', source: s3://b/k}]", "packages[0].sha256", "required for a tarball"),
        ("packages: [{name: a, version: 1.10, prefix: /x}]", "packages[0].version", "must be a string"),
        (
            'packages: [{name: "a\\nb", version: "1", prefix: /x}]',
            "packages[0].name",
            "only letters",
        ),
        (
            'packages: [{name: "a\\"b", version: "1", prefix: /x}]',
            "packages[0].name",
            "only letters",
        ),
        (
            "packages: [{name: a, version: '1', prefix: /x, env: {'A-B': x}}]",
            "packages[0].env.A-B",
            "environment variable",
        ),
        (
            "packages: [{name: a, version: '1', prefix: /x}, {name: a, version: '1', prefix: /y}]",
            "packages",
            "lists a/1 twice",
        ),
        ("spack: {version: 0.20.0}", "spack.version", "is not supported: use 0.23.0 or 1.1.1"),
        ("spack: {specs: ['zlib; rm -rf /']}", "spack.specs[0]", "Spack spec"),
        ("stack: starter", "spack", "spack.source and spack.recipes"),
        (f"stack: s3://b/k\n{SPACK}", "stack_sha256", "required for a download"),
        (
            "packages: [{name: a, version: '1', prefix: /x, env: {X: 1}}]",
            "packages[0].env.X",
            "must be a string",
        ),
        ("spack: {mirrors: {'a b': /m}}", "spack.mirrors.a b", "only letters"),
        ("spack:", "spack", "has no value"),
        ("spack: 1", "spack", "must be a section"),
        ("packages: [{version: '1', prefix: /x}]", "packages[0].name", "is required"),
        ("packages: {}", "packages", "must be a list"),
        ("spack: {mirrors: []}", "spack.mirrors", "must be a section"),
        ("spack: {mirrors: {m: 'https://user:secret@h/m'}}", "spack.mirrors.m", "contains a password"),
        ("spack: {mirrors: {m: 'https://h/m?X-Amz-Signature=0'}}", "spack.mirrors.m", "contains a password"),
        ("spack: {mirrors: {m: 'https:///m'}}", "spack.mirrors.m", "https://HOST/PATH"),
        ("check: {run: ['']}", "check.run[0]", "must be a program and its arguments"),
        ("check: {wait: true}", "check.wait", "must be an integer"),
        ("check: {mpi: 'yes'}", "check.mpi", "true or false"),
        ("1: 2", "1", "unknown key"),
        ("stack: !!int ''", "stack", "remove the tag"),
        ("stack: !!bool maybe", "stack", "remove the tag"),
        ("a: " + "[" * 90 + "]" * 90, "", "nested too deeply"),
        ("stack: Ünicode", "stack", "name of an environment"),
        (
            "stack: none\nspack: {source: 'https://x/y', recipes: {source: /r}}",
            "spack.sha256",
            "required for a download",
        ),
        ("install: {budget: '300'}", "install.budget", "must be an integer without quotes"),
        ("install: {partial: 1}", "install.partial", "must be true or false, without quotes"),
        ("install: {partial: 'yes'}", "install.partial", "must be true or false, without quotes"),
        ("check: {load: ['../x']}", "check.load[0]", "module name"),
        ("[1, 2]", "(file)", "KEY: VALUE"),
        ("layout: ami\nlayout: ami", "layout", "written twice, first in line 1"),
        ("stack: &x starter\nlayout: *x", "layout", "*x is an alias"),
        ("stack: [", "stack", "a bracket is not closed"),
        ("!!python/object/apply:os.system [id]", "(file)", "KEY: VALUE"),
        ("\x00", "(text)", "character 0x0"),
    ],
)
def test_bad_input_is_refused_with_its_path(text: str, path: str, says: str) -> None:
    found = problems(text)
    assert says in found[path], found


@pytest.mark.parametrize("text", ["", " \n", "# stack: starter\n", "---\n", "{}", "null"])
def test_an_empty_file_is_refused_because_it_would_remove_all_software(text: str) -> None:
    with pytest.raises(ConfigError, match=r"petal\.yaml is empty") as caught:
        load.parse(text)
    assert caught.value.code == "config-syntax"
    assert "stack: none" in caught.value.remedy[-1]
    assert load.parse("stack: none") == model.Config()


def test_a_configuration_round_trips_through_json() -> None:
    text = f"""
stack: s3://b/spack.yaml
stack_sha256: {SHA}
spack: {{source: s3://b/spack.tgz, sha256: {SHA}, recipes: {{source: /r}}, specs: [zlib], mirrors: {{a: /m}},
  clingo: [{{source: s3://b/clingo.whl, sha256: {SHA}}}]}}
packages:
  - {{name: a, version: "1", source: s3://b/a.tgz, sha256: {SHA}, env: {{X: "{{prefix}}/x"}}, requires: [b/2]}}
  - {{name: b, version: "2", prefix: /opt/amazon/openmpi}}
check: {{load: [a], run: ["a --version"], mpi: true}}
"""
    first = load.parse(text)
    again = load.from_mapping(json.loads(json.dumps(first.to_dict())))
    assert again == first


def test_messages_describe_the_mistake_and_the_fix() -> None:
    text = """
stack: {name: starter}
stack_sha256: 12ab
layout: [shared]
storage: {mount: /shared, type: nfs, options: [soft, "a b"]}
spack:
  version: 1.1
  source: git@github.com:spack/spack
  clingo: wheels
  target: x86_64_v9
  mirrors: {site: https://user:secret@host/mirror}
packages: [{version: 1.0}]
install: {budget: 5m, where: cloud}
check: {run: [make | tail], wait: -1, mpi: 1}
users: anything
"""
    assert problems(text) == {
        "stack": "must be a string, not a section",
        "stack_sha256": "must be a SHA-256 checksum: 64 hexadecimal digits in lower case",
        "layout": "must be a string, not a list",
        "storage.type": "nfs is not supported: use nfs4 or lustre",
        "storage.options[0]": "soft is refused: an interrupted read or write would look complete",
        "storage.options[1]": "must be one option of mount(8), such as noatime or nconnect=4",
        "spack.version": 'must be a string: YAML reads a number here, so write it in quotes, such as "24.10"',
        "spack.source": "must be s3://BUCKET/KEY, https://HOST/PATH, file:///PATH or an absolute path",
        "spack.clingo": "must be a list of wheels, or the word bootstrap",
        "spack.target": "x86_64_v9 is not a CPU target of Spack, did you mean 'x86_64_v4'?",
        "spack.mirrors.site": "contains a password or a signature, which records would show: "
        "use s3:// and the role of the node",
        "packages[0]": "needs either source (a tarball) or prefix (an existing directory)",
        "packages[0].name": "is required",
        "packages[0].version": 'must be a string: YAML reads a number here, so write it in quotes, such as "24.10"',
        "install.budget": "must be an integer without quotes",
        "install.where": "cloud is not supported: use head or slurm",
        "check.run[0]": "must be one program and its arguments, because no shell reads it: "
        "| & ; < > $ and ` are not allowed",
        "check.wait": "must be 0 to 86400 seconds",
        "check.mpi": "must be true or false, without quotes",
    }


ALL_KINDS = b"""\
stack: s3://b/spack.yaml
storge: {mount: /shared}
spack:
  version: 1.10
  mirrors: {site: {url: "s3://b/m", push: true}}
  specs: [zlib
modules:
\tdefaults: [gcc]
  defaults: [openmpi]
packages:
- {name: caf\xe9, version: &v "1", prefix: /a, sha256: *v}
- {name: b, version: "1"}
install: {where: slurm, jobs: !many 4}
queue: build
check: &c {mpi: yes please}
"""


def test_mistakes_of_every_kind_are_reported_at_once_with_their_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load.parse(ALL_KINDS, "/etc/petal.yaml")
    assert [(path, int(place.removeprefix("petal.yaml:"))) for path, _, place in caught.value.problems] == [
        ("stack_sha256", 1),
        ("storge", 2),
        ("spack", 6),
        ("(indentation)", 8),
        ("modules.defaults", 9),
        ("(text)", 11),
        ("packages[0].sha256", 11),
        ("packages[0].name", 11),
        ("packages[1]", 12),
        ("install.jobs", 13),
        ("install.queue", 13),
        ("queue", 14),
        ("check.mpi", 15),
    ]
    assert "petal-node plan --config /etc/petal.yaml" in caught.value.remedy[0]


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("HeadNode: {}", "HeadNode", "ParallelCluster"),
        ("spack: {view: true, specs: [zlib]}", "spack.view", "stack: /DIRECTORY/spack.yaml"),
        ("defaults: [gcc]", "defaults", "write it as modules.defaults"),
        ("modules:\n\xa0\xa0defaults: [gcc]", "(indentation)", "no-break spaces"),
        ("stack: \u201cnone\u201d", "stack", "typographic quote"),
        ("stack: {{ stack }}", "stack", "put {{ }}"),
        ("stack:none", "(file)", "a space after the colon"),
        ("stack: none\n---\nstack: none", "stack", "one document"),
        ("spack:\n  specs:\n  - @1.2", "spack", "put the value in quotes"),
        ("modules:\n  <<: {a: 1}", "modules.<<", "unknown key"),
        ("check: {load: [on]}", "check.load[0]", "true or false"),
        ("check: {run: [true]}", "check.run[0]", "in quotes"),
        ("check: {run: [{command: x, queue: q}]}", "check.run[0].queue", "did you mean 'queues'?"),
        ("check: {run: [{comand: x}]}", "check.run[0].comand", "did you mean 'command'?"),
        ("install: {mirrors: {}}", "install.mirrors", "write it as spack.mirrors"),
    ],
)
def test_common_mistakes_name_their_correction(text: str, path: str, says: str) -> None:
    assert says in problems(text)[path]


def test_a_rule_is_left_out_if_its_keys_are_wrong_or_misspelled() -> None:
    found = problems("spack: {specs: [zlib], recipes: {source: /r}, sorce: /s}\npackages: [{name: a, version: 1}]")
    assert set(found) == {"spack.sorce", "packages[0]", "packages[0].version"}


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("storge", ["storage", "spack"]) == ", did you mean 'storage'?"
    assert did_you_mean("xyz", ["storage"]) == ""


CACHED = "spack: {{mirrors: {{site: {}}}}}"


@pytest.mark.parametrize(
    ("mirror", "path", "output"),
    [
        ("s3://b/c", "spack.mirrors.site", "keys"),
        ("http://h/c", "spack.mirrors.site", "http://"),
        ("12", "spack.mirrors.site", "must be a section"),
        ("[/shared/mirror, null]", "spack.mirrors.site", "must be a section"),
        ("{url: /c}", "spack.mirrors.site.keys", "signed: false"),
        ("{keys: [{source: /k}]}", "spack.mirrors.site.url", "is required"),
        ("{url: /c, signed: false, keys: [{source: /k}]}", "spack.mirrors.site.signed", "contradicts"),
        ("{url: 's3://b/c', signed: false, sources: true}", "spack.mirrors.site.sources", "boto3"),
        ("{url: 's3://b/c', binaries: false}", "spack.mirrors.site.url", "boto3"),
        (
            "{url: /c, binaries: false, sources: false}",
            "spack.mirrors.site.binaries",
            "must be true if sources is false",
        ),
        ("{url: /c, binaries: false, push: true}", "spack.mirrors.site.push", "binaries"),
        ("{url: 'https://h/c', signed: false, push: true}", "spack.mirrors.site.push", "s3:// or a directory"),
        ("{url: /c, keys: [{source: /k}], push: true}", "spack.mirrors.site.signing_key", "is required to push"),
        ("{url: /c, keys: [{source: 's3://b/k'}]}", "spack.mirrors.site.keys[0].sha256", "sha256sum"),
        ("{url: 'oci://ecr.example.org/cache', signed: false}", "spack.mirrors.site.url", "Spack signs no packages"),
        ("{url: 'oci+http://localhost/cache', signed: false}", "spack.mirrors.site.url", "is a container registry"),
        ("{url: /c, signd: false}", "spack.mirrors.site.signd", "did you mean 'signed'"),
    ],
)
def test_contradicting_keys_of_a_mirror_are_refused(mirror: str, path: str, output: str) -> None:
    found = problems(CACHED.format(mirror))
    assert set(found) == {path}
    assert output in found[path]


def test_a_uri_is_a_mirror_of_sources_and_a_section_a_build_cache() -> None:
    text = "{short: /m, s3: {url: 's3://b/c', signed: false}, both: {url: /c, keys: [{source: /k}]}}"
    made = load.parse(f"spack: {{mirrors: {text}}}")
    found = {name: (mirror.sources, mirror.binaries) for name, mirror in made.spack.mirrors.items()}
    assert found == {"short": (True, False), "s3": (False, True), "both": (True, True)}
    assert list(made.spack.caches) == ["s3", "both"]
    assert load.from_mapping(json.loads(json.dumps(made.to_dict()))) == made


BINARY = {"gzip": gzip.compress(b"stack: none"), "program": bytes(range(256)) * 4, "tar": b"a.txt" + bytes(507)}


@pytest.mark.parametrize("data", BINARY.values(), ids=BINARY)
def test_a_file_that_is_not_text_is_one_mistake(data: bytes) -> None:
    with pytest.raises(ConfigError, match="is not a configuration: it is not text") as caught:
        parse(data, "/root/a.tar.gz")
    assert caught.value.code == "config-syntax"
    assert parse("stack: none".encode("utf-16"), "x").stack == "none"
