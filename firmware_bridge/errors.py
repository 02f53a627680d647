"""The one error tree. Every message says what was expected, what came, and what to do next.

CxrEdgeError                  exit 1
├── ConfigError               exit 2   an option, a config file or an environment variable
├── InputError                exit 3   what the user gave
│   ├── ImageError                     one X-ray
│   │   ├── UnreadableImage            damaged, truncated, empty, or not an image
│   │   ├── UnsupportedImage           readable, but of a kind that is not taken (animated, no decoder, ...)
│   │   ├── ImageOutOfBounds           too many pixels or bytes, or too small
│   │   └── UnsuitableImage            decoded well, and nothing that the model should score (its `reason` says why)
│   ├── IndexFormatError               an index, a CSV, a folder of classes
│   └── NoAnswerPossible               a request over MQTT that cannot even be refused (`requests.py`)
├── AuditError                exit 4   leaking splits, one picture with two labels
├── ModelError                exit 5   a model that cannot be built, converted or read
│   └── ExportGateError                int8 lost more AUROC than allowed
├── BundleError               exit 6   damaged, incomplete, or of a newer schema
│   ├── SignatureError                 unsigned, signed by nobody trusted, or changed since
│   └── DowngradeError                 older than what the device runs or ran
├── MissingExtraError         exit 7   an optional dependency that is not installed
├── ResourceError             exit 8   disk or memory
│   └── JournalDamaged                 the next start salvages what it can (`journal_salvage.py`)
├── BrokerError               exit 9   MQTT
├── ClusterError              exit 9   a Ray cluster that scores an archive
├── ArchiveError              exit 9   a DICOM archive; reports wait for it (`dicom_sender.py`)
├── ServerError               exit 9   a FHIR server or Orthanc; what it shall have waits (`http_client.py`)
│   ├── OrthancRefusal                 Orthanc answers, and does not do this one thing (`orthanc_client.py`)
│   └── TooLarge                       an answer with more bytes than are taken
├── InvalidFhir               exit 1   a Bundle of ours that is none (`fhir_validate.py`)
├── DeployError               exit 10  a device that cannot be deployed to
│   ├── HostError                      it cannot be reached or logged into
│   ├── PreflightError                 it is not fit for what it should run
│   └── RolledBack                     the new release did not prove itself; the old one runs
└── AuditLogError             exit 11  the log of all outcomes was changed, cut or lost
"""

from __future__ import annotations

from collections.abc import Mapping

_DEVICE = "/opt/cxr-edge"  # where `cxr-edge deploy` puts this code


class CxrEdgeError(Exception):
    """Base of all errors that `cxr-edge` raises on purpose.

    Args:
        what: the thing that failed, in a few words, with its name ("sick 1.jpg cannot be read").
        expected: what would have been right.
        came: what was found instead.
        do: what the user can do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str, came: str, do: str) -> None:
        super().__init__(what, expected, came, do)
        self.what = what
        self.expected = expected
        self.came = came
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}\n  expected: {self.expected}\n  came:     {self.came}\n  do:       {self.do}"

    def told(self) -> dict[str, str]:
        """Its four parts by their names, for JSON."""
        return {"what": self.what, "expected": self.expected, "came": self.came, "do": self.do}

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process pools by pickle, which would call __init__ without its keywords.
        return (_rebuild, (type(self), self.what, self.expected, self.came, self.do))


def _rebuild(kind: type[CxrEdgeError], what: str, expected: str, came: str, do: str) -> CxrEdgeError:
    return kind(what, expected=expected, came=came, do=do)


class ConfigError(CxrEdgeError):
    """An option, a config file or an environment variable is wrong."""

    exit_code = 2


class InputError(CxrEdgeError):
    """What the user gave cannot be used."""

    exit_code = 3


class ImageError(InputError):
    """One X-ray cannot be used."""


class UnreadableImage(ImageError):
    """Damaged, truncated, empty, or not an image."""


class UnsupportedImage(ImageError):
    """Readable, but of a kind that is not taken."""


class ImageOutOfBounds(ImageError):
    """Too many pixels or bytes, or too small."""


class UnsuitableImage(ImageError):
    """Nothing that the model should score: no lungs to be found, turned, inverted, not a chest, ...

    Args:
        reason: a short code for programs, such as "no_lungs"; `firmware_bridge.suitability` lists them.
        measures: the numbers that were judged, ready for JSON.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: str,
        came: str,
        do: str,
        reason: str,
        measures: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(what, expected=expected, came=came, do=do)
        self.reason = reason
        self.measures = dict(measures or {})

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_unsuitable, (self.what, self.expected, self.came, self.do, self.reason, self.measures))


def _rebuild_unsuitable(
    what: str, expected: str, came: str, do: str, reason: str, measures: dict[str, float]
) -> UnsuitableImage:
    return UnsuitableImage(what, expected=expected, came=came, do=do, reason=reason, measures=measures)


class IndexFormatError(InputError):
    """An index, a CSV or a folder of classes is not as it should be."""


class AuditError(CxrEdgeError):
    """The data leaks from one split into another, or contradicts itself."""

    exit_code = 4


class ModelError(CxrEdgeError):
    """A model cannot be built, converted or read."""

    exit_code = 5


class ExportGateError(ModelError):
    """The int8 file lost more AUROC to the float model than allowed."""


class BundleError(CxrEdgeError):
    """A bundle is damaged, incomplete, or of a newer schema."""

    exit_code = 6


class SignatureError(BundleError):
    """Unsigned, signed by nobody who is trusted, or changed since it was signed."""


class DowngradeError(BundleError):
    """A bundle that is older than what the device runs or ran."""


class MissingExtraError(CxrEdgeError):
    """An optional dependency is not installed."""

    exit_code = 7

    @classmethod
    def for_module(cls, module: str, extra: str) -> MissingExtraError:
        """The error for an import of `module` that failed because the extra `extra` is missing."""
        do = f"in the clone that cxr-edge was installed from: pip install '.[{extra}]'"
        if extra == "deploy" and __file__.startswith(f"{_DEVICE}/"):  # nobody installs more than a deployment brought
            do = (
                "call it on the workstation; or, for this device alone, as root: "
                f"cd / && PYTHONPATH={_DEVICE}/current/app:{_DEVICE}/current/site "
                "python3 -m firmware_bridge.deploy status, rollback or uninstall"
            )
        return cls(
            f"this command needs the extra '{extra}'",
            expected=f"the Python package '{module}'",
            came="it is not installed here",
            do=do,
        )


class ResourceError(CxrEdgeError):
    """Not enough disk or memory."""

    exit_code = 8


class BrokerError(CxrEdgeError):
    """The MQTT broker cannot be reached or refuses."""

    exit_code = 9


class ClusterError(CxrEdgeError):
    """A cluster of machines cannot be reached, or is gone."""

    exit_code = 9


class DeployError(CxrEdgeError):
    """A device cannot be deployed to."""

    exit_code = 10


class HostError(DeployError):
    """A device cannot be reached, or does not let us in."""


class PreflightError(DeployError):
    """A device is not fit for what it should run. Nothing was changed there."""


class RolledBack(DeployError):
    """The new release did not prove itself; the device runs what it ran before."""


class AuditLogError(CxrEdgeError):
    """The log of all outcomes is not the one that was written."""

    exit_code = 11
