"""A day of 1,000 devices, simulated (day.py), from what a broker was measured to need (broker.py): a table, a plot.

python -m benchmarks.fleet.simulate --measured benchmarks/fleet/broker.json --plot docs/fleet.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet.day import DAY_S, HOUR_S, KINDS, Assumed, Fleet
from benchmarks.fleet.devices import RESULT, STATUS, TELEMETRY

_BYTES = {"result": len(RESULT), "status": len(STATUS), "telemetry": len(TELEMETRY)}


def costs_s(measured: dict[str, Any]) -> dict[str, float]:
    """What a message costs the broker, with as many devices as were measured last."""
    last = measured["runs"][-1]
    result_s = last["broker_us_per_result"] / 1e6
    # A status is handed to one subscriber with QoS 1 as a result is.
    return {"result": result_s, "status": result_s, "telemetry": last["broker_us_per_telemetry"] / 1e6}


def summary(fleet: Fleet, assumed: Assumed, measured: dict[str, Any]) -> dict[str, float]:
    """What is worth telling."""
    messages = sum((fleet.per_s[kind] for kind in KINDS), np.zeros(int(DAY_S)))
    from_s, back_s = int(assumed.outage_from_s), int(assumed.outage_from_s + assumed.outage_s)
    most, after = fleet.unsent.max(), fleet.unsent[back_s:]
    first, last = measured["runs"][0], measured["runs"][-1]
    per_device_kb = (last["connected_kb"] - first["connected_kb"]) / (last["devices"] - first["devices"])
    broker_kb = first["empty_kb"] + per_device_kb * assumed.devices
    tls = measured["tls"]
    tls_kb = tls["empty_kb"] + (tls["connected_kb"] - tls["empty_kb"]) / tls["devices"] * assumed.devices
    night = fleet.per_s["result"][: 7 * 3600].sum()
    return {
        "X-rays": fleet.scored,
        "messages": messages.sum(),
        "messages/s, mean": messages.mean(),
        # Midnight, when the model begins, and the outage's end are no ordinary times.
        "messages/s, busiest minute of ordinary times": np.delete(
            messages.reshape(-1, 60).mean(axis=1), [*range(5), *range(back_s // 60, back_s // 60 + 5)]
        ).max(),
        "messages/s, busiest second of all": messages.max(),
        "kB/s into the broker, mean": sum(fleet.per_s[kind].sum() * _BYTES[kind] for kind in KINDS) / DAY_S / 1000,
        "attempts to connect/s, in the outage's last half hour": fleet.per_s["connect"][back_s - 1800 : back_s].mean(),
        "attempts to connect/s, busiest second": fleet.per_s["connect"].max(),
        "unsent results, most before the outage": fleet.unsent[:from_s].max(),
        "unsent results, most": most,
        "unsent results of one device, most": fleet.most_unsent,
        "seconds from the broker's return until 1 of 100 is left": int(np.argmax(after <= most / 100)),
        "age of a result when the broker has it, s, median": np.median(fleet.ages_s),
        "age of a result when the broker has it, s, 95th of 100": np.quantile(fleet.ages_s, 0.95),
        "broker's processor, of a core, in 100": 100 * fleet.broker_busy_s / DAY_S,
        "broker's memory, MB": broker_kb / 1024,
        "the same with TLS, MB": tls_kb / 1024,
        "without TLS, while the collector of results is away from 0 to 7 h, MB": broker_kb / 1024
        + night * last["queued_bytes_per_result"] / 2**20,
        "results that wait for the collector then": night,
    }


def plot(fleet: Fleet, assumed: Assumed, file: Path) -> None:
    """Messages a second, and what waits on the devices, over the day."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "cxr-edge", "svg.fonttype": "none", "font.family": "sans-serif"})
    back_s = int(assumed.outage_from_s + assumed.outage_s)
    figure, axes = pyplot.subplot_mosaic([["rate", "rate"], ["day", "drain"]], figsize=(9, 5), layout="constrained")
    hours = np.arange(int(DAY_S / 300)) / 12
    for kind in KINDS:
        axes["rate"].plot(hours, fleet.per_s[kind].reshape(-1, 300).mean(axis=1), label=kind, linewidth=0.8)
    axes["rate"].set_ylabel("messages a second\n(means of 5 minutes)")
    axes["rate"].set_yscale("symlog", linthresh=1)
    figure.legend(loc="outside right upper", fontsize="small")
    axes["rate"].set_title(
        f"Simulated: {assumed.devices:,} devices, one broker, away in the grey hours", fontsize="medium"
    )
    axes["day"].plot(hours, fleet.unsent[::300], linewidth=0.8, color="black")
    axes["day"].set_ylabel("results that wait\non the devices")
    for name in ("rate", "day"):
        axes[name].axvspan(assumed.outage_from_s / HOUR_S, back_s / HOUR_S, color="0.85", zorder=0)
        axes[name].set_xticks(range(0, 25, 3))
        axes[name].set_xlabel("hour of the day")
    axes["drain"].plot(fleet.unsent[back_s : back_s + 120], color="black")
    axes["drain"].set_xlabel("seconds after the broker is back")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Simulate, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True, help="JSON that broker.py wrote")
    parser.add_argument("--plot", type=Path, help="SVG or PNG")
    for one in fields(Assumed):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    asked = vars(parser.parse_args())
    assumed = Assumed(**{one.name: asked[one.name] for one in fields(Assumed)})
    measured = json.loads(asked["measured"].read_text())
    fleet = Fleet(assumed, cost_s=costs_s(measured))
    fleet.run()
    sys.stdout.write(f"{asdict(assumed)}\n")
    for name, value in summary(fleet, assumed, measured).items():
        sys.stdout.write(f"{name:75} {value:12,.3f}\n")
    if asked["plot"]:
        plot(fleet, assumed, asked["plot"])


if __name__ == "__main__":
    main()
