"""Requests as queries: which tensors a model takes, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest

from screc.data.log import TableSpec
from screc.serving.errors import BadRequestError, TooLargeError
from screc.serving.signature import QueryLimits, Signature

TABLES = [TableSpec("user", 10, "sum"), TableSpec("item", 20, "sum"), TableSpec("shop", 30, "mean")]
DENSE = np.zeros((4, 2), np.float32)
ONE_EACH = np.zeros((4, 3), np.int64)


@pytest.fixture
def signature() -> Signature:
    return Signature(TABLES, 2, QueryLimits(rows=8, ids=40))


def test_the_plain_form(signature: Signature) -> None:
    query = signature.query({"dense": DENSE, "categorical": ONE_EACH}, {})
    assert query.batch_size == 4
    assert set(query.arrays) == {"dense", "categorical"}
    bags = {"dense": DENSE, "ids": np.zeros(5, np.int64), "offsets": np.zeros(13, np.int64)}
    assert signature.query(bags, {}).batch_size == 4


def test_narrow_ids_are_widened(signature: Signature) -> None:
    query = signature.query({"dense": DENSE, "categorical": ONE_EACH.astype(np.int32)}, {})
    assert query.arrays["categorical"].dtype == np.int64


def test_a_model_without_dense_features() -> None:
    signature = Signature(TABLES, 0)
    assert [one["name"] for one in signature.inputs()] == ["categorical", "ids", "offsets"]
    assert signature.query({"categorical": ONE_EACH}, {}).batch_size == 4
    offsets = np.zeros(13, np.int64)
    assert signature.query({"ids": np.zeros(0, np.int64), "offsets": offsets}, {}).batch_size == 4
    with pytest.raises(BadRequestError, match="3 tables x rows"):
        signature.query({"ids": np.zeros(0, np.int64), "offsets": offsets[:-1]}, {})


def test_a_context(signature: Signature) -> None:
    inputs = {
        "dense": DENSE[:, :1],
        "categorical": ONE_EACH[:, :2],
        "context_dense": DENSE[:1, :1],
        "context_categorical": ONE_EACH[:1, :1],
    }
    named = {"context_tables": "user", "context_columns": "1"}
    assert signature.query(inputs, named).batch_size == 4
    assert signature.query(inputs, named | {"context_columns": 1}).batch_size == 4
    for parameters, message in [
        ({}, "there is no tensor 'context_dense'"),
        ({"context_tables": "users", "context_columns": "1"}, "no table 'users'"),
        ({"context_tables": "user,user", "context_columns": "1"}, "given twice"),
        ({"context_tables": "user", "context_columns": "2"}, "2 is out of range"),
        ({"context_tables": "user", "context_columns": "x"}, "parameters of the context"),
        ({"context_tables": "user,item", "context_columns": "1"}, "categorical: expected 1 columns"),
        ({"context_tables": "user"}, "dense: expected 2 columns"),
        ({"context_tables": 1.5}, "context_tables: must be a text"),
    ]:
        with pytest.raises(BadRequestError, match=message):
            signature.query(inputs, parameters)
    with pytest.raises(BadRequestError, match="context_dense: expected 1 rows, got 4"):
        signature.query(inputs | {"context_dense": DENSE[:, :1]}, named)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"categorical": ONE_EACH}, "'dense' \\[rows, 2\\] is missing"),
        ({"dense": DENSE}, "'ids' and 'offsets', or 'categorical'"),
        ({"dense": DENSE, "ids": ONE_EACH[0]}, "'ids' and 'offsets'"),
        ({"dense": DENSE, "categorical": ONE_EACH, "ids": ONE_EACH[0]}, "give categorical, or ids"),
        ({"dense": DENSE, "categorical": ONE_EACH[:2]}, "categorical: expected 4 rows, got 2"),
        ({"dense": DENSE, "categorical": ONE_EACH[:, :2]}, "expected 3 columns, one for each table"),
        ({"dense": DENSE[0], "categorical": ONE_EACH}, "dense: expected 2 axes"),
        ({"dense": DENSE.astype(np.float64), "categorical": ONE_EACH}, "expected datatype FP32, got FP64"),
        ({"dense": DENSE, "categorical": ONE_EACH.astype(np.uint64)}, "INT64, got UINT64"),
        ({"dense": DENSE, "categorical": ONE_EACH, "labels": DENSE}, "no tensor 'labels'"),
        ({"dense": DENSE, "ids": ONE_EACH[0], "offsets": ONE_EACH[0]}, "3 tables x 4 rows . 1 = 13"),
    ],
)
def test_what_is_wrong_is_named(signature: Signature, inputs: dict, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        signature.query(inputs, {})


def test_limits(signature: Signature) -> None:
    with pytest.raises(TooLargeError, match="9 rows; at most 8"):
        signature.query(
            {"dense": np.zeros((9, 2), np.float32), "categorical": np.zeros((9, 3), np.int64)}, {}
        )
    bags = {"dense": DENSE, "ids": np.zeros(41, np.int64), "offsets": np.zeros(13, np.int64)}
    with pytest.raises(TooLargeError, match="41 ids to look up; at most 40"):
        signature.query(bags, {})
    # A context's ids are looked up for every candidate.
    shared = {
        "dense": DENSE,
        "categorical": ONE_EACH[:, :2],
        "context_ids": np.zeros(10, np.int64),
        "context_offsets": np.array([0, 10]),
    }
    with pytest.raises(TooLargeError, match="48 ids"):
        signature.query(shared, {"context_tables": "user"})
