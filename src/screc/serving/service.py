"""What a server does, whichever protocol asks: predictions, metadata, health. REST and gRPC are its faces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from screc import __version__
from screc.serving.batching import Answer
from screc.serving.errors import BadRequestError, UnavailableError
from screc.serving.repository import Model, Repository
from screc.serving.signature import OUTPUT

SERVER = "screc"
EXTENSIONS = ("model_repository", "model_configuration", "binary_tensor_data")


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer and the model that gave it."""

    model: Model
    answer: Answer


class InferenceService:
    """Predictions of the models of a repository.

    Args:
        repository: the models.
        deadline_s: most seconds that a request which names no time of its own waits; 0: no limit.

    Attributes:
        requests: how many were answered, by protocol ("http", "grpc"), call and status (HTTP's number).
    """

    def __init__(self, repository: Repository, *, deadline_s: float = 0.0) -> None:
        self.repository, self.deadline_s = repository, deadline_s
        self.requests: Counter[tuple[str, str, int]] = Counter()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.repository.ready

    def metadata(self) -> dict[str, Any]:
        """The protocol's metadata of the server."""
        return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """The protocol's metadata of a model.

        Raises:
            ServingError: it is not there, or not loaded.
        """
        model = self.repository.get(name, version)
        return model.metadata([model.version])

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """How a model is served, in the words of Triton's model configuration.

        Raises:
            ServingError: it is not there, or not loaded.
        """
        model = self.repository.get(name, version)
        batcher = model.batching.native
        inputs = [
            {
                "name": one["name"],
                "data_type": f"TYPE_{one['datatype']}",
                "dims": one["shape"],
                "optional": one["name"] != "dense",
            }
            for one in model.signature.inputs()
        ]
        outputs = [
            {"name": one["name"], "data_type": f"TYPE_{one['datatype']}", "dims": one["shape"]}
            for one in model.signature.outputs()
        ]
        return {
            "name": model.name,
            "platform": "screc",
            "backend": "screc",
            "max_batch_size": 0,  # the tensors' shapes have the batch's axis
            "input": inputs,
            "output": outputs,
            "dynamic_batching": {
                "preferred_batch_size": [batcher.max_batch],
                "max_queue_delay_microseconds": round(1e6 * batcher.queue_delay),
            },
            "parameters": {
                "split": {"string_value": str(batcher.split)},
                "workers": {"string_value": str(batcher.workers)},
                "max_queued_samples": {"string_value": str(batcher.max_queued)},
                "tables": {"string_value": ",".join(table.name for table in model.signature.tables)},
            },
        }

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is loaded.

        Raises:
            NotFoundError: there is no such model.
        """
        try:
            self.repository.get(name, version)
        except UnavailableError:
            return False
        return True

    def model_statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """The protocol's statistics of a model, or of all that are loaded; times in nanoseconds.

        Raises:
            ServingError: it is not there, or not loaded.
        """
        models = [self.repository.get(name, version)] if name else list(self.repository)
        return [_statistics(model) for model in models]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Model:
        """Loads a model, or swaps what is loaded; parameter ``version`` names one that is not the newest.

        Raises:
            ServingError: there is none, or it cannot be opened; what is loaded stays.
        """
        for parameter in parameters:
            if parameter != "version":
                raise BadRequestError(f"parameters.{parameter}: is not read here; 'version' is")
        version = parameters.get("version", "")
        if not isinstance(version, str | int) or isinstance(version, bool):
            raise BadRequestError(f"parameters.version: {version!r} is not a version such as '2'")
        return await self.repository.load(name, str(version))

    async def infer(
        self,
        name: str,
        version: str,
        inputs: Mapping[str, np.ndarray],
        parameters: Mapping[str, Any],
        *,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Predictions for a request.

        Args:
            name, version: of the model; version "" is the one that is loaded.
            inputs: tensors by name, as ``Signature`` says.
            parameters: of the request; ``timeout``, in microseconds, is the most that it waits for its turn.
            timeout_s: what the client has left, where the transport says so.

        Raises:
            ServingError: why there are none.
        """
        model = self.repository.get(name, version)
        query = model.signature.query(inputs, parameters)
        limits = [_own_timeout(parameters), timeout_s]
        timeout = min((limit for limit in limits if limit is not None), default=self.deadline_s)
        return Prediction(model, await model.batching.predict(query, timeout))

    def check_outputs(self, names: Mapping[str, Any] | list[str]) -> None:
        """Raises :class:`BadRequestError` where a request names an output that there is not."""
        for name in names:
            if name != OUTPUT:
                raise BadRequestError(f"outputs: there is no tensor {name!r}; the output is {OUTPUT!r}")


def _own_timeout(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**15:
        raise BadRequestError(f"parameters.timeout: {value!r} is not a number of microseconds")
    return value / 1e6


def _statistics(model: Model) -> dict[str, Any]:
    stats = model.batching.native.stats()

    def total(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(1e9 * seconds)}

    return {
        "name": model.name,
        "version": model.version,
        "inference_count": stats.batched_samples,
        "execution_count": stats.batches,
        "inference_stats": {
            "success": total(stats.done, stats.request_seconds.sum),
            "fail": total(stats.failed + stats.expired, 0.0),
            "queue": total(stats.done, stats.queue_seconds.sum),
            "compute_infer": total(stats.batches, stats.compute_seconds.sum),
        },
    }
