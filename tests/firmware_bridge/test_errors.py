"""The tree of errors is drawn as it is."""

from __future__ import annotations

import importlib
import pkgutil
import re

import calibration
import firmware_bridge
import toolkit
from firmware_bridge import errors
from firmware_bridge.errors import CxrEdgeError

LINE = re.compile(r"^([│ ├└─]*)(\w+) +(?:exit (\d+))?", re.MULTILINE)


def kinds(base: type[CxrEdgeError]) -> set[type[CxrEdgeError]]:
    return {base}.union(*(kinds(kind) for kind in base.__subclasses__()))


def test_the_drawn_tree_has_every_error_at_its_place() -> None:
    for package in (firmware_bridge, calibration, toolkit):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("toolkit") and "__main__" not in module.name:
                importlib.import_module(module.name)
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for indent, name, _ in LINE.findall((errors.__doc__ or "").partition("\n\n")[2]):
        above = [one for one in above if one[0] < len(indent)]
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((len(indent), name))
    ours = {kind for kind in kinds(CxrEdgeError) if not kind.__module__.startswith("tests")}
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in ours}
