"""Names to objects: built-ins by their short name, anyone's own by ``package.module:object``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from fl_privacy.errors import UserError


def find_object(name: str, table: Mapping[str, str], kind: str, error: type[UserError] = UserError) -> Any:
    """Import what a name stands for.

    Parameters
    ----------
    name : str
        A key of `table`, or ``package.module:object``.
    table : mapping of str to str
        Built-in names and where they live.
    kind : str
        What is looked for, for the message.
    error : type of UserError
        What to raise.

    Returns
    -------
    object
        The imported object.

    Raises
    ------
    UserError
        Of the type `error`, if there is no such name, module or object.
    """
    where = table.get(name, name)
    module_name, colon, attribute = where.partition(":")
    if not (module_name and colon and attribute):
        known = f"Known: {', '.join(table)}, or" if table else "None is built in; give"
        raise error(f"unknown {kind} {name!r}. {known} package.module:object for your own")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise error(f"{kind} {name!r}: there is no module {missing.name!r} on the import path") from missing
    if not hasattr(module, attribute):
        raise error(f"{kind} {name!r}: module {module_name!r} has no {attribute!r}")
    return getattr(module, attribute)


def make(kind: str, table: Mapping[str, str], settings: Mapping[str, Any], base: type | None = None) -> Any:
    """Make an object from ``{"name": ..., other settings}``.

    Raises
    ------
    UserError
        If the name is unknown, the class refuses a setting, or the result is not a `base`.
    """
    arguments = dict(settings)
    name = arguments.pop("name")
    maker = find_object(name, table, kind)
    _check_arguments(kind, name, maker, arguments)
    try:
        made = maker(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} {name!r}: {error}") from error
    if base is not None and not isinstance(made, base):
        raise UserError(f"{kind} {name!r} is a {type(made).__name__}, not a {base.__name__}")
    return made


def _check_arguments(kind: str, name: str, maker: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse settings that a maker does not take, and say which it takes."""
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):  # some built-ins have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        takes = f"it takes: {known}" if known else "it takes no arguments"
        raise UserError(f"{kind} {name!r}: {error}; {takes}") from error
