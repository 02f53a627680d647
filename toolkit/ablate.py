"""`cxr-edge ablate`: named variants of one configuration, trained and tested alike, in one table.

Methods that do not help are shown as not helping: the table has a row for each variant that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.errors import ConfigError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.result import NOTICE, utc_now
from toolkit.config import TrainConfig, config_of, read_toml
from toolkit.deployable import why_not_deployable
from toolkit.evaluate import evaluate, parse_named_index
from toolkit.files import write_atomically
from toolkit.model_files import from_run
from toolkit.score_index import NamedIndex
from toolkit.summary import INSIDE, Json, Options
from toolkit.summary_text import megabytes, number, seen_warnings, with_interval
from toolkit.tf import forget_graphs
from toolkit.train_float import train_float
from toolkit.train_qat import train_qat
from toolkit.under_test import ModelUnderTest

Say = Callable[[str], None]
JSON_NAME, TEXT_NAME = "ablation.json", "ablation.md"
_RUNS = 30  # timed inferences of each file


@dataclass(frozen=True, slots=True)
class Ablation:
    """What is varied.

    Attributes:
        train: index or folder that every variant is trained on.
        outside: sets that none is trained on.
        base: what the variants share; its own row is called "base".
        variants: name to configuration.
    """

    train: Path
    outside: tuple[NamedIndex, ...]
    base: TrainConfig
    variants: Mapping[str, TrainConfig]


def read_ablation(path: Path) -> Ablation:
    """Read a plan: `train`, and the tables [outside], [base] and [variants.NAME] with keys of the configuration.

    Paths are relative to the plan's folder.

    Raises:
        ConfigError: it is no such TOML, has an unknown key, or a variant that equals the base.
    """
    plan = read_toml(path)
    unknown = set(plan) - {"train", "outside", "base", "variants"}
    tables = [plan.get(name, {}) for name in ("outside", "base", "variants")]
    tables += tables[2].values() if isinstance(tables[2], dict) else []
    places = [plan.get("train"), *(tables[0].values() if isinstance(tables[0], dict) else [])]
    sound = all(isinstance(table, dict) for table in tables) and all(isinstance(place, str) for place in places)
    if unknown or not sound:
        raise ConfigError(
            f"{path} is no plan of an ablation",
            expected="train = INDEX, and the tables [outside], [base] and [variants.NAME]",
            came=", ".join(map(str, unknown)) or f"values of another kind: {plan}"[:300],
            do="mend the file; docs/training.md has an example",
        )
    base = config_of(plan.get("base", {}), where=f"{path} [base]")
    variants = {"base": replace(base, name="base")}
    for name, changes in plan.get("variants", {}).items():
        variant = config_of({**plan.get("base", {}), **changes, "name": name}, where=f"{path} [variants.{name}]")
        if replace(variant, name=base.name) == base:
            raise ConfigError(
                f"the variant '{name}' is the base", expected="a value that differs", came=str(changes), do="change it"
            )
        variants[name] = variant
    folder = path.parent
    outside = tuple(parse_named_index(f"{name}={folder / place}") for name, place in plan.get("outside", {}).items())
    return Ablation(train=folder / plan["train"], outside=outside, base=base, variants=variants)


def ablate(ablation: Ablation, *, out: Path, options: Options, say: Say) -> Json:
    """Train and test every variant; write `ablation.json` and `ablation.md`. Started again, it goes on.

    Returns:
        What `ablation.json` holds.
    """
    rows: list[Json] = []
    inputs = _inputs(ablation, options)
    standing = _standing(out / JSON_NAME, base=ablation.base.to_toml(), inputs=inputs)
    for name, config in ablation.variants.items():
        if standing.get(name, {}).get("changes") == _changes(config, ablation.base):
            rows.append(standing[name])
            continue
        reason = why_not_deployable(config)
        say(f"variant {name}" + (f", not for a device: {reason}" if reason else ""))
        if reason:
            run = train_float(ablation.train, config, out=out, say=say)
        else:
            run = train_qat(ablation.train, config, out=out, say=say).folder
        rows.append(_row(name, config, ablation, run=run, options=options))
        _write(out, _said(ablation, rows, inputs=inputs))
        forget_graphs()
    said = _said(ablation, rows, inputs=inputs)
    _write(out, said)
    return said


def _said(ablation: Ablation, rows: Sequence[Json], *, inputs: Json) -> Json:
    return {
        "schema": 1,
        "kind": "cxr-edge-ablation",
        "notice": NOTICE,
        "created": utc_now(),
        "command": " ".join(["cxr-edge", *sys.argv[1:]]),
        "base": ablation.base.to_toml(),
        "inputs": inputs,
        "outside": [one.name for one in ablation.outside],
        "rows": list(rows),
    }


def _write(out: Path, said: Json) -> None:
    write_atomically(out / JSON_NAME, json.dumps(said, indent=1, allow_nan=False) + "\n")
    write_atomically(out / TEXT_NAME, table(said) + "\n")


def _inputs(ablation: Ablation, options: Options) -> Json:
    """What a row depends on beside its variant."""
    train = str(ablation.train.resolve())
    if ablation.train.is_file():
        train = hashlib.sha256(ablation.train.read_bytes()).hexdigest()
    outside = {one.name: one.index.fingerprint() for one in ablation.outside}
    return {"train": train, "outside": outside, "resamples": options.resamples, "seed": options.seed}


def _standing(path: Path, *, base: str, inputs: Json) -> dict[str, Json]:
    """Rows of an earlier start, by name; none where the base, an index or the bootstrap has changed since."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        same = said["base"] == base and said.get("inputs") == inputs
        return {row["name"]: row for row in said["rows"]} if same else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read",
            expected="what an earlier start of this ablation wrote",
            came=f"{type(error).__name__}: {error}",
            do="remove it: its rows are tested again, and no finished training is repeated",
        ) from error


def _changes(config: TrainConfig, base: TrainConfig) -> Json:
    """Key to value of what a variant has differently."""
    values = {field.name: (getattr(config, field.name), getattr(base, field.name)) for field in fields(config)}
    return {key: own for key, (own, shared) in values.items() if key != "name" and own != shared}


def _row(name: str, config: TrainConfig, ablation: Ablation, *, run: Path, options: Options) -> Json:
    models = {model.precision: model for model in from_run(run) if model.precision in ("int8", "float")}
    inside = parse_named_index(f"{INSIDE}={run / 'index.csv'}:test")
    evaluation = evaluate(list(models.values()), [inside, *ablation.outside], out=run / "ablation", options=options)
    sets = {one["name"]: one["results"] for one in evaluation["sets"]}
    shown = "int8" if "int8" in models else "float"
    return {
        "name": name,
        "changes": _changes(config, ablation.base),
        "precision": shown,
        "not_deployable": why_not_deployable(config),
        "auroc": {key: found[shown]["metrics"].get("auroc") for key, found in sets.items()},
        "ece": {key: found[shown]["metrics"].get("ece") for key, found in sets.items()},
        "int8_loss": {key: _loss(found) for key, found in sets.items()},
        "latency_ms": latency_ms(models[shown]),
        "bytes": len(models[shown].content),
        "train_seconds": _train_seconds(run),
        "warnings": seen_warnings(evaluation),
    }


def _loss(found: Mapping[str, Any]) -> float | None:
    """AUROC that int8 with its zeros lost against float on one set; below 0 where it gained."""
    values = [found[model]["metrics"].get("auroc", {}).get("value") for model in ("float", "int8") if model in found]
    return None if len(values) < 2 or None in values else values[0] - values[1]


def _train_seconds(run: Path) -> float:
    history = json.loads((run / "history.json").read_text(encoding="utf-8"))
    return float(sum(epoch["seconds"] for phase in history["phases"] for epoch in phase["epochs"]))


def latency_ms(model: ModelUnderTest) -> float:
    """Median time of one inference with one thread, milliseconds, on this machine as it is now.

    Raises:
        ModelError: the runtime cannot load it, or fails.
    """
    interpreter = open_interpreter(model.content, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (interpreter.size_px, interpreter.size_px), np.uint8)
    took = []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        interpreter.run(pixels)
        took.append(time.perf_counter() - begun)
    return 1000 * float(np.median(took))


def table(said: Json) -> str:
    """The table as Markdown; figures of the int8 file, or of the float file of a variant that is not for a device."""
    sets = [INSIDE, *said["outside"]]
    columns = ["variant", *(f"AUROC {name}" for name in sets), *(f"ECE {name}" for name in sets)]
    columns += ["int8 loss inside", "latency ms", "size"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in said["rows"]:
        cells = [_named(row)]
        cells += [with_interval(row["auroc"].get(name)) for name in sets]
        cells += [number((row["ece"].get(name) or {}).get("value")) for name in sets]
        cells += [number(row["int8_loss"].get(INSIDE), digits=4, signed=True), f"{row['latency_ms']:.2f}"]
        lines.append("| " + " | ".join([*cells, megabytes(row["bytes"])]) + " |")
    warnings = dict.fromkeys(warning for row in said["rows"] for warning in row.get("warnings", ()))
    return "\n\n".join(["\n".join(lines), *warnings])


def _named(row: Json) -> str:
    changes: Sequence[str] = [f"{key} = {value}" for key, value in row["changes"].items()]
    if row["not_deployable"]:
        changes = [*changes, "float: refused for deployment"]
    return f"{row['name']} ({', '.join(changes)})" if changes else str(row["name"])
