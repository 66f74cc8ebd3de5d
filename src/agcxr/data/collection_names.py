"""Names of collections that were joined: "nih and chexpert" holds two. Light: imports nothing."""

from __future__ import annotations

AND = " and "
"""Between the names of joined collections."""


def collections_in(collection: str | None) -> tuple[str, ...]:
    """The names in that of joined collections; one of a single collection, none where it is not known."""
    return tuple(collection.split(AND)) if collection else ()
