"""Patients on both sides of a split, under each way to tell patients apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from toolkit.data.index import SPLITS, Index, Xray
from toolkit.data.readers import kermany_patient_ids


@dataclass(frozen=True, slots=True)
class Grouping:
    """One way to say whose X-ray it is.

    Attributes:
        name: short.
        decides: whether shared patients under it make the split leak.
        note: what the reader must know about it; may be empty.
        patient_of: X-ray to patient, or None where it does not apply.
    """

    name: str
    decides: bool
    note: str
    patient_of: Callable[[Xray], str | None]


@dataclass(frozen=True, slots=True)
class PatientOverlap:
    """Patients that two splits share, under one grouping.

    Attributes:
        grouping: its name.
        decides: whether it makes the split leak.
        note: of the grouping.
        splits: the two.
        patients: those shared, sorted.
        images: by split and label, (X-rays of shared patients, all X-rays).
    """

    grouping: str
    decides: bool
    note: str
    splits: tuple[str, str]
    patients: tuple[str, ...]
    images: dict[str, dict[str, tuple[int, int]]]

    def in_words(self) -> str:
        """The X-rays of shared patients, as "train: 457 of 3875 pneumonia; test: 320 of 390 pneumonia"."""
        return "; ".join(
            f"{split}: {hit} of {n} {label}"
            for split, labels in self.images.items()
            for label, (hit, n) in labels.items()
            if hit
        )


def patient_overlaps(index: Index) -> tuple[PatientOverlap, ...]:
    """What each pair of splits shares, also where that is nothing, under the index's ids and those of the names."""
    present = [split for split in SPLITS if any(row.split == split for row in index)]
    return tuple(
        _overlap(index, grouping, (a, b)) for grouping in _groupings(index) for a, b in combinations(present, 2)
    )


def _groupings(index: Index) -> list[Grouping]:
    groupings = [Grouping("patient id of the index", True, "", lambda row: row.patient_id)]
    named = [(row, ids) for row in index if (ids := kermany_patient_ids(row.path.stem))]
    if any(safe != typed for _, (safe, typed) in named):
        if any(row.patient_id != safe for row, (safe, _) in named):
            note = "The index tells more patients apart than the file names safely do."
            groupings.append(Grouping("number in the file name", False, note, lambda row: _by_name(row, 0)))
        note = (
            "personN is numbered separately for bacteria and virus, so the same number with another type need not be "
            "the same child; nothing proves that it is another one."
        )
        groupings.append(Grouping("number and type in the file name", False, note, lambda row: _by_name(row, 1)))
    return groupings


def _by_name(row: Xray, which: int) -> str | None:
    ids = kermany_patient_ids(row.path.stem)
    return ids[which] if ids else None


def _overlap(index: Index, grouping: Grouping, splits: tuple[str, str]) -> PatientOverlap:
    of_split: dict[str, list[tuple[Xray, str]]] = {split: [] for split in splits}
    for row in index:
        patient = grouping.patient_of(row)
        if row.split in of_split and patient is not None:
            of_split[row.split].append((row, patient))
    a, b = ({patient for _, patient in of_split[split]} for split in splits)
    shared = a & b
    images = {}
    for split in splits:
        every = Counter(row.label for row, _ in of_split[split])
        hit = Counter(row.label for row, patient in of_split[split] if patient in shared)
        images[split] = {label: (hit[label], n) for label, n in sorted(every.items())}
    return PatientOverlap(grouping.name, grouping.decides, grouping.note, splits, tuple(sorted(shared)), images)
