"""The systemd unit of the agent, as text. `@RELEASE@` stands for the folder of the release that it belongs to.

Directives: systemd.exec(5), systemd.service(5), systemd.resource-control(5). `systemd-analyze security` rates it at
most 2.0; tests/devices/test_service.py asserts that on Debian 12 and 13.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import PurePosixPath

from firmware_bridge.deploy.layout import USER
from firmware_bridge.errors import ConfigError

# From this version on, systemd knows that a reload is over (Type=notify-reload, systemd's NEWS for 253) ...
_NOTIFY_RELOAD = 253
# ... and can wait longer from one failed start to the next (RestartSteps, NEWS for 254).
_RESTART_STEPS = 254
# What ProtectHome and PrivateTmp put an empty folder over: a watched folder in there is bound into it.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  names, nothing is written there
# The agent writes into its folder, and tries all that lies below it. So it watches none of the first (a folder in them
# may be), and neither the second nor what lies in them.
_CROWDED = ("/", "/dev", "/home", "/opt", "/root", "/run", "/tmp", "/var", "/var/lib", "/var/log")  # noqa: S108
_SYSTEM = ("/bin", "/boot", "/etc", "/lib", "/opt/cxr-edge", "/proc", "/sbin", "/sys", "/usr", "/var/lib/cxr-edge")
_CREDENTIAL = "LoadCredential="
_BROKEN = '\n\r\0"\\'
# What systemd takes for the end of a path: white space of any kind, and ":" of BindPaths=.
_ENDS = ":\t\v\f\x85\xa0"


def unit_text(
    *,
    watch: str,
    secrets: Sequence[str] = (),
    memory_max_mb: int = 1024,
    tasks_max: int = 64,
    watchdog_s: int = 30,
    only_addresses: Sequence[str] | None = None,
    systemd: int = 0,
    accelerator: bool = False,
) -> str:
    """The unit.

    Args:
        watch: the watched folder, which the agent writes its JSON into.
        secrets: names of files in /etc/cxr-edge/secrets, handed over as credentials.
        memory_max_mb: at most so much memory.
        tasks_max: at most so many threads and processes.
        watchdog_s: within so many seconds the agent must speak up.
        only_addresses: the network is closed but for these (an address, a network, or "localhost"); None: open.
        systemd: the device's version, for what only newer ones know; 0 is the oldest that is supported.
        accelerator: the agent needs device nodes (a GPU), so /dev stays visible.

    Raises:
        ConfigError: the folder's or a secret's name cannot stand in a unit.
    """
    folder = _path(watch)
    name = folder.strip('"')
    for secret in secrets:
        if not secret or set(secret) & set(_BROKEN + "/:% "):
            raise _unfit("the secret", secret, expected="a name without '/', ':', '%' and blanks", do="rename it")
    parts = [
        _UNIT.format(name=name, folder=folder),
        _SERVICE.format(
            user=USER, watchdog_s=watchdog_s, type="notify-reload" if systemd >= _NOTIFY_RELOAD else "notify"
        ),
        "" if systemd >= _NOTIFY_RELOAD else "ExecReload=/bin/kill -HUP $MAINPID\n",
        "RestartSteps=8\nRestartMaxDelaySec=120\n" if systemd >= _RESTART_STEPS else "",
        "".join(f"{_CREDENTIAL}{secret}:/etc/cxr-edge/secrets/{secret}\n" for secret in secrets),
        f"MemoryMax={memory_max_mb}M\nTasksMax={tasks_max}\n",
        SANDBOX,
        _folders(watch, folder),
        "SupplementaryGroups=video render\n" if accelerator else "PrivateDevices=yes\nDevicePolicy=closed\n",
        _network(only_addresses),
        _INSTALL,
    ]
    return "".join(parts)


def secret_names(unit: str) -> list[str]:
    """The secrets that a unit which this module wrote hands over."""
    lines = [line for line in unit.splitlines() if line.startswith(_CREDENTIAL)]
    return [line.removeprefix(_CREDENTIAL).partition(":")[0] for line in lines]


_UNIT = """\
[Unit]
Description=cxr-edge: scores X-rays in {name} (not for diagnosis)
# Not network-online.target: results wait in the journal, and a box without a network must not wait at boot.
After=network.target time-sync.target
RequiresMountsFor={folder}
# It never gives up: a share that is gone for a night is served again in the morning.
StartLimitIntervalSec=0

"""
_SERVICE = """\
[Service]
Type={type}
User={user}
Group={user}
UMask=0027
WorkingDirectory=@RELEASE@
Environment=PYTHONPATH=@RELEASE@/app:@RELEASE@/site PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
# The watchdog ends a hung agent by SIGABRT: this writes where every thread stood into the log.
Environment=PYTHONFAULTHANDLER=1
EnvironmentFile=@RELEASE@/chosen.env
ExecStart=/usr/bin/python3 -m toolkit.cli.main agent --config @RELEASE@/agent.toml
StateDirectory=cxr-edge
StateDirectoryMode=0750
TimeoutStartSec=120
TimeoutStopSec=15
TimeoutAbortSec=5
WatchdogSec={watchdog_s}
Restart=always
RestartSec=3
"""
SANDBOX = """\
# No memory of the agent on the disk: it holds X-rays.
LimitCORE=0
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# Not ProcSubset=pid: the runtime reads /proc/cpuinfo to choose its kernels, telemetry reads /proc/meminfo.
ProtectProc=invisible
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
_INSTALL = """
[Install]
WantedBy=multi-user.target
"""


def _folders(watch: str, folder: str) -> str:
    """Where the agent may write, beside its state."""
    home = "ProtectHome=yes\n"
    if any(PurePosixPath(watch).is_relative_to(hidden) for hidden in _HIDDEN):
        # Only that one folder of a home appears; whose home it is and what else is in there does not.
        return f"ProtectHome=tmpfs\nBindPaths={folder}\n"
    return f"{home}ReadWritePaths={folder}\n"


def _network(only: Sequence[str] | None) -> str:
    families = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
    if only is None:
        return families
    for address in only:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            if address != "localhost":
                expected = 'one like "192.0.2.7" or "192.0.2.0/24", or "localhost"'
                raise _unfit("the address", address, expected=expected, do="mend only_addresses") from error
    return f"{families}IPAddressDeny=any\n" + "".join(f"IPAddressAllow={address}\n" for address in only)


def _path(watch: str) -> str:
    """`watch` as systemd reads it: quoted, and no specifier in it."""
    ends = not watch.startswith("/") or set(watch) & set(_BROKEN + _ENDS) or not watch.isprintable()
    if ends or ".." in PurePosixPath(watch).parts:
        raise _unfit(
            "the watched folder",
            watch,
            expected="an absolute path without '..', quotes, colons, tabs and line breaks",
            do="choose another folder (--watch-folder, or `watch` in the inventory)",
        )
    place = PurePosixPath("/", watch.lstrip("/"))  # "//etc" is another path for Python, and none for Linux
    if str(place) in _CROWDED or any(place.is_relative_to(system) for system in _SYSTEM):
        raise ConfigError(
            f"the watched folder '{watch}' is the system's",
            expected="a folder for X-rays and nothing else, such as /srv/cxr-edge",
            came=watch,
            do="choose another folder (--watch-folder, or `watch` in the inventory)",
        )
    escaped = watch.replace("%", "%%")
    return f'"{escaped}"' if " " in watch else escaped


def _unfit(what: str, came: str, *, expected: str, do: str) -> ConfigError:
    return ConfigError(f"{what} {came!r} cannot stand in a systemd unit", expected=expected, came=repr(came), do=do)
