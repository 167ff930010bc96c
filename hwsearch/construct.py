"""Objects from user-given parameters: names and types are checked against the class before it is called."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hwsearch.errors import ConfigError
from hwsearch.problems import describe, nearest


def construct(target: Callable[..., Any], params: Mapping[str, Any], *, where: str, given: Mapping[str, Any]) -> Any:
    """Returns `target(**given, **params)`; the user's `params` are checked against its signature.

    Args:
        target: a pydantic model or a class with annotated keyword arguments.
        params: from the configuration.
        where: path of `params` in the configuration.
        given: arguments that the configuration cannot set.

    Raises:
        ConfigError: all unknown, missing or wrong parameters at once.
    """
    problems = parameter_problems(target, params, where=where, given=given)
    if problems:
        raise ConfigError("\n".join(problems))
    is_model = _is_model(target)
    checked = params if is_model else dict(_schema(target, given)(**params))
    try:
        return target(**given, **{name: checked[name] for name in params})
    except ValidationError as error:
        raise ConfigError("\n".join(describe(error, {**params}, where=where, schema=target))) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error


def parameter_problems(
    target: Callable[..., Any], params: Mapping[str, Any], *, where: str, given: Collection[str]
) -> list[str]:
    """Returns what is wrong with names and types of `params`, as far as that shows without making the object.

    Args:
        target: as for `construct`.
        params: from the configuration.
        where: path of `params` in the configuration.
        given: names of arguments that the configuration cannot set.
    """
    schema: Any = target if _is_model(target) else _schema(target, given)
    names = [name for name in schema.model_fields if name not in given]
    problems = [f"{where}.{key} is not known{nearest(key, names)}." for key in params if key not in names]
    known = {key: value for key, value in params.items() if key in names}
    try:
        schema.model_validate(known)
    except ValidationError as error:
        taken = {f"{where}.{name} is missing." for name in given}
        problems += [line for line in describe(error, known, where=where, schema=schema) if line not in taken]
    return list(dict.fromkeys(problems))


def _is_model(target: Callable[..., Any]) -> bool:
    return isinstance(target, type) and issubclass(target, BaseModel)


def _schema(target: Callable[..., Any], given: Collection[str]) -> type[BaseModel]:
    """Returns a pydantic model of the annotated arguments of a class that are not `given`."""
    hints = get_type_hints(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in given:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument may be called like a method of pydantic models
        config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
        return create_model("Arguments", __config__=config, **fields)
