"""The broker of the end-to-end tests, for pages that need one."""

from tests.end_to_end.conftest import mosquitto as mosquitto
from tests.end_to_end.conftest import pytest_configure as pytest_configure
