"""One precedence for every key: argument, environment, file, default; and a message for every slip."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from firmware_bridge.agent_settings import AgentSettings
from firmware_bridge.errors import ConfigError
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.retention_settings import RetentionSettings
from firmware_bridge.settings import SECTIONS, Settings, load_settings, section_kind


def load(folder: Path, text: str, **environment: str) -> Settings:
    file = folder / "agent.toml"
    file.write_text(text)
    return load_settings(file, environment=environment)


def test_argument_then_environment_then_file_then_default(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[intake]\nsettle_s = 1\ngrace_s = 2\npoll_s = 3\n")
    settings = load_settings(
        file,
        arguments={"intake": {"settle_s": 7.0, "grace_s": None}},
        environment={"CXR_EDGE_INTAKE_SETTLE_S": "5", "CXR_EDGE_INTAKE_GRACE_S": "6"},
    )
    intake = settings.section(IntakeSettings)
    assert (intake.settle_s, intake.grace_s, intake.poll_s) == (7, 6, 3)
    assert intake.rescan_s == IntakeSettings().rescan_s


def test_short_names_of_variables_and_empty_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, "", CXR_EDGE_WATCH="/srv/x", CXR_EDGE_STATE="", CXR_EDGE_AGENT_NAMES="yes")
    agent = settings.section(AgentSettings)
    assert (agent.watch, agent.state, agent.names) == (Path("/srv/x"), None, True)


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    agent = load(tmp_path, '[agent]\nwatch = "in"\nbundle = "/srv/b.cxr"\n').section(AgentSettings)
    assert (agent.watch, agent.bundle) == (tmp_path / "in", Path("/srv/b.cxr"))


def test_a_section_is_given_or_not(tmp_path: Path) -> None:
    assert load(tmp_path, "[mqtt]\n").given("mqtt")
    assert load(tmp_path, "", CXR_EDGE_MQTT="mqtt://x").given("mqtt")
    assert Settings(arguments={"mqtt": {"url": "mqtt://x"}}).given("mqtt")
    assert not Settings(arguments={"mqtt": {"url": None}}).given("mqtt")
    assert not load(tmp_path, "[agent]\n", CXR_EDGE_MQTT="").given("mqtt")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[agent]\nwach = 'x'", "did you mean watch"),
        ("[agnet]\nwatch = 'x'", "did you mean agent"),
        ("watch = 'x'", "outside of every section"),
        ("[agent]\nwatch = 7", "a path"),
        ("[agent]\nnames = 1", "true or false"),
        ("[agent]\nthreads = true", "a whole number"),
        ("[agent]\nthreads = 0", "at least 1"),
        ("[agent]\nthreads = 65", "at most 64"),
        ("[intake]\nsettle_s = nan", "finite"),
        ("[intake]\nsettle_s = 'long'", "a number"),
        ("[mqtt]\nurl = ['mqtt://me:hidden@host']", "a text\n  came:     a list"),
        ("[fhir]\nurl = {password = 'hidden'}", "a text\n  came:     a table"),
        ("[agent\n", "a TOML file"),
    ],
)
def test_a_slip_is_told_before_anything_starts(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(("value", "says"), [("nan", "finite"), ("soon", "a number"), ("-1", "at least 0")])
def test_a_slip_in_the_environment_names_the_variable(value: str, says: str) -> None:
    settings = load_settings(None, environment={"CXR_EDGE_INTAKE_SETTLE_S": value})
    with pytest.raises(ConfigError, match=says) as raised:
        settings.section(IntakeSettings)
    assert "CXR_EDGE_INTAKE_SETTLE_S" in raised.value.what


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml", environment={})


def test_the_file_is_read_anew(tmp_path: Path) -> None:
    settings = load(tmp_path, "[mqtt]\nurl = 'mqtt://a'")
    (tmp_path / "agent.toml").write_text("[mqtt]\nurl = 'mqtt://b'")
    assert settings.again().section(MqttSettings).url == "mqtt://b"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_has_defaults_and_a_help_for_each_key(name: str) -> None:
    kind = section_kind(name)
    assert name == kind.SECTION
    Settings().section(kind)
    assert all(one.metadata["help"] for one in kind.__dataclass_fields__.values() if one.metadata)


def test_the_page_of_the_folder_names_every_key_with_its_default(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "agent.md").read_text(encoding="utf-8")
    block = page.partition("```toml\n")[2].partition("```")[0]
    settings = load(tmp_path, block)
    for kind in (IntakeSettings, RetentionSettings):
        assert settings.section(kind) == kind()
        optional = {"poll_s"}  # no default that a file could say
        assert set(settings.tables[kind.SECTION]) | optional >= {one.name for one in fields(kind)}
    assert "# poll_s" in block
