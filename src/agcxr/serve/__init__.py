"""The reading room: a web page and its API over one model."""
