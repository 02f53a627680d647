"""`cxr-edge recalibrate`: a bundle fitted to a site's own labelled X-rays, without training.

Temperature, bias and threshold are fitted anew; the model files stay byte for byte what they were. The bias learns the
share of positives among the X-rays given, so these should come as the site's patients come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.bootstrap import Interval, patient_bootstrap
from calibration.calibrate import CalibrationFit, bins_for, calibrate
from calibration.golden import MIN_TOLERANCE
from calibration.held_out import held_out_probabilities
from calibration.metrics import auroc, ece, ece_by_chance
from calibration.temperature import calibrated
from firmware_bridge.bundle import open_bundle
from firmware_bridge.decode import decode
from firmware_bridge.errors import AuditError
from firmware_bridge.manifest import TFLITE, CalibrationEntry, GoldenEntry, Manifest, ModelEntry
from toolkit.bundle import made_now, write_bundle
from toolkit.data.index import Index
from toolkit.extras import require_modules
from toolkit.model_card import CARD, outdated_card
from toolkit.model_files import from_bundle
from toolkit.score_index import NamedIndex, score_index
from toolkit.summary import ScoredSet
from toolkit.under_test import ModelUnderTest


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What changed for one model.

    Attributes:
        model: its file in the bundle.
        fit: the new calibration.
        ece_before: of the bundle's own calibration on these X-rays.
        ece_after: of the new way of calibrating, each patient's probability from a fit to other patients.
        ece_by_chance: what exactly true probabilities would show on so few X-rays.
        threshold_before: of the bundle.
        auroc: on these X-rays, with its interval over patients; no calibration changes it.
    """

    model: str
    fit: CalibrationFit
    ece_before: float
    ece_after: float
    ece_by_chance: float
    threshold_before: float
    auroc: Interval

    @property
    def tells_nothing(self) -> bool:
        """Whether a coin would do as well, as far as so few patients can show."""
        return not self.auroc.low > 0.5

    def to_json(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {
            "ece_before": self.ece_before,
            "ece_after_held_out": self.ece_after,
            "ece_by_chance": self.ece_by_chance,
            "threshold_before": self.threshold_before,
            **self.fit.to_json(),
            "auroc_interval": self.auroc.to_json(),
        }


def recalibrate(
    bundle: Path,
    xrays: NamedIndex,
    *,
    out: Path,
    sensitivity: float = 0.95,
    with_bias: bool = True,
    conservative: bool = False,
    name: str = "",
    seed: int = 0,
    workers: int = 2,
) -> list[Recalibrated]:
    """Write `out`: `bundle` with temperature, bias and threshold of each model fitted to `xrays`. It is unsigned.

    Args:
        bundle: the bundle to start from.
        xrays: labelled X-rays of the site, not trained on.
        out: the bundle to write.
        sensitivity: that the threshold is chosen for.
        with_bias: fit a bias, which also learns the share of positives; without, temperature alone.
        conservative: take the lower end of the threshold's interval.
        name: of the new bundle; "": the old one's with the index's name behind it.
        seed: of the bootstrap and the folds.
        workers: threads that score.

    Raises:
        AuditError: the bundle's model was trained on some of these X-rays.
        BundleError: the bundle is damaged.
        MissingExtraError: it holds ONNX, and what makes that anew is not installed.
        InputError: the X-rays do not show both classes, or too few patients.
    """
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        plain = [entry for entry in manifest.models if entry.kind == TFLITE]
        other_forms = {entry.file for entry in manifest.models if entry.kind != TFLITE}
        files: dict[str, bytes | Path] = {f: opened.read(f) for f in manifest.files if f not in other_forms}
    _refuse_learned(manifest, xrays)
    if other_forms:
        require_modules("tf2onnx", "onnx", "onnxruntime", extra="onnx")
    models = from_bundle(bundle)
    assert models[0].labels is not None  # every bundle names its labels
    scored = score_index(xrays, models, labels=models[0].labels, workers=workers)
    wishes = _Wishes(sensitivity=sensitivity, with_bias=with_bias, conservative=conservative, seed=seed)
    done = [_fitted(entry, model, scored, wishes) for entry, model in zip(plain, models, strict=True)]
    entries = [_entry(entry, one) for entry, one in zip(plain, done, strict=True)]
    changed = replace(
        manifest,
        name=name or f"{manifest.name} {xrays.name}",
        created=made_now(),
        models=tuple(entries),
        golden=tuple(_golden(manifest, entries, files, models)),
        data={**manifest.data, "recalibrated_on": _site(scored)},
    )
    _write(out, changed, files, fitted_to=xrays.name)
    if other_forms:
        from toolkit.bundle_onnx import add_onnx

        add_onnx(out)
    return done


def _refuse_learned(manifest: Manifest, xrays: NamedIndex) -> None:
    """A model is surer of what it was trained on than it ever will be of others: no threshold can come from there."""
    learned = sum(row.split == "train" for row in xrays.index)
    if not learned or not xrays.path.is_file():
        return
    whole = Index.read(xrays.path)
    facts = {"index_sha256": whole.fingerprint(), "train": len(whole.select(split="train"))}
    if facts == {key: manifest.data.get(key) for key in facts}:
        raise AuditError(
            f"bundle '{manifest.name}' was trained on X-rays of '{xrays.name}'",
            expected="X-rays of patients that it never saw",
            came=f"{learned} of the training split of the index that it was made from",
            do="give X-rays of your site; of that index, only its test split is left (NAME=PATH:test)",
        )


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What the fit is for; see `recalibrate`."""

    sensitivity: float
    with_bias: bool
    conservative: bool
    seed: int


def _fitted(entry: ModelEntry, model: ModelUnderTest, scored: ScoredSet, wishes: _Wishes) -> Recalibrated:
    logits, positive, patients = scored.logits[model.name], scored.positive, scored.patients
    fit = calibrate(
        logits,
        positive,
        patients=patients,
        sensitivity=wishes.sensitivity,
        with_bias=wishes.with_bias,
        conservative=wishes.conservative,
        seed=wishes.seed,
    )
    bins = bins_for(positive.size)
    held_out = held_out_probabilities(logits, positive, patients=patients, with_bias=wishes.with_bias, seed=wishes.seed)
    return Recalibrated(
        model=entry.file,
        fit=fit,
        ece_before=ece(positive, scored.probabilities[model.name], bins=bins),
        ece_after=ece(positive, held_out, bins=bins),
        ece_by_chance=ece_by_chance(held_out, bins=bins, seed=wishes.seed),
        threshold_before=entry.calibration.threshold,
        auroc=patient_bootstrap(auroc, positive, logits, patients, seed=wishes.seed),
    )


def _entry(entry: ModelEntry, one: Recalibrated) -> ModelEntry:
    low, high = one.fit.choice.interval.low, one.fit.choice.interval.high
    calibration = CalibrationEntry(
        temperature=one.fit.temperature,
        bias=one.fit.bias,
        threshold=one.fit.choice.threshold,
        wished_sensitivity=one.fit.choice.wished_sensitivity,
        threshold_interval=(low, high) if np.isfinite([low, high]).all() else None,
    )
    return replace(entry, calibration=calibration, metrics={**entry.metrics, "recalibrated": one.to_json()})


def _site(scored: ScoredSet) -> dict[str, Any]:
    """What the manifest says about the X-rays of the site."""
    return {
        "index_sha256": scored.fingerprint,
        "images": int(scored.positive.size),
        "positives": int(scored.positive.sum()),
        "patients": int(np.unique(scored.patients).size),
    }


def _write(out: Path, changed: Manifest, files: dict[str, bytes | Path], *, fitted_to: str) -> None:
    card = files.get(CARD)
    if isinstance(card, bytes):
        files = {**files, CARD: outdated_card(card.decode(), name=changed.name, sets=fitted_to).encode()}
    write_bundle(out, changed, files)


def _golden(
    manifest: Manifest, entries: list[ModelEntry], files: dict[str, bytes | Path], models: list[ModelUnderTest]
) -> list[GoldenEntry]:
    """The golden cases with what the new calibration makes of them.

    What a device may differ by was measured under the old temperature; a lower one enlarges it as much.
    """
    cases: list[GoldenEntry] = []
    before = {entry.file: entry.calibration.temperature for entry in manifest.models}
    for entry, model in zip(entries, models, strict=True):
        opened = model.open()
        enlarged = max(1.0, before[entry.file] / entry.calibration.temperature)
        old = [case for case in manifest.golden if case.model == entry.file]
        for case in old:
            image = files[case.file]
            assert isinstance(image, bytes)
            logit = opened.logit(decode(image, min_side_px=model.preprocessing.decode_min_side_px))
            fitted = entry.calibration
            probability = float(calibrated(np.array([logit]), temperature=fitted.temperature, bias=fitted.bias)[0])
            cases.append(
                replace(case, probability=probability, tolerance=max(case.tolerance * enlarged, MIN_TOLERANCE))
            )
    return cases
