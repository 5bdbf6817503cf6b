"""The models that a server knows: where their artifacts are, which are loaded, and swaps without a failed
request."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from screc.serving.batching import Batching, BatchingConfig
from screc.serving.engine import Engine
from screc.serving.errors import BadRequestError, NotFoundError, ServingError, UnavailableError
from screc.serving.signature import QueryLimits, Signature
from screc.storage.artifact import MANIFEST_FILE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
ONLY_VERSION = "1"
"""The version of a model that is one artifact."""


@dataclass(frozen=True, kw_only=True)
class RepositoryConfig:
    """How models are opened.

    Attributes:
        threads, io, queue_depth, cache_bytes: as ``Engine.open`` takes them.
        batching: of each model.
        limits: of each request.
        drain_s: most seconds that the requests of a model which goes are waited for.
    """

    threads: int = 0
    io: str = "auto"
    queue_depth: int = 256
    cache_bytes: int | None = None
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    limits: QueryLimits = field(default_factory=QueryLimits)
    drain_s: float = 30.0


class Model:
    """A loaded model: one artifact, its engine and its batcher.

    Attributes:
        name, version: as clients name it.
        path: the artifact's directory.
        engine: over its rows.
        batching: the way to predictions.
        signature: its tensors.
        loaded_at: seconds since the epoch.
    """

    def __init__(self, name: str, version: str, path: Path, engine: Engine, config: RepositoryConfig) -> None:
        self.name, self.version, self.path, self.engine = name, version, path, engine
        self.signature = Signature(engine.tables, engine.num_dense, config.limits)
        self.batching = Batching(engine, config.batching)
        self.loaded_at = time.time()

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """The protocol's metadata of the model."""
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": "screc",
            "inputs": self.signature.inputs(),
            "outputs": self.signature.outputs(),
        }


class Repository:
    """Models by name. Names resolve to artifacts that were given by path and to what stands in one directory,
    whose entries are listed; no path is ever made of a client's text. Call it on the event loop's thread.

    Args:
        artifacts: paths by name.
        directory: of more models: ``NAME`` is an artifact, or holds artifacts named by version numbers.
        config: how models are opened.

    Raises:
        ValueError: a name cannot be one, or ``directory`` is none.
    """

    def __init__(
        self,
        artifacts: Mapping[str, Path],
        directory: Path | None = None,
        config: RepositoryConfig | None = None,
    ) -> None:
        for name in artifacts:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"model name {name!r}: use letters, digits, '.', '_' and '-', as in NAME=ARTIFACT"
                )
        if directory is not None and not directory.is_dir():
            raise ValueError(f"repository {directory} is not a directory")
        self._artifacts, self._directory = dict(artifacts), directory
        self.config = RepositoryConfig() if config is None else config
        self._models: dict[str, Model] = {}
        self._failures: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed = False

    def __iter__(self) -> Iterator[Model]:
        """The loaded models, for whoever looks at their counters."""
        return iter(list(self._models.values()))

    @property
    def ready(self) -> bool:
        """Whether requests are taken: at least one model is loaded, and the server is not stopping."""
        return bool(self._models) and not self._closed

    def versions(self, name: str) -> dict[str, Path]:
        """The artifacts of a model by version, oldest first.

        Raises:
            NotFoundError: there is no such model.
        """
        if name in self._artifacts:
            return {ONLY_VERSION: self._artifacts[name]}
        found = self._listed().get(name)
        if not found:
            raise NotFoundError(f"there is no model {name!r}")
        return found

    def names(self) -> list[str]:
        """All models, loaded or not."""
        return sorted({*self._artifacts, *self._listed()})

    def _listed(self) -> dict[str, dict[str, Path]]:
        """What stands in the directory now: names and versions as the system lists them."""
        models: dict[str, dict[str, Path]] = {}
        for entry in self._directory.iterdir() if self._directory else ():
            if not _NAME.fullmatch(entry.name) or not entry.is_dir():
                continue
            if (entry / MANIFEST_FILE).is_file():
                models[entry.name] = {ONLY_VERSION: entry}
                continue
            inner = [one for one in entry.iterdir() if _VERSION.fullmatch(one.name)]
            versions = {one.name: one for one in inner if (one / MANIFEST_FILE).is_file()}
            if versions:
                models[entry.name] = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        return models

    def get(self, name: str, version: str = "") -> Model:
        """A loaded model, for use before the next ``await``.

        Raises:
            NotFoundError: there is no such model or version.
            UnavailableError: it is not loaded.
        """
        model = self._models.get(name)
        if model is None:
            if self._closed:
                raise UnavailableError("the server is stopping", retry_after=1)
            self.versions(name)
            raise UnavailableError(f"model {name!r} is not loaded", retry_after=1)
        if version and version != model.version:
            raise NotFoundError(f"model {name!r} is loaded in version {model.version}, not {version!r}")
        return model

    async def load(self, name: str, version: str = "") -> Model:
        """Opens a model's newest version, or the one named, and puts it in the place of the one loaded.

        Requests go to the old one until the new one is open, and those in flight end there.

        Raises:
            NotFoundError: there is no such model or version.
            BadRequestError: the artifact cannot be opened; the old one stays.
        """
        lock = self._locks.setdefault(name, asyncio.Lock()) if name in self.names() else None
        if lock is None:
            raise NotFoundError(f"there is no model {name!r}")
        async with lock:
            if self._closed:
                raise UnavailableError("the server is stopping")
            versions = self.versions(name)
            chosen = version or next(reversed(versions))
            if chosen not in versions:
                raise NotFoundError(f"model {name!r} has the versions {', '.join(versions)}, not {chosen!r}")
            path, config = versions[chosen], self.config
            try:
                engine = await asyncio.to_thread(
                    Engine.open,
                    path,
                    threads=config.threads,
                    io=config.io,
                    queue_depth=config.queue_depth,
                    cache_bytes=config.cache_bytes,
                )
            except (OSError, ValueError, KeyError, MemoryError) as error:
                self._failures[name] = f"{type(error).__name__}: {error}"
                raise BadRequestError(f"model {name!r} cannot be loaded: {error}") from error
            if self._closed:
                raise UnavailableError("the server is stopping")
            model = Model(name, chosen, path, engine, config)
            old, self._models[name] = self._models.get(name), model
            self._failures.pop(name, None)
            if old is not None:
                await old.batching.close(config.drain_s)
            return model

    async def unload(self, name: str) -> None:
        """Takes a model out, after the requests in flight.

        Raises:
            NotFoundError: there is no such model.
        """
        self.versions(name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            model = self._models.pop(name, None)
            if model is not None:
                await model.batching.close(self.config.drain_s)

    def index(self) -> list[dict[str, str]]:
        """The protocol's index: every model and version, and its state."""
        entries = []
        for name in self.names():
            model = self._models.get(name)
            try:
                versions = self.versions(name)
            except ServingError:  # it has just been removed
                continue
            for version in versions:
                loaded = model is not None and model.version == version
                reason = "" if loaded else self._failures.get(name, "unloaded" if not model else "")
                state = "READY" if loaded else "UNAVAILABLE"
                entries.append({"name": name, "version": version, "state": state, "reason": reason})
        return entries

    async def close(self) -> bool:
        """Takes no more requests and lets those in flight end; whether all did within ``drain_s``."""
        self._closed = True
        models = list(self._models.values())
        ended = await asyncio.gather(*(model.batching.close(self.config.drain_s) for model in models))
        self._models.clear()
        return all(ended)
