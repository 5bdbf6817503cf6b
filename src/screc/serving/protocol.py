"""Messages of the Open Inference Protocol V2 over HTTP: bytes to tensors and back, with the binary tensor
data extension. Every malformed input is a :class:`BadRequestError`; nothing here knows sockets or models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from screc.serving.errors import BadRequestError

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The datatypes of tensors that are read here; BYTES has no use in a model of rows and numbers."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_AXES = 8
_MAX_TENSORS = 64
_LENGTH = re.compile(r"[0-9]{1,12}")

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request for predictions.

    Attributes:
        inputs: tensors by name, in the request's order; they may share the request's bytes.
        parameters: of the request.
        id: the client's own, given back.
        outputs: names of the tensors that are wanted, and whether in binary; empty: all.
        binary_output: whether tensors that ``outputs`` says nothing about are wanted in binary.
    """

    inputs: Mapping[str, np.ndarray]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    id: str = ""
    outputs: Mapping[str, bool] = field(default_factory=dict)
    binary_output: bool = False

    def wants_binary(self, output: str) -> bool:
        """Whether an output is wanted in binary."""
        return self.outputs.get(output, self.binary_output)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """Predictions.

    Attributes:
        model, version: who made them.
        outputs: tensors by name.
        id: of the request.
    """

    model: str
    version: str
    outputs: Mapping[str, np.ndarray]
    id: str = ""


def header_length(text: str | None, body_length: int) -> int | None:
    """The value of ``Inference-Header-Content-Length``: bytes of JSON before the binary data, if there are.

    Raises:
        BadRequestError: it is no number, or beyond the body.
    """
    if text is None:
        return None
    if not _LENGTH.fullmatch(text.strip()):
        raise BadRequestError(f"{HEADER_LENGTH}: {text[:40]!r} is not a number of bytes")
    length = int(text)
    if length > body_length:
        raise BadRequestError(f"{HEADER_LENGTH}: {length} is beyond the body of {body_length} bytes")
    return length


def parse_request(body: bytes, length: int | None = None) -> InferRequest:
    """A request for predictions from the body of ``POST /v2/models/NAME/infer``.

    Args:
        body: JSON, or JSON followed by binary data.
        length: bytes of JSON; None: all.

    Raises:
        BadRequestError: the message names the field and what is wrong with it.
    """
    document, rest = _split(body, length)
    tensors = _list(document, "inputs")
    if not tensors:
        raise BadRequestError("inputs: is missing or empty")
    outputs: dict[str, bool] = {}
    parameters = _parameters(document, "request")
    binary_output = _flag(parameters.pop("binary_data_output", False), "parameters.binary_data_output")
    for number, output in enumerate(_list(document, "outputs")):
        where = f"outputs[{number}]"
        own = _parameters(_object(output, where), where)
        binary = own.get("binary_data", binary_output)
        outputs[_text(output, "name", where)] = _flag(binary, f"{where}.parameters.binary_data")
    return InferRequest(
        inputs=_tensors(tensors, "inputs", rest),
        parameters=parameters,
        id=_text(document, "id", "request", required=False),
        outputs=outputs,
        binary_output=binary_output,
    )


def render_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The body of an answer, and its bytes of JSON where binary data follow them."""
    head: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        head["id"] = response.id
    binary = {name: request.wants_binary(name) for name in response.outputs}
    return _join(head, "outputs", response.outputs, binary)


def render_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """The body of a request, and its bytes of JSON where binary data follow them: a client's side."""
    parameters = dict(request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    head: dict[str, Any] = {"id": request.id} if request.id else {}
    if parameters:
        head["parameters"] = parameters
    if request.outputs:
        head["outputs"] = [
            {"name": name, "parameters": {"binary_data": wanted}} for name, wanted in request.outputs.items()
        ]
    return _join(head, "inputs", request.inputs, dict.fromkeys(request.inputs, binary))


def parse_response(body: bytes, length: int | None = None) -> InferResponse:
    """An answer from its body: a client's side.

    Raises:
        BadRequestError: it is malformed.
    """
    document, rest = _split(body, length)
    return InferResponse(
        model=_text(document, "model_name", "response"),
        version=_text(document, "model_version", "response", required=False),
        id=_text(document, "id", "response", required=False),
        outputs=_tensors(_list(document, "outputs"), "outputs", rest),
    )


def datatype(array: np.ndarray) -> str:
    """The protocol's name of an array's type."""
    return _NAMES[array.dtype]


def tensor_shape(shape: object, where: str) -> tuple[int, ...]:
    """A shape as clients give it.

    Raises:
        BadRequestError: it is not a list of numbers from 0.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes) or len(shape) > _MAX_AXES:
        raise BadRequestError(f"{where}.shape: must be a list of at most {_MAX_AXES} numbers")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**48:
            raise BadRequestError(f"{where}.shape: {_brief(size)} is not a size")
    return tuple(shape)


def tensor_dtype(name: object, where: str) -> np.dtype:
    """The type of a tensor's values.

    Raises:
        BadRequestError: it is not one that is read here.
    """
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise BadRequestError(f"{where}.datatype: {_brief(name)} is not one of {', '.join(DTYPES)}")
    return dtype


def raw_tensor(
    data: bytes, offset: int, size: int, shape: tuple[int, ...], dtype: np.dtype, where: str
) -> np.ndarray:
    """``size`` bytes of ``data`` as a tensor; a view where the bytes stand as the processor wants them.

    Raises:
        BadRequestError: the bytes are not those of the shape.
    """
    count = math.prod(shape)
    if size != count * dtype.itemsize:
        raise BadRequestError(
            f"{where}: {size} bytes of data for shape {list(shape)} of {_NAMES[dtype]}, "
            f"which has {count * dtype.itemsize}"
        )
    array = np.frombuffer(data, dtype, count, offset) if count else np.empty(0, dtype)
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def _split(body: bytes, length: int | None) -> tuple[dict[str, Any], bytes | memoryview | None]:
    """The JSON object of a body, and what follows it."""
    try:
        document = from_json(body if length is None else body[:length], allow_inf_nan=False)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    return _object(document, "the body"), None if length is None else body[length:]


def _tensors(documents: list[Any], what: str, rest: bytes | None) -> dict[str, np.ndarray]:
    if len(documents) > _MAX_TENSORS:
        raise BadRequestError(f"{what}: {len(documents)} tensors; at most {_MAX_TENSORS} are read")
    tensors: dict[str, np.ndarray] = {}
    used = 0
    for number, document in enumerate(documents):
        where = f"{what}[{number}]"
        name = _text(_object(document, where), "name", where)
        if name in tensors:
            raise BadRequestError(f"{where}: tensor {_brief(name)} is given twice")
        where = f"{where} ({_brief(name)})"
        shape = tensor_shape(document.get("shape"), where)
        dtype = tensor_dtype(document.get("datatype"), where)
        size = _parameters(document, where).get("binary_data_size")
        if size is None:
            tensors[name] = _listed(document.get("data"), shape, dtype, where)
            continue
        if "data" in document:
            raise BadRequestError(f"{where}: has both data and parameters.binary_data_size; give one")
        if rest is None:
            raise BadRequestError(
                f"{where}: has binary data, so the request needs the header {HEADER_LENGTH}"
            )
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - used:
            raise BadRequestError(
                f"{where}.parameters.binary_data_size: {_brief(size)} of the {len(rest) - used} bytes left"
            )
        tensors[name] = raw_tensor(rest, used, size, shape, dtype, where)
        used += size
    if rest is not None and used != len(rest):
        raise BadRequestError(f"{len(rest) - used} bytes of binary data belong to no tensor")
    return tensors


def _listed(data: object, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    """A tensor whose values are listed, nested or flat."""
    if not isinstance(data, list):
        raise BadRequestError(f"{where}.data: must be a list of numbers; it is {_brief(data)}")
    try:
        array = np.array(data)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(f"{where}.data: rows differ in length, or a value is no number") from error
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(dtype)
    kinds = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in kinds:
        raise BadRequestError(f"{where}.data: not all values are of datatype {_NAMES[dtype]}")
    if array.size != math.prod(shape):
        raise BadRequestError(f"{where}.data: {array.size} values for shape {list(shape)}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            beyond = low if low < limits.min else high
            raise BadRequestError(f"{where}.data: {beyond} does not fit {_NAMES[dtype]}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(shape)


def _join(
    head: dict[str, Any], what: str, tensors: Mapping[str, np.ndarray], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    documents, parts = [], []
    for name, array in tensors.items():
        document: dict[str, Any] = {"name": name, "datatype": datatype(array), "shape": list(array.shape)}
        if binary[name]:
            document["parameters"] = {"binary_data_size": array.nbytes}
            parts.append(array.tobytes())
        else:
            document["data"] = array.ravel().tolist()
        documents.append(document)
    text = to_json(head | {what: documents}, inf_nan_mode="null")
    return (b"".join((text, *parts)), len(text)) if any(binary.values()) else (text, None)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequestError(f"{where}: must be a JSON object; it is {_brief(value)}")
    return value


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequestError(f"{name}: must be a list; it is {_brief(value)}")
    return value


def _text(document: Mapping[str, Any], name: str, where: str, *, required: bool = True) -> str:
    value = document.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise BadRequestError(f"{where}.{name}: must be a text; it is {_brief(value)}")
    return value


def _parameters(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = document.get("parameters")
    return {} if value is None else dict(_object(value, f"{where}.parameters"))


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequestError(f"{where}: must be true or false; it is {_brief(value)}")
    return value


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
