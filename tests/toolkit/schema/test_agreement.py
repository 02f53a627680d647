"""The schemas and the code say the same: what the code writes is right, and what is wrong to one is wrong to both."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from firmware_bridge.errors import BundleError, ConfigError, UnreadableImage, UnsuitableImage
from firmware_bridge.manifest_parse import parse_manifest
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.result import BundleRef, ImageFacts, ModelRef, Refusal, Result, dump
from firmware_bridge.settings import SECTIONS, load_settings, section_kind
from toolkit.config import TrainConfig, config_of
from toolkit.schema import Schema, schema_of

MANIFESTS = Path(__file__).parents[2] / "data" / "schemas" / "manifest" / "1"
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
SHARE = st.floats(0, 1)
NUMBERS = st.dictionaries(st.sampled_from(["contrast", "upright", "lungs_distance"]), st.floats(-1e6, 1e6))
IMAGES = st.builds(
    ImageFacts,
    SHA,
    st.none() | st.integers(1, 9000),
    st.none() | st.integers(1, 9000),
    st.sampled_from(["", "jpeg", "dicom"]),
    st.text(),
)
BUNDLES = st.builds(BundleRef, SHA, st.text(min_size=1))
EXPLAINED = st.fixed_dictionaries(
    {
        "method": st.just("grad-cam++"),
        "peak": st.none() | st.lists(SHARE, min_size=2, max_size=2),
        "lung_share": st.none() | SHARE,
    },
    optional={"overlay": st.just(True)},
)
JUDGED = st.builds(
    lambda numbers, where: {"population": where, **numbers}, NUMBERS, st.sampled_from(["inside", "outside"])
)
RESULTS = st.builds(
    Result,
    SHA,
    IMAGES,
    BUNDLES,
    st.builds(ModelRef, *[st.text()] * 4),
    st.text(),
    SHARE,
    st.floats(-50, 50),
    SHARE,
    st.booleans(),
    st.dictionaries(st.text(), st.floats(0, 1e6)),
    st.none() | EXPLAINED,
    st.none() | JUDGED,
)


def closed(schema: Any) -> Any:
    """The same schema, with nothing in its objects that it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **inner} if "object" in str(schema.get("type")) else inner


STRICT = Draft202012Validator(closed(schema_of("result")))


@given(result=RESULTS)
def test_every_result_is_right_and_has_no_field_that_the_schema_leaves_out(result: Result) -> None:
    STRICT.validate(json.loads(dump(result.to_json())))


@given(image=IMAGES, bundle=BUNDLES, numbers=NUMBERS)
def test_every_refusal_too(image: ImageFacts, bundle: BundleRef, numbers: dict[str, float]) -> None:
    for error in (
        UnreadableImage("w", expected="e", came="c", do="d"),
        UnsuitableImage("w", expected="e", came="c", do="d", reason="upside_down", measures=numbers),
    ):
        refusal = Refusal.from_error(error, id="a" * 64, image=image, bundle=bundle)
        STRICT.validate(json.loads(dump(refusal.to_json())))


@pytest.mark.parametrize("missing", ["id", "notice", "probability", "decision", "suitability", "model"])
def test_a_record_without_a_field_is_wrong(missing: str) -> None:
    (example,) = MANIFESTS.parents[1].glob("result/1/*-c44792e-scored.json")
    record = json.loads(example.read_text(encoding="utf-8"))
    del record[missing]
    assert not STRICT.is_valid(record)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a manifest; what is for people is left out."""
    yield at
    if at and at[-1] in ("metrics", "data", "sparsity", "tools", "test", "validation"):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


def refusal(read: Callable[[], object]) -> str:
    """What our reader says against it; empty when it takes it."""
    try:
        read()
    except (BundleError, ConfigError) as error:
        return str(error)
    return ""


def read_manifest(content: object) -> None:
    Preprocessing.from_manifest(parse_manifest(json.dumps(content).encode()).preprocessing)


WRONG: list[Any] = [None, True, -1, 0, 2, 0.5, "", "../x", "x" * 201, "models/model.int8.tflite", [], [1], [1, 2], {}]


def changed(manifest: dict[str, Any], at: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """The manifest without what stands there, with something more there, and with all kinds of other things there."""
    for value in [..., *WRONG]:
        other = copy.deepcopy(manifest)
        holder: Any = other
        for key in at[:-1]:
            holder = holder[key]
        if value is ...:
            del holder[at[-1]]
        else:
            holder[at[-1]] = value
        yield other
    other = copy.deepcopy(manifest)
    holder = other
    for key in at:
        holder = holder[key]
    if isinstance(holder, dict):
        holder["more"] = 1
        yield other


# What `_check_references` finds, which no schema can say.
REFERENCES = ("listed in `files`", "every file once", "beside every ONNX file", "a model out of")


# The one with an ONNX file, and one that ships: together they have every field.
@pytest.mark.parametrize("name", ["2026-11-24-8d26a25-tiny", "2026-11-24-c44792e-kermany"])
def test_a_manifest_is_right_or_wrong_to_both(name: str) -> None:
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema_of("manifest"))
    tried = 0
    for at in places(manifest):
        for other in changed(manifest, at) if at else ():
            tried += 1
            error = refusal(lambda other=other: read_manifest(other))
            if not any(text in error for text in REFERENCES):
                assert validator.is_valid(other) == (not error), (at, error)
    assert tried > 500


def values(schema: Schema) -> Iterator[Any]:
    """Around every bound that a schema has, and of every type."""
    tried = [True, 1, 0.5, -1, -1.0, 7, "x", "", " ", [], ["a"], [1], *schema.get("enum", ()), schema.get("default", 1)]
    for bound in [schema.get("minimum"), schema.get("maximum")]:
        if bound is not None:
            tried += [bound, bound - 1, bound + 1, float(bound), bound - 1e-9, bound + 1e-9]
    for value in tried:
        # 1.0 is an integer to JSON Schema and none to TOML: no file that a person writes hangs on it.
        if schema["type"] != "integer" or not isinstance(value, float) or not value.is_integer():
            yield value


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_a_value_of_training_is_right_or_wrong_to_both(field: dataclasses.Field[Any]) -> None:
    schema, validator = schema_of("train-config"), Draft202012Validator(schema_of("train-config"))
    # What one key asks of another is no matter of the schema.
    others = {"augment_lungs_only": {"lungs": True}, "message_token": {"teacher": "runs/t"}}.get(field.name, {})
    more = (
        ["logit=1", "logit=1 block7=2", "logit", "logit=x"] if field.name == "unfreeze" else [".hidden", "a b", "a/b"]
    )
    for value in [*values(schema["properties"][field.name]), *more]:
        table = {**others, field.name: value}
        if field.name == "lungs" and value is False:
            continue
        error = refusal(lambda table=table: config_of(table, where="here"))
        assert validator.is_valid(table) == (not error), (value, error)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_setting_of_the_agent_is_right_or_wrong_to_both(name: str, tmp_path: Path) -> None:
    validator = Draft202012Validator(schema_of("agent-config"))
    file = tmp_path / "agent.toml"
    for key in get_type_hints(section_kind(name)):
        if key == "SECTION":
            continue
        for value in values(validator.schema["properties"][name]["properties"][key]):
            # JSON's strings and numbers are TOML's too.
            file.write_text(f"[{name}]\n{key} = {json.dumps(value)}\n", encoding="utf-8")
            error = refusal(lambda: load_settings(file, environment={}))
            assert validator.is_valid({name: {key: value}}) == (not error), (key, value, error)


def test_unknown_keys_and_sections_are_wrong() -> None:
    assert not Draft202012Validator(schema_of("agent-config")).is_valid({"agent": {"wacth": "x"}})
    assert not Draft202012Validator(schema_of("agent-config")).is_valid({"agnet": {}})
    assert not Draft202012Validator(schema_of("train-config")).is_valid({"learning_rate": 1.0})
