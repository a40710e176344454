"""Reads YAML text. Keys that are written twice and YAML aliases are mistakes: both hide what a file says."""

from __future__ import annotations

from typing import Any

from ..core.errors import ConfigError
from .files import is_deep

REMEDY = "correct the file, then: petal-node plan --config FILE"
# What PyYAML's constructors raise where a tag does not fit its value: !!int "", !!bool x, !!map [1], 2026-02-31.
_BY_TAGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def read_yaml(data: bytes | str, name: str, *, aliases: bool = False) -> dict[str, Any]:
    """A YAML mapping; an empty file is an empty one.

    Args:
        aliases: also read aliases and keys that are twice there, as other programs write them. The document may then
            hold itself: only what is looked for may be visited.

    Raises:
        ConfigError: ``config-syntax``.
    """
    import yaml

    try:
        loaded = yaml.load(data, Loader=yaml.SafeLoader if aliases else _strict_loader())  # noqa: S506 - safe both
    except (yaml.YAMLError, *_BY_TAGS, RecursionError) as error:
        why = (
            (" ".join(str(error).split()) or type(error).__name__)
            .replace('"<byte string>"', name)
            .replace('"<unicode string>"', name)
        )
        raise ConfigError(f"{name} is not YAML", why=why, remedy=REMEDY, code="config-syntax") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        why = f"it holds {type(loaded).__name__}, a mapping is needed"
        raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")
    if not aliases and is_deep(loaded):
        why = "its values are nested too deeply"
        raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")
    return loaded


def _strict_loader() -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    what = f"the key {key.value!r} is written twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return Strict
