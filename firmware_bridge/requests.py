"""X-rays that are sent over MQTT: what a request is, where its answer goes, and what is not taken.

Topics below the broker's prefix; one agent and a group of agents (a shared subscription) are asked the same way:

    DEVICE/request         the answer goes to the response topic (MQTT 5.0, 4.10), if there is one
    DEVICE/request/ID      without a response topic the answer goes to DEVICE/response/ID: MQTT 3.1.1 has none
    request, request/ID    the same for the group; response/ID

The payload is the image file itself. The answer is always a result record; a request that is not taken gets a refusal.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from firmware_bridge.decode import DEFAULT_LIMITS
from firmware_bridge.errors import ImageOutOfBounds, InputError, UnreadableImage, UnsupportedImage
from firmware_bridge.journal import ReplyTo
from firmware_bridge.mqtt_message import Incoming

_MAX_TOPIC_BYTES = 1024
_MAX_CORRELATION_BYTES = 1024
_MAX_ID_BYTES = 128
# "": the sender did not say. What the bytes really are, the decoder finds out.
CONTENT_TYPES = frozenset(
    {"", "image/jpeg", "image/jpg", "image/png", "image/tiff", "application/dicom", "application/octet-stream"}
)


class NoAnswerPossible(InputError):
    """The request names a place that no answer may go to. Whoever sent it cannot be told."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a device's requests.

    Attributes:
        prefix: the broker's.
        device: our name.
        group: of the shared subscription; empty: none.
        reserved: first levels of topics that belong to others (Home Assistant's discovery).
    """

    prefix: str
    device: str
    group: str = ""
    reserved: tuple[str, ...] = ("homeassistant",)

    @property
    def filters(self) -> list[str]:
        """What is subscribed to. `request/#` is `request` too: MQTT 5.0, 4.7.1.2."""
        own = [f"{self.prefix}/{self.device}/request/#"]
        return [*own, f"$share/{self.group}/{self.prefix}/request/#"] if self.group else own

    def reply_to(self, message: Incoming) -> ReplyTo | None:
        """Where the answer goes; None when nobody asked for one.

        Raises:
            NoAnswerPossible: the response topic is one that nothing may be sent to.
        """
        id = self._id(message.topic)
        correlation = message.correlation or b""
        if len(correlation) > _MAX_CORRELATION_BYTES:
            raise _no_answer("correlation data", f"at most {_MAX_CORRELATION_BYTES} bytes", f"{len(correlation)} bytes")
        if message.response_topic is not None:
            self._check(message.response_topic)
            return ReplyTo(message.response_topic, correlation)
        if not id:
            return None
        base = message.topic[: -len(f"request/{id}")]
        # The id stands in for correlation data, by which a request that comes again is known.
        return ReplyTo(f"{base}response/{id}", correlation or id.encode())

    def _id(self, topic: str) -> str:
        for base in (f"{self.prefix}/{self.device}/request", f"{self.prefix}/request"):
            if topic == base:
                return ""
            if topic.startswith(f"{base}/"):
                id = topic[len(base) + 1 :]
                if "/" in id or not id.isprintable() or not 0 < len(id.encode()) <= _MAX_ID_BYTES:
                    raise _no_answer("id in the topic", f"one level of at most {_MAX_ID_BYTES} bytes", _size(id))
                return id
        raise _no_answer("topic", "one of ours", _size(topic))

    def _check(self, topic: str) -> None:
        """Refuse what would be a protocol error, and what would let a sender speak in our name."""
        levels = topic.split("/")
        own = topic == self.prefix or topic.startswith(f"{self.prefix}/")
        if not topic or any(letter in topic for letter in "+#") or not topic.isprintable():
            raise _no_answer("response topic", "a topic without '+', '#' and control characters", _size(topic))
        if len(topic.encode("utf-8", "surrogatepass")) > _MAX_TOPIC_BYTES:
            raise _no_answer("response topic", f"at most {_MAX_TOPIC_BYTES} bytes", "a longer one")
        if topic.startswith("$") or levels[0] in self.reserved or (own and not self._is_response(topic)):
            raise _no_answer("response topic", "no topic that the broker, agents or others own", _size(topic))

    def _is_response(self, topic: str) -> bool:
        rest = topic[len(self.prefix) + 1 :].split("/")
        return len(rest) > 1 and (rest[0] == "response" or (len(rest) > 2 and rest[1] == "response"))


def _size(text: str) -> str:
    """What the log says of a sender's text: senders put accession numbers into ids and topics."""
    return f"{len(text.encode('utf-8', 'surrogatepass'))} bytes in {text.count('/') + 1} levels"


def _no_answer(what: str, expected: str, came: str) -> NoAnswerPossible:
    return NoAnswerPossible(
        f"a request with an unusable {what} was dropped", expected=expected, came=came, do="mend the sender"
    )


def check_payload(message: Incoming, *, max_bytes: int) -> None:
    """Refuse what cannot be an image, before it costs a write to the disk.

    Raises:
        UnreadableImage: empty.
        ImageOutOfBounds: more than `max_bytes`, or more than any image may have.
        UnsupportedImage: its sender says that it is no image.
    """
    size, most = len(message.payload), min(max_bytes, DEFAULT_LIMITS.max_bytes)
    if not size:
        raise UnreadableImage(
            "the request is empty", expected="an image file as payload", came="0 bytes", do="send the file's bytes"
        )
    if size > most:
        raise ImageOutOfBounds(
            "the request is too large",
            expected=f"at most {most} bytes",
            came=f"{size} bytes",
            do="export a single X-ray, compressed",
        )
    kind = message.content_type.partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise UnsupportedImage(
            "the request's content type is not taken",
            expected=", ".join(sorted(CONTENT_TYPES - {""})),
            came=repr(message.content_type)[:80],
            do="send the image file's own bytes, with its content type or without any",
        )


def unreadable(message: Incoming) -> NoAnswerPossible:
    """The error for a message of which not even the topic could be read."""
    return NoAnswerPossible(
        "a message that cannot be read was dropped",
        expected="a request",
        came=message.unreadable[:200],
        do="mend the sender",
    )


def digest_of(message: Incoming) -> str:
    """The image's SHA-256, as the journal has it."""
    return hashlib.sha256(message.payload).hexdigest()
