"""The plot of docs/many-agents.md, and its table, from what `make soak-stream` measured.

python -m benchmarks.fleet.plot_many_agents --measured benchmarks/fleet/many_agents.jsonl --plot docs/many-agents.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

Run = dict[str, Any]


def jain(shares: list[float]) -> float:
    """Jain's fairness index: 1 where all have the same (Jain, Chiu, Hawe 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def by_count(runs: list[Run]) -> dict[int, list[Run]]:
    """Agents -> runs with equal shares."""
    equal = [run for run in runs if run["kind"] == "equal"]
    return {
        count: [run for run in equal if run["agents"] == count] for count in sorted({run["agents"] for run in equal})
    }


def table(runs: dict[int, list[Run]]) -> str:
    """In Markdown: medians over the runs, and their spread; of fairness the worst run."""
    one = statistics.median(run["rate"] for run in runs[1])
    head = (
        "agents",
        "results/s",
        "ratio to one",
        "fairness half-way",
        "at the end",
        "cores used",
        "ms of a core a result",
        "load",
    )
    lines = [" | ".join(("", *head, "")).strip(), "|---" * len(head) + "|"]
    for count, some in runs.items():
        rates = sorted(run["rate"] for run in some)
        middle = statistics.median(rates)
        cost_ms = 1000 * statistics.median(run["cores"] / run["rate"] for run in some)
        cells = (
            count,
            f"{middle:.1f} ({rates[0]:.1f} to {rates[-1]:.1f})",
            f"{middle / one:.1f}",
            f"{min(jain(run['halfway']) for run in some):.3f}",
            f"{min(jain(run['each']) for run in some):.3f}",
            f"{statistics.median(run['cores'] for run in some):.2f} of {sum(some[0]['shares']):.2f}",
            f"{cost_ms:.1f}",
            f"{min(run['load'] for run in some):.0f} to {max(run['load'] for run in some):.0f}",
        )
        lines.append(" | ".join(("", *map(str, cells), "")).strip())
    return "\n".join(lines) + "\n"


def plot(runs: dict[int, list[Run]], file: Path) -> None:
    """Results per second over the number of agents, beside what a straight line would be."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "cxr-edge", "svg.fonttype": "none", "font.family": "sans-serif"})
    counts = list(runs)
    middle = [statistics.median(run["rate"] for run in runs[count]) for count in counts]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(
        [0, counts[-1]], [0, counts[-1] * middle[0]], color="0.7", linestyle="--", label="one agent, times the agents"
    )
    for count in counts:
        rates = [run["rate"] for run in runs[count]]
        axes.plot([count] * len(rates), rates, ".", color="0.5")
    axes.plot(counts, middle, marker="o", color="black", label="measured (median; dots: single runs)")
    axes.set_xlabel("agents, each held to 12% of a core")
    axes.set_ylabel("results per second")
    axes.set_xticks(counts)
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    runs = by_count([json.loads(line) for line in asked.measured.read_text().splitlines()])
    sys.stdout.write(table(runs))
    if asked.plot:
        plot(runs, asked.plot)


if __name__ == "__main__":
    main()
