"""Presets and files read into the models of their kind, with changes from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fl_privacy.config.federated_ser import FederatedSerFile
from fl_privacy.config.sections import ConfigError
from fl_privacy.config.speaker_inversion import SpeakerInversionFile
from fl_privacy.config.speaker_membership import SpeakerMembershipFile
from fl_privacy.config.ssl_membership import SslMembershipFile

SimulationFile = FederatedSerFile | SpeakerMembershipFile | SpeakerInversionFile | SslMembershipFile
KINDS: Mapping[str, type[SimulationFile]] = MappingProxyType(
    {
        "federated-ser": FederatedSerFile,
        "speaker-membership": SpeakerMembershipFile,
        "speaker-inversion": SpeakerInversionFile,
        "ssl-membership": SslMembershipFile,
    }
)
"""What a file is read into, by ``simulation.kind``."""


def presets() -> dict[str, str]:
    """Return the presets in the package: name -> first comment line of the file."""
    found = {}
    for entry in sorted(resources.files("fl_privacy.presets").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            first = entry.read_text(encoding="utf-8").splitlines()[0]
            found[entry.name.removesuffix(".toml")] = first.lstrip("# ").strip()
    return found


def load_any(source: str | Path | Mapping[str, Any], settings: Sequence[str | tuple[str, Any]] = ()) -> SimulationFile:
    """Read a simulation of any kind; which one ``simulation.kind`` says.

    Parameters
    ----------
    source : str, Path or mapping
        A preset's name, a TOML file, or its content as a mapping.
    settings : sequence of str, or of (key, value)
        ``"a.b=value"``: changes made before the check. The value is read as TOML, a bare word as a string; an entry
        of a list is addressed by its name or its number. In a pair, the value is taken as it is.

    Raises
    ------
    ConfigError
        With the path of the key at fault.
    """
    name, content = ("settings", dict(source)) if isinstance(source, Mapping) else _read(str(source))
    for setting in settings:
        key, value = parse_setting(setting) if isinstance(setting, str) else setting
        content = _assign(content, key.split("."), value, key)
    simulation = content.get("simulation")
    kind = simulation.get("kind", "federated-ser") if isinstance(simulation, Mapping) else "federated-ser"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{name}: simulation.kind: {kind!r} is none of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{name}: " + "; ".join(_explain(e, KINDS[kind]) for e in _causes(error))) from None


def load(source: str | Path | Mapping[str, Any], settings: Sequence[str | tuple[str, Any]] = ()) -> FederatedSerFile:
    """Read a federated simulation; see `load_any`.

    Raises
    ------
    ConfigError
        Also for a simulation of another kind.
    """
    file = load_any(source, settings)
    if not isinstance(file, FederatedSerFile):
        kind = file.simulation.kind
        raise ConfigError(f"simulation.kind: {kind!r} is no federated simulation; `fl-privacy run` runs it")
    return file


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and read the value as TOML, or as a string where it is a bare word."""
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"{text!r} is not of the form section.key=value")
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """Read a TOML value; what TOML cannot read is a string as it stands."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        if any(c in text for c in "[]{}\"'"):
            raise ConfigError(f"{text!r} is no TOML value") from None
        return text.strip()


def _read(source: str) -> tuple[str, dict[str, Any]]:
    known = presets()
    path = Path(source)
    if source in known and not path.is_file():
        text = resources.files("fl_privacy.presets").joinpath(f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"no file and no preset {source!r}; presets: {', '.join(known)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from error
    try:
        return source, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no TOML: {error}") from None


def _assign(tree: Any, path: list[str], value: Any, whole: str) -> Any:
    """Return a copy of nested tables and lists with one value set; the original stays as it is."""
    head, rest = path[0], path[1:]
    if isinstance(tree, list):
        names = [str(entry_name(entry)) for entry in tree]
        if head.isdigit() and int(head) < len(tree):
            place = int(head)
        elif head in names:
            place = names.index(head)
        else:
            raise ConfigError(f"--set {whole}: no entry {head!r}; there are: {', '.join(names)}")
        new = value if not rest else _assign(tree[place], rest, value, whole)
        return [*tree[:place], new, *tree[place + 1 :]]
    if not isinstance(tree, dict):
        raise ConfigError(f"--set {whole}: {head!r} stands below something that is not a table")
    if not rest:
        return tree | {head: value}
    return tree | {head: _assign(tree.get(head, {}), rest, value, whole)}


def entry_name(entry: Any) -> Any:
    """Return what an entry of a list is addressed by: a table's label, name or corpus; anything else is its own."""
    if not isinstance(entry, dict):
        return entry
    return entry.get("label") or entry.get("name") or entry.get("corpus", "")


def _causes(error: ValidationError) -> list[Any]:
    """Return the errors, without those of a list that is merely what an error inside it makes of it."""
    errors = error.errors()
    places = [e["loc"] for e in errors]
    return [
        e
        for e in errors
        if e["type"] != "too_short" or not any(p[: len(e["loc"])] == e["loc"] and p != e["loc"] for p in places)
    ]


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _instead(place: Sequence[Any], model: type[BaseModel]) -> str:
    """Say which key of the same table an unknown one is most like, if any is."""
    tables = [model]
    for part in place[:-1]:
        if not isinstance(part, int):
            fields = [table.model_fields[part] for table in tables if part in table.model_fields]
            tables = [section for field in fields for section in _sections(field.annotation)]
    keys = [key for table in tables for key in table.model_fields]
    like = get_close_matches(str(place[-1]), keys, n=1)
    return f" (did you mean {like[0]!r}?)" if like else ""


def _explain(error: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_instead(error['loc'], model)}"
        case "missing":
            return f"{where}: missing"
        case "value_error":
            return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
        case "tuple_type" if isinstance(error["input"], Mapping):
            return f"{where}: one table where a list of them stands; write [[{where}]], or {where}=[{{...}}] with --set"
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            return f"{where}: {message} (it is {error['input']!r})"
