"""Several agents, each with a share of a core, on one shared stream of requests; and what came out of them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from tests.end_to_end.conftest import Agent, Mosquitto, Xrays, until
from tests.end_to_end.cpu_share import CpuShare, processor_s
from tests.end_to_end.mqtt_asker import Asker

_CONFIG = '[requests]\nenabled = true\ngroup = "ward"\n[mqtt]\ntelemetry_s = 0.0\n'
_ANSWERS = "cxr-edge/response/"
WAIT_S = 600.0


@dataclass(frozen=True)
class Run:
    """One measured stream.

    Attributes:
        agents: how many.
        shares: of a core, for each.
        requests: sent at once.
        seconds: from the first request to the last answer.
        rate: results per second over that time.
        each: results of each agent.
        halfway: of each, when half of all answers had come.
        cores: what the agents used of the processors, in cores.
        load: the machine's load average.
    """

    agents: int
    shares: list[float]
    requests: int
    seconds: float
    rate: float
    each: list[int]
    halfway: list[int]
    cores: float
    load: float

    def __str__(self) -> str:
        return (
            f"{self.agents} agents: {self.rate:.1f} results/s ({self.requests} in {self.seconds:.1f} s), "
            f"each {self.each}, halfway {self.halfway} (fairness {jain(self.halfway):.3f}), "
            f"{self.cores:.2f} cores, load {self.load:.1f}"
        )

    def keep(self, kind: str) -> None:
        """Add it to the file that CXR_EDGE_STREAM_OUT names, if one is named."""
        if path := os.environ.get("CXR_EDGE_STREAM_OUT"):
            with Path(path).open("a") as file:
                file.write(json.dumps({"kind": kind, **asdict(self)}) + "\n")


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 where all have the same, 1/n where one has everything (Jain, Chiu, Hawe 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


class Ward:
    """Agents of one group behind one broker, for as long as the `with` lasts. Limited only by `limit`."""

    def __init__(self, folder: Path, mosquitto: Mosquitto, bundle: Path, *, count: int) -> None:
        self._mosquitto = mosquitto
        self._asked_s: list[float] = []
        self._shares: list[CpuShare] = []
        self.agents: list[Agent] = []
        self._stack = contextlib.ExitStack()
        for number in range(count):
            home = folder / f"box{number}"
            home.mkdir()
            agent = Agent(home, bundle)
            (home / "agent.toml").write_text(_CONFIG)
            self._shares.append(CpuShare(f"box{number}"))
            self._stack.callback(self._shares[-1].close)
            agent.inside = self._shares[-1].command
            self.agents.append(agent)
            self._stack.callback(lambda one=agent: one.kill() if one.running else None)  # type: ignore[misc]

    def __enter__(self) -> Ward:
        with contextlib.ExitStack() as started:
            started.push(self._stack)
            for number in range(len(self.agents)):
                self.start(number)
            for agent in self.agents:
                until(lambda one=agent: "taking requests" in one.log.read_text(), timeout_s=120, what="an agent")  # type: ignore[misc]
            self.asker = self._stack.enter_context(Asker(self._mosquitto.port, answers=f"{_ANSWERS}#"))
            started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, number: int) -> None:
        """Start one."""
        config = self.agents[number].watch.parent / "agent.toml"
        options = ("--config", str(config), "--mqtt", self._mosquitto.url, "--device", f"box{number}")
        self.agents[number].start(*options)

    def revive(self) -> None:
        """Start all that were killed."""
        for number, agent in enumerate(self.agents):
            if not agent.running:
                self.start(number)

    def limit(self, share: float | Sequence[float] | None) -> None:
        """The share of a core for each agent, from now on."""
        shares = [share] * len(self._shares) if share is None or isinstance(share, float) else share
        for group, one in zip(self._shares, shares, strict=True):
            group.limit(one)

    def ask(self, image: bytes) -> None:
        """Send one X-ray to whoever takes it."""
        self._asked_s.append(time.monotonic())
        self.asker.ask(f"cxr-edge/request/{self._sent - 1}", image, response_topic=None, wait=False)

    @property
    def _sent(self) -> int:
        return len(self._asked_s)

    def answered(self) -> set[str]:
        """Ids of requests that were answered."""
        return {topic.removeprefix(_ANSWERS) for topic, _, _ in list(self.asker.answers)}

    def wait(self, *, share: float = 1.0) -> None:
        """Until that share of all requests is answered."""
        until(
            lambda: len(self.asker.answers) >= self._sent * share and len(self.answered()) >= self._sent * share,
            timeout_s=WAIT_S,
            what=f"answers, {len(self.answered())} of {self._sent} came",
        )

    def results(self) -> list[int]:
        """How many each agent has scored."""
        return [int(agent.journal("SELECT count(*) FROM result")[0][0]) for agent in self.agents]

    def measure(self, xrays: Xrays, *, requests: int, share: float | Sequence[float]) -> Run:
        """A stream of requests, all sent at once; the agents are warm."""
        for _ in range(4 * len(self.agents)):
            self.ask(xrays.make())
        self.wait()
        self.limit(share)
        before, used_s = self.results(), self._processor_s()
        begun_s = time.monotonic()
        self._forget()
        for _ in range(requests):
            self.ask(xrays.make())
        self.wait(share=0.5)
        halfway = self._since(before)
        self.wait()
        seconds = time.monotonic() - begun_s
        shares = [share] * len(self.agents) if isinstance(share, float) else list(share)
        return Run(
            agents=len(self.agents),
            shares=shares,
            requests=requests,
            seconds=seconds,
            rate=requests / seconds,
            each=self._since(before),
            halfway=halfway,
            cores=(self._processor_s() - used_s) / seconds,
            load=os.getloadavg()[0],
        )

    def _forget(self) -> None:
        for kept in (self.asker.answers, self.asker.came_s, self._asked_s):
            kept.clear()  # type: ignore[attr-defined]

    def waits_s(self) -> list[float]:
        """From each request to its first answer, in rising order."""
        first: dict[int, float] = {}
        for (topic, _, _), came_s in zip(self.asker.answers, self.asker.came_s, strict=True):
            first.setdefault(int(topic.removeprefix(_ANSWERS)), came_s)
        return sorted(came_s - self._asked_s[number] for number, came_s in first.items())

    def is_at_work(self, number: int) -> bool:
        """Whether an agent runs and has X-rays that it has not scored yet."""
        agent = self.agents[number]
        return agent.running and agent.journal("SELECT count(*) FROM intake WHERE state IN ('taken', 'scored')") > [
            (0,)
        ]

    def _since(self, before: Sequence[int]) -> list[int]:
        return [now - then for now, then in zip(self.results(), before, strict=True)]

    def _processor_s(self) -> float:
        return sum(processor_s(agent.pid) for agent in self.agents if agent.pid)

    def check(self, ids: set[str]) -> int:
        """None lost, none twice: each result id in one journal, each request answered.

        Returns:
            Answers that came again under the same id.
        """
        scored = [id for agent in self.agents for (id,) in agent.journal("SELECT id FROM result")]
        assert Counter(scored) == Counter(ids), "each id once, over all agents"
        assert {record["id"] for _, _, record in self.asker.answers} <= ids
        assert self.answered() == {str(number) for number in range(self._sent)}
        for agent in self.agents:
            assert agent.journal("SELECT count(*) FROM intake WHERE state IN ('taken', 'scored')") == [(0,)]
        return len(self.asker.answers) - self._sent
