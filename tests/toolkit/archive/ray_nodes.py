"""Nodes of a Ray cluster, all on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import psutil


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Node:
    """A node: the head, or one that joins `head`; `stop` ends its processes and nobody else's."""

    def __init__(self, *, cpus: int, head: Node | None = None) -> None:
        self.port = head.port if head else free_port()
        self.environment = (
            head.environment if head else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        )
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={cpus}"]
        command += ["--object-store-memory=100000000"]
        if head:
            command += [f"--address=127.0.0.1:{head.port}"]
        else:
            command += ["--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}"]
            command += ["--include-dashboard=false", "--disable-usage-stats"]
        environment = {**os.environ, **self.environment, "RAY_USAGE_STATS_ENABLED": "0"}
        pipe = subprocess.PIPE
        self._process = psutil.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True)
        told = ""
        while "Ray runtime started" not in told:
            line = self._process.stdout.readline()
            told += line
            if not line:
                self._process.communicate()
                raise RuntimeError(told)

    def processes(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def actors(self) -> list[psutil.Process]:
        # Ray names an actor's process after it.
        return [one for one in self.processes() if one.is_running() and "Actor" in " ".join(one.cmdline())]

    def stop(self) -> None:
        for one in reversed(self.processes()) if self._process.is_running() else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        if not self._process.stdout.closed:
            self._process.communicate()


def started(*, cpus: int, head: Node | None = None) -> Node:
    """A node that runs. Ray gives its parts 30 s to start, which a machine busy with other tests may not keep."""
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            return Node(cpus=cpus, head=head)
    return Node(cpus=cpus, head=head)
