"""The DICOM network as a part of the agent: receives X-rays, sends reports."""

from __future__ import annotations

import threading
from typing import Protocol

from firmware_bridge.dicom_settings import DicomSettings
from firmware_bridge.errors import ConfigError, MissingExtraError
from firmware_bridge.parts import Context


class _Worker(Protocol):
    def run(self) -> None: ...

    def stop(self) -> None: ...


def make_part(context: Context) -> DicomPart | None:
    """The part, if the section [dicom] asks for anything.

    Raises:
        ConfigError: see `Receiver` and `Reporter`.
        MissingExtraError: without pynetdicom.
    """
    settings = context.settings.section(DicomSettings)
    workers: list[_Worker] = []
    if settings.report or settings.capture:
        if not settings.beside and not settings.send_to:
            raise ConfigError(
                "[dicom] asks for reports that go nowhere",
                expected="beside = true or send_to = 'TITLE@HOST:PORT'",
                came="neither",
                do="set one of them, or take out report and capture",
            )
        if settings.send_to:
            _require_pynetdicom()
        from firmware_bridge.dicom_reporter import Reporter

        workers.append(Reporter(context, settings))
    if settings.port:
        _require_pynetdicom()
        from firmware_bridge.dicom_receiver import Receiver

        workers.append(Receiver(context, settings))
    return DicomPart(workers) if workers else None


def _require_pynetdicom() -> None:
    try:
        import pynetdicom  # noqa: F401 - is it there?
    except ImportError as error:
        raise MissingExtraError.for_module("pynetdicom", "dicom-net") from error


class DicomPart:
    """Runs its workers, each in a thread; when one fails, the others are stopped and its error is raised."""

    name = "dicom"

    def __init__(self, workers: list[_Worker]) -> None:
        self._workers = workers
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Work until `stop`."""
        threads = [
            threading.Thread(target=self._guarded, args=(worker,), name=f"dicom-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Make `run` return soon."""
        for worker in self._workers:
            worker.stop()

    def _guarded(self, worker: _Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            self._failure = self._failure or error
            self.stop()
