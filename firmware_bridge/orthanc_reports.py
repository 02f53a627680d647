"""Reports of Orthanc's X-rays, back into their studies; they name the patient as Orthanc does. Then our copies go."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.beside import OURS, path_beside
from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.filing import DONE, REJECTED, places
from firmware_bridge.journal import Stored, Taken
from firmware_bridge.orthanc_client import Orthanc, OrthancRefusal
from firmware_bridge.orthanc_feed import FAILED, FETCHED, GONE, REFUSED, SEEN, STORED, Feed, Instance
from firmware_bridge.orthanc_settings import OrthancSettings
from firmware_bridge.parts import Context
from firmware_bridge.reported_xray import build_objects, read_xray

_LOG = logging.getLogger(__name__)
_MOST_A_ROUND = 64
_FILED_WITHIN_S = 30.0
_TAKEN_WITHIN_S = 120.0
# Page and other reports may want the X-ray a moment longer.
_COPY_KEPT_S = 60.0
_READERS = ("dicom", "fhir")


class Reports:
    """See the module.

    Args:
        context: see there.
        settings: what is stored, and whether copies are kept.
        orthanc: where to.
        feed: what became of each instance.
    """

    def __init__(self, context: Context, settings: OrthancSettings, orthanc: Orthanc, feed: Feed) -> None:
        self._context = context
        self._settings = settings
        self._orthanc = orthanc
        self._feed = feed

    def work(self, *, ended: Callable[[], bool]) -> None:
        """Store what can be stored now.

        Raises:
            ServerError: Orthanc cannot be used; nothing is lost.
            ResourceError: the disk is full or broken.
        """
        for instance in self._feed.due(FETCHED, limit=_MOST_A_ROUND):
            if ended():
                return
            try:
                self._report(instance)
            except OrthancRefusal as error:
                self._feed.failed(instance, error.came, passing=error.passing)
                if error.passing:
                    raise
        if not self._settings.keep:
            self._remove_copies()
        self._feed.forget_old()

    def _report(self, instance: Instance) -> None:
        assert instance.path is not None
        found = self._context.journal.outcome_of(instance.path, instance.sha256)
        taken, row = found or (None, None)
        if row is None:
            self._wait(instance, taken)
            return
        record = json.loads(row.record)
        if "refused" in record:
            self._feed.move(instance.id, REFUSED, why=record["refused"].get("reason") or record["refused"]["what"])
            return
        objects = self._build(instance, row, record)
        if objects is None:
            return
        # Stored into a study that was deleted meanwhile, they would be all that there is of it.
        if self._orthanc.size_bytes(instance.id) is None:
            self._feed.move(instance.id, GONE, why="deleted before its reports were stored")
            return
        for content in objects.values():
            self._orthanc.store(content)
        self._feed.move(instance.id, STORED)

    def _wait(self, instance: Instance, taken: Taken | None) -> None:
        """No result that may be reported: the file is on its way, or it went away and is fetched anew."""
        if taken is not None and taken.state == "done" and taken.result_id is None:
            self._feed.move(instance.id, FAILED, why="another agent on the same folder has scored it")
        elif (
            (taken is None or taken.state == "superseded")
            and _age_s(instance) > _TAKEN_WITHIN_S
            and not self._is_there(instance)
        ):
            self._feed.move(instance.id, SEEN, why="our copy went away")

    def _is_there(self, instance: Instance) -> bool:
        return any(os.path.lexists(place) for place in self._places(instance))

    def _places(self, instance: Instance) -> list[Path]:
        assert instance.path is not None
        return places(instance.path, self._context.watch, [DONE, REJECTED])

    def _build(self, instance: Instance, row: Stored, record: Mapping[str, Any]) -> dict[str, bytes] | None:
        """The objects; None where there are none (now, or at all: then that is noted)."""
        assert instance.path is not None
        found = read_xray(self._context, instance.path, record)
        if found is None:
            # It is filed away within seconds; after a restart as well.
            if min(_age_s(instance), time.time() - row.made_s) > _FILED_WITHIN_S:
                self._feed.move(instance.id, FAILED, why="our copy is gone")
                _LOG.warning("Orthanc: no report of instance %s: our copy of it is gone", instance.id[:8])
            return None
        path, data = found
        settings = self._settings
        try:
            return build_objects(
                self._context, path, data, record, report=settings.report, capture=settings.capture, patient=True
            )
        except CxrEdgeError as error:
            why = f"{error.what}: {error.came}"
        except Exception as error:  # a header that pydicom chokes on must not keep back the reports behind it
            why = type(error).__name__
        self._feed.move(instance.id, FAILED, why=why)
        _LOG.error("Orthanc: no report of instance %s: %s", instance.id[:8], why)
        return None

    # --- our copies

    def _remove_copies(self) -> None:
        for instance in self._feed.with_copy(before_s=time.time() - _COPY_KEPT_S, limit=_MOST_A_ROUND):
            assert instance.path is not None
            found = self._context.journal.outcome_of(instance.path, instance.sha256)
            if found is None or (found[0].state == "done" and not self._is_wanted(found[1])):
                self._remove(instance)

    def _is_wanted(self, row: Stored | None) -> bool:
        """Whether another way of reporting has not come to this result yet."""
        facts = self._context.health.facts()
        return row is not None and any(facts[name]["made_to"] < row.seq for name in _READERS if name in facts)

    def _remove(self, instance: Instance) -> None:
        try:
            for place in self._places(instance):
                for file in (place, *(path_beside(place, suffix) for suffix in OURS)):
                    file.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("Orthanc: our copy of instance %s cannot be removed: %s", instance.id[:8], error.strerror)
            return
        self._feed.removed(instance.id)


def _age_s(instance: Instance) -> float:
    return time.time() - instance.changed_s
