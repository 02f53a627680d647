"""`cxr-edge doctor`: reads what is here, then says what would go wrong and which command mends it.

Reading (`facts`) and judging (`checks`) are two things: the judgement is pure, so that every machine can be tried in a
test. Nothing here needs TensorFlow.
"""

from toolkit.doctor.checks import Finding, Status, examine, healthy
from toolkit.doctor.facts import Facts, Probe, read_facts

__all__ = ["Facts", "Finding", "Probe", "Status", "examine", "healthy", "read_facts"]
