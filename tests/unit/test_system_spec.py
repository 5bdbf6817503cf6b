"""The system spec: interpolation between measurements, its file, and the probe that makes it."""

from __future__ import annotations

import errno
import json
import sys

import numpy as np
import pytest

from screc.planning import SystemSpec, reference_system
from screc.planning import probe as probe_function
from screc.planning.system import IndexRate, RowRate
from screc.storage.layout import TtShape

probe_module = sys.modules["screc.planning.probe"]  # screc.planning.probe itself is the function


def test_rates_are_interpolated() -> None:
    system = reference_system()
    assert system.row_ns("fp32", 16, "row", "dram") == 32.6
    assert system.row_ns("fp32", 16, "row", "llc") == 10.0
    assert 32.6 < system.row_ns("fp32", 24) < system.row_ns("fp32", 32) == 42.0
    assert system.row_ns("fp32", 1) == system.row_ns("fp32", 4) == 28.0
    assert system.row_ns("fp32", 1024) == pytest.approx(4 * 152.0)
    assert system.row_ns("int8", 16) > system.row_ns("fp32", 5)
    assert system.pages_per_second(64) == 115_800
    assert 11_600 < system.pages_per_second(4) < 83_700
    assert system.pages_per_second(10_000) == 116_400
    assert system.dense_ns(128, 1000) == pytest.approx(128 * 1000 * 2 / 258)
    assert system.dense_ns(128, 0) == 0
    assert 24 < 2 * 8 * 1000 / system.dense_ns(8, 1000) < 120
    assert system.dense_ns(128, 1000, "int8") == system.dense_ns(128, 1000)
    assert system.ssd_latency_seconds == pytest.approx(1 / 11_600)
    assert system.num_bytes("llc") == 36 * 2**20
    none = reference_system(ssd=False)
    assert (none.ssd, none.pages_per_second(64), none.ssd_latency_seconds, none.page_ns) == (None, 0, 0, 0)
    assert none.num_bytes("ssd") == 0


def test_what_was_not_measured_counts_as_the_next_slower_thing() -> None:
    def rate(where: str, ns: float, busy: int = 2, row_format: str = "fp32", dim: int = 16) -> RowRate:
        return RowRate(where=where, row_format=row_format, embedding_dim=dim, ns=ns, busy=busy)

    rows = (rate("private", 3), rate("dram", 20, 1), rate("dram", 30), rate("dram", 18, 2, "int8"))
    system = reference_system().model_copy(update={"rows": rows})
    assert system.row_ns("fp32", 16, "row", "private") == 3
    assert system.row_ns("fp32", 16, "row", "llc") == 30
    assert system.row_ns("int8", 16, "row", "private") == 18
    assert system.row_ns("int8", 16, "table", "private") == system.row_ns("fp16", where="private") == 3
    assert [system.row_ns(busy=busy) for busy in (1, 2, 3)] == [20, 30, 30]
    assert system.index_ns("hash", "private") == 3
    index = (IndexRate(kind="hash", where="dram", ns=40), IndexRate(kind="bitmap", where="llc", ns=2))
    system = system.model_copy(update={"index": index})
    assert system.index_ns("hash", "private") == 40
    assert system.index_ns("bitmap", "private") == 2
    assert system.index_ns("bitmap", "dram") == 30


def test_tt_time_is_exact_at_measurements_and_grows_with_the_rank() -> None:
    system = reference_system()
    for rate in system.tt:
        shape = TtShape.balanced(10_077_696, rate.embedding_dim, rate.tt_rank)
        assert system.tt_ns(shape) == pytest.approx(rate.ns)
    times = [system.tt_ns(TtShape.balanced(10**6, 32, rank)) for rank in (2, 4, 8, 12, 16, 32, 64, 128)]
    assert times == sorted(times)
    assert times[-1] > 2 * times[-2]


def test_save_and_load(tmp_path) -> None:
    system = reference_system()
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system
    assert "host" not in (tmp_path / "system.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("isa"), "field isa is missing"),
        (lambda d: d.update(colour="red"), "field colour is unknown"),
        (lambda d: d["shared"].update(dram_bytes=-1), r"field shared\.dram_bytes = -1"),
        (lambda d: d["ssd"]["reads"].reverse(), "ssd.reads must be in ascending order"),
        (lambda d: d.update(rows=d["rows"][:1]), "rows must hold rates of fp32 rows in dram"),
        (lambda d: d["dense"][0].update(ns=0), r"field dense\.0\.ns = 0"),
        (lambda d: d.update(tt=[]), "field tt = "),
        (lambda d: d.update(version=1), "screc-system version 1, this release reads 2; make the file again"),
        (lambda d: d.update(format="screc-plan"), "expected a document of format 'screc-system'"),
    ],
)
def test_wrong_documents_are_refused(tmp_path, change, message: str) -> None:
    data = reference_system().to_dict()
    change(data)
    path = tmp_path / "system.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        SystemSpec.load(path)
    assert "system.json" in str(caught.value)


def test_probe_measures_this_host(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(probe_module, "_FILE_BYTES", 2**20)
    monkeypatch.setattr(probe_module, "_SMALLEST_FILE_BYTES", 2**12)
    monkeypatch.setattr(probe_module, "_available_bytes", lambda: 2**25)
    monkeypatch.setattr(probe_module, "_TT_ROWS", 1000)
    monkeypatch.setattr(probe_module, "_TT_RANKS", (2, 4))
    monkeypatch.setattr(probe_module, "_GEMM_SAMPLES", (1, 16))
    steps: list[tuple[int, int]] = []
    try:
        system = probe_function(
            tmp_path, seconds=0.01, threads=1, progress=lambda what, done, total: steps.append((done, total))
        )
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("the temporary directory's file system has no direct reads")
    assert system.devices.count == 1
    assert system.source == "probe"
    assert [rate.queue_depth for rate in system.ssd.reads] == [1, 4, 16, 64, 256]
    assert system.ssd.backend in ("io_uring", "pread")
    assert len(system.tt) == 6
    assert steps[-1][0] + 1 == steps[-1][1] == len(steps)
    assert list(tmp_path.iterdir()) == []
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system


def test_probe_without_ssd_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(probe_module, "_available_bytes", lambda: 2**23)
    monkeypatch.setattr(probe_module, "_TT_ROWS", 100)
    monkeypatch.setattr(probe_module, "_TT_RANKS", (2,))
    monkeypatch.setattr(probe_module, "_GEMM_SAMPLES", (1,))
    monkeypatch.setattr(probe_module, "_test_file", None)
    assert probe_function(tmp_path, seconds=0.01, threads=1, ssd=False).ssd is None


def test_probe_refuses_bad_places(tmp_path, monkeypatch) -> None:
    with pytest.raises(NotADirectoryError, match="missing is not a directory"):
        probe_function(tmp_path / "missing")
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        probe_function(tmp_path, seconds=0)
    usage = probe_module.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(probe_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="no room for the probe's test file") as caught:
        probe_function(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)


def test_probe_names_the_directory_when_the_disk_fills_up(tmp_path, monkeypatch) -> None:
    class Full:
        def bytes(self, count: int) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match="no room for the probe's test file") as caught,
        probe_module._test_file(tmp_path, 2**40, Full()),
    ):
        pass
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_ids_of_the_probe_do_not_repeat_at_once() -> None:
    sets = probe_module._endless_ids(np.random.default_rng(0), 10**6, 100)
    first, second = next(sets), next(sets)
    assert first.shape == (100,)
    assert not np.array_equal(first, second)
