"""docs/schemas: what the code says today, and no version that says something else than when it was published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from firmware_bridge.errors import ConfigError
from tests.conftest import REPOSITORY
from toolkit import schema as schemas
from toolkit.cli.main import run
from toolkit.schema import SCHEMAS, schema_of
from toolkit.schema.publish import LOCK, digest, file_of, publish, text_of

FOLDER = REPOSITORY / "docs" / "schemas"
LOCKED = json.loads((FOLDER / LOCK).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_stored_file_is_what_the_code_says(name: str) -> None:
    stored = (FOLDER / file_of(name, SCHEMAS[name].version)).read_text(encoding="utf-8")
    assert stored == text_of(schema_of(name)), "make schemas, and raise the version if it asks for that"


def test_every_published_version_is_there_and_says_what_it_said() -> None:
    assert sorted(path.name for path in FOLDER.glob("*-*.json")) == sorted(LOCKED)
    for file, said in LOCKED.items():
        assert digest(json.loads((FOLDER / file).read_text(encoding="utf-8"))) == said, f"{file} was changed"


@pytest.mark.parametrize("file", LOCKED)
def test_it_is_a_schema_with_an_id_of_its_own_and_no_host(file: str) -> None:
    schema = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    name, _, version = file.removesuffix(".json").rpartition("-")
    assert schema["$id"] == f"urn:cxr-edge:schema:{name}:{version}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_command_prints_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", name]) == 0
    assert capsys.readouterr().out == text_of(schema_of(name))


def test_a_change_without_a_new_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "schemas"
    shutil.copytree(FOLDER, folder)
    assert publish(folder) == []
    today = schema_of("result")

    def changed(**more: object) -> None:
        monkeypatch.setattr("toolkit.schema.result.build", lambda: {**_body(today), **more})

    changed(description="Said in other words.")
    assert publish(folder) == [file_of("result", SCHEMAS["result"].version)]
    changed(properties={**today["properties"], "title": {"type": "string"}})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="'result' changed"):
        publish(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setitem(schemas.SCHEMAS, "result", schemas.Entry("1.999", "", "toolkit.schema.result"))
    assert publish(folder) == ["result-1.999.json", LOCK]


def _body(schema: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in schema.items() if key not in ("$schema", "$id", "title")}
