"""`cxr-edge crossval`: train on each data set, test on all; rows trained on, columns tested on, by the int8 file.

Every cell of a column is scored on the same X-rays, the test split of that set, so that a column can be read downwards.
What a model does at home and abroad stands side by side (Zech 2018 showed why that is the question).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firmware_bridge.errors import AuditError, ConfigError
from firmware_bridge.result import NOTICE, utc_now
from toolkit.config import TrainConfig
from toolkit.data.audit import audit
from toolkit.data.index import SEEN_SPLITS, Index, Xray
from toolkit.evaluate import evaluate
from toolkit.files import write_atomically
from toolkit.model_files import from_run
from toolkit.score_index import NamedIndex
from toolkit.summary import INSIDE, Json, Options
from toolkit.summary_text import number, seen_warnings, with_interval
from toolkit.tf import forget_graphs
from toolkit.train_qat import prepare_data, train_qat

Say = Callable[[str], None]
KINDS = ("single", "leave-one-out", "all")
JSON_NAME, TEXT_NAME = "crossval.json", "crossval.md"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and tested.

    Attributes:
        sets: name to index; two or more.
        kinds: which rows: "single" sets, all but one ("leave-one-out"), "all" together.
        everything: test sets that a row was not trained on with all their X-rays instead of their test split.
    """

    sets: Mapping[str, Index]
    kinds: Sequence[str] = ("single",)
    everything: bool = False

    def rows(self) -> dict[str, tuple[str, ...]]:
        """Name of each row to the sets that it is trained on; no combination twice."""
        names = tuple(self.sets)
        wanted: list[tuple[str, ...]] = []
        if "single" in self.kinds:
            wanted += [(name,) for name in names]
        if "leave-one-out" in self.kinds:
            wanted += [tuple(other for other in names if other != name) for name in names]
        if "all" in self.kinds:
            wanted.append(names)
        return {"+".join(row): row for row in dict.fromkeys(wanted)}


def crossval(plan: Plan, config: TrainConfig, *, out: Path, options: Options, say: Say) -> Json:
    """Train every row, test it on every set; write `crossval.json` and `crossval.md`.

    Started again, it goes on where it was cut off. Runs lie in `out/runs`, the divided sets in `out/sets`.

    Returns:
        What `crossval.json` holds.

    Raises:
        AuditError: the splits of a set or of sets together leak, or a row would be tested on pictures that it learns
            from; not with `config.allow_leaks`.
        ConfigError: fewer than two sets, or a name that cannot be one.
    """
    _check(plan)
    divided = {name: _divided(name, index, config, out=out, say=say) for name, index in plan.sets.items()}
    if not config.allow_leaks:
        _refuse_shared_pictures(plan, divided)
    rows: list[Json] = []
    for row, trained_on in plan.rows().items():
        say(f"row {row}")
        merged = Index(tuple(xray for name in trained_on for xray in divided[name]))
        source = out / "sets" / f"{row}.csv"
        merged.write(source)
        finished = train_qat(source, replace(config, name=row.replace("+", " and ")), out=out / "runs", say=say)
        rows.append(_tested(row, trained_on, divided, plan, run=finished.folder, options=options))
        forget_graphs()
        # After each row: hours of training are never lost to a later one that fails.
        said = _written(rows, plan, config, out)
    return said


def _check(plan: Plan) -> None:
    if len(plan.sets) < 2:
        raise ConfigError(
            "there is nothing to cross",
            expected="two or more sets",
            came=", ".join(plan.sets) or "none",
            do="write for example --set kermany=kermany.csv --set nih=nih.csv",
        )
    wrong = [name for name in plan.sets if "+" in name or name.startswith(INSIDE)]
    if wrong or not plan.rows():
        raise ConfigError(
            "the sets or rows cannot be named so" if wrong else "no row is asked for",
            expected=f"names without '+' that do not begin with '{INSIDE}'" if wrong else " or ".join(KINDS),
            came=", ".join(wrong) or ", ".join(plan.kinds),
            do="choose another name" if wrong else "name one with --rows",
        )


def _divided(name: str, index: Index, config: TrainConfig, *, out: Path, say: Say) -> Index:
    """The set with splits, and its rows marked as its own; the same at every start."""
    marked = index.with_rows(replace(row, source=name) for row in index)
    divided, _ = prepare_data(marked, config, folder=out / "sets" / name, say=lambda line: say(f"{name}: {line}"))
    if not len(divided.select(split="test")):
        raise ConfigError(
            f"'{name}' has no test split",
            expected="X-rays with split = test, or a test share above 0",
            came=f"test_share {config.test_share:g}",
            do="raise test_share, or divide the set with: cxr-edge data split",
        )
    divided.write(out / "sets" / name / "index.csv")
    return divided


def _refuse_shared_pictures(plan: Plan, divided: Mapping[str, Index]) -> None:
    """Sets can hold each other's pictures, as RSNA's are NIH's: a set that others learn from is not outside then.

    Patients are not compared: two sets may well number theirs alike.
    """
    same = audit(Index(tuple(xray for index in divided.values() for xray in index))).same_pictures()
    for row, trained_on in plan.rows().items():

        def learned(xray: Xray, trained_on: Sequence[str] = trained_on) -> bool:
            return xray.source in trained_on and xray.split in SEEN_SPLITS

        def tested(xray: Xray, trained_on: Sequence[str] = trained_on) -> bool:
            return xray.source not in trained_on and (plan.everything or xray.split == "test")

        shared = [group for group in same if any(map(learned, group)) and any(map(tested, group))]
        if shared:
            names = sorted({xray.source for group in shared for xray in group})
            raise AuditError(
                f"the row '{row}' would be tested on pictures that it learns from",
                expected="no picture in two sets",
                came=f"{len(shared)} pictures that are in {' and '.join(names)}, such as {shared[0][0].path.name}",
                do="take them out of one of the sets, or accept it with allow_leaks = true",
            )


def _tested(
    row: str, trained_on: Sequence[str], divided: Mapping[str, Index], plan: Plan, *, run: Path, options: Options
) -> Json:
    deployed = [model for model in from_run(run) if model.precision == "int8"]
    named = []
    for name, index in divided.items():
        seen = name in trained_on
        whole = plan.everything and not seen
        rows = index if whole else index.select(split="test")
        place = run.parent.parent / "sets" / name / "index.csv"
        named.append(NamedIndex(f"{INSIDE}-{name}" if seen else name, place, "" if whole else "test", rows))
    evaluation = evaluate(deployed, named, out=run / "crossval", options=options)
    model = evaluation["models"][0]["name"]
    cells = {
        one["name"].removeprefix(f"{INSIDE}-"): {
            "role": one["role"],
            "images": one["images"],
            "auroc": one["results"][model]["metrics"].get("auroc"),
            "ece": one["results"][model]["metrics"].get("ece"),
        }
        for one in evaluation["sets"]
    }
    gaps = [{k: gap[k] for k in ("inside", "outside", "difference")} for gap in evaluation["gaps"]]
    warnings = seen_warnings(evaluation)
    return {
        "row": row,
        "trained_on": list(trained_on),
        "cells": cells,
        "gaps": gaps,
        "warnings": warnings,
        "run": run.name,
    }


def _written(rows: list[Json], plan: Plan, config: TrainConfig, out: Path) -> Json:
    said: Json = {
        "schema": 1,
        "kind": "cxr-edge-crossval",
        "notice": NOTICE,
        "created": utc_now(),
        "sets": {name: {"images": len(index), "fingerprint": index.fingerprint()} for name, index in plan.sets.items()},
        "everything_outside": plan.everything,
        "config": config.to_toml(),
        "rows": rows,
    }
    write_atomically(out / JSON_NAME, json.dumps(said, indent=1, allow_nan=False) + "\n")
    write_atomically(out / TEXT_NAME, matrix(said) + "\n")
    return said


def matrix(said: Json) -> str:
    """The matrix as Markdown: AUROC of the int8 file with its 95% interval; bold where the set was trained on."""
    names = list(said["sets"])
    lines = ["| trained on \\ tested on | " + " | ".join(names) + " | inside minus outside |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for row in said["rows"]:
        cells = [_cell(row["cells"].get(name)) for name in names]
        lines.append(f"| {row['row']} | " + " | ".join(cells) + f" | {_gap(row['gaps'])} |")
    warnings = dict.fromkeys(warning for row in said["rows"] for warning in row.get("warnings", ()))
    return "\n\n".join(["\n".join(lines), *warnings])


def _cell(cell: Any) -> str:
    if not cell or not cell["auroc"]:
        return "-"
    text = with_interval(cell["auroc"])
    return f"**{text}**" if cell["role"] == "inside" else text


def _gap(gaps: Sequence[Json]) -> str:
    """The widest gap, with its interval: the one to worry about."""
    widest = max(gaps, key=lambda gap: float(gap["difference"]["value"]), default=None)
    if widest is None:
        return "-"
    return f"{with_interval(widest['difference'], signed=True)} ({widest['outside']})"


def headline(said: Json) -> str:
    """One line: the best and the worst cell outside."""
    outside = [
        (cell["auroc"]["value"], row["row"], name)
        for row in said["rows"]
        for name, cell in row["cells"].items()
        if cell["role"] == "outside" and cell["auroc"]
    ]
    if not outside:
        return "No row was tested outside what it was trained on."
    (low, *worst), (high, *best) = min(outside), max(outside)
    return f"Outside: {number(low)} ({' on '.join(worst)}) to {number(high)} ({' on '.join(best)})."
