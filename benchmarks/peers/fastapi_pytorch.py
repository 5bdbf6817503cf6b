"""The same DLRM behind FastAPI and PyTorch, as it is usually served, with every setting that makes it faster.

uvicorn with uvloop and httptools; bodies are raw tensors, not JSON; the model in float32, in bfloat16 and
under autocast; predictions on the event loop (``inline``), on a pool of threads (``pooled``), or of all
requests that wait joined (``joined``); PyTorch's threads set by the caller. The job measures them all.

    python -m benchmarks.peers.fastapi_pytorch '{"rows": [...], ...}'

prints ``{"http": "http://127.0.0.1:PORT"}`` once it takes requests.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.pytorch_eager import EagerDlrm
from benchmarks.served_model import SEED
from benchmarks.workload import RandomTables, Workload
from screc.data import Batch

FORMS = ("fp32", "bf16", "autocast")
MODES = ("inline", "pooled", "joined")
_MOST_JOINED = 16


def encode(batch: Batch) -> bytes:
    """A request's body: dense float32 [B, num_dense], then ids int64 [B, tables]."""
    categorical = batch.ids.reshape(-1, batch.batch_size).T
    return batch.dense.tobytes() + np.ascontiguousarray(categorical).tobytes()


class _Model:
    """Predictions of request bodies by one form of the model."""

    def __init__(self, form: str, workload: Workload, tables: list[np.ndarray]) -> None:
        bottom, top = workload.layers(np.random.default_rng(SEED))
        dtype = torch.bfloat16 if form == "bf16" else torch.float32
        self._model = EagerDlrm(tables, bottom, top, dtype=dtype, autocast=form == "autocast")
        self._num_dense, self._tables, self._dtype = workload.num_dense, len(workload.rows), dtype
        self._sample_bytes = 4 * self._num_dense + 8 * self._tables
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._worker: asyncio.Task[None] | None = None

    def predict(self, bodies: list[bytes]) -> list[bytes]:
        """One call of the model for all bodies."""
        dense, ids, sizes = [], [], []
        for body in bodies:
            size, rest = divmod(len(body), self._sample_bytes)
            if rest:
                raise ValueError(f"a body of {len(body)} bytes is no whole number of samples")
            cut = 4 * size * self._num_dense
            dense.append(np.frombuffer(body, "<f4", size * self._num_dense).reshape(size, -1))
            ids.append(np.frombuffer(body, "<i8", offset=cut).reshape(size, -1))
            sizes.append(size)
        whole = np.ascontiguousarray((ids[0] if len(ids) == 1 else np.concatenate(ids)).T)
        offsets = torch.arange(whole.shape[1] + 1)
        bags = [(torch.from_numpy(column), offsets) for column in whole]
        features = torch.from_numpy(dense[0].copy() if len(dense) == 1 else np.concatenate(dense))
        out = self._model.predict((features.to(self._dtype), bags)).float().numpy()
        ends = np.cumsum(sizes)
        return [out[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]

    async def inline(self, body: bytes) -> bytes:
        """On the event loop."""
        return self.predict([body])[0]

    async def pooled(self, body: bytes) -> bytes:
        """On a thread of the pool."""
        return (await run_in_threadpool(self.predict, [body]))[0]

    async def joined(self, body: bytes) -> bytes:
        """With all requests that wait, in one thread."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[:_MOST_JOINED], self._waiting[_MOST_JOINED:]
            answers = await run_in_threadpool(self.predict, [body for body, _ in taken])
            for (_, future), answer in zip(taken, answers, strict=True):
                future.set_result(answer)


def create_app(workload: Workload) -> FastAPI:
    """``POST /FORM/MODE`` predicts, ``POST /threads/N`` sets PyTorch's threads."""
    app = FastAPI()
    tables = list(RandomTables(workload.rows, workload.embedding_dim))
    for form in FORMS:
        model = _Model(form, workload, tables)
        for mode in MODES:
            app.post(f"/{form}/{mode}")(_endpoint(getattr(model, mode)))

    @app.post("/threads/{count}")
    async def threads(count: int) -> Response:
        torch.set_num_threads(count)
        return Response(b"{}")

    return app


def _endpoint(answer: Callable[[bytes], Awaitable[bytes]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(await answer(await request.body()), media_type="application/octet-stream")

    return endpoint


def main() -> None:
    """Serves until SIGTERM."""
    fields = json.loads(sys.argv[1])
    workload = Workload(
        **{name: tuple(one) if isinstance(one, list) else one for name, one in fields.items()}
    )
    app = create_app(workload)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"http": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
