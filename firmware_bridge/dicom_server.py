"""The server below the DICOM receiver: what a connection can cost in memory, threads and time is bounded here.

Whoever is on the network may connect, and pynetdicom leaves that open.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from firmware_bridge.decode import DEFAULT_LIMITS

_LOG = logging.getLogger(__name__)
_LEAST_PDU_LIMIT_BYTES = 131072  # an association request with many contexts is larger than a small PDU for data
_MESSAGE_SPARE_BYTES = 1 << 20


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """A socket on which neither one PDU nor one message can grow or take time without end."""

    max_pdu_bytes = 0
    pdu_s = 0.0
    received_bytes = 0  # since the last message was handled

    def recv(self, nr_bytes: int) -> bytearray:
        """Like the original, within bounds.

        Raises:
            OSError: too much, or too slow; the association ends.
        """
        self.received_bytes += nr_bytes
        if nr_bytes > self.max_pdu_bytes or self.received_bytes > DEFAULT_LIMITS.max_bytes + _MESSAGE_SPARE_BYTES:
            raise ConnectionAbortedError("too much")
        content, deadline_s = bytearray(), time.monotonic() + self.pdu_s
        while len(content) < nr_bytes:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("too slow")
            self.socket.settimeout(left_s)
            some = self.socket.recv(min(nr_bytes - len(content), 65536))
            if not some:
                break
            content += some
        self.socket.settimeout(self.pdu_s)
        return content


class Handler(RequestHandler):  # type: ignore[misc]
    """Gives each connection its bounds."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        bounded = association.dul.socket
        bounded.__class__ = (
            BoundedSocket  # a second one in its place would tell the state machine of a second connection
        )
        bounded.max_pdu_bytes = max(self.ae.maximum_pdu_size, _LEAST_PDU_LIMIT_BYTES)
        bounded.pdu_s = self.ae.network_timeout
        _end_quietly(association)
        return association


def _end_quietly(association: Association) -> None:
    """A peer that speaks out of turn ends its own association; pynetdicom would let a thread die with a traceback."""
    provider = association.dul
    act = provider.state_machine.do_action

    def do_action(event: str) -> None:
        try:
            act(event)
        except InvalidEventError:
            _LOG.info("DICOM: a peer spoke out of turn")
            association.is_aborted, association.is_established = True, False
            association._kill = provider._kill_thread = True  # as pynetdicom does it for a PDU that it cannot read
            provider.socket.close()

    provider.state_machine.do_action = do_action


class Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Refuses by address and number before anything is read."""

    peers: tuple[str, ...] = ()
    most_connections = 1

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this connection is served at all."""
        if self.peers and str(client_address[0]).removeprefix("::ffff:") not in self.peers:
            _LOG.warning("DICOM: a connection from an address that may not")
            return False
        return len(self.active_associations) < self.most_connections

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. The TLS handshake waits for the connection's own thread: a silent peer must not stop the others."""
        client, address = self.socket.accept()
        client.settimeout(self.ae.network_timeout)
        if self.ssl_context:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed is its peer's matter; the original prints a traceback."""
        _LOG.info("DICOM: a connection broke off")
