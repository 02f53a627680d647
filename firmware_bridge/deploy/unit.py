"""The systemd unit of the agent, as text. `@RELEASE@` stands for the folder of the release that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from firmware_bridge.deploy.layout import USER


def unit_text(
    *, watch: str, secrets: Sequence[str] = (), memory_max_mb: int = 1024, tasks_max: int = 64, watchdog_s: int = 0
) -> str:
    """The unit.

    Args:
        watch: the watched folder, which the agent writes its JSON into.
        secrets: names of files in /etc/cxr-edge/secrets, handed over as credentials.
        memory_max_mb: at most so much memory.
        tasks_max: at most so many threads and processes.
        watchdog_s: within so many seconds the agent must speak up; 0: it need not.
    """
    watchdog = f"WatchdogSec={watchdog_s}\n" if watchdog_s else ""
    credentials = "".join(f"LoadCredential={name}:/etc/cxr-edge/secrets/{name}\n" for name in secrets)
    return f"""\
[Unit]
Description=cxr-edge: scores X-rays in {watch} (not for diagnosis)
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
User={USER}
Group={USER}
UMask=0027
WorkingDirectory=@RELEASE@
Environment=PYTHONPATH=@RELEASE@/app:@RELEASE@/site PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
EnvironmentFile=@RELEASE@/chosen.env
ExecStart=/usr/bin/python3 -m toolkit.cli.main agent --config @RELEASE@/agent.toml
{credentials}StateDirectory=cxr-edge
StateDirectoryMode=0750
ReadWritePaths={watch}
Restart=always
RestartSec=2
TimeoutStartSec=120
TimeoutStopSec=20
{watchdog}MemoryMax={memory_max_mb}M
TasksMax={tasks_max}
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""
