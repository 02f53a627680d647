"""Two releases of one bundle: which settings, keys and directives tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firmware_bridge.trust import TrustedKey
from toolkit.deploy.differences import differences

OLD, NEW = TrustedKey("old", b"o" * 32), TrustedKey("new", b"n" * 32)
BASE = {"config": "", "unit": "", "trusted_keys": OLD.to_toml(), "app": "a" * 64, "site": "b" * 64}


def test_the_same_is_no_difference() -> None:
    assert differences(BASE, BASE) == {}
    assert differences(BASE, {**BASE, "config": "# a comment alone\n[agent]\n"}) == {}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("[agent]\nthreshold = 0.41", "[agent]\nthreshold = 0.5", "[agent] threshold 0.41 → 0.5"),
        ("[agent]\nthreads = 2", "", "[agent] threads 2 → default"),
        ("", '[mqtt]\nurl = "mqtt://b"', '[mqtt] url default → "mqtt://b"'),
        ("[a]\nb = true\nc = 1", "[a]\nb = false\nc = 2", "[a] b true → false, [a] c 1 → 2"),
        ("[a]\nb = 2026-01-01", "[a]\nb = 2026-01-02", '[a] b "2026-01-01" → "2026-01-02"'),
        ("", f'[a]\nb = "{"x" * 99}"', f'[a] b default → "{"x" * 58}…'),
        ("no TOML", "", "what one of them has cannot be read"),
        ("", f"a = {'[' * 60_000}", "what one of them has cannot be read"),
    ],
)
def test_settings_are_told_by_section_key_and_value(before: str, after: str, told: str) -> None:
    assert differences({**BASE, "config": before}, {**BASE, "config": after}) == {"settings": told}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([OLD, NEW], f"new ({NEW.id[:8]}) added"),
        ([replace(OLD, revoked=True), NEW], f"new ({NEW.id[:8]}) added, old ({OLD.id[:8]}) revoked"),
        ([NEW], f"new ({NEW.id[:8]}) added, old ({OLD.id[:8]}) left out"),
        ([replace(OLD, valid_until="2027-01-01T00:00:00Z")], f"old ({OLD.id[:8]}) with other dates"),
        ([], "what one of them has cannot be read"),
    ],
)
def test_keys_are_told_by_name(keys: list[TrustedKey], told: str) -> None:
    text = "\n".join(key.to_toml() for key in keys)
    assert differences(BASE, {**BASE, "trusted_keys": text}) == {"trusted keys": told}


def test_a_key_that_is_trusted_again_is_told() -> None:
    revoked = {**BASE, "trusted_keys": replace(OLD, revoked=True).to_toml()}
    assert differences(revoked, BASE) == {"trusted keys": f"old ({OLD.id[:8]}) trusted again"}


def test_code_packages_and_the_unit_are_told() -> None:
    before = {**BASE, "unit": "[Service]\n# why\nMemoryMax=700M\nUser=cxr-edge\n"}
    after = {**before, "app": "c" * 64, "site": "d" * 64, "unit": "[Service]\nUser=cxr-edge\nMemoryMax=900M\n"}
    assert differences(before, after) == {
        "service": "no MemoryMax=700M, MemoryMax=900M",
        "code": "another version",
        "packages": "others",
    }
