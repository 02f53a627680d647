"""`make demo`: the whole line on the sample X-rays, from labels to results on the MQTT stream, in a few minutes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from firmware_bridge.errors import CxrEdgeError, ResourceError
from firmware_bridge.result import NOTICE
from toolkit.cli.commands import EXIT_INTERRUPTED, as_cxr_edge_error
from toolkit.config import TrainConfig
from toolkit.data.index import Index, Xray
from toolkit.demo_broker import DemoBroker, Subscriber
from toolkit.files import write_atomically
from toolkit.report import training_report
from toolkit.train_qat import train_qat

SAMPLES = Path("samples")
# It starts from the weights that ship, so that what comes out works; the phases are short enough for minutes on two
# cores. The gate on int8 is off because twelve validation X-rays cannot tell 0.01 AUROC; a sensitivity of 0.95 would
# hang the threshold on the one of six sick validation X-rays that the weights miss.
CONFIG = TrainConfig(
    name="demo",
    backbone="efficientnet-lite0",
    weights="cxr-edge/kermany",
    size_px=128,
    batch_size=8,
    augment="light",
    float_epochs=2,
    float_rate=5e-5,
    prune_epochs=3,
    prune_rate=1e-4,
    qat_epochs=3,
    qat_rate=3e-5,
    follow=0.8,
    dropout=0.0,
    sensitivity=0.8,
    allow_int8_loss=True,
)
# Counted by file name against the split behind those weights (docs/models.md).
SEEN = (
    "The weights that it starts from have seen the samples: 45 of the 64 in training, 10 of them among the 12\n"
    "   test X-rays. How well it does here says nothing about other X-rays."
)
_RESULT_S = 60.0


def demo(out: Path) -> Path:
    """Train, compress and bundle on the samples; run the agent on a watched folder and an MQTT broker; print results.

    Args:
        out: folder of runs.

    Returns:
        The path of the report.

    Raises:
        CxrEdgeError: any stage failed.
    """
    if not (SAMPLES / "index.csv").is_file():
        raise ResourceError(
            "the sample X-rays are not here",
            expected=f"{SAMPLES / 'index.csv'}",
            came=f"nothing there, seen from {Path.cwd()}",
            do="run the demo from the top of the repository: make demo",
        )
    click.echo("1. Training, pruning, quantization, calibration, bundle (float, then 30% zeros, then int8)")
    run = train_qat(SAMPLES / "index.csv", CONFIG, out=out, say=lambda line: click.echo(f"   {line}"))
    click.echo(f"   bundle: {run.bundle}")
    test = Index.read(run.folder / "index.csv").select(split="test").rows
    dicom = [Xray(path=p, label=p.name.split("_")[0], patient_id=p.name) for p in sorted(SAMPLES.glob("dicom/*.dcm"))]
    click.echo(f"   {SEEN}")
    click.echo(f"2. The agent: {len(test)} test X-rays and {len(dicom)} DICOM files into a watched folder")
    results = stream(run.bundle, [*test, *dicom], folder=run.folder / "watched")
    write_atomically(run.folder / "agent.json", json.dumps(results, indent=1))
    return training_report(run.folder)


def stream(bundle: Path, xrays: Sequence[Xray], *, folder: Path) -> list[dict[str, Any]]:
    """Start a broker and the agent, drop `xrays` into `folder`, and return the result records in order of arrival.

    Raises:
        CxrEdgeError: the agent ended, or a result did not come in time.
    """
    # A watched folder of an earlier demo holds X-rays that were reported already.
    shutil.rmtree(folder, ignore_errors=True)
    incoming = folder / "incoming"
    incoming.mkdir(parents=True)
    with DemoBroker() as broker, Subscriber("127.0.0.1", broker.port, "cxr-edge/+/result") as subscriber:
        command = [sys.executable, "-m", "toolkit.cli.main", "agent", "--quiet", "--names"]
        command += ["--watch", str(incoming), "--bundle", str(bundle), "--mqtt", broker.url]
        command += ["--state", str(folder / "state")]
        agent = subprocess.Popen(command)
        try:
            return _results(agent, subscriber, xrays, incoming)
        finally:
            agent.terminate()
            try:
                agent.wait(10)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _results(
    agent: subprocess.Popen[bytes], subscriber: Subscriber, xrays: Sequence[Xray], incoming: Path
) -> list[dict[str, Any]]:
    truth = {xray.path.name: xray.label for xray in xrays}
    for xray in xrays:
        shutil.copy(xray.path, incoming)
    records: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + _RESULT_S
    while len(records) < len(xrays):
        message = subscriber.get(timeout_s=0.5)
        if message is not None:
            record = message.json()
            records.append(record)
            click.echo(f"   {_line(record, truth)}")
        elif agent.poll() is not None or time.monotonic() > deadline_s:
            raise CxrEdgeError(
                "the agent did not report every X-ray",
                expected=f"{len(xrays)} results within {_RESULT_S:.0f} s",
                came=f"{len(records)}, agent " + ("ended" if agent.poll() is not None else "running"),
                do="see its messages above",
            )
    return records


def _line(record: dict[str, Any], truth: dict[str, str]) -> str:
    name = record["image"].get("name", record["image"]["id"][:12])
    if record.get("refused"):
        return f"{name}: refused, {record['refused']['what']}"
    total_ms = sum(record["timings_ms"].values())
    return (
        f"{name:38} {record['label_positive']} {record['probability']:.3f} (threshold {record['threshold']:.3f}) "
        f"{record['decision']:8} labelled {truth.get(name, '?'):10} {total_ms:5.1f} ms"
    )


def main() -> None:
    """Run the demo; an error of ours becomes its message and its exit code."""
    start_s = time.monotonic()
    try:
        report = demo(Path("runs"))
    except KeyboardInterrupt:
        click.echo("\ninterrupted; make demo goes on from here", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        known = as_cxr_edge_error(error)
        if known is None:
            raise
        click.echo(f"error: {known}", err=True)
        sys.exit(known.exit_code)
    click.echo(f"{NOTICE}\nDone in {time.monotonic() - start_s:.0f} s. The report: {report.resolve()}")


if __name__ == "__main__":
    main()
