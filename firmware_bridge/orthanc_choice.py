"""Which of Orthanc's instances are chest radiographs that may be scored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from firmware_bridge.dicom_objects import MANUFACTURER
from firmware_bridge.orthanc_settings import OrthancSettings


def unwanted(tags: Mapping[str, Any], settings: OrthancSettings) -> str:
    """Why an instance is left alone; "" for one that is taken.

    What is not named (many machines name no body part and no view) does not keep an X-ray out: suitability judges it by
    its pixels.

    Args:
        tags: see `Orthanc.tags`.
        settings: what is taken.
    """
    if _text(tags, "Manufacturer") == MANUFACTURER.upper():
        return "made by cxr-edge"
    # PS3.3 C.7.3.1.1.1: exactly one code. Reports and captures have others than radiographs.
    if _text(tags, "Modality") not in _upper(settings.modalities):
        return "another modality"
    for keyword, taken in (("BodyPartExamined", settings.body_parts), ("ViewPosition", settings.views)):
        named = set(re.findall(r"[A-Z0-9]+", _text(tags, keyword)))
        if named and taken and not named & _upper(taken):
            return f"another {keyword}"
    return ""


def _text(tags: Mapping[str, Any], keyword: str) -> str:
    value = tags.get(keyword)
    return value.strip().upper() if isinstance(value, str) else ""


def _upper(values: Collection[str]) -> set[str]:
    return {value.strip().upper() for value in values}
