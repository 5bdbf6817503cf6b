"""Metrics, logs and updates of a running server."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="extra serve")
pytest.importorskip("grpc", reason="extra serve")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from served import engine_of, listed, make_batch, one_each, running, tensors, write_artifact  # noqa: E402

from screc.serving import access_log  # noqa: E402
from screc.serving.metrics import ServerCollector  # noqa: E402
from screc.serving.repository import Repository, RepositoryConfig  # noqa: E402
from screc.serving.server import ServerConfig  # noqa: E402
from screc.serving.service import InferenceService  # noqa: E402
from screc.storage import RowStore  # noqa: E402

UPDATES = ServerConfig(repository=RepositoryConfig(threads=2, updates=True))
DOCUMENTED = Path(__file__).parents[2] / "docs" / "guide" / "observability.md"


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("observed") / "ranker")


@pytest.fixture
def artifact(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "ranker"))


def scrape(client: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and values of labels, in the order of their names, without the model's."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model", "version")}
            key = sample.name, tuple(labels.values())
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_metrics_are_the_counts_of_what_happened(artifact):
    with (
        running({"ranker": artifact}, UPDATES) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        batch = make_batch(40)
        for size, count in ((40, 3), (7, 2)):
            body = listed(tensors(make_batch(size, seed=size)))
            for _ in range(count):
                assert client.post("/v2/models/ranker/infer", json=body).status_code == 200
        bad = listed({"dense": batch.dense[:1], "categorical": np.full((1, 4), 10**6)})
        assert client.post("/v2/models/ranker/infer", json=bad).status_code == 400
        assert client.post("/v2/models/none/infer", json=bad).status_code == 404
        found = scrape(client)
        assert found["screc_requests_total", ("infer", "http", "200")] == 5
        assert found["screc_requests_total", ("infer", "http", "400")] == 1
        assert found["screc_requests_total", ("infer", "http", "404")] == 1
        assert found["screc_queries_total", ("done",)] == 5
        assert found["screc_samples_total", ()] == 134
        assert found["screc_batched_samples_total", ()] == 134
        counted = sum(found["screc_lookups_total", (memory,)] for memory in ("dram", "tt", "ssd"))
        expected = 3 * len(make_batch(40, seed=40).ids) + 2 * len(make_batch(7, seed=7).ids)
        assert counted == expected
        for name, count in (("request_seconds", 5), ("queue_seconds", 5)):
            assert found[f"screc_{name}_count", ()] == count
            buckets = [v for (one, _), v in found.items() if one == f"screc_{name}_bucket"]
            assert buckets == sorted(buckets)
            assert buckets[-1] == count
        assert found["screc_batch_samples_sum", ()] == 134
        assert found["screc_ready", ()] == 1
        assert found["process_resident_memory_bytes", ()] > 1e6
        openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert openmetrics.text.rstrip().endswith("# EOF")


def test_every_metric_is_documented(artifact):
    with (
        running({"ranker": artifact}, UPDATES) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        client.post("/v2/models/ranker/infer", json=listed(tensors(make_batch(3))))
        families = [one.name for one in text_string_to_metric_families(client.get("/metrics").text)]
    text = DOCUMENTED.read_text()
    ours = [name for name in families if name.startswith("screc_")]
    assert len(ours) > 30
    assert [name for name in ours if f"`{name}" not in text] == []


def post_rows(client: httpx.Client, table: str, ids: list[int], rows: np.ndarray, **more) -> httpx.Response:
    inputs = {"ids": np.array(ids), "rows": rows.astype(np.float32)}
    document = listed(inputs, parameters={"table": table}, **more)
    return client.post("/v2/models/ranker/rows", json=document)


def predicted(client: httpx.Client, categorical: np.ndarray, dense: np.ndarray) -> np.ndarray:
    answer = client.post("/v2/models/ranker/infer", json=listed({"dense": dense, "categorical": categorical}))
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"][0]["data"], np.float32)


def test_rows_are_updated_and_the_next_prediction_uses_them(artifact):
    categorical, batch = one_each(60)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 8)).astype(np.float32)
    with (
        running({"ranker": artifact}, UPDATES) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        before = predicted(client, categorical, batch.dense)
        answer = post_rows(client, "t0", list(range(20)), rows)
        assert answer.json() == {"model_name": "ranker", "model_version": "1", "table": "t0", "rows": 20}
        after = predicted(client, categorical, batch.dense)
        assert (after != before).any()
        engine = engine_of(artifact)
        np.testing.assert_array_equal(engine.rows.gather("t0", np.arange(20)), rows)
        np.testing.assert_array_equal(after, engine.predict(batch))
        # In binary too.
        head = json.dumps(
            {
                "parameters": {"table": "t2"},
                "inputs": [
                    {
                        "name": "ids",
                        "datatype": "INT64",
                        "shape": [3],
                        "parameters": {"binary_data_size": 24},
                    },
                    {
                        "name": "rows",
                        "datatype": "FP32",
                        "shape": [3, 8],
                        "parameters": {"binary_data_size": 96},
                    },
                ],
            }
        ).encode()
        body = head + np.array([5, 6, 399]).tobytes() + rows[:3].tobytes()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = client.post("/v2/models/ranker/rows", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        with ThreadPoolExecutor(8) as pool:
            several = pool.map(lambda i: post_rows(client, "t3", [i], rows[:1] + i), range(100))
        assert {one.status_code for one in several} == {200}
        # A swap takes over what the log has; the new engine takes updates, the old one none.
        assert client.post("/v2/repository/models/ranker/load").status_code == 200
        assert post_rows(client, "t1", [3], rows[:1]).status_code == 200
        found = scrape(client)
        assert found["screc_updates_total", ()] == 1
        assert found["screc_update_log_bytes", ()] > 100
    store = RowStore.open(artifact)
    np.testing.assert_array_equal(store.gather("t2", np.array([5, 6, 399])), rows[:3])
    np.testing.assert_array_equal(
        store.gather("t3", np.arange(100))[:, 0], rows[0, 0] + np.arange(100, dtype="f4")
    )
    np.testing.assert_array_equal(store.gather("t1", np.array([3])), rows[:1])


def test_wrong_updates_are_refused_with_the_reason(artifact):
    row = np.ones((1, 8))
    with (
        running({"ranker": artifact}, UPDATES) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        for table, ids, rows, status, text in (
            ("none", [1], row, 400, "no table 'none'"),
            ("t0", [50], row, 400, "ids[0] is 50, outside table 0 of 50 rows"),
            ("t0", [1], row[:, :3], 400, "rows: expected shape [1, 8], got [1, 3]"),
            ("t0", [[1]], row, 400, "inputs.ids: must be INT64 [n]; it is int64 [1, 1]"),
            ("t0", [1], row[0], 400, "inputs.rows: must be FP32 [n, dim]"),
        ):
            answer = post_rows(client, table, ids, rows)
            assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
        document = listed({"ids": np.array([1]), "rows": row.astype(np.float32)})
        for more, text in (
            ({}, "parameters.table: must be the name of a table"),
            ({"parameters": {"table": "t0", "what": 1}}, "parameters.what: is not read here"),
        ):
            answer = client.post("/v2/models/ranker/rows", json={**document, **more})
            assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text
        document["inputs"].append({**document["inputs"][0], "name": "others"})
        answer = client.post("/v2/models/ranker/rows", json={**document, "parameters": {"table": "t0"}})
        assert "there is no tensor 'others'" in answer.json()["error"]
        assert client.post("/v2/models/none/rows", json=document).status_code == 404
    with running({"ranker": artifact}) as server, httpx.Client(base_url=server.http, timeout=60) as client:
        answer = post_rows(client, "t0", [1], row)
        assert answer.status_code == 409
        assert "started without --updates" in answer.json()["error"]


def test_updates_and_swaps_while_predictions_go_on(artifact):
    """No prediction fails; an update is acknowledged, or refused because the model is being loaded."""
    batch = listed(tensors(make_batch(20)))
    stop = threading.Event()
    statuses: dict[str, set[int]] = {"infer": set(), "rows": set()}
    last: dict[int, int] = {}

    def infer(client: httpx.Client) -> None:
        while not stop.is_set():
            statuses["infer"].add(client.post("/v2/models/ranker/infer", json=batch).status_code)

    def update(client: httpx.Client) -> None:
        value = 0
        while not stop.is_set():
            value += 1
            row = value % 50
            answer = post_rows(client, "t0", [row], np.full((1, 8), value))
            statuses["rows"].add(answer.status_code)
            if answer.status_code == 200:
                last[row] = value

    with (
        running({"ranker": artifact}, UPDATES) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        threads = [threading.Thread(target=work, args=(client,)) for work in (infer, infer, update)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            time.sleep(0.2)
            assert client.post("/v2/repository/models/ranker/load").status_code == 200
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses["infer"] == {200}
    assert statuses["rows"] <= {200, 409}
    assert len(last) > 5
    rows = RowStore.open(artifact).gather("t0", np.array(list(last)))
    np.testing.assert_array_equal(
        rows, np.repeat(np.array(list(last.values()), np.float32)[:, None], 8, axis=1)
    )


def test_an_artifact_has_one_writer(artifact):
    with (
        running({"ranker": artifact}, UPDATES),
        pytest.raises(Exception, match="is being updated by process"),
        running({"ranker": artifact}, UPDATES),
    ):
        pass


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """The log's records; the handlers and warnings are as before afterwards."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    path = tmp_path / "log"
    handler = access_log.start_logging(path)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    access_log.LOGGER.removeHandler(handler)
    handler.close()


def test_logs_are_json_with_the_ids_of_requests(artifact, lines):
    import tritonclient.grpc as triton

    with running({"ranker": artifact}) as server, httpx.Client(base_url=server.http, timeout=60) as client:
        body = listed(tensors(make_batch(3)))
        answer = client.post("/v2/models/ranker/infer", json=body, headers={"X-Request-Id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        refused = client.post("/v2/models/none/infer", json=body, headers={"X-Request-Id": "no\tgood"})
        assert len(refused.headers["x-request-id"]) == 16
        with triton.InferenceServerClient(server.grpc) as rpc:
            inputs = [
                triton.InferInput("dense", [3, 5], "FP32"),
                triton.InferInput("categorical", [3, 4], "INT64"),
            ]
            inputs[0].set_data_from_numpy(np.zeros((3, 5), np.float32))
            inputs[1].set_data_from_numpy(np.ones((3, 4), np.int64))
            rpc.infer("ranker", inputs, headers={"x-request-id": "mine-2"})
            with pytest.raises(Exception, match="no model"):
                rpc.get_model_metadata("none")
    records = lines()
    assert [one["event"] for one in records if one["event"] != "request"] == [
        "started",
        "stopping",
        "stopped",
    ]
    first, second, third, fourth = [one for one in records if one["event"] == "request"]
    assert first["request_id"] == "mine-1"
    assert (first["protocol"], first["method"], first["call"]) == ("http", "POST", "infer")
    assert (first["model"], first["status"], first["level"]) == ("ranker", 200, "info")
    assert 0 < first["seconds"] < 60
    assert first["bytes_in"] == int(answer.request.headers["content-length"])
    assert first["bytes_out"] == len(answer.content)
    assert (second["request_id"], second["status"]) == (refused.headers["x-request-id"], 404)
    assert (third["request_id"], third["call"], third["status"]) == ("mine-2", "ModelInfer", "OK")
    assert (third["model"], third["bytes_in"] > 100) == ("ranker", True)
    assert (fourth["call"], fourth["status"]) == ("ModelMetadata", "NOT_FOUND")
    warnings.warn("a part of the server says so", stacklevel=1)
    assert lines()[-1]["text"] == "a part of the server says so"


def test_a_record_with_an_exception_and_no_listener(tmp_path):
    access_log.log("nobody listens", field=1)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "broken", None, None)
    try:
        raise KeyError("why")
    except KeyError as error:
        record.exc_info = (KeyError, error, error.__traceback__)
    assert "KeyError: 'why'" in json.loads(access_log.JsonFormatter().format(record))["exception"]


def test_metrics_without_a_model():
    service = InferenceService(Repository({"ranker": Path("nowhere")}))
    found = {family.name: family.samples[0].value for family in ServerCollector(service).collect()}
    assert found == {"screc_server": 1, "screc_ready": 0}


def test_a_token_keeps_metrics_and_data_but_not_the_page(artifact):
    config = ServerConfig(token="secret", repository=RepositoryConfig(threads=1))
    with (
        running({"ranker": artifact}, config) as server,
        httpx.Client(base_url=server.http, timeout=60) as client,
    ):
        for path, status in (
            ("/", 200),
            ("/dashboard/style.css", 200),
            ("/metrics", 401),
            ("/dashboard/data", 401),
        ):
            assert client.get(path).status_code == status, path
        allowed = {"Authorization": "Bearer secret"}
        assert client.get("/metrics", headers=allowed).status_code == 200
        assert client.get("/dashboard/data", headers=allowed).json()["models"][0]["name"] == "ranker"
