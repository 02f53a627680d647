"""The half of a deployment that runs on the device: the same code over SSH, from a USB folder and after a reboot.

Only the standard library, because it must run before anything else is installed; `proof` alone needs the release's own
packages and runs in a process of its own, as the service's user.
"""
