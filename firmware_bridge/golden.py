"""Golden X-rays: a device may use a bundle only if it reproduces there what the workstation saw."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from firmware_bridge.bundle import Bundle
from firmware_bridge.errors import BundleError
from firmware_bridge.manifest import ONNX_RUNTIME, TFLITE, TFLITE_RUNTIME


@dataclass(frozen=True, slots=True)
class GoldenOutcome:
    """One golden X-ray through one model, here."""

    file: str
    model: str
    expected: float
    came: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the probability is within the tolerance."""
        return abs(self.came - self.expected) <= self.tolerance


def run_golden(bundle: Bundle, *, threads: int = 1) -> list[GoldenOutcome]:
    """Score every golden X-ray of a bundle on this machine, through the whole path from file to probability.

    ONNX files are scored where ONNX Runtime is installed, and left out elsewhere.

    Raises:
        BundleError: a model or head cannot be read.
        ImageError: a golden X-ray cannot be decoded here.
        ModelError: a model does not run here.
    """
    outcomes = []
    for entry in bundle.manifest.models:
        golden = [case for case in bundle.manifest.golden if case.model == entry.file]
        plain = entry.kind == TFLITE
        if not golden or not (plain or find_spec(ONNX_RUNTIME)):
            continue
        scorer = bundle.scorer(entry.precision, threads=threads, runtime=TFLITE_RUNTIME if plain else ONNX_RUNTIME)
        for case in golden:
            came = scorer.score(bundle.read(case.file)).probability
            outcomes.append(GoldenOutcome(case.file, entry.file, case.probability, came, case.tolerance))
    return outcomes


def require_golden(bundle: Bundle, *, threads: int = 1) -> list[GoldenOutcome]:
    """The same, but a case that does not hold is an error.

    Raises:
        BundleError: see above; the rest as `run_golden`.
    """
    outcomes = run_golden(bundle, threads=threads)
    for outcome in outcomes:
        if not outcome.holds:
            raise BundleError(
                f"bundle '{bundle.manifest.name}' does not give its own results on this machine",
                expected=f"{outcome.expected:.4f} ± {outcome.tolerance:.4f} for {outcome.file} from {outcome.model}",
                came=f"{outcome.came:.4f}",
                do="do not use it here; run `cxr-edge doctor`, and report the processor and the runtime's version",
            )
    return outcomes
