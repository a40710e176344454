"""The kinds of value that petal.yaml knows, each with the house's own words for what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate

REQUIRED = "is required"
NULL = "has no value: write one, or drop the key"
UNKNOWN = "unknown key"
SECTION = "must be a section: keys with values, indented below it"


class Text(fields.String):
    """A text. YAML reads 24.10 as the number 24.1, so a number is a mistake and not turned into one."""

    default_error_messages = {  # noqa: RUF012 - as marshmallow declares it
        "required": REQUIRED,
        "null": NULL,
        "invalid": 'must be text: put it in quotes, "24.10"',
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        if isinstance(value, bytes):  # YAML's !!binary
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **options)


class Whole(fields.Integer):
    """A whole number; ``true``, ``"300"`` and ``3.0`` are none."""

    default_error_messages = {"required": REQUIRED, "null": NULL, "invalid": "must be a whole number, without quotes"}  # noqa: RUF012

    def _validated(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid")
        return value


class Anything(fields.Raw):
    """What is read past, whatever it is."""

    def __init__(self) -> None:
        super().__init__(allow_none=True)


class Switch(fields.Boolean):
    """``true`` or ``false``; ``1`` and texts are neither."""

    default_error_messages = {"required": REQUIRED, "null": NULL, "invalid": "must be true or false, without quotes"}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **options)  # type: ignore[no-untyped-call]


class Items(fields.List):
    """A list."""

    default_error_messages = {"required": REQUIRED, "null": NULL, "invalid": "must be a list: [a, b], or lines with - "}  # noqa: RUF012


class ItemsOr(Items):
    """A list, or one word in its place."""

    def __init__(self, inner: fields.Field, word: str, **options: Any) -> None:
        super().__init__(inner, **options)
        self.word = word
        self.error_messages["invalid"] = f"must be a list: [a, b], or lines with - , or the word {word}"

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        return value if value == self.word else super()._deserialize(value, attr, data, **options)


class OneOrMore(fields.Field):
    """One value, or a list of them."""

    default_error_messages = {"required": REQUIRED, "null": NULL}  # noqa: RUF012

    def __init__(self, inner: fields.Field, **options: Any) -> None:
        super().__init__(**options)
        self.one, self.more = inner, Items(inner, validate=validate.Length(min=1, error="must not be empty"))

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:  # noqa: ARG002
        return (self.more if isinstance(value, list) else self.one).deserialize(value)


class Section(fields.Nested):
    """A section with keys of its own."""

    default_error_messages = {"required": REQUIRED, "null": NULL, "type": SECTION}  # noqa: RUF012


class TextOrSection(fields.Field):
    """A section, or a text that stands for one; what is wrong with that one is then wrong with the text."""

    default_error_messages = {"required": REQUIRED, "null": NULL}  # noqa: RUF012

    def __init__(self, section: Section, meant: Callable[[str], dict[str, Any]], **options: Any) -> None:
        super().__init__(**options)
        self.section, self.meant = section, meant

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, str):
            return self.section.deserialize(value)
        try:
            return self.section.deserialize(self.meant(value))
        except ValidationError as error:
            said = error.messages
            told = [text for texts in said.values() for text in texts] if isinstance(said, dict) else said
            raise ValidationError(told) from error


class Table(fields.Dict):
    """Free names with values; the path of a mistake is the name's, as the file shows it."""

    default_error_messages = {"required": REQUIRED, "null": NULL, "invalid": SECTION}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        try:
            return super()._deserialize(value, attr, data, **options)  # type: ignore[no-untyped-call]
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            # marshmallow tells mistakes in a name and in its value one level below, as "key" and "value"
            flat = {name: said.get("key") or said["value"] for name, said in error.messages.items()}
            raise ValidationError(flat) from error
