"""What the agent is told: arguments, environment, one TOML file, defaults; in that precedence, for every key alike.

The file has a table for each section, and a section is a frozen dataclass beside the code that it steers:

    @dataclass(frozen=True, slots=True)
    class RetentionSettings:
        SECTION: ClassVar[str] = "retention"
        results_days: float = setting(365.0, "Days that reported results stay in the journal.", least=0)

The environment's name of a key is CXR_EDGE_SECTION_KEY, unless the key names its own. Paths in the file are relative to
the file, all others to the working folder.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from firmware_bridge.errors import ConfigError

# name -> where its dataclass is; the module is imported when the section is asked for or stands in the file.
SECTIONS = {
    "audit": "firmware_bridge.audit:AuditSettings",
    "log": "firmware_bridge.logs:LogSettings",
    "service": "firmware_bridge.service:ServiceSettings",
    "page": "firmware_bridge.page.settings:PageSettings",
    "agent": "firmware_bridge.agent_settings:AgentSettings",
    "retention": "firmware_bridge.retention_settings:RetentionSettings",
    "suitability": "firmware_bridge.suitability_settings:SuitabilitySettings",
    "explain": "firmware_bridge.suitability_settings:ExplainSettings",
    "intake": "firmware_bridge.intake_settings:IntakeSettings",
    "mqtt": "firmware_bridge.mqtt_settings:MqttSettings",
    "dicom": "firmware_bridge.dicom_settings:DicomSettings",
    "orthanc": "firmware_bridge.orthanc_settings:OrthancSettings",
    "fhir": "firmware_bridge.fhir_settings:FhirSettings",
    "update": "firmware_bridge.update_settings:UpdateSettings",
    "requests": "firmware_bridge.requests_settings:RequestsSettings",
}
_PREFIX = "CXR_EDGE_"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class _Section(Protocol):
    SECTION: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


Section = TypeVar("Section", bound=_Section)


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    environment: str = "",
) -> Any:
    """A key of a section.

    Args:
        default: its type is the annotation's: bool, int, float, str, Path, tuple[str, ...], or one of them or None.
        help: one line for users; the command line shows the same.
        least: numbers below are refused.
        most: numbers above are refused.
        choices: the only texts that are taken.
        environment: the variable's name, where it is not the usual one.
    """
    metadata = {"help": help, "least": least, "most": most, "choices": tuple(choices), "environment": environment}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """All that was given; `section` picks, checks and completes one section.

    Attributes:
        arguments: section -> key -> value, already of the right type; None is not given.
        environment: the process's.
        tables: of the file.
        file: where the tables come from.
    """

    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: Path | None = None

    def section(self, kind: type[Section]) -> Section:
        """The section whose dataclass is `kind`.

        Raises:
            ConfigError: an unknown key, a wrong type or a value out of bounds, whoever gave it.
        """
        name = kind.SECTION
        table = self.tables.get(name, {})
        _check_keys(name, table, kind, self.file)
        hints = get_type_hints(kind)
        values: dict[str, Any] = {}
        for key in fields(kind):
            argument = self.arguments.get(name, {}).get(key.name)
            variable = variable_of(name, key.name, key.metadata)
            if argument is not None:
                values[key.name] = argument
            elif self.environment.get(variable):  # an empty variable is one that is not set
                values[key.name] = _checked(
                    _from_text(self.environment[variable], hints[key.name]), key.metadata, variable
                )
            elif key.name in table:
                where = f"[{name}] {key.name} in {self.file}"
                value = _from_file(table[key.name], hints[key.name], self.file or Path())
                values[key.name] = _checked(value, key.metadata, where)
        return kind(**values)

    def given(self, name: str) -> bool:
        """Whether anybody said anything about the section: what is optional is not even imported otherwise."""
        if self.tables.get(name) is not None or any(v is not None for v in self.arguments.get(name, {}).values()):
            return True
        return any(key.startswith(f"{_PREFIX}{name.upper()}") and value for key, value in self.environment.items())

    def again(self) -> Settings:
        """The same, with the file read anew.

        Raises:
            ConfigError: see `load_settings`.
        """
        return load_settings(self.file, arguments=self.arguments, environment=self.environment)


def load_settings(
    file: Path | None,
    *,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the file and check all of it, so that a slip in a section that is used later is told now.

    Args:
        file: TOML, or None.
        arguments: section -> key -> value; None for a value is "not given".
        environment: None takes the process's.

    Raises:
        ConfigError: no such file, not TOML, an unknown section or key, a wrong type, a value out of bounds.
    """
    environment = dict(os.environ) if environment is None else environment
    settings = Settings(arguments or {}, environment, _read(file) if file else {}, file)
    for name in settings.tables:
        settings.section(section_kind(name, file))
    return settings


def section_kind(name: str, file: Path | None = None) -> type[Any]:
    """The dataclass of a section.

    Raises:
        ConfigError: there is no such section.
    """
    if name not in SECTIONS:
        raise _unknown(f"the section [{name}] in {file}", name, list(SECTIONS))
    module, _, kind = SECTIONS[name].partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module), kind)
    return loaded


def variable_of(section: str, key: str, metadata: Mapping[str, Any]) -> str:
    """The environment variable of a key."""
    return metadata.get("environment") or f"{_PREFIX}{section}_{key}".upper()


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"the config file {file} cannot be read",
            expected="a TOML file",
            came=getattr(error, "strerror", None) or str(error),
            do="mend the file, or --config",
        ) from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _unknown(f"the key {name} outside of every section in {file}", name, list(SECTIONS))
    return tables


def _check_keys(name: str, table: Mapping[str, Any], kind: type[_Section], file: Path | None) -> None:
    known = [key.name for key in fields(kind)]
    for key in table:
        if key not in known:
            raise _unknown(f"the key {key} of [{name}] in {file}", key, known)


def _unknown(what: str, name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"{what} is not known",
        expected=", ".join(known),
        came=name,
        do=f"did you mean {near[0]}?" if near else "take it out, or update cxr-edge",
    )


def kind_of_hint(hint: Any) -> tuple[type[Any], bool]:
    """The type of a key, and whether it may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = [one for one in get_args(hint) if one is not type(None)]
        return kind_of_hint(kind)[0], True
    return get_origin(hint) or hint, False


def _from_file(value: Any, hint: Any, file: Path) -> Any:
    kind, _ = kind_of_hint(hint)
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return file.parent / value
    if kind is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    # bool is an int to Python and must not pass for one.
    if isinstance(value, (list, dict)) and kind is not tuple:  # not quoted: a password may be in it
        return _Wrong(kind, "a list" if isinstance(value, list) else "a table")
    return value if type(value) is kind and kind not in (Path, tuple) else _Wrong(kind, repr(value))


def _from_text(text: str, hint: Any) -> Any:
    kind, _ = kind_of_hint(hint)
    if kind is bool:
        lower = text.strip().lower()
        return lower in _TRUE if lower in (*_TRUE, *_FALSE) else _Wrong(kind, repr(text))
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return kind(text)
    except ValueError:
        return _Wrong(kind, repr(text))


@dataclass(frozen=True, slots=True)
class _Wrong:
    kind: type[Any]
    came: str


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def _checked(value: Any, metadata: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, _Wrong):
        raise _mismatch(where, _WORDS.get(value.kind, "a list of texts"), value.came)
    if isinstance(value, float) and not math.isfinite(value):
        raise _mismatch(where, "a finite number", repr(value))
    least, most, choices = metadata.get("least"), metadata.get("most"), metadata.get("choices")
    if least is not None and value < least:
        raise _mismatch(where, f"at least {least:g}", repr(value))
    if most is not None and value > most:
        raise _mismatch(where, f"at most {most:g}", repr(value))
    if choices and value not in choices:
        raise _mismatch(where, " or ".join(choices), repr(value))
    return value


def _mismatch(where: str, expected: str, came: str) -> ConfigError:
    # A value that should not be long or secret, but might be: enough to recognise it by.
    return ConfigError(f"{where} is wrong", expected=expected, came=came[:80], do="mend it, or leave it out")
