"""Messages of the Open Inference Protocol: what is written is read back, and everything else is refused."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from screc.serving.errors import BadRequestError
from screc.serving.protocol import (
    DTYPES,
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    header_length,
    parse_request,
    parse_response,
    render_request,
    render_response,
)

_FINITE = {"allow_nan": False, "allow_infinity": False}


def tensors() -> st.SearchStrategy[np.ndarray]:
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    return st.sampled_from(list(DTYPES.values())).flatmap(
        lambda dtype: arrays.arrays(dtype, shapes, elements=_FINITE if dtype.kind == "f" else None)
    )


requests = st.builds(
    InferRequest,
    inputs=st.dictionaries(st.text(min_size=1, max_size=8), tensors(), min_size=1, max_size=4),
    parameters=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "binary_data_output"),
        st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=8)),
        max_size=3,
    ),
    id=st.text(max_size=8),
    outputs=st.dictionaries(st.text(min_size=1, max_size=8), st.booleans(), max_size=2),
    binary_output=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(requests, st.booleans())
def test_requests_are_read_as_they_were_written(request: InferRequest, binary: bool) -> None:
    body, length = render_request(request, binary=binary)
    assert (length is not None) == binary
    read = parse_request(body, length)
    assert (read.id, read.parameters, read.outputs) == (request.id, request.parameters, request.outputs)
    assert read.binary_output == request.binary_output
    assert list(read.inputs) == list(request.inputs)
    for name, array in request.inputs.items():
        assert read.inputs[name].dtype == array.dtype
        assert read.inputs[name].flags.aligned
        np.testing.assert_array_equal(read.inputs[name], array)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 300)))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    with contextlib.suppress(BadRequestError):
        parse_request(body, None if length is None else min(length, len(body)))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": json_values,
            "parameters": json_values,
            "outputs": json_values,
            "inputs": st.one_of(
                json_values,
                st.lists(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "name": st.one_of(st.sampled_from(["dense", "ids"]), json_values),
                            "shape": st.one_of(st.lists(st.integers(-1, 4), max_size=3), json_values),
                            "datatype": st.one_of(st.sampled_from(list(DTYPES)), json_values),
                            "data": json_values,
                            "parameters": st.one_of(
                                st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}), json_values
                            ),
                        },
                    ),
                    max_size=3,
                ),
            ),
        },
    ),
    st.one_of(st.none(), st.binary(max_size=40)),
)
def test_any_document_is_read_or_refused(document: dict, rest: bytes | None) -> None:
    text = json.dumps(document).encode()
    with contextlib.suppress(BadRequestError):
        parse_request(text + (rest or b""), None if rest is None else len(text))


def one(**changed: object) -> bytes:
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]} | changed
    return json.dumps(
        {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}
    ).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "inputs: is missing"),
        (b'{"inputs": {}}', "inputs: must be a list"),
        (b'{"inputs": [3]}', r"inputs\[0\]: must be a JSON object"),
        (b'{"inputs": [NaN]}', "not JSON"),
        (b'{"inputs": ' + b"[" * 100_000, "not JSON"),
        (one(name=""), r"inputs\[0\].name"),
        (one(shape="2"), "shape: must be a list"),
        (one(shape=[-1]), "-1 is not a size"),
        (one(shape=[True]), "True is not a size"),
        (one(shape=[2**60, 2**60]), "is not a size"),
        (one(shape=[2**40]), "2 values for shape"),
        (one(shape=[1] * 9), "at most 8"),
        (one(datatype="BYTES"), "'BYTES' is not one of"),
        (one(data=...), "data: must be a list"),
        (one(data=[1, 2.5]), "not all values are of datatype INT32"),
        (one(data=[1, "2"]), "not all values are of datatype"),
        (one(data=[1, None]), "not all values are of datatype"),
        (one(data=[[1], [2, 3]]), "rows differ in length"),
        (one(data=[1, 2**31]), "2147483648 does not fit INT32"),
        (one(data=[1, 2**70]), "not all values are of datatype"),
        (one(datatype="UINT8", data=[1, -1]), "-1 does not fit UINT8"),
        (one(data=..., parameters={"binary_data_size": 8}), HEADER_LENGTH),
        (one(parameters=[]), "must be a JSON object"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        parse_request(body)


@pytest.mark.parametrize(
    ("parameters", "rest", "message"),
    [
        ({"binary_data_size": 8}, b"1234567", "8 of the 7 bytes left"),
        ({"binary_data_size": 4}, b"1234", "4 bytes of data for shape"),
        ({"binary_data_size": 8}, b"123456789", "1 bytes of binary data belong to no tensor"),
        ({"binary_data_size": -8}, b"12345678", "-8 of the 8"),
        ({"binary_data_size": "8"}, b"12345678", "'8' of the 8"),
        ({"binary_data_size": True}, b"12345678", "True of the 8"),
    ],
)
def test_binary_data_that_do_not_fit(parameters: dict, rest: bytes, message: str) -> None:
    head = one(data=..., parameters=parameters)
    with pytest.raises(BadRequestError, match=message):
        parse_request(head + rest, len(head))


def test_the_header_is_a_number_within_the_body() -> None:
    assert header_length(None, 10) is None
    assert header_length(" 7 ", 10) == 7
    for text in ("", "-1", "1e3", "0x7", "٣", "11", "9" * 30):
        with pytest.raises(BadRequestError, match=HEADER_LENGTH):
            header_length(text, 10)


@pytest.mark.parametrize("binary", [True, False])
def test_answers_keep_every_bit(binary: bool) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 5000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    response = InferResponse(model="m", version="1", outputs={"probability": values}, id="é")
    asked = InferRequest(inputs={}, outputs={"probability": binary})
    read = parse_response(*render_response(response, asked))
    assert (read.model, read.version, read.id) == ("m", "1", "é")
    np.testing.assert_array_equal(read.outputs["probability"].view(np.uint32), values.view(np.uint32))
