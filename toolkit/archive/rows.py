"""What is written of each X-ray: the columns of results and of what is unreadable. Order and types are stable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
SCORED, REFUSED = "scored", "refused"
Row = dict[str, Any]  # column to value; what is not in it is null


@dataclass(frozen=True, slots=True)
class Constants:
    """What is the same in every row of a run."""

    bundle_id: str
    bundle_name: str
    model_file: str
    precision: str
    label_positive: str
    threshold: float
    notice: str = NOTICE


def result_schema(kept: Sequence[pa.Field] = ()) -> pa.Schema:
    """The schema of results; docs/archives.md says what each column means.

    Raises:
        ConfigError: a kept column has the name of one of ours.
    """
    import pyarrow as pa

    text, number, ms = pa.string(), pa.float64(), pa.float32()
    columns = [
        pa.field("path", text, nullable=False),
        pa.field("sha256", text, nullable=False),
        pa.field("result_id", text, nullable=False),
        pa.field("status", text, nullable=False),
        pa.field("label_positive", text, nullable=False),
        pa.field("probability", number),
        pa.field("threshold", number, nullable=False),
        pa.field("positive", pa.bool_()),
        pa.field("logit", number),
        pa.field("reason", text),
        pa.field("population", text),
        pa.field("width_px", pa.int32()),
        pa.field("height_px", pa.int32()),
        pa.field("format", text),
        pa.field("bundle_id", text, nullable=False),
        pa.field("bundle_name", text, nullable=False),
        pa.field("model_file", text, nullable=False),
        pa.field("precision", text, nullable=False),
        pa.field("runtime", text, nullable=False),
        pa.field("delegate", text, nullable=False),
        pa.field("scored_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("read_ms", ms),
        pa.field("decode_ms", ms),
        pa.field("lungs_ms", ms),
        pa.field("preprocess_ms", ms),
        pa.field("infer_ms", ms),
        pa.field("notice", text, nullable=False),
    ]
    taken = {field.name for field in columns}
    names = [field.name for field in kept]
    for name in names:
        if name in taken or names.count(name) > 1:
            raise ConfigError(
                f"the column {name!r} cannot be kept",
                expected="names that results do not have themselves, each once",
                came=f"--keep {name}",
                do="rename that column in the list, or leave it out and join by path",
            )
    return pa.schema([*columns, *kept], metadata=_metadata())


def unreadable_schema() -> pa.Schema:
    """The schema of what cannot be read."""
    import pyarrow as pa

    text = pa.string()
    names = ("path", "what", "expected", "came", "do")
    columns = [pa.field(name, text, nullable=False) for name in names]
    columns += [
        pa.field("sha256", text),
        pa.field("tried_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("bundle_id", text, nullable=False),
        pa.field("notice", text, nullable=False),
    ]
    return pa.schema(columns, metadata=_metadata())


def table_of(rows: Sequence[Mapping[str, Any]], constants: Constants, schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`; what is the same in all of them comes from `constants`."""
    import pyarrow as pa

    same = asdict(constants)
    columns = [
        pa.repeat(pa.scalar(same[field.name], field.type), len(rows))
        if field.name in same
        else _column([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column; those of a Parquet list are arrays of one."""
    import pyarrow as pa

    if values and all(isinstance(value, pa.Array) for value in values):
        return pa.concat_arrays(values)
    return pa.array(values, kind)


def _metadata() -> dict[bytes, bytes]:
    return {b"cxr-edge": json.dumps({"schema": SCHEMA, "notice": NOTICE}).encode()}
