"""A FHIR Bundle held against the definitions of R4B by the library fhir.resources, where the extra 'fhir' is installed.

It knows every element, type and number of times, not all codes: a server may be stricter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from firmware_bridge.errors import CxrEdgeError


class InvalidFhir(CxrEdgeError):
    """What we made is no valid FHIR: a fault of ours."""


def can_validate() -> bool:
    """Whether the library is there. Looking does not load it: that takes half a second."""
    return importlib.util.find_spec("fhir") is not None and importlib.util.find_spec("fhir.resources") is not None


def preload() -> None:
    """Load the library, so that the first Bundle does not wait for it."""
    from fhir.resources.R4B import bundle, device, diagnosticreport, observation  # noqa: F401 - kept by the interpreter


def validate(bundle: Mapping[str, Any]) -> None:
    """Check a Bundle and each resource in it.

    Raises:
        ImportError: without the library; see `can_validate`.
        InvalidFhir: it is not valid.
    """
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    try:
        get_fhir_model_class("Bundle").model_validate(dict(bundle))
        for entry in bundle["entry"]:
            get_fhir_model_class(entry["resource"]["resourceType"]).model_validate(entry["resource"])
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # the input may name a patient
        raise InvalidFhir(
            "a result makes no valid FHIR",
            expected="a Bundle as R4B has it",
            came=f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200],
            do="tell whoever maintains cxr-edge; the result is in the journal",
        ) from error
