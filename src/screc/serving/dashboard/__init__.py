"""The dashboard at ``/``: one page that shows what the server is doing, made of its own files alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from screc import __version__
from screc.serving.repository import Model
from screc.serving.service import InferenceService
from screc.storage import TableLayout

_FOLDER = Path(__file__).parent
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "counts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PAGE = "/"
#: Paths of the page's files, which hold nothing about the server. What they ask for needs the token.
DASHBOARD_FILES = (_PAGE, *(f"/dashboard/{name}" for name in _TYPES if name != "index.html"))
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def dashboard_router(service: InferenceService) -> APIRouter:
    """The page, its files, and what they ask for."""
    router = APIRouter(include_in_schema=False)
    for name, media_type in _TYPES.items():
        path = _PAGE if name == "index.html" else f"/dashboard/{name}"
        router.add_api_route(path, _file(name, media_type), methods=["GET"], name="dashboard")

    @router.get("/dashboard/data")
    async def dashboard_data() -> dict[str, Any]:
        return {
            "time": time.time(),
            "version": __version__,
            "ready": service.ready,
            "models": [_counts(model) for model in service.repository],
        }

    @router.get("/dashboard/tables")
    async def dashboard_tables(model: str) -> dict[str, Any]:
        found = service.repository.get(model)
        rows = found.engine.rows
        return {"tables": [_placed(layout) for layout in (rows.layouts if rows else ())]}

    return router


def _file(name: str, media_type: str) -> Any:
    content = (_FOLDER / name).read_bytes()

    async def dashboard() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return dashboard


def _histogram(values: Any) -> dict[str, Any]:
    return {"bounds": values.bounds, "counts": values.counts, "sum": values.sum}


def _counts(model: Model) -> dict[str, Any]:
    """A model's counts since it was loaded, and what it holds now."""
    batches, rows, updates = model.batching.native.stats(), model.engine.stats(), model.engine.update_stats()
    refused = batches.refused_queue_full + batches.refused_too_late + batches.refused_draining
    return {
        "name": model.name,
        "version": model.version,
        "loaded_at": model.loaded_at,
        "threads": rows.num_threads,
        "isa": model.engine.isa,
        "precisions": sorted(set(model.engine.precisions.values())),
        "io_backend": rows.io_backend,
        "queries": {
            "done": batches.done,
            "failed": batches.failed,
            "expired": batches.expired,
            "cancelled": batches.cancelled,
            "refused": refused,
        },
        "samples": batches.accepted_samples,
        "batches": batches.batches,
        "queued_samples": batches.queued_samples,
        "running_samples": batches.running_samples,
        "request_seconds": _histogram(batches.request_seconds),
        "queue_seconds": _histogram(batches.queue_seconds),
        "compute_seconds": _histogram(batches.compute_seconds),
        "batch_samples": _histogram(batches.batch_samples),
        "lookups": {"dram": rows.dram_rows, "tt": rows.tt_rows, "ssd": rows.ssd_rows},
        "cache_hits": rows.cache_hits,
        "cache_misses": rows.cache_misses,
        "pages_read": rows.pages_read,
        "dram_bytes": rows.dram_bytes,
        "cache_bytes": rows.cache_bytes,
        "held_rows": rows.held_rows,
        "held_bytes": rows.held_bytes,
        "updates": None
        if updates is None
        else {
            "updates": updates.updates,
            "rows": updates.rows,
            "log_bytes": updates.log_bytes,
            "generation": updates.generation,
            "compactions": updates.compactions,
            "last_error": updates.last_error,
        },
    }


def _placed(layout: TableLayout) -> dict[str, Any]:
    """Where the rows of a table are."""
    return {
        "name": layout.table,
        "rows": layout.num_embeddings,
        "dim": layout.embedding_dim,
        "dram_bytes": layout.dram_bytes,
        "ssd_bytes": layout.ssd_written_bytes,
        "bands": [
            {"rows": band.num_rows, "format": band.format, "memory": "tt" if band.tt else band.memory}
            for band in layout.bands
        ],
    }
