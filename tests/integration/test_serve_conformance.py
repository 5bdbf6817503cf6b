"""The server through the protocol's own client, over HTTP and gRPC: answers are the engine's to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from served import (
    NUM_DENSE,
    ROWS,
    Running,
    engine_of,
    listed,
    make_batch,
    one_each,
    running,
    tensors,
    write_artifact,
)

from screc import __version__

clients = {
    "http": pytest.importorskip("tritonclient.http"),
    "grpc": pytest.importorskip("tritonclient.grpc"),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("serve") / "ranker")


@pytest.fixture(scope="module")
def server(artifact) -> Iterator[Running]:
    with running({"ranker": artifact}) as server:
        yield server


@pytest.fixture(scope="module", params=list(clients))
def client(request, server) -> Iterator[tuple[ModuleType, Any]]:
    package = clients[request.param]
    address = server.http.removeprefix("http://") if request.param == "http" else server.grpc
    made = package.InferenceServerClient(address)
    yield package, made
    made.close()


def as_inputs(package: ModuleType, inputs: dict[str, np.ndarray], **how: bool) -> list[Any]:
    made = []
    for name, array in inputs.items():
        one = package.InferInput(name, list(array.shape), "FP32" if array.dtype == np.float32 else "INT64")
        one.set_data_from_numpy(array, **how)
        made.append(one)
    return made


def infer(client: tuple[ModuleType, Any], inputs: dict[str, np.ndarray], **more: Any) -> np.ndarray:
    package, made = client
    return made.infer("ranker", as_inputs(package, inputs), **more).as_numpy("probability")


@pytest.mark.parametrize("size", [1, 96, 97, 700])
def test_bags(client, artifact, size):
    batch = make_batch(size, seed=size)
    answer = infer(client, tensors(batch))
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, engine_of(artifact).predict(batch))


def test_one_id_for_each_table(client, artifact):
    categorical, batch = one_each(200)
    answer = infer(client, {"dense": batch.dense, "categorical": categorical})
    np.testing.assert_array_equal(answer, engine_of(artifact).predict(batch))


def test_no_samples(client):
    assert infer(client, tensors(make_batch(0))).shape == (0,)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary(server, artifact, binary_in, binary_out):
    package = clients["http"]
    batch = make_batch(33, seed=1)
    with package.InferenceServerClient(server.http.removeprefix("http://")) as made:
        found = made.infer(
            "ranker",
            as_inputs(package, tensors(batch), binary_data=binary_in),
            outputs=[package.InferRequestedOutput("probability", binary_data=binary_out)],
            request_id="a request",
        )
    assert found.get_response()["id"] == "a request"
    np.testing.assert_array_equal(found.as_numpy("probability"), engine_of(artifact).predict(batch))


def test_plain_json_as_curl_sends_it(server, artifact):
    batch = make_batch(3, seed=5)
    answer = httpx.post(f"{server.http}/v2/models/ranker/infer", json=listed(tensors(batch), id="7"))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["model_name"], found["model_version"], found["id"]) == ("ranker", "1", "7")
    assert found["outputs"][0]["shape"] == [3]
    values = np.array(found["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(values, engine_of(artifact).predict(batch))


def test_lists_over_grpc(server, artifact):
    import grpc

    from screc.serving.messages import SERVICE, message

    batch = make_batch(9, seed=2)
    asked = message("ModelInferRequest")(model_name="ranker")
    for name, array in tensors(batch).items():
        kind = "FP32" if array.dtype == np.float32 else "INT64"
        tensor = asked.inputs.add(name=name, datatype=kind, shape=array.shape)
        getattr(tensor.contents, f"{kind.lower()}_contents").extend(array.ravel().tolist())
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=message("ModelInferResponse").FromString,
        )
        found = np.array(call(asked).outputs[0].contents.fp32_contents, np.float32)
    np.testing.assert_array_equal(found, engine_of(artifact).predict(batch))


def test_user_and_candidates(client, artifact):
    categorical, batch = one_each(150, seed=3)
    categorical[:, [3, 0]] = categorical[:1, [3, 0]]
    dense = batch.dense.copy()
    dense[:, [2, 4]] = dense[:1, [2, 4]]
    own_columns = [column for column in range(NUM_DENSE) if column not in (2, 4)]
    answer = infer(
        client,
        {
            "dense": np.ascontiguousarray(dense[:, own_columns]),
            "categorical": np.ascontiguousarray(categorical[:, [1, 2]]),
            "context_dense": np.ascontiguousarray(dense[:1, [4, 2]]),
            "context_categorical": np.ascontiguousarray(categorical[:1, [3, 0]]),
        },
        parameters={"context_tables": "t3,t0", "context_columns": "4, 2"},
    )
    whole = type(batch)(dense=dense, ids=categorical.T.ravel().copy(), offsets=batch.offsets)
    np.testing.assert_array_equal(answer, engine_of(artifact).predict(whole))


def as_dict(value: Any) -> Any:
    """A client's answer as a plain value, whichever protocol it came by."""
    if isinstance(value, dict | list):
        return value
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(value, preserving_proto_field_name=True)


def test_health_and_metadata(client):
    _, made = client
    assert made.is_server_live()
    assert made.is_server_ready()
    assert made.is_model_ready("ranker")
    assert made.is_model_ready("ranker", "1")
    about = as_dict(made.get_server_metadata())
    assert (about["name"], about["version"]) == ("screc", __version__)
    assert "binary_tensor_data" in about["extensions"]
    model = as_dict(made.get_model_metadata("ranker"))
    assert model["name"] == "ranker"
    shapes = {one["name"]: [int(size) for size in one["shape"]] for one in model["inputs"]}
    assert shapes == {
        "dense": [-1, NUM_DENSE],
        "categorical": [-1, len(ROWS)],
        "ids": [-1],
        "offsets": [-1],
    }
    assert [one["name"] for one in model["outputs"]] == ["probability"]
    config = as_dict(made.get_model_config("ranker"))
    config = config.get("config", config)
    assert config["parameters"]["tables"]["string_value"] == "t0,t1,t2,t3"


def test_statistics_count(client):
    _, made = client

    def successes() -> int:
        stats = as_dict(made.get_inference_statistics("ranker"))["model_stats"][0]
        return int(stats["inference_stats"]["success"].get("count", 0))

    before = successes()
    infer(client, tensors(make_batch(4)))
    assert successes() == before + 1


def test_repository_calls(client):
    _, made = client
    entries = as_dict(made.get_model_repository_index())
    entries = entries["models"] if isinstance(entries, dict) else entries
    assert [(one["name"], one["version"], one["state"]) for one in entries] == [("ranker", "1", "READY")]
    made.unload_model("ranker")
    assert not made.is_model_ready("ranker")
    with pytest.raises(clients["http"].InferenceServerException, match="not loaded"):
        infer(client, tensors(make_batch(1)))
    made.load_model("ranker")
    assert made.is_model_ready("ranker")
    assert infer(client, tensors(make_batch(2))).shape == (2,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense": np.full((2, NUM_DENSE), np.inf, np.float32)}, r"dense\[0, 0\] = inf is not finite"),
        ({"categorical": np.full((2, len(ROWS)), 10**6)}, "out of range for table 't0' with 50 rows"),
        ({"categorical": np.zeros((3, len(ROWS)), np.int64)}, "categorical: expected 2 rows, got 3"),
        ({"more": np.zeros((2, 2), np.float32)}, "no tensor 'more'"),
    ],
)
def test_bad_requests_are_named(client, changed, message):
    package, _ = client
    categorical, batch = one_each(2)
    with pytest.raises(package.InferenceServerException, match=message) as caught:
        infer(client, {"dense": batch.dense, "categorical": categorical} | changed)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_unknown_models_and_versions(client):
    package, made = client
    inputs = as_inputs(package, tensors(make_batch(1)))
    for name, version in (("nobody", ""), ("ranker", "2"), ("../ranker", "")):
        with pytest.raises(package.InferenceServerException) as caught:
            made.infer(name, inputs, model_version=version)
        assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_streams(server, artifact):
    package = clients["grpc"]
    found: list[Any] = []
    batches = [make_batch(10, seed=seed) for seed in range(20)]
    with package.InferenceServerClient(server.grpc) as made:
        made.start_stream(lambda result, error: found.append((result, error)))
        for number, batch in enumerate(batches):
            made.async_stream_infer(
                "ranker" if number != 7 else "nobody",
                as_inputs(package, tensors(batch)),
                request_id=str(number),
            )
        made.stop_stream()
    assert len(found) == len(batches)
    engine = engine_of(artifact)
    for number, (result, error) in enumerate(found):
        if number == 7:
            assert "no model 'nobody'" in str(error)
            continue
        assert result.get_response().id == str(number)
        np.testing.assert_array_equal(result.as_numpy("probability"), engine.predict(batches[number]))
