"""The benchmark as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.benchmark.measure import STAGES, Benchmark, Row

MIB = 1 << 20


def render(benchmark: Benchmark) -> str:
    """Three tables: milliseconds by stage, what each file needs, and the ratios."""
    machine = benchmark.machine
    head = (
        f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, Python {machine['python']}, "
        f"load {machine['load_average']}; {benchmark.images} X-rays, {benchmark.rounds} rounds in turns"
    )
    parts = [head, _times(benchmark.rows), _files(benchmark.rows), _ratios(benchmark.rows), *benchmark.notes]
    return "\n\n".join(part for part in parts if part)


def _times(rows: Sequence[Row]) -> str:
    lines = [["ms, p50 / p95", "threads", *STAGES]]
    for row in rows:
        cells = [row.stages_ms.get(stage) for stage in STAGES]
        lines.append(
            [row.name, str(row.threads), *(f"{cell['p50']:.1f} / {cell['p95']:.1f}" if cell else "-" for cell in cells)]
        )
    return _aligned(lines)


def _files(rows: Sequence[Row]) -> str:
    lines = [["file", "threads", "runtime", "delegate", "partitions", "MB", "first inference", "cold start", "memory"]]
    lines += [
        [
            row.name,
            str(row.threads),
            row.runtime,
            row.delegate,
            str(row.partitions),
            f"{row.file_bytes / 1e6:.2f}",
            f"{row.cold.first_inference_ms:.0f} ms",
            f"{row.cold.start_ms:.0f} ms",
            f"{row.cold.rss_bytes / MIB:.0f} MiB",
        ]
        for row in rows
        if row.cold is not None
    ]
    return _aligned(lines)


def _ratios(rows: Sequence[Row]) -> str:
    lines = [["share of the other's time", "threads", "stage / other", "ratio"]]
    lines += [
        [row.name, str(row.threads), against, f"{ratio:.2f}"] for row in rows for against, ratio in row.ratios.items()
    ]
    return _aligned(lines) if len(lines) > 1 else ""


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
