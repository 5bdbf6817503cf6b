"""``GET /metrics``: what a server has done and is doing, in Prometheus' text format.

Nothing is counted here. The counts are kept where things happen, most of them in native code, and read when
somebody asks (docs/guide/observability.md has every metric).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from screc import __version__
from screc.serving.repository import Model
from screc.serving.service import InferenceService

_MODEL = ("model", "version")


class _Families:
    """Metrics by name, made at their first sample."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def _family(self, kind: type, name: str, about: str, labels: tuple[str, ...]) -> Any:
        if name not in self._families:
            self._families[name] = kind(f"screc_{name}", about, labels=labels)
        return self._families[name]

    def counter(self, name: str, about: str, value: float, **labels: str) -> None:
        """A count that only grows."""
        self._family(CounterMetricFamily, name, about, tuple(labels)).add_metric([*labels.values()], value)

    def gauge(self, name: str, about: str, value: float, **labels: str) -> None:
        """A number of this moment."""
        self._family(GaugeMetricFamily, name, about, tuple(labels)).add_metric([*labels.values()], value)

    def histogram(self, name: str, about: str, values: Any, **labels: str) -> None:
        """Values in buckets, from a native histogram."""
        bounds = [*map(repr, values.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(values.counts), strict=True))
        family = self._family(HistogramMetricFamily, name, about, tuple(labels))
        family.add_metric([*labels.values()], buckets, values.sum)


class ServerCollector(Collector):
    """Reads the counts of a server and its models. To be called on the event loop's thread."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """None: which there are depends on what is loaded."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics of this moment."""
        families = _Families()
        for (protocol, call, status), count in sorted(self._service.requests.items()):
            families.counter(
                "requests",
                "Requests that were answered.",
                count,
                protocol=protocol,
                call=call,
                status=str(status),
            )
        ready = self._service.ready
        families.gauge("ready", "1 while the server takes requests, else 0.", ready)
        for model in self._service.repository:
            _collect_batches(families, model)
            _collect_rows(families, model)
            _collect_updates(families, model)
        yield InfoMetricFamily("screc_server", "The server.", value={"version": __version__})
        yield from families


def _labels(model: Model) -> dict[str, str]:
    return dict(zip(_MODEL, (model.name, model.version), strict=True))


def _collect_batches(families: _Families, model: Model) -> None:
    stats, of = model.batching.native.stats(), _labels(model)
    families.gauge(
        "model_loaded_seconds", "When the model was loaded, since the epoch.", model.loaded_at, **of
    )
    about = "Queries that have ended, by how: a query is a request's samples at the batcher."
    for outcome in ("done", "failed", "expired", "cancelled"):
        families.counter("queries", about, getattr(stats, outcome), **of, outcome=outcome)
    about = "Queries that were refused at once, by why."
    for reason in ("queue_full", "too_late", "draining"):
        families.counter("refused_queries", about, getattr(stats, f"refused_{reason}"), **of, reason=reason)
    families.counter("samples", "Samples of the queries taken in.", stats.accepted_samples, **of)
    families.counter("batches", "Batches that were computed.", stats.batches, **of)
    families.counter("batched_samples", "Samples of these.", stats.batched_samples, **of)
    families.counter("joined_batches", "Batches of several queries.", stats.joined_batches, **of)
    families.gauge("queued_queries", "Queries that wait.", stats.queued, **of)
    families.gauge("queued_samples", "Samples that wait.", stats.queued_samples, **of)
    families.gauge("running_samples", "Samples that are being computed.", stats.running_samples, **of)
    about = "What a sample has taken of one worker's time lately."
    families.gauge("sample_worker_seconds", about, stats.seconds_per_sample, **of)
    about = "Seconds that queries waited for their turn; of those done."
    families.histogram("queue_seconds", about, stats.queue_seconds, **of)
    families.histogram("compute_seconds", "Seconds that batches took.", stats.compute_seconds, **of)
    about = "Seconds from a query's coming to its end; of those done."
    families.histogram("request_seconds", about, stats.request_seconds, **of)
    families.histogram("batch_samples", "Samples of a batch.", stats.batch_samples, **of)


def _collect_rows(families: _Families, model: Model) -> None:
    stats, of = model.engine.stats(), _labels(model)
    about = "Ids looked up, by the memory that their rows live in."
    for memory in ("dram", "tt", "ssd"):
        families.counter("lookups", about, getattr(stats, f"{memory}_rows"), **of, memory=memory)
    about = "Of the look-ups on SSD, those of rows that were never written: nothing is read for them."
    families.counter("default_rows", about, stats.default_rows, **of)
    about = "Of the look-ups on SSD and in tensor trains, those that a held updated row answered."
    families.counter("updated_lookups", about, stats.updated_lookups, **of)
    about = "4 KiB pages that the other look-ups on SSD needed, before each is read once per call."
    families.counter("page_requests", about, stats.page_requests, **of)
    families.counter("pages_read", "4 KiB pages read from SSD.", stats.pages_read, **of)
    families.counter("ssd_read_bytes", "Bytes read from SSD.", stats.bytes_read, **of)
    about = "Distinct rows on SSD that calls wanted, by whether the row cache held them."
    for result, count in (("hit", stats.cache_hits), ("miss", stats.cache_misses)):
        families.counter("cache_rows", about, count, **of, result=result)
    families.counter("cache_admissions", "Rows that the row cache took in.", stats.cache_admissions, **of)
    about = "DRAM of the tables: rows, cores, indices, copies, and the parts below."
    families.gauge("table_dram_bytes", about, stats.dram_bytes, **of)
    families.gauge("cache_bytes", "Of these, the row cache's.", stats.cache_bytes, **of)
    families.gauge("held_bytes", "Of these, updated rows' that are held.", stats.held_bytes, **of)


def _collect_updates(families: _Families, model: Model) -> None:
    stats, of = model.engine.update_stats(), _labels(model)
    if stats is None:
        return
    families.counter("updates", "Updates that were acknowledged.", stats.updates, **of)
    families.counter("updated_rows", "Rows of these.", stats.rows, **of)
    families.counter("update_commits", "Writes that made some of them durable together.", stats.commits, **of)
    about = "Compactions of updates into the artifact, by how they ended."
    for result, count in (("done", stats.compactions), ("failed", stats.failed_compactions)):
        families.counter("compactions", about, count, **of, result=result)
    families.counter("compacted_bytes", "Bytes that they wrote.", stats.compacted_bytes, **of)
    families.gauge("compaction_seconds", "Time of the last one.", stats.compaction_seconds, **of)
    families.gauge("update_log_bytes", "Size of the update log.", stats.log_bytes, **of)
    about = "How often updates were compacted into the artifact since it was packed."
    families.gauge("artifact_generation", about, stats.generation, **of)
    families.gauge("held_rows", "Updated rows that are held in memory.", model.engine.stats().held_rows, **of)


def metrics_router(service: InferenceService) -> APIRouter:
    """``GET /metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(service))
    ProcessCollector(registry=registry)
    router = APIRouter(tags=["server"])

    @router.get("/metrics", summary="Counts for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept"))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return router
