"""What an MQTT client of ours is, asks for when it connects, and subscribes to. Imports paho, as `mqtt_client` does."""

from __future__ import annotations

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_client import TolerantClient
from firmware_bridge.mqtt_message import Inbox, Message, connect_properties

_KEEPALIVE_S = 30
_TCP_TIMEOUT_S = 5.0


def make_client(
    broker: Broker, *, client_id: str, protocol: str, keeps_session: bool, will: Message | None
) -> TolerantClient:
    """A client that is not connected yet; whoever asks for it hangs up its callbacks.

    Args:
        broker: where to; its login and certificates.
        client_id: of this device.
        protocol: "5" or "3.1.1".
        keeps_session: whether the broker is to keep what comes while we are away.
        will: what the broker publishes when we vanish.

    Raises:
        OSError: a certificate or key cannot be read, or does not fit.
    """
    five = protocol == "5"
    client = TolerantClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTv5 if five else MQTTv311,
        clean_session=None if five else not keeps_session,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = _TCP_TIMEOUT_S
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
    if broker.username:
        client.username_pw_set(broker.username, broker.password or None)
    if broker.tls:
        client.tls_set_context(broker.tls_context())
    return client


def send_connect(client: Client, broker: Broker, *, protocol: str, inbox: Inbox | None, most_bytes: int) -> None:
    """Open the socket and send CONNECT; the answer comes later.

    Args:
        client: see `make_client`.
        broker: where to.
        protocol: "5" or "3.1.1".
        inbox: what is to be received; None: nothing, and no session is kept.
        most_bytes: of a packet that is taken; a broker with MQTT 5 sends none that is larger.

    Raises:
        OSError: nobody answers there.
        ValueError: a host's name that cannot be encoded.
    """
    if protocol != "5":
        client.connect(broker.host, broker.port, keepalive=_KEEPALIVE_S)
        return
    properties = connect_properties()
    properties.MaximumPacketSize = most_bytes
    if inbox is not None:
        properties.ReceiveMaximum = inbox.most_unacknowledged
        properties.SessionExpiryInterval = inbox.expiry_s
    client.connect(broker.host, broker.port, keepalive=_KEEPALIVE_S, clean_start=inbox is None, properties=properties)


def subscribe(client: Client, inbox: Inbox, *, protocol: str) -> None:
    """Give up the inbox's old filters, and ask for its own.

    Raises:
        ValueError: a filter that is none.
        OSError: the connection is lost.
    """
    # Retain handling 2: a request that somebody published retained must not come again on every connect.
    handling = SubscribeOptions.RETAIN_DO_NOT_SEND
    if inbox.retained:
        handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
    options = SubscribeOptions(qos=1, retainHandling=handling)
    for old in inbox.old_filters:
        client.unsubscribe(old)
    for name in inbox.filters:
        if protocol == "5":
            client.subscribe(name, options=options)
        else:
            client.subscribe(name, qos=1)
