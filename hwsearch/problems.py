"""Problems of user input in words: one line each, with the path, what must hold and what was got."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Path = list[str | int]

WORDS: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "path_type": "a path",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "is_instance_of": "a list",
}
"""pydantic's error type -> what the value must be."""

BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def nearest(name: object, valid: Iterable[str]) -> str:
    """Returns ` (nearest: 'x')` or nothing."""
    found = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" (nearest: {found[0]!r})" if found else ""


def describe(error: ValidationError, raw: Mapping[str, Any], *, where: str, schema: Any) -> list[str]:
    """Returns one line per problem that pydantic found.

    Args:
        error: of validating `raw`.
        raw: the input.
        where: path of the input itself; empty for the whole configuration.
        schema: model that it was validated with; names its valid keys.
    """
    wrong: dict[str, list[ErrorDetails]] = {}  # the members of a union complain one by one about one value
    lines: dict[str, None] = {}
    for item in own_errors(error):
        path = key_path(item, raw)
        shown = ".".join([*([where] if where else []), *map(str, path)])
        if item["type"] in UNKNOWN:
            lines[f"{shown} is not known{nearest(path[-1], keys_at(schema, path[:-1]))}."] = None
        elif item["type"] in MISSING:
            lines[f"{shown} is missing."] = None
        elif item["type"] == "value_error":
            lines[_of_validator(shown, str(item["ctx"]["error"]))] = None
        elif _is_key(item):
            lines[f"{shown or 'the configuration'}: keys must be strings, but got {item['input']!r}."] = None
        else:
            wrong.setdefault(shown, []).append(item)
            lines[shown] = None  # its place
    return [_of_value(line, wrong[line]) if line in wrong else line for line in lines]


def own_errors(error: ValidationError) -> list[ErrorDetails]:
    """Returns the errors without those that follow from others: a list that is too short once bad entries are gone."""
    return [
        item
        for item in error.errors()
        if item["type"] != "too_short" or len(item["input"]) < int(item["ctx"]["min_length"])
    ]


def key_path(item: ErrorDetails, raw: Any) -> Path:
    """Returns where in `raw` an error is: pydantic's location without the names of validators and union members."""
    path: Path = []
    node = raw
    for part in item["loc"]:
        at = isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
        if at or (isinstance(node, Mapping) and part in node):
            node = node[part]
            path.append(part)
    if item["type"] in MISSING:
        path.append(item["loc"][-1])
    elif _is_key(item) and path:
        path.pop()
    return path


def _is_key(item: ErrorDetails) -> bool:
    """Whether the error is about a key of a mapping, not about its value."""
    return item["type"] == "invalid_key" or item["loc"][-1:] == ("[key]",)


def keys_at(schema: Any, path: Sequence[str | int]) -> list[str]:
    """Returns the valid keys of a part of a model, a dataclass or a container of them; none if unknown."""
    for part in path:
        if isinstance(part, int):
            continue  # an entry of a list: its annotation stands inside the list's
        found = [hints[part] for kind in _kinds(schema) if part in (hints := _hints(kind))]
        if not found:
            return []
        schema = found[0]
    return [name for kind in _kinds(schema) for name in _hints(kind)]


def _kinds(schema: Any) -> list[Any]:
    """Returns the models and dataclasses in an annotation, however deep in unions and containers."""
    if isinstance(schema, type) and (issubclass(schema, BaseModel) or is_dataclass(schema)):
        return [schema]
    return [kind for inner in get_args(schema) for kind in _kinds(inner)]


def _hints(kind: Any) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind)


def _of_validator(path: str, message: str) -> str:
    """Returns a line of what one of our own validators says, which may or may not name its subject."""
    message = " ".join(message.split())
    return f"{path} {message}" if message.startswith("must ") else f"{path}: {message}"


def _of_value(path: str, items: Sequence[ErrorDetails]) -> str:
    got = repr(items[0]["input"])
    got = got if len(got) < 80 else type(items[0]["input"]).__name__
    allowed = list(dict.fromkeys(_must(item) for item in items))
    hints = [n for n in (nearest(items[0]["input"], _expected(item)) for item in items) if n]
    return f"{path} must be {' or '.join(allowed)}, but got {got}{hints[0] if hints else ''}."


def _must(item: ErrorDetails) -> str:
    """Returns what comes after `must be`."""
    kind, ctx = item["type"], item.get("ctx", {})
    if kind in WORDS:
        return WORDS[kind]
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"{words} {ctx[key]:g}" if isinstance(ctx[key], float) else f"{words} {ctx[key]}"
    if kind == "literal_error":
        return str(ctx["expected"])
    if kind == "too_short":
        return f"a list of at least {ctx['min_length']}"
    if kind == "string_too_short":
        return f"a string of at least {ctx['min_length']} character"
    if kind == "string_pattern_mismatch":
        return f"a string of the form {ctx['pattern']}"
    return item["msg"].removeprefix("Input should be ").removeprefix("Value should be ").rstrip(".")


def _expected(item: ErrorDetails) -> list[str]:
    expected = str(item.get("ctx", {}).get("expected", ""))
    return [word.strip(" '") for part in expected.split(",") for word in part.split(" or ")] if expected else []
