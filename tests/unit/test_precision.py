"""Precision of the dense layers: calibrated, measured on a sample, kept in the artifact, or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from storage_samples import layout, write_whole
from test_engine import make_batch, make_model, oracle

from screc import _native
from screc.data import Batch, TableSpec
from screc.serving import (
    Arithmetic,
    Engine,
    PrecisionChoice,
    PrecisionReport,
    arithmetic_of,
    calibrate,
    choose_precision,
    packed_precision,
    score,
)
from screc.storage import Artifact, DamagedFileError, pack, verify
from screc.storage.dense_precision import layer_precision

DENSE, DIM, TABLES = 13, 16, 5
SIZES = {"bottom": (64, 48), "top": (56, 40)}


def engine_of(made, **options) -> Engine:
    return Engine.from_arrays(*made[:3], poolings=made[3], **options)


class Log:
    """Samples whose labels follow the model's own probabilities."""

    def __init__(self, made, num_samples: int = 3000, seed: int = 5) -> None:
        self.num_dense, self.num_samples = DENSE, num_samples
        self.tables = tuple(
            TableSpec(str(t), len(rows), pooling)
            for t, (rows, pooling) in enumerate(zip(*made[2:], strict=True))
        )
        batch = make_batch(num_samples, DENSE, made[2], seed=seed)
        probabilities = oracle(*made, batch)
        labels = (np.random.default_rng(seed).random(num_samples) < probabilities).astype(np.float32)
        self.whole = dataclasses.replace(batch, labels=labels)

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, self.num_samples, batch_size):
            yield self.whole.rows(start, start + batch_size)


@pytest.fixture(scope="module")
def made():
    model, dense, tables, poolings = make_model(DENSE, DIM, TABLES, SIZES["bottom"], SIZES["top"])
    dense["top.2.weight"] *= 6  # probabilities that differ, so that there is something to rank
    return model, dense, tables, poolings


@pytest.fixture(scope="module")
def log(made) -> Log:
    return Log(made)


@pytest.fixture(scope="module")
def checkpoint(made, tmp_path_factory) -> Path:
    model, dense, tables, _ = made
    layouts = [layout(str(t), len(rows), DIM, (len(rows), "dram")) for t, rows in enumerate(tables)]
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    return write_whole(path, layouts, tables, model=model, dense=dense)


@pytest.mark.parametrize(("precision", "atol"), [("bf16", 0.02), ("int8", 0.06)])
@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_dense", [13, 0])
@pytest.mark.parametrize("size", [1, 97, 1000])
def test_predictions_are_near_the_models(precision, atol, interaction, num_dense, size):
    made = make_model(num_dense, 16, 5, (64, 48), (56, 40), interaction)
    batch = make_batch(size, num_dense, made[2])
    calibration = make_batch(2000, num_dense, made[2], seed=1)
    engine = engine_of(made, precision=precision, calibration=calibration, threads=2)
    assert engine.precisions["top.1"] == precision
    assert engine.precisions[engine.layers[-1]] == "fp32"
    difference = np.abs(engine.predict(batch) - oracle(*made, batch))
    assert difference.max() < atol
    assert difference.mean() < atol / 8


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_layers_that_gain_nothing_keep_their_precision(precision):
    assert layer_precision(precision, 64, 48) == precision
    assert layer_precision(precision, 1, 256) == "fp32"
    tiles = _native.isa() == "amx" and precision != "fp32"
    assert layer_precision(precision, 512, 13) == ("bf16" if tiles else "fp32")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_layer_may_be_quantised(precision, made):
    """Also those that the usual choice leaves in float32: the first, and the logit."""
    exact = engine_of(made, threads=1)
    batch = make_batch(500, DENSE, made[2], seed=2)
    ranges = calibrate(exact, [batch])
    engine = exact.with_arithmetic(Arithmetic(layers=dict.fromkeys(exact.layers, precision), ranges=ranges))
    np.testing.assert_allclose(engine.predict(batch), exact.predict(batch), atol=0.15)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_prediction_does_not_depend_on_the_batch_or_the_threads(made, precision):
    batch = make_batch(2500, DENSE, made[2])
    calibration = make_batch(500, DENSE, made[2], seed=1)
    engines = [
        engine_of(made, precision=precision, calibration=calibration, threads=threads)
        for threads in (1, 2, 3)
    ]
    whole = engines[0].predict(batch)
    for engine in engines[1:]:
        np.testing.assert_array_equal(engine.predict(batch), whole)
    for start, stop in ((0, 1), (5, 18), (2303, 2305), (0, 2499)):
        np.testing.assert_array_equal(engines[0].predict(batch.rows(start, stop)), whole[start:stop])


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_every_instruction_set(isa, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, test_precision as t\n"
        "made = t.make_model(13, 16, 5, (64, 48), (56, 40))\n"
        "batch, sample = t.make_batch(200, 13, made[2]), t.make_batch(500, 13, made[2], seed=1)\n"
        "for precision, atol in (('bf16', 0.02), ('int8', 0.06)):\n"
        "    engine = t.engine_of(made, precision=precision, calibration=sample, threads=1)\n"
        "    assert engine.isa == sys.argv[2], engine.isa\n"
        "    np.testing.assert_allclose(engine.predict(batch), t.oracle(*made, batch), atol=atol)\n"
    )
    environment = {**os.environ, "SCREC_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, os.path.dirname(__file__), isa]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)


def test_a_row_that_is_not_finite_gives_nan_and_no_other_sample_suffers(made):
    model, dense, tables, poolings = made
    tables = [rows.copy() for rows in tables]
    calibration = make_batch(500, DENSE, tables, seed=1)
    batch = make_batch(300, DENSE, tables)
    good = engine_of(made, precision="int8", calibration=calibration).predict(batch)
    engine = engine_of((model, dense, tables, poolings), precision="int8", calibration=calibration)
    tables[3][7, 2] = np.nan
    offsets = batch.table_offsets(3) - batch.table_offsets(3)[0]
    hit = [7 in batch.table_ids(3)[offsets[i] : offsets[i + 1]] for i in range(300)]
    assert 0 < sum(hit) < 300
    out = engine.predict(batch)
    np.testing.assert_array_equal(np.isnan(out), hit)
    np.testing.assert_array_equal(out[~np.array(hit)], good[~np.array(hit)])


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_layer_inputs(interaction):
    """What each layer is given, layer by layer, against the model in float64."""
    made = make_model(interaction=interaction)
    dense = made[1]
    batch = make_batch(300, DENSE, made[2])
    engine = engine_of(made, threads=2)
    assert engine.layers == ("bottom.0", "bottom.1", "bottom.2", "top.0", "top.1", "top.2")
    np.testing.assert_array_equal(engine.layer_inputs(batch, "bottom.0"), batch.dense)
    for before, layer in (("bottom.0", "bottom.1"), ("bottom.1", "bottom.2"), ("top.0", "top.1")):
        inputs = engine.layer_inputs(batch, before).astype(np.float64)
        expected = np.maximum(inputs @ dense[f"{before}.weight"].T + dense[f"{before}.bias"], 0)
        np.testing.assert_allclose(engine.layer_inputs(batch, layer), expected, atol=1e-5)
    logit = engine.layer_inputs(batch, "top.2") @ dense["top.2.weight"].T + dense["top.2.bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logit[:, 0])), oracle(*made, batch), atol=1e-5)
    with pytest.raises(ValueError, match=r"layer 'top\.3' is not one of bottom\.0, .*, top\.2"):
        engine.layer_inputs(batch, "top.3")
    rounded = engine_of(made, precision="bf16")
    with pytest.raises(ValueError, match="whose layers are all fp32; this one has bf16"):
        rounded.layer_inputs(batch, "top.0")


def test_calibrated_ranges_hold_every_input_seen(made):
    engine = engine_of(made)
    batches = [make_batch(200, DENSE, made[2], seed=seed) for seed in (1, 2)]
    ranges = calibrate(engine, batches)
    for layer in engine.layers:
        inputs = np.concatenate([engine.layer_inputs(batch, layer) for batch in batches])
        low, high = ranges[layer]
        assert ranges[layer].dtype == np.float32
        assert (low * (1 + 1e-6) <= inputs.min(0)).all()
        assert (high * (1 + 1e-6) >= inputs.max(0)).all()
        assert (low >= min(0, inputs.min()) * (1 + 1e-6)).all()
        assert (high <= inputs.max() * (1 + 1e-6)).all()
        assert ((low == 0) == (inputs.min(0) >= 0)).all()
    with pytest.raises(ValueError, match="calibration needs samples"):
        calibrate(engine, [])


def test_arithmetic_says_what_is_missing(made):
    with pytest.raises(ValueError, match=r"layer top\.0 is int8 and has no range"):
        Arithmetic(layers={"top.0": "int8"})
    with pytest.raises(
        ValueError, match=r"layer top\.0: precision 'fp8' is unknown; use one of fp32, bf16, int8"
    ):
        Arithmetic(layers={"top.0": "fp8"})
    with pytest.raises(ValueError, match="precision: precision 'int4' is unknown"):
        engine_of(made, precision="int4")
    with pytest.raises(ValueError, match="calibration: int8 needs samples"):
        engine_of(made, precision="int8")
    engine = engine_of(made)
    ranges = calibrate(engine, [make_batch(50, DENSE, made[2])])
    ranges["top.1"] = ranges["top.1"][:, :-1].copy()
    with pytest.raises(ValueError, match=r"top\.1\.range: expected shape \[2, 56\], got \[2, 55\]"):
        engine.with_arithmetic(arithmetic_of(engine, "int8", ranges))
    ranges["top.1"] = np.full((2, 56), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"top\.1\.range\[0\] = .* must be finite and hold 0"):
        engine.with_arithmetic(arithmetic_of(engine, "int8", ranges))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "auto"])
def test_an_artifact_keeps_its_precision(made, log, checkpoint, tmp_path, precision):
    choice = PrecisionChoice(precision=precision, max_auc_loss=1, max_log_loss_rise=1)
    out = tmp_path / "artifact"
    packed = pack(checkpoint, None, None, out, choose_precision=packed_precision(log, choice))
    report = PrecisionReport.model_validate(packed.precision)
    assert Artifact.open(out).precision == packed.precision
    assert verify(out).ok
    assert report.precision == precision or precision == "auto"
    assert report.num_samples == log.num_samples
    if precision == "auto":
        rates = {name: measured.samples_per_s for name, measured in report.accuracy.items()}
        assert report.precision == max(rates, key=rates.get)

    # The numbers are those of the engine that serves.
    served = Engine.open(out, threads=1)
    assert served.precisions == report.layers
    metrics = score(served, log).metrics
    measured, exact = report.accuracy[report.precision], report.accuracy["fp32"]
    assert (metrics.auc, metrics.log_loss) == (measured.auc, measured.log_loss)
    assert measured.auc_loss == exact.auc - measured.auc
    assert measured.log_loss_rise == measured.log_loss - exact.log_loss

    whole = engine_of(made, threads=1)
    ranges = calibrate(whole, log.batches(2048))
    again = whole.with_arithmetic(arithmetic_of(whole, report.precision, ranges))
    np.testing.assert_array_equal(served.predict(log.whole), again.predict(log.whole))


def test_artifacts_without_a_precision_are_float32(made, log, checkpoint, tmp_path):
    packed = pack(checkpoint, None, None, tmp_path / "a")
    assert packed.precision is None
    assert Artifact.open(tmp_path / "a").ranges() == {}
    engine = Engine.open(tmp_path / "a")
    assert set(engine.precisions.values()) == {"fp32"}
    np.testing.assert_array_equal(engine.predict(log.whole), engine_of(made).predict(log.whole))


def test_a_precision_beyond_the_limits_is_refused_with_its_numbers(log, checkpoint, tmp_path, made):
    out = tmp_path / "a"
    pack(checkpoint, None, None, out)
    before = (out / "manifest.json").read_bytes()
    measured = choose_precision(engine_of(made), log, PrecisionChoice()).document["accuracy"]
    worse = {name for name in ("bf16", "int8") if measured[name]["log_loss_rise"] > 1e-12}
    assert worse, "a model that loses nothing tests nothing"
    for precision in worse:
        choice = PrecisionChoice(precision=precision, max_auc_loss=1, max_log_loss_rise=1e-12)
        rise = f"{measured[precision]['log_loss_rise']:.2e}"
        with pytest.raises(
            ValueError,
            match=rf"precision {precision}: on 3000 samples log-loss rises by {rise} \(limit 1.00e-12\)",
        ):
            pack(checkpoint, None, None, out, choose_precision=packed_precision(log, choice))
        assert (out / "manifest.json").read_bytes() == before
        assert os.listdir(tmp_path) == ["a"], "nothing is left behind"
    choice = PrecisionChoice(precision="auto", max_auc_loss=1, max_log_loss_rise=1e-12)
    assert choose_precision(engine_of(made), log, choice).document["precision"] not in worse


def test_samples_that_cannot_judge_are_refused(made, log):
    engine = engine_of(made)

    def refuse(message: str, **changes) -> None:
        other = Log(made, num_samples=100)
        other.whole = dataclasses.replace(other.whole, **changes)
        with pytest.raises(ValueError, match=message):
            choose_precision(engine, other, PrecisionChoice())

    refuse("sample: it has no labels", labels=None)
    refuse("sample: all 100 labels are the same", labels=np.ones(100, np.float32))
    other = Log(made, num_samples=10)
    other.num_dense = 12
    with pytest.raises(ValueError, match="log: has 12 dense features, the model takes 13"):
        choose_precision(engine, other, PrecisionChoice())
    with pytest.raises(ValueError, match="calibration needs samples"):
        choose_precision(engine, Log(made, num_samples=0), PrecisionChoice())
    with pytest.raises(ValueError, match="max_auc_loss: must not be negative"):
        PrecisionChoice(max_auc_loss=-1e-4)
    with pytest.raises(ValueError, match="precision: precision 'fp8' is unknown"):
        PrecisionChoice(precision="fp8")


def test_damaged_ranges_are_found(log, checkpoint, tmp_path):
    out = tmp_path / "a"
    choice = PrecisionChoice(precision="int8", max_auc_loss=1, max_log_loss_rise=1)
    pack(checkpoint, None, None, out, choose_precision=packed_precision(log, choice))
    file = out / "ranges.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"ranges\.safetensors"):
        Engine.open(out)
    assert [damage.file for damage in verify(out).damages] == ["ranges.safetensors"]


def test_the_command_line(tmp_path, log, checkpoint):
    command = [sys.executable, "-m", "screc.cli", "pack", str(checkpoint), "--out", str(tmp_path / "a")]
    result = subprocess.run([*command, "--precision", "int8"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--precision int8 needs --sample" in result.stderr
    assert json.loads((checkpoint / "model.json").read_text())["model"]["name"] == "dlrm"
    assert not (tmp_path / "a").exists()
