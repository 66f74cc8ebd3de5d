"""What a client did wrong, or the server cannot do now: raised anywhere, answered as JSON."""

from __future__ import annotations


class Problem(Exception):
    """An answer that is an error. `message` is for people and holds nothing that the client did not send.

    retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after
