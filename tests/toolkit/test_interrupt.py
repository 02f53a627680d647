"""A KeyboardInterrupt that Python drops is raised at the next step all the same."""

from __future__ import annotations

import os
import signal

import pytest

from toolkit.interrupt import Terminated, raise_if_interrupted, remembering_interrupts
from toolkit.progress import progress


class Finalized:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(
            1000
        ):  # the handler runs between two of these, inside the finalizer: Python drops what it raises
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_inside_a_finalizer_ends_the_loop() -> None:
    done = []

    def work() -> None:
        for number in progress(range(10), "counting"):
            done.append(number)
            if number == 3:
                Finalized()

    with pytest.raises(KeyboardInterrupt), remembering_interrupts():
        work()
    assert done == [0, 1, 2, 3]


def test_sigterm_ends_it_as_well_and_is_told_apart() -> None:
    with pytest.raises(Terminated), remembering_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)


def test_without_one_nothing_happens_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with remembering_interrupts():
        raise_if_interrupted()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    raise_if_interrupted()
