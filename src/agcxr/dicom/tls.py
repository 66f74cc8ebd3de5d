"""TLS between DICOM nodes, in both directions: PS3.15's BCP 195 profile, which is TLS 1.2 or 1.3."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class _LateHandshake(ssl.SSLContext):
    """Connections are accepted at once, and shake hands in the thread that serves them: one that says nothing must not
    keep the others waiting."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, *args, **{**options, "do_handshake_on_connect": False})


@dataclass(frozen=True)
class Tls:
    """Who this node is, and whom it believes: files in PEM.

    certificate, key: of this node. authorities: certificates that those of callers and archives are signed by.
    """

    certificate: Path
    key: Path
    authorities: Path

    def accepting(self) -> ssl.SSLContext:
        """For those who call: they too show a certificate. Raises ValueError for files that are none."""
        return self._loaded(_LateHandshake(ssl.PROTOCOL_TLS_SERVER))

    def calling(self) -> ssl.SSLContext:
        """For archives that are called; their certificate names their host. Raises ValueError as `accepting`."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def serving(self) -> ssl.SSLContext:
        """For those who ask by HTTPS: they show a token and no certificate. Raises ValueError as `accepting`."""
        context = self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.verify_mode = ssl.CERT_NONE
        return context

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            context.load_verify_locations(self.authorities)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"TLS with {self.certificate}, {self.key} and {self.authorities} does not work ({error}); expected PEM "
                "files of a certificate, its key without a password, and the certificates of authorities"
            ) from error
        return context


def _no_password() -> str:
    raise ValueError("the key has a password")
