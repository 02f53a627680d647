"""Groups of patients that an evaluation tells apart: by age, sex and view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolkit.data.index import Xray

# From (years), to below (years), name. Children are several groups: hearts, ribs and diseases differ by age.
AGE_GROUPS = (
    (0, 6, "0 to 5"),
    (6, 18, "6 to 17"),
    (18, 40, "18 to 39"),
    (40, 65, "40 to 64"),
    (65, 200, "65 and over"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """One group of the rows of a set.

    Attributes:
        by: "age", "sex" or "view".
        name: of the group.
        members: (N,) bool.
    """

    by: str
    name: str
    members: npt.NDArray[np.bool_]


def age_group(row: Xray) -> str:
    """The age group that a row falls into; empty where the age is unknown or impossible."""
    if row.age is None:
        return ""
    return next((name for low, high, name in AGE_GROUPS if low <= row.age < high), "")


_GROUPINGS: Mapping[str, Callable[[Xray], str]] = {
    "age": age_group,
    "sex": lambda row: row.sex,
    "view": lambda row: row.view,
}


def strata_of(rows: Sequence[Xray]) -> dict[str, npt.NDArray[np.str_]]:
    """For "age", "sex", "view" the group of each of the N rows, (N,); empty where it is not known."""
    return {by: np.array([group_of(row) for row in rows], dtype=str) for by, group_of in _GROUPINGS.items()}


def groups_of(rows: Sequence[Xray]) -> Iterator[Group]:
    """The groups of `rows`, ages in their order; where all known rows are one group, it is the set again and left out.

    Rows of which it is not known belong to no group.
    """
    for by, names in strata_of(rows).items():
        present = [name for name in _ordered(names) if name]
        if len(present) > 1:
            yield from (Group(by, name, names == name) for name in present)


def _ordered(names: npt.NDArray[np.str_]) -> list[str]:
    ages = [name for _, _, name in AGE_GROUPS]
    return sorted(set(names.tolist()), key=lambda name: (ages.index(name) if name in ages else len(ages), name))
