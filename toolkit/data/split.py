"""Train, validation and test by patient: nobody, and no picture, is on two sides."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.index import Index, Xray, with_splits
from toolkit.data.readers import require_two_classes

log = logging.getLogger(__name__)


def patient_split(
    index: Index,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int,
    keep_test: bool = False,
    keep_together: Iterable[tuple[Path, Path]] = (),
) -> Index:
    """Give every X-ray a split, stratified by label; all X-rays of a patient get the same one.

    The same X-rays, shares and seed give the same splits, whatever the order of the rows.

    Args:
        index: splits already in it are replaced.
        validation: share of the X-rays of each label, 0 to below 1.
        test: likewise; with `keep_test` of no effect.
        seed: of the shuffle.
        keep_test: keep the rows that are "test" now as the whole test set. Other rows of their patients are left out of
            the result, because they can go nowhere.
        keep_together: pairs of paths that show the same picture (from the audit), so that their patients count as one.

    Raises:
        ConfigError: the shares leave nothing to train on.
        IndexFormatError: one class only, no test rows to keep, or too few patients for every label in every split.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ConfigError(
            "the shares of the split are wrong",
            expected="validation and test each 0 or more, together below 1",
            came=f"validation {validation:g}, test {test:g}",
            do="for example --validation 0.1 --test 0.1",
        )
    require_two_classes(index, "the index")
    families = _families(index, keep_together)
    if keep_test:
        families, kept = _without_test(families)
        index, test = index.with_rows(row for row in index if row.path in kept[0] | kept[1]), 0.0
        splits = dict.fromkeys(kept[0], "test")
    else:
        splits = {}
    wanted = {"test": test, "validation": validation}
    for label, stratum in _strata(families).items():
        random.Random(f"{seed} {label}").shuffle(stratum)
        splits.update(_dealt(stratum, wanted))
    divided = with_splits(index, splits)
    _require_labels(
        divided, ["train", *(split for split, share in wanted.items() if share or split in splits.values())]
    )
    return divided


def _families(index: Index, keep_together: Iterable[tuple[Path, Path]]) -> list[list[Xray]]:
    """Rows that must stay together, sorted by patient and path so that the row order of the index does not matter."""
    head: dict[str, str] = {row.patient_id: row.patient_id for row in index}

    def find(patient: str) -> str:
        while head[patient] != patient:
            head[patient] = head[head[patient]]
            patient = head[patient]
        return patient

    patient_of: dict[Path, str] = {}
    for row in index:
        # One file in two rows with two patients: both patients stay together.
        other = patient_of.setdefault(row.path, row.patient_id)
        head[find(other)] = find(row.patient_id)
    for a, b in keep_together:
        if a in patient_of and b in patient_of:
            head[find(patient_of[a])] = find(patient_of[b])
    families: dict[str, list[Xray]] = {}
    for row in sorted(index, key=lambda row: (row.patient_id, row.path.name, str(row.path), row.label)):
        families.setdefault(find(row.patient_id), []).append(row)
    return sorted(families.values(), key=lambda family: (family[0].patient_id, family[0].path.name))


def _without_test(families: list[list[Xray]]) -> tuple[list[list[Xray]], tuple[set[Path], set[Path]]]:
    """The families without test rows, and the paths of (the test, everything else that stays)."""
    free = [family for family in families if all(row.split != "test" for row in family)]
    bound = [row for family in families if any(row.split == "test" for row in family) for row in family]
    kept = {row.path for row in bound if row.split == "test"}
    if not kept:
        raise IndexFormatError(
            "there is no test set to keep",
            expected="rows whose split is test",
            came="none",
            do="leave --keep-test out, or index the folder that has a test split",
        )
    left_out = sum(row.path not in kept for row in bound)
    if left_out:
        log.warning("%d X-rays are left out: their patients or pictures are in the test set that is kept", left_out)
    return free, (kept, {row.path for family in free for row in family})


def _strata(families: list[list[Xray]]) -> dict[str, list[list[Xray]]]:
    strata: dict[str, list[list[Xray]]] = {}
    for family in families:
        strata.setdefault("|".join(sorted({row.label for row in family})), []).append(family)
    return strata


def _dealt(families: list[list[Xray]], wanted: dict[str, float]) -> dict[Path, str]:
    total = sum(map(len, families))
    room = {split: max(1.0, share * total) for split, share in wanted.items() if share}
    splits: dict[Path, str] = {}
    for family in families:
        # A family goes in while more than half of it fits, so that large ones do not always land in train.
        split = next((split for split, left in room.items() if len(family) / 2 <= left), "train")
        if split in room:
            room[split] -= len(family)
        splits.update((row.path, split) for row in family)
    return splits


def _require_labels(index: Index, splits: list[str]) -> None:
    counts = Counter((row.split, row.label) for row in index)
    empty = [f"{split} has no {label!r}" for split in splits for label in index.labels() if not counts[split, label]]
    if empty:
        raise IndexFormatError(
            "there are too few patients to split",
            expected=f"at least {len(splits)} patients of each label, one for each of {', '.join(splits)}",
            came=f"{', '.join(empty)}; {len(index)} X-rays of {len({row.patient_id for row in index})} patients",
            do="add patients, ask for fewer splits (--test 0), or check how the patient ids were read",
        )
