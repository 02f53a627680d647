"""Emulated devices: Debian hosts with a real systemd and a real sshd, in namespaces, for tests."""
