"""The training configuration: what it takes, what it refuses, and who wins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.errors import ConfigError
from toolkit.cli import train_qat as cli
from toolkit.config import TrainConfig, read_config

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


@given(
    positive=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    name=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_ .-]{0,30}", fullmatch=True),
    rate=st.floats(1e-9, 1.0),
    seed=st.integers(0, 2**32 - 1),
    clahe=st.booleans(),
)
def test_toml_round_trip(
    tmp_path_factory: pytest.TempPathFactory, positive: str, name: str, rate: float, seed: int, clahe: bool
) -> None:
    config = TrainConfig(name=name, positive=positive, float_rate=rate, seed=seed, clahe=clahe)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert read_config(path, {}) == config


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 3", "unknown key 'epochs'"),
        ("float_epochs = 'three'", "'float_epochs' has the wrong type"),
        ("float_epochs = true", "'float_epochs' has the wrong type"),
        ("clahe = 1", "'clahe' has the wrong type"),
        ("float_epochs = 3.0", "'float_epochs' has the wrong type"),
        ("sparsity = 0.99", "'sparsity' is out of range"),
        ("float_rate = nan", "'float_rate' is out of range"),
        ("float_rate = -0.1", "'float_rate' is out of range"),
        ("seed = -1", "'seed' is out of range"),
        ("augment_curve = -0.5", "'augment_curve' is out of range"),
        ("mixup = 0.6\ncutmix = 0.6", "and cutmix are too much"),
        ("lungs = false\naugment_outside = 0.5", "needs to know where the lungs are"),
        ("attention = 'some'", "'attention' has an unknown value"),
        ("augment = 'flip'", "'augment' has an unknown value"),
        ("backbone = 'resnet'", "unknown backbone 'resnet'"),
        ("size_px = 100", "input size does not fit"),
        ("name = '../elsewhere'", "'name' cannot name a folder"),
        ("name = ''", "'name' cannot name a folder"),
        ("weights = ''", "'weights' cannot be used"),
        ("name = ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_config(tmp_path / "none.toml", {})


def test_whole_numbers_pass_for_floats(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("warmup_epochs = 2", encoding="utf-8")
    assert read_config(path, {}).warmup_epochs == 2.0


def test_each_field_is_an_option_and_the_reverse() -> None:
    options = {p.name: p for p in cli.command.params if isinstance(p, click.Option)}
    assert set(options) - {"config", "out"} == set(FIELDS)
    for name, field in FIELDS.items():
        assert options[name].help, name
        assert "--" + name.replace("_", "-") in options[name].opts
        if isinstance(field.default, bool):
            assert "--no-" + name.replace("_", "-") in options[name].secondary_opts


@pytest.fixture
def started_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command line up to the point where training would start and returns the configuration."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> TrainConfig:
        seen: list[TrainConfig] = []

        def stop(_: Path, config: TrainConfig, **__: object) -> None:
            seen.append(config)
            raise click.Abort

        monkeypatch.setattr("toolkit.train_qat.train_qat", stop)
        CliRunner().invoke(cli.command, [str(tmp_path), *arguments], env=env)
        assert seen
        return seen[0]

    return run


def test_argument_before_environment_before_file_before_default(started_with: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("seed = 3\nqat_epochs = 3\nbatch_size = 3\nclahe = false\n", encoding="utf-8")
    env = {"CXR_EDGE_TRAIN_SEED": "2", "CXR_EDGE_TRAIN_QAT_EPOCHS": "2", "CXR_EDGE_TRAIN_CLASS_WEIGHTS": "0"}
    config = started_with("--config", str(file), "--seed", "1", env=env)
    assert (config.seed, config.qat_epochs, config.batch_size) == (1, 2, 3)
    assert (config.clahe, config.class_weights) == (False, False)
    assert config.float_epochs == FIELDS["float_epochs"].default
    assert started_with("--config", str(file), "--clahe").clahe is True
