"""docs/training.md: its TOML files are read. (Its commands: tests/docs.)"""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.ablate import read_ablation
from toolkit.config import read_config
from toolkit.deployable import why_not_deployable

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
TABLES = dict(re.findall(r"```toml\n# (\S+)\n(.*?)```", PAGE, re.S))


def test_the_configuration_is_read_and_deployable(tmp_path: Path) -> None:
    path = tmp_path / "outside.toml"
    path.write_text(TABLES["outside.toml"], encoding="utf-8")
    config = read_config(path, {})
    assert config.augment == "heavy"
    assert not why_not_deployable(config)


def test_the_plan_is_read(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "nih.csv").write_text((samples / "index.csv").read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "plan.toml"
    path.write_text(TABLES["plan.toml"], encoding="utf-8")
    assert list(read_ablation(path).variants) == ["base", "heavy", "mixup", "averaged"]
