"""The training configuration: one flat TOML table. Precedence: argument, then environment, then file, then default."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from firmware_bridge.errors import ConfigError
from toolkit.augmentation import AS_PRESET, LUNG_METHODS, METHODS, PRESETS
from toolkit.backbones.kinds import ATTENTIONS, require_backbone

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = TypeVar("Value")
# Of the box's sides, on every side. The network's masks end where lung is dense (consolidated bases, the heart's
# shadow): the margin brings that back in.
LUNG_MARGIN = 0.1


def _doc(default: Value, text: str) -> Value:
    # The help text of the command-line option lives beside the field, so the two cannot drift apart.
    value: Value = field(default=default, metadata={"help": text})
    return value


def _chance(what: str) -> float:
    return _doc(AS_PRESET, f"Probability, 0 to 1, of {what}; -1: as --augment has it.")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what `cxr-edge train-qat` produces. Each field is a TOML key and an option."""

    name: str = _doc("model", "Name of the run, of its folder and of the bundle.")
    positive: str = _doc("pneumonia", "Label that counts as positive; every other label is negative.")
    backbone: str = _doc(
        "efficientnet-b0", "efficientnet-b0, efficientnet-lite0 (made for integers), densenet121, or hybrid (both)."
    )
    attention: str = _doc("none", "Over the last feature map: none, cbam, or self.")
    message_token: bool = _doc(False, "A learned token that follows the teacher while the head follows the labels.")
    weights: str = _doc(
        "none", "Where training starts: none, imagenet, cxr-edge/kermany (ours), or a weights file of an earlier run."
    )
    size_px: int = _doc(224, "Side of the network's square input, a multiple of 32.")
    lungs: bool = _doc(True, "Cut to the lungs before everything else, in training and on the device alike.")
    clahe: bool = _doc(True, "Local contrast equalisation (CLAHE), in training and on the device alike.")
    fit: str = _doc("squash", "How an X-ray becomes square: squash, or letterbox (which shows the aspect ratio).")
    seed: int = _doc(1, "Decides split, order, augmentation and initial weights.")
    batch_size: int = _doc(32, "X-rays per training step.")
    workers: int = _doc(2, "Threads that augment; 0 does it in the training thread.")
    validation_share: float = _doc(0.1, "Share of the X-rays for validation, by patient, where the index has no split.")
    test_share: float = _doc(0.1, "Share of the X-rays for the inside test, by patient, where the index has no split.")
    augment: str = _doc(
        "strong", "none, light, strong or heavy. Never a horizontal flip: it would put the heart on the right."
    )
    augment_affine: float = _chance("rotation, scale, shift, shear")
    augment_collimation: float = _chance("random borders, black, white or grey")
    augment_markers: float = _chance("letters and plates near the corners")
    augment_brightness: float = _chance("value shift and contrast")
    augment_gamma: float = _chance("gamma")
    augment_curve: float = _chance("a random rising tone curve, as detectors differ")
    augment_clahe: float = _chance("local contrast equalisation before the device's own")
    augment_sharpness: float = _chance("blur or sharpening")
    augment_rescale: float = _chance("down and up again, as archives differ")
    augment_noise: float = _chance("Gaussian noise")
    augment_compression: float = _chance("JPEG compression")
    augment_dropout: float = _chance("black holes (coarse dropout)")
    augment_lungs_only: float = _doc(0.0, "Probability, 0 to 1, of changing grey levels inside the lungs alone.")
    augment_outside: float = _doc(0.0, "Probability, 0 to 1, of replacing what is outside the lungs.")
    mixup: float = _doc(0.0, "Share of batches, 0 to 1, whose X-rays are mixed in pairs (Mixup).")
    mixup_alpha: float = _doc(0.4, "Mixup: parameter of the beta distribution of the mixing share.")
    cutmix: float = _doc(0.0, "Share of batches, 0 to 1, in which a box of another X-ray is pasted (CutMix).")
    cutmix_alpha: float = _doc(1.0, "CutMix: parameter of the beta distribution of the box's share.")
    averaging: str = _doc("none", "Weights at the end of a phase: none (the last), ema, or swa (mean of last epochs).")
    ema_decay: float = _doc(0.999, "ema: how much of the average each step keeps, at most.")
    swa_epochs: int = _doc(3, "swa: so many last epochs are averaged.")
    float_epochs: int = _doc(10, "Epochs in floating point.")
    float_rate: float = _doc(1e-3, "Learning rate at the peak of the cosine, floating point.")
    warmup_epochs: float = _doc(1.0, "Epochs of linear warm-up at the start of the floating-point phase.")
    prune_epochs: int = _doc(3, "Epochs of magnitude pruning.")
    prune_rate: float = _doc(3e-4, "Learning rate at the start of pruning.")
    sparsity: float = _doc(0.30, "Share of zeros that pruning reaches in each pruned kernel.")
    qat_epochs: int = _doc(3, "Epochs of quantization-aware training that keeps the zeros.")
    qat_rate: float = _doc(1e-4, "Learning rate at the start of quantization-aware training.")
    follow: float = _doc(
        0.5,
        "Share of the loss, 0 to 1, that keeps pruning and quantization to the float model's answers and feature maps.",
    )
    unfreeze: str = _doc(
        "",
        "Groups that train first, as 'logit=1 block7=2': only the layers from the first one so called on train for so "
        "many epochs; then, after the last group, everything.",
    )
    teacher: str = _doc("none", "none, or runs, bundles or .tflite files to learn from, separated by ':'.")
    distill: str = _doc("soft", "The teacher's probability (soft) or its decision (hard).")
    distill_share: float = _doc(0.5, "Share of the loss that the teacher has, 0 to 1; the labels have the rest.")
    distill_temperature: float = _doc(2.0, "Softens the teacher's probabilities, 1 or more.")
    label_smoothing: float = _doc(0.1, "Smoothing of the labels, 0 to below 1.")
    dropout: float = _doc(0.2, "Dropout before the head.")
    spatial_dropout: float = _doc(0.0, "Dropout of whole feature maps before pooling, floating-point phase only.")
    drop_connect: float = _doc(0.1, "Stochastic depth, floating-point phase only.")
    l2: float = _doc(0.0, "L2 penalty on the kernels, floating-point phase only.")
    bn_momentum: float = _doc(0.9, "Momentum of batch normalisation; 0.99 lags behind on small data.")
    class_weights: bool = _doc(True, "Weigh the classes so that both count the same.")
    balance_sources: float = _doc(
        0.0, "0 to 1: how far small sources are drawn more often; 1 draws all alike. Classes then weigh by source."
    )
    distribute: str = _doc("none", "`train` alone: none, or multi-worker (each worker's TF_CONFIG says who trains).")
    sensitivity: float = _doc(0.95, "Sensitivity that the decision threshold is chosen for, on validation.")
    calibrate_bias: bool = _doc(True, "Fit a bias beside the temperature: class weights move the share of positives.")
    representative: int = _doc(100, "X-rays that calibrate post-training quantization.")
    golden: int = _doc(4, "X-rays stored in the bundle with their expected outputs.")
    onnx: bool = _doc(False, "Put the ONNX form of each model into the bundle, for TensorRT and ONNX Runtime.")
    max_int8_loss: float = _doc(0.01, "Export fails when int8 loses more validation AUROC than this.")
    allow_int8_loss: bool = _doc(False, "Export anyway; the report says so.")
    allow_leaks: bool = _doc(False, "Train on leaking splits anyway; the report says so.")

    def __post_init__(self) -> None:
        for name, low, high in RANGES:
            value = getattr(self, name)
            # Written so that NaN, which TOML can say, is out of every range.
            if not low <= value <= high:
                raise _wrong(name, "is out of range", expected=f"{low} to {high}", came=value)
        for name in (f"augment_{method}" for method in METHODS):
            if getattr(self, name) != AS_PRESET and not 0.0 <= getattr(self, name) <= 1.0:
                raise _wrong(name, "is out of range", expected="0 to 1, or -1", came=getattr(self, name))
        if self.mixup + self.cutmix > 1.0:
            raise _wrong(
                "mixup", "and cutmix are too much", expected="a sum of at most 1", came=self.mixup + self.cutmix
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise _wrong(name, "has an unknown value", expected=" or ".join(choices), came=getattr(self, name))
        if not NAME.fullmatch(self.name):
            expected = "letters, digits, '.', '_', '-' and spaces, not starting with a dot (it names a folder)"
            raise _wrong("name", "cannot name a folder", expected=expected, came=repr(self.name))
        for name in ("positive", "weights", "teacher"):
            if not getattr(self, name).strip() or not _is_utf8(getattr(self, name)):
                raise _wrong(
                    name, "cannot be used", expected="text in UTF-8, not empty", came=repr(getattr(self, name))
                )
        for name in ("augment_lungs_only", "augment_outside"):
            if getattr(self, name) and not self.lungs:
                raise _wrong(name, "needs to know where the lungs are", expected="lungs = true", came="lungs = false")
        require_backbone(self.backbone, size_px=self.size_px)
        if self.message_token and self.teacher == "none":
            raise _wrong("message_token", "has nobody to follow", expected="a teacher", came="none")
        self.unfreeze_groups()

    def augmentations(self) -> dict[str, float]:
        """Probability of each augmentation method as the options say; -1 leaves it to the preset."""
        return {method: getattr(self, f"augment_{method}") for method in (*METHODS, *LUNG_METHODS)}

    def unfreeze_groups(self) -> tuple[tuple[str, int], ...]:
        """Layer prefix and epochs of each group that trains before everything does.

        Raises:
            ConfigError: `unfreeze` has another form.
        """
        parts = [part.partition("=") for part in self.unfreeze.replace(",", " ").split()]
        if any(not name or not epochs.isdecimal() or not 0 < int(epochs) <= 10_000 for name, _, epochs in parts):
            raise _wrong("unfreeze", "is not understood", expected="LAYER=EPOCHS ...", came=repr(self.unfreeze))
        return tuple((name, int(epochs)) for name, _, epochs in parts)

    def preprocessing(self) -> dict[str, Any]:
        """The steps from decoded X-ray to network input, as the manifest stores them."""
        name = "resize" if self.fit == "squash" else "letterbox"
        steps: list[dict[str, Any]] = [{"name": "lungs", "margin": LUNG_MARGIN}] if self.lungs else []
        steps.append({"name": name, "size_px": self.size_px})
        if self.clahe:
            steps.append({"name": "clahe", "clip_limit": 2.0, "tiles": 8})
        return {"version": 1, "steps": steps}

    def to_toml(self) -> str:
        """The configuration as TOML that `read_config` reads back."""
        return "".join(f"{f.name} = {_toml(getattr(self, f.name))}\n" for f in dataclasses.fields(self))


NAME = re.compile(r"[\w-][\w .-]{0,99}")
RANGES = (
    ("size_px", 32, 1024),
    ("seed", 0, 2**32 - 1),
    ("batch_size", 2, 4096),
    ("workers", 0, 256),
    ("validation_share", 0.01, 0.5),
    ("test_share", 0.0, 0.5),
    ("float_epochs", 0, 10_000),
    ("float_rate", 1e-9, 1.0),
    ("warmup_epochs", 0.0, 10_000.0),
    ("prune_rate", 1e-9, 1.0),
    ("qat_rate", 1e-9, 1.0),
    ("prune_epochs", 1, 10_000),
    ("qat_epochs", 1, 10_000),
    ("sparsity", 0.0, 0.95),
    ("distill_share", 0.0, 1.0),
    ("follow", 0.0, 1.0),
    ("balance_sources", 0.0, 1.0),
    ("distill_temperature", 1.0, 100.0),
    ("label_smoothing", 0.0, 0.9),
    ("dropout", 0.0, 0.9),
    ("spatial_dropout", 0.0, 0.9),
    ("drop_connect", 0.0, 0.9),
    ("l2", 0.0, 1.0),
    ("max_int8_loss", 0.0, 1.0),
    ("bn_momentum", 0.5, 0.9999),
    ("sensitivity", 0.5, 1.0),
    ("augment_lungs_only", 0.0, 1.0),
    ("augment_outside", 0.0, 1.0),
    ("mixup", 0.0, 1.0),
    ("mixup_alpha", 0.01, 100.0),
    ("cutmix", 0.0, 1.0),
    ("cutmix_alpha", 0.01, 100.0),
    ("ema_decay", 0.5, 0.999999),
    ("swa_epochs", 1, 10_000),
    ("golden", 1, 64),
    ("representative", 10, 10_000),
)
CHOICES = {
    "attention": ATTENTIONS,
    "augment": PRESETS,
    "distill": ("soft", "hard"),
    "averaging": ("none", "ema", "swa"),
    "fit": ("squash", "letterbox"),
    "distribute": ("none", "multi-worker"),
}


def _wrong(name: str, what: str, *, expected: str, came: object) -> ConfigError:
    return ConfigError(f"'{name}' {what}", expected=expected, came=str(came), do=f"change {name}")


def _is_utf8(text: str) -> bool:
    # Arguments with bytes that are no UTF-8 arrive as lone surrogates, which TOML cannot hold.
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def read_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """The configuration from a TOML file with `overrides` (arguments and environment) on top.

    Raises:
        ConfigError: the file is missing, is no TOML, has an unknown key, or a value of the wrong type or range.
    """
    return config_of({**(read_toml(path) if path else {}), **overrides}, where=str(path))


def config_of(values: dict[str, Any], *, where: str) -> TrainConfig:
    """The configuration that `values` give; `where` they come from goes into messages.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or range.
    """
    known = {f.name: f for f in dataclasses.fields(TrainConfig)}
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key '{key}'",
                expected="one of " + ", ".join(known),
                came=key,
                do="remove it or mend its spelling",
            )
    return TrainConfig(**{key: _typed(key, value, known[key].default) for key, value in values.items()})


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        ConfigError: it is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read", expected="a TOML file", came=str(error), do="mend the file or its path"
        ) from error


def _typed(key: str, value: Any, default: Any) -> Any:
    kind = type(default)
    # TOML writes 1 for 1.0; bool is an int to Python and must not pass for one.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(key, "has the wrong type", expected=kind.__name__, came=repr(value))
    return value


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML basic strings escape as JSON does, but know no surrogate pairs, and DEL must be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
