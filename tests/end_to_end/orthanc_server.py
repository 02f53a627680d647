"""A real Orthanc on loopback, with a config and a storage of its own; its REST API as the tests use it."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import free_port, until


class OrthancServer:
    """Started and stopped at will. One user, `cxr`; the password may be changed while it is stopped."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
        if not found:
            pytest.skip("needs the DICOM server Orthanc: apt-get install orthanc")
        self._program = found
        self.folder = folder
        self.storage = folder / "storage"
        self.port = free_port()
        self.password = "secret"
        self.more: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = {
            "Name": "test",
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "HttpPort": self.port,
            "HttpBindAddresses": ["127.0.0.1"],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"cxr": self.password},
            "DicomServerEnabled": False,
            "StableAge": 1,
            "Plugins": [],
            **self.more,
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(config))
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, str(file)], stdout=log, stderr=log)
        until(self._answers, timeout_s=60, what=(self.folder / "orthanc.log").read_text())

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (OSError, http.client.HTTPException):
            return False

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(60)
            self._process = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        pair = base64.b64encode(f"cxr:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status == 404:
            return None
        assert answer.status == 200, (method, path, answer.status, content)
        return json.loads(content or b"null")

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def send(self, file: Path) -> Any:
        return self.ask("POST", "/instances", file.read_bytes())

    def delete_all(self) -> None:
        for study in self.get("/studies"):
            self.ask("DELETE", f"/studies/{study}")

    def studies(self) -> dict[str, list[str]]:
        """Study Instance UID -> the modalities of its instances, sorted."""
        found: dict[str, list[str]] = {}
        for one in self.get("/studies?expand"):
            uid = one["MainDicomTags"]["StudyInstanceUID"]
            found[uid] = []
            for series in one["Series"]:
                facts = self.get(f"/series/{series}")
                if facts is not None:
                    found[uid] += [facts["MainDicomTags"]["Modality"]] * len(facts["Instances"])
            found[uid].sort()
        return found

    def instances(self, modality: str) -> list[dict[str, Any]]:
        every = [self.get(f"/instances/{id}/simplified-tags") for id in self.get("/instances")]
        return [tags for tags in every if tags and tags["Modality"] == modality]
