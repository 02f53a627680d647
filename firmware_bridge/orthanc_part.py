"""The part that scores what Orthanc receives, and stores reports into the studies there.

It reads Orthanc's changes, fetches new chest radiographs into a subfolder of the watched folder, where they are taken
like any other file, and stores Structured Report and Secondary Capture when the result may be reported. Their UIDs come
from the result: stored twice, they are the same objects.
"""

from __future__ import annotations

import hashlib
import logging
import threading

from firmware_bridge.backoff import Backoff
from firmware_bridge.decode import DEFAULT_LIMITS
from firmware_bridge.dicom_folder import DicomFolder
from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.http_client import ServerError, TooLarge
from firmware_bridge.mqtt import warn_of_open_secrets
from firmware_bridge.orthanc_choice import unwanted
from firmware_bridge.orthanc_client import NEW_INSTANCE, Orthanc, OrthancRefusal
from firmware_bridge.orthanc_feed import FAILED, FETCHED, GONE, REFUSED, SEEN, STORED, Cursor, Feed, Instance
from firmware_bridge.orthanc_reports import Reports
from firmware_bridge.orthanc_settings import OrthancSettings
from firmware_bridge.parts import Context
from firmware_bridge.retention_settings import RetentionSettings

_LOG = logging.getLogger(__name__)
_PAGE = 100
_MOST_POLL_S = 86400.0
_PAGES_A_ROUND = 20
_MOST_FETCHED = 64  # on their way through the agent: the rest stays with Orthanc


def make_part(context: Context) -> OrthancPart | None:
    """The part, if there is an Orthanc.

    Raises:
        ConfigError: see `Orthanc` and `DicomFolder`.
        ResourceError: what is known of Orthanc cannot be read.
    """
    settings = context.settings.section(OrthancSettings)
    if not settings.url:
        return None
    if context.once:
        _LOG.warning("[orthanc] is left out: a single run scores what lies in the folder")
        return None
    return OrthancPart(context, settings)


class OrthancPart:
    """See the module."""

    name = "orthanc"

    def __init__(self, context: Context, settings: OrthancSettings) -> None:
        self._context = context
        self._settings = settings
        self._orthanc = Orthanc(settings)
        warn_of_open_secrets(settings.password_file)
        self._folder = DicomFolder(context.watch, settings.folder, section="orthanc")
        self._feed = Feed(context.state)
        if again := self._feed.offer_again():
            _LOG.info("Orthanc: %d X-rays that had failed are tried once more", again)
        self._reports = Reports(context, settings, self._orthanc, self._feed)
        self._stop = threading.Event()
        self._backoff = Backoff()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        self._context.changes.note()

    def run(self) -> None:
        """Follow Orthanc until `stop`."""
        seen = self._context.changes.count
        while not self._stop.is_set():
            wait_s = min(self._settings.poll_s, _MOST_POLL_S)
            try:
                if self._round():
                    wait_s = 0.0
                self._context.health.report(self.name, None)
                self._backoff.good()
            except (ServerError, ConfigError, ResourceError) as error:
                self._context.health.report(self.name, f"{error.what}: {error.came}")
                # A result that comes meanwhile makes nothing better.
                self._stop.wait(max(wait_s, self._backoff.failed()))
            self._tell()
            seen = self._context.changes.wait(seen, timeout_s=wait_s)
        self._orthanc.close()
        self._feed.close()

    def _round(self) -> bool:
        """Read, fetch, report; whether there is more to do at once."""
        more = self._follow()
        fetched = self._fetch()
        self._reports.work(ended=self._stop.is_set)
        return more or fetched

    def _tell(self) -> None:
        try:
            counts = self._feed.counts()
        except ResourceError:
            return  # told already
        facts = {"waiting": counts[SEEN] + counts[FETCHED], "parked": counts[FAILED], "sent": counts[STORED]}
        self._context.health.tell(self.name, {**facts, **counts})

    # --- the changes

    def _follow(self) -> bool:
        """Read on; False: everything was read."""
        for _ in range(_PAGES_A_ROUND):
            if self._stop.is_set():
                return True
            cursor = self._feed.cursor or self._first_look()
            # From the last change that is known: whether it still is that one tells whether this is that database.
            page = self._orthanc.changes(since=max(0, cursor.seq - 1), limit=_PAGE)
            same = [one for one in page.changes if one.seq == cursor.seq]
            if page.last < cursor.seq or (same and cursor.mark and same[0].mark != cursor.mark):
                _LOG.warning("Orthanc has another database: its changes are read from the beginning")
                self._feed.read(Cursor(0), [])
                continue
            fresh = [one for one in page.changes if one.seq > cursor.seq]
            if fresh:
                announced = [(one.id, one.mark) for one in fresh if one.kind == NEW_INSTANCE]
                self._feed.read(Cursor(fresh[-1].seq, fresh[-1].mark), announced)
            if page.done or not fresh:  # more, it says, and tells nothing of it
                return False
        return True

    def _first_look(self) -> Cursor:
        page = self._orthanc.last_change()
        cursor = Cursor(0)
        if not self._settings.backlog:
            cursor = Cursor(page.last, page.changes[-1].mark if page.changes else "")
            _LOG.info("Orthanc: what comes after change %d is scored", cursor.seq)
        self._feed.read(cursor, [])
        return cursor

    # --- the X-rays

    def _fetch(self) -> bool:
        """Fetch what is new, as much as there is room for; whether that was anything."""
        room, settled = _MOST_FETCHED - self._feed.counts()[FETCHED], 0
        for instance in self._feed.due(SEEN, limit=max(0, room)):
            if self._stop.is_set() or self._context.stopping.is_set():
                return False
            try:
                self._fetch_one(instance)
            except TooLarge:
                self._too_large(instance)
            except OrthancRefusal as error:
                self._feed.failed(instance, error.came, passing=error.passing)
                if error.passing:
                    raise
            else:
                settled += 1
        return settled > 0

    def _fetch_one(self, instance: Instance) -> None:
        size_bytes = self._orthanc.size_bytes(instance.id)
        tags = None if size_bytes is None else self._orthanc.tags(instance.id)
        if size_bytes is None or tags is None:
            self._feed.move(instance.id, GONE, why="deleted before it was fetched")
            return
        if unwanted(tags, self._settings):
            self._feed.forget(instance.id)
            return
        if size_bytes > DEFAULT_LIMITS.max_bytes:
            self._too_large(instance)
            return
        self._check_disk(size_bytes)
        data = self._orthanc.file(instance.id, most_bytes=DEFAULT_LIMITS.max_bytes)
        if data is None:
            self._feed.move(instance.id, GONE, why="deleted before it was fetched")
            return
        try:
            path = self._folder.put(instance.id, data)
        except OSError as error:
            raise _no_room(error.strerror or str(error)) from error
        self._feed.fetched(instance.id, path, hashlib.sha256(data).hexdigest())
        self._context.changes.note()

    def _too_large(self, instance: Instance) -> None:
        text = f"more than {DEFAULT_LIMITS.max_bytes} bytes"
        _LOG.warning("Orthanc: instance %s is not taken: %s", instance.id[:8], text)
        self._feed.move(instance.id, REFUSED, why=text)

    def _check_disk(self, more_bytes: int) -> None:
        usual_mb = self._context.settings.section(RetentionSettings).reserve_mb
        try:
            full = self._folder.is_full_with(more_bytes, reserve_mb=None, usual_mb=usual_mb)
        except OSError as error:
            raise _no_room(error.strerror or str(error)) from error
        if full:
            raise _no_room("the disk is nearly full")


def _no_room(came: str) -> ResourceError:
    return ResourceError(
        "X-rays of Orthanc cannot be written",
        expected="a watched folder that this user can write, with as much space as [retention] reserve_mb says",
        came=came,
        do="free some space or mend the folder; Orthanc keeps its X-rays meanwhile",
    )
