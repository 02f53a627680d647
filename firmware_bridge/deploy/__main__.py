"""`python3 -m firmware_bridge.deploy`: what the device's own units, the script on a stick and people there call."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from firmware_bridge.deploy.activate import activate
from firmware_bridge.deploy.layout import UMASK, Layout
from firmware_bridge.deploy.translate import translated
from firmware_bridge.errors import CxrEdgeError, DeployError
from firmware_bridge.result import NOTICE

# More than five starts in ten seconds, and systemd would wait for no bundle any more: whoever can have five bundles
# refused must not be able to end that.
_PAUSE_S = 3.0


def main(arguments: list[str]) -> int:
    """The exit code."""
    os.umask(UMASK)
    try:
        _run(_parser().parse_args(arguments))
    except CxrEdgeError as error:
        return _told(error)
    except OSError as error:
        return _told(translated(error))
    return 0


def _told(error: CxrEdgeError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m firmware_bridge.deploy", description=__doc__, epilog=NOTICE)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("activate", help="do or finish the switch that was ordered")
    commands.add_parser("update", help="install the bundle that the agent fetched")
    install = commands.add_parser("install", help="install what is in a folder")
    install.add_argument("folder", type=Path)
    install.add_argument("--trust", default="", metavar="KEY", help="id of the key to trust, the first time")
    install.add_argument("--allow-downgrade", action="store_true", help="an older bundle may replace a newer one")
    install.add_argument("--check", action="store_true", help="say as JSON what would change, and change nothing")
    verify = commands.add_parser("verify", help="say as JSON whether a key signed a folder")
    verify.add_argument("folder", type=Path)
    verify.add_argument("trust")
    verify.add_argument("sha256", help="of its folder.json")
    commands.add_parser("status", help="say as JSON what runs, and what could be gone back to")
    rollback = commands.add_parser("rollback", help="go back to the release that ran before")
    rollback.add_argument("--to", metavar="ID", help="first digits of a release's id")
    uninstall = commands.add_parser("uninstall", help="remove everything but results")
    uninstall.add_argument("--remove-results", action="store_true", help="the journal and the device key go too")
    return parser


def _run(asked: argparse.Namespace) -> None:
    if asked.command == "activate":
        activate(Layout())
        return
    if asked.command == "update":
        from firmware_bridge.deploy.desired import update

        if update(Layout(), say=_say):
            time.sleep(_PAUSE_S)
        return
    if asked.command in ("status", "rollback", "uninstall"):
        _run_by_hand(asked)
        return
    # What only a folder needs is loaded for a folder only.
    from firmware_bridge.deploy.folder_install import install_folder, look_at_folder
    from firmware_bridge.deploy.folder_trust import verify_folder

    if asked.command == "verify":
        sys.stdout.write(json.dumps(verify_folder(asked.folder, asked.trust, asked.sha256)) + "\n")
        return
    if asked.check:
        would = look_at_folder(Layout(), asked.folder, trust=asked.trust, allow_downgrade=asked.allow_downgrade)
        sys.stdout.write(json.dumps({"schema": 1, "notice": NOTICE, **would}) + "\n")
        return
    id = install_folder(Layout(), asked.folder, trust=asked.trust, allow_downgrade=asked.allow_downgrade, say=_say)
    sys.stdout.write(f"release {id} runs. {NOTICE}\n")


def _run_by_hand(asked: argparse.Namespace) -> None:
    """What a workstation asks for over SSH, where there is none."""
    if os.geteuid() != 0:
        raise DeployError("this is not root", expected="root", came=f"user {os.geteuid()}", do="put sudo before it")
    from firmware_bridge.deploy import manage
    from firmware_bridge.deploy.earlier import roll_back
    from firmware_bridge.deploy.orders import settled_and_locked

    if asked.command == "status":
        told = {"schema": 1, "notice": NOTICE, **manage.status(Layout())}
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    elif asked.command == "rollback":
        sys.stdout.write(f"release {roll_back(Layout(), asked.to, say=_say)} runs again. {NOTICE}\n")
    else:
        with settled_and_locked(Layout(), wait_s=60.0):
            gone = manage.uninstall(Layout(), results=asked.remove_results)
        sys.stdout.write(f"removed {', '.join(gone) or 'nothing: there was nothing'}. {NOTICE}\n")


def _say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
