"""`python3 -m firmware_bridge.deploy activate`: what the device's own units call."""

from __future__ import annotations

import sys

from firmware_bridge.deploy.activate import activate
from firmware_bridge.deploy.layout import Layout


def main(arguments: list[str]) -> int:
    """The exit code."""
    if arguments == ["activate"]:
        activate(Layout())
        return 0
    sys.stderr.write("usage: python3 -m firmware_bridge.deploy activate\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
