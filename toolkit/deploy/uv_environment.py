"""What uv is told of the package index: what pip's configuration says, which uv does not read, and the system's CAs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

# A mirror may be named with a password in its address, so all goes by the environment and nothing by the command line.
_SAME = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
_OLD_NAMES = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
_SECTIONS = ("global", "install", ":env:")  # the later one counts, as for pip
_LIMIT_S = 60


def uv_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environment`, and in it what uv has to know to find packages where `pip install` finds them.

    What is set for uv already stays as it is. The system's certificates count beside uv's own: behind a firewall that
    opens TLS, only the system knows who signs.

    Args:
        environment: of this process.
    """
    told = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}  # the new name and the old
    for key, value in _pip_settings(environment).items():
        name = _SAME.get(key, "")
        if name and not {name, _OLD_NAMES.get(name, name)} & set(environment):
            words = value.split()
            told[name] = ",".join(words) if name == "UV_FIND_LINKS" else " ".join(words)
    if "UV_INDEX" in told:
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip takes the best of all, not of the first that has any
    return told | dict(environment)


def _pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """pip's settings by their name, of files and of variables; none where there is no pip."""
    try:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_pip_settings(listed)


def parse_pip_settings(listed: str) -> dict[str, str]:
    """The settings that count for `pip install`, by name.

    Args:
        listed: what `pip config list` prints, such as `global.index-url='https://mirror.example/simple'`.
    """
    found: dict[str, str] = {}
    for wanted in _SECTIONS:
        for line in listed.splitlines():
            place, told, value = line.partition("=")
            section, _, key = place.rpartition(".")
            if told and section == wanted:
                found[key] = str(ast.literal_eval(value))
    return found
