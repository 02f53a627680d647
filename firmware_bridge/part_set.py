"""All parts of an agent: made at the start, exchanged when the config file is read again, stopped at the end."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.parts import Context, Factory, Part, Supervisor
from firmware_bridge.settings import Settings

_LOG = logging.getLogger(__name__)
_EXCHANGE_S = 5.0


class PartSet:
    """The parts that run.

    Args:
        context: with the settings of the start.
        places: section -> "module:factory"; the module is imported only when the section was given.
        always: sections whose part needs no word in the settings.
        fatal: called with an error that ends the agent.

    Raises:
        ConfigError: a wrong setting.
        MissingExtraError: a part needs an extra that is not installed.
    """

    def __init__(
        self,
        context: Context,
        places: Mapping[str, str],
        *,
        always: tuple[str, ...],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._context = context
        self.places = places
        self._always = always
        self._fatal = fatal
        self._running: dict[str, Supervisor] = {}
        for section in places:
            self._add(section, self._make(section, context), context)

    def __contains__(self, section: str) -> bool:
        return section in self._running

    def start(self) -> None:
        """Start all."""
        for supervisor in self._running.values():
            supervisor.start()

    def stop(self, deadline_s: float) -> None:
        """Stop all, and wait for their ends until `deadline_s` of the monotonic clock."""
        for supervisor in self._running.values():
            supervisor.stop()
        for supervisor in self._running.values():
            supervisor.join(max(0.1, deadline_s - time.monotonic()))

    def exchange(self, settings: Settings, sections: list[str]) -> None:
        """Run the parts of these sections with new settings. All new ones are made before an old one is stopped.

        Raises:
            CxrEdgeError: one cannot be made; the old ones run on.
        """
        context = replace(self._context, settings=settings)
        made = {section: self._make(section, context) for section in self.places if section in sections}
        self._context = context
        for section, part in made.items():
            old = self._running.pop(section, None)
            if old is not None:
                old.stop()
                old.join(_EXCHANGE_S)
            self._add(section, part, context)
            if section in self._running:
                self._running[section].start()

    def _make(self, section: str, context: Context) -> Part | None:
        if section not in self._always and not context.settings.given(section):
            return None
        return self._factory(section)(context)

    def _factory(self, section: str) -> Factory:
        module, _, name = self.places[section].partition(":")
        factory: Factory = getattr(importlib.import_module(module), name)
        return factory

    def _add(self, section: str, part: Part | None, context: Context) -> None:
        if part is not None:
            self._running[section] = Supervisor(part, self._factory(section), context=context, fatal=self._fatal)


def reload(settings: Settings, parts: PartSet, *, live: Mapping[str, Callable[[Settings], None]]) -> Settings:
    """Read the config file again, and have what can change while the agent runs.

    Args:
        settings: those that hold.
        parts: whose section changed is exchanged.
        live: what else can change, by section: called with the new settings.

    Returns:
        The settings that hold from now on. Where the file is wrong, in whatever place, they are the old ones.
    """
    if settings.file is None:
        _LOG.warning("reload: there is no --config file to read again")
        return settings
    try:
        fresh = settings.again()
        changed = [
            name for name in {**settings.tables, **fresh.tables} if _table(settings, name) != _table(fresh, name)
        ]
        exchanged = [name for name in changed if name in parts.places]
        parts.exchange(fresh, exchanged)
        for name in changed:
            if name in live:
                live[name](fresh)
    except CxrEdgeError as error:
        told = (error.what, error.expected, error.came, error.do)
        _LOG.error("reload: the old settings stay: %s; expected: %s; came: %s; do: %s", *told)
        return settings
    later = [name for name in changed if name not in exchanged and name not in live]
    if later:
        _LOG.warning("reload: needs a restart of the agent to hold: [%s]", "], [".join(later))
    done = [name for name in changed if name not in later]
    _LOG.info("reload: %s", f"changed: [{'], ['.join(done)}]" if done else "nothing changed that can change now")
    return fresh


def _table(settings: Settings, name: str) -> object:
    return settings.tables.get(name)
