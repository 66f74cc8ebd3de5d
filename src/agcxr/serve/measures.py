"""Counters and histograms for /metrics. No label ever holds anything a client sent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Measures:
    """What one server counts, in a registry of its own, so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("agcxr_requests", "Answered requests", ["route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "agcxr_request_seconds", "From head to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.films = Counter(
            "agcxr_films", "Films by outcome: read, refused, unreadable", ["outcome"], registry=self.registry
        )
        self.scores = Counter(
            "agcxr_score_sum", "Sum of the scores of films that were read", ["finding"], registry=self.registry
        )
        self.batch_films = Histogram(
            "agcxr_batch_films", "Films in a pass of the network", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "agcxr_batch_seconds", "One pass of the network", buckets=SECONDS, registry=self.registry
        )
        self.queue_films = Gauge("agcxr_queue_films", "Films received and not yet answered", registry=self.registry)
        self.held_bytes = Gauge("agcxr_held_bytes", "Bytes of uploads and answers in memory", registry=self.registry)
        self.decoder_restarts = Counter(
            "agcxr_decoder_restarts", "Decoders killed for time or ended by a crash", registry=self.registry
        )
        self.throttled = Counter(
            "agcxr_throttled", "Requests not looked at after too many wrong tokens", registry=self.registry
        )
        self.model = Info("agcxr_model", "The model that answers", registry=self.registry)
        self.failures = Counter("agcxr_internal_errors", "Errors of the program itself", registry=self.registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
