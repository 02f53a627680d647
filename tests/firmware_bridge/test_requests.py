"""Requests: where an answer may go, and what is no request."""

from __future__ import annotations

from typing import Any

import pytest

from firmware_bridge.errors import ImageError, ImageOutOfBounds, UnreadableImage, UnsupportedImage
from firmware_bridge.journal import ReplyTo
from firmware_bridge.mqtt_message import Incoming
from firmware_bridge.requests import NoAnswerPossible, Topics, check_payload

TOPICS = Topics("ward/7", "box", "all")


def incoming(topic: str = "ward/7/box/request", payload: bytes = b"x", **more: Any) -> Incoming:
    return Incoming(1, topic, payload, 1, retained=False, **more)


def test_what_is_subscribed_to() -> None:
    assert TOPICS.filters == ["ward/7/box/request/#", "$share/all/ward/7/request/#"]
    assert Topics("p", "box").filters == ["p/box/request/#"]


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (incoming(), None),
        (incoming(response_topic="pacs/answers"), ReplyTo("pacs/answers", b"")),
        (incoming(response_topic="pacs/answers", correlation=b"\0\xff"), ReplyTo("pacs/answers", b"\0\xff")),
        (incoming("ward/7/box/request/a 7"), ReplyTo("ward/7/box/response/a 7", b"a 7")),
        (incoming("ward/7/request/a7"), ReplyTo("ward/7/response/a7", b"a7")),
        (incoming("ward/7/request/a7", response_topic="x", correlation=b"c"), ReplyTo("x", b"c")),
        (incoming(response_topic="ward/7/response/me"), ReplyTo("ward/7/response/me", b"")),
        (incoming(response_topic="ward/7/box/response/me"), ReplyTo("ward/7/box/response/me", b"")),
        (incoming(response_topic="ward/70/box/status"), ReplyTo("ward/70/box/status", b"")),
    ],
)
def test_where_the_answer_goes(message: Incoming, reply: ReplyTo | None) -> None:
    assert TOPICS.reply_to(message) == reply


@pytest.mark.parametrize(
    "topic",
    [
        *("", "a/#", "a/+/b", "+", "#", "$SYS/x", "$share/all/x", "a\0b", "a\nb", "x" * 1025, "\ud800"),
        *("ward/7", "ward/7/box/status", "ward/7/other/status", "ward/7/box/result", "ward/7/other/request"),
        *("ward/7/request", "ward/7/request/response", "ward/7/response", "ward/7/box/response"),
        *("homeassistant/device/x/config", "homeassistant"),
    ],
)
def test_a_response_topic_that_nothing_may_go_to(topic: str) -> None:
    with pytest.raises(NoAnswerPossible) as caught:
        TOPICS.reply_to(incoming(response_topic=topic))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("id", ["", "a/b", "\u0007", "x" * 129])
def test_an_id_that_is_none(id: str) -> None:
    with pytest.raises(NoAnswerPossible):
        TOPICS.reply_to(incoming(f"ward/7/box/request/{id}"))


def test_correlation_data_without_end_is_not_given_back() -> None:
    with pytest.raises(NoAnswerPossible):
        TOPICS.reply_to(incoming(response_topic="a", correlation=b"x" * 1025))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (incoming(payload=b""), UnreadableImage),
        (incoming(payload=b"x" * 101), ImageOutOfBounds),
        (incoming(content_type="text/plain"), UnsupportedImage),
        (incoming(content_type="image/gif"), UnsupportedImage),
    ],
)
def test_what_is_no_image(message: Incoming, error: type[ImageError]) -> None:
    with pytest.raises(error):
        check_payload(message, max_bytes=100)


@pytest.mark.parametrize("kind", ["", "image/jpeg", "IMAGE/PNG", "image/tiff; charset=x", "application/dicom"])
def test_what_may_be_an_image(kind: str) -> None:
    check_payload(incoming(content_type=kind), max_bytes=100)
