# The first thing that runs on a device: sent over standard input, read by whatever python3 is there. So: nothing but
# the standard library, syntax of Python 3.6, and no import of ours. It prints the facts as one line of JSON, then takes
# the rest of our code as a zip, keeps it in memory (nothing is written before the plan says so), and hands over.
"""Facts of a device, then our code into its memory."""

import json
import os
import platform
import re
import struct
import sys
import time
from typing import Any, Dict, Optional, Tuple

GLIBCXX = re.compile(rb"GLIBCXX_(\d+)\.(\d+)\.(\d+)")
TENSORRT = re.compile(r"libnvinfer\.so\.(\d+)\.(\d+)\.(\d+)")
LIBRARY_FOLDERS = ("/usr/lib/%s-linux-gnu", "/lib/%s-linux-gnu", "/usr/lib64", "/usr/lib")
BASE = "/opt/cxr-edge"


def read(path: str, limit: int = 65536) -> str:
    """The text of a small file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""


def os_release() -> Dict[str, str]:
    """What /etc/os-release says."""
    found = {}
    for line in read("/etc/os-release").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key] = value.strip().strip("\"'")
    return found


def memory_bytes() -> Tuple[int, int]:
    """(total, available)."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE))
    return int(found.get("MemTotal", 0)) * 1024, int(found.get("MemAvailable", 0)) * 1024


def glibc() -> str:
    """The C library's version; empty where it is another one (musl)."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, AttributeError, OSError):
        return ""
    return version if name == "glibc" else ""


def glibcxx() -> str:
    """The newest GLIBCXX symbol version of libstdc++; empty where there is no libstdc++."""
    for folder in LIBRARY_FOLDERS:
        path = (folder % platform.machine() if "%" in folder else folder) + "/libstdc++.so.6"
        if os.path.exists(path):
            with open(path, "rb") as file:
                versions = [tuple(int(part) for part in found) for found in GLIBCXX.findall(file.read())]
            return ".".join(str(part) for part in max(versions)) if versions else ""
    return ""


def existing(path: str) -> str:
    """The nearest folder above that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def systemd() -> str:
    """systemd's version where it is the running init, else empty."""
    if not os.path.isdir("/run/systemd/system"):
        return ""
    for folder in ("/usr/bin", "/bin"):
        if os.path.exists(folder + "/systemctl"):
            found = os.popen(folder + "/systemctl --version").read().split()
            return found[1] if len(found) > 1 else "unknown"
    return ""


def tensorrt() -> str:
    """TensorRT's version, "10.3.0", by its library; empty where there is none."""
    found = []
    for folder in LIBRARY_FOLDERS:
        folder = folder % platform.machine() if "%" in folder else folder
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            version = TENSORRT.match(name)
            if version:
                found.append(tuple(int(part) for part in version.groups()))
    return ".".join(str(part) for part in max(found)) if found else ""


def clock_synchronized() -> Optional[bool]:
    """Whether a time server was reached; None where nobody knows."""
    if os.path.isdir("/run/systemd/timesync"):
        return os.path.exists("/run/systemd/timesync/synchronized")
    return None


def facts() -> Dict[str, Any]:
    """Everything that a plan needs to know about the machine. Reads only."""
    total, available = memory_bytes()
    disk = os.statvfs(existing(BASE))
    release = os_release()
    return {
        "schema": 1,
        "machine": platform.machine(),
        "pointer_bits": struct.calcsize("P") * 8,
        "python": list(sys.version_info[:3]),
        "python_path": sys.executable,
        "glibc": glibc(),
        "glibcxx": glibcxx(),
        "os_id": release.get("ID", ""),
        "os_like": release.get("ID_LIKE", ""),
        "os_version": release.get("VERSION_ID", ""),
        "os_name": release.get("PRETTY_NAME", ""),
        "model": read("/proc/device-tree/model"),
        "jetpack": read("/etc/nv_tegra_release").partition("\n")[0],
        "tensorrt": tensorrt(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        "disk_read_only": bool(disk.f_flag & os.ST_RDONLY),
        "clock_s": time.time(),
        "clock_synchronized": clock_synchronized(),
        "systemd": systemd(),
        "uid": os.geteuid(),
        "hostname": platform.node(),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
    }


def hand_over(code: bytes) -> None:
    """Run our code out of memory: a zip behind a file descriptor that has no name on any disk."""
    handle = os.memfd_create("cxr-edge-deploy")
    while code:
        code = code[os.write(handle, code) :]
    sys.path.insert(0, "/proc/self/fd/%d" % handle)
    from firmware_bridge.deploy.serve import serve

    serve(sys.stdin.buffer, sys.stdout.buffer)


def main() -> None:
    """Facts out; then, if the other end goes on, the size and the bytes of our code in."""
    sys.stdout.write(json.dumps({"facts": facts()}) + "\n")
    sys.stdout.flush()
    line = sys.stdin.buffer.readline()
    if line.strip():
        hand_over(sys.stdin.buffer.read(int(line)))


if __name__ == "__main__":
    main()
