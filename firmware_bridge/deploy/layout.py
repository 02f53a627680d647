"""Where everything lies on a device. `root` is "/" but in tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SERVICE = "cxr-edge.service"
ACTIVATION = "cxr-edge-activate.service"
UPDATE, UPDATE_PATH = "cxr-edge-update.service", "cxr-edge-update.path"
USER = "cxr-edge"
# As whom a release's own code runs before it is trusted; no service runs as this user.
PROOF_USER = "cxr-edge-proof"
# Of everything that runs as root here: what it makes is read by the service's user, whatever root's own umask is.
UMASK = 0o022
_ID = re.compile(r"[0-9a-f]{16,64}")


def is_id(text: str) -> bool:
    """Whether `text` can be the name of a release or a layer: hex digits, nothing that leads elsewhere."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths on the device.

    /opt/cxr-edge/layers/HASH      files that never change: packages, code, bundle; shared between releases
    /opt/cxr-edge/layers/HASH.json what is in it
    /opt/cxr-edge/releases/ID      one release: links to its layers, config, unit, proof
    /opt/cxr-edge/engines          TensorRT engines, where there is TensorRT
    /opt/cxr-edge/current          link to the release that runs: the one thing that a switch changes
    /opt/cxr-edge/activating       link to the release that is being switched to; gone when that is settled
    /opt/cxr-edge/back             link to the release that ran before, as long as the switch may yet hold
    /etc/cxr-edge                  secrets: what is the device's and no release's
    /var/lib/cxr-edge              journal and device key of the agent
    """

    root: Path = Path("/")

    @property
    def base(self) -> Path:
        """All that deployments write, but for links to it."""
        return self.root / "opt" / "cxr-edge"

    @property
    def layers(self) -> Path:
        """Layers by hash."""
        return self.base / "layers"

    @property
    def releases(self) -> Path:
        """Releases by id."""
        return self.base / "releases"

    @property
    def engines(self) -> Path:
        """TensorRT engines that were built here: the service's user writes them, the service itself only reads."""
        return self.base / "engines"

    @property
    def current(self) -> Path:
        """The link to what runs."""
        return self.base / "current"

    @property
    def activating(self) -> Path:
        """The link to what is being switched to."""
        return self.base / "activating"

    @property
    def back(self) -> Path:
        """The link that leads back, laid before a switch: renamed over `current` it undoes the switch."""
        return self.base / "back"

    @property
    def state(self) -> Path:
        """What deployments remember: the history of releases, the newest bundle of each name."""
        return self.base / "state.json"

    @property
    def lock(self) -> Path:
        """Held by whoever changes anything. Outside `base`, so that an uninstall does not remove it while held."""
        return self.root / "run" / "cxr-edge-deploy.lock"

    @property
    def etc(self) -> Path:
        """What is the device's own."""
        return self.root / "etc" / "cxr-edge"

    @property
    def secrets(self) -> Path:
        """Files with mode 0600, handed to the service as credentials."""
        return self.etc / "secrets"

    @property
    def units(self) -> Path:
        """systemd's."""
        return self.root / "etc" / "systemd" / "system"

    @property
    def command(self) -> Path:
        """`cxr-edge` on the device."""
        return self.root / "usr" / "local" / "bin" / "cxr-edge"

    @property
    def agent_state(self) -> Path:
        """The agent's journal."""
        return self.root / "var" / "lib" / "cxr-edge"

    def release(self, id: str) -> Path:
        """The folder of one release."""
        assert is_id(id)
        return self.releases / id

    def layer(self, hash: str) -> Path:
        """The folder of one layer."""
        assert is_id(hash)
        return self.layers / hash

    def linked_id(self, link: Path) -> str | None:
        """The id of the release that `current` or `activating` leads to; None where it leads nowhere."""
        try:
            name = link.readlink().name
        except OSError:
            return None
        return name if is_id(name) and self.release(name).is_dir() else None
