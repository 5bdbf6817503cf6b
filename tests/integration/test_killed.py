"""Verbs that are killed or run out of disk leave what was there, or the new, never half."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from screc.data import open_log
from screc.serving import Engine
from screc.storage import Checkpoint, RowStore, StoredTable, TableLayout, pack, verify, write_checkpoint
from screc.training import load_model


def generation(path: Path, number: int) -> None:
    """A checkpoint of 10 MB whose every row is ``number``."""
    layouts = [TableLayout.dense("t", 100_000, 16), TableLayout.dense("u", 50_000, 16)]
    write_checkpoint(
        path,
        model={
            "name": "dlrm",
            "num_dense": 0,
            "embedding_dim": 16,
            "bottom_mlp": [],
            "top_mlp": [1],
            "interaction": "dot",
        },
        tables=[StoredTable(layout, "sum") for layout in layouts],
        dense={"top.0.weight": np.ones((1, 1), np.float32), "top.0.bias": np.zeros(1, np.float32)},
        table_tensors=lambda t: {
            "band.0.rows": np.full((layouts[t].num_embeddings, 16), number, dtype=np.float32)
        },
        training={},
    )


def run_verb_and_kill(folder: Path, target: str, delay: float, *arguments: object) -> bool:
    """Runs a verb, kills it ``delay`` seconds after it begins to write ``target``; False if it had ended."""
    command = [sys.executable, "-m", "screc.cli", *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while child.poll() is None and not list(folder.glob(f".{target}.tmp-*")):
        time.sleep(0.001)
    time.sleep(delay)
    child.kill()
    errors = child.communicate()[1].decode()
    assert child.returncode in (0, -signal.SIGKILL), errors
    return child.returncode != 0


def test_pack_killed_in_the_middle_of_its_work(tmp_path: Path) -> None:
    rng, kills, seen = random.Random(0), 0, set()
    for number in (1, 2):
        generation(tmp_path / f"model{number}", number)
    pack(tmp_path / "model1", None, None, tmp_path / "artifact")
    for turn in range(8):
        model = tmp_path / f"model{turn % 2 + 1}"
        delay = rng.random() * 0.08
        kills += run_verb_and_kill(tmp_path, "artifact", delay, "pack", model, "--out", tmp_path / "artifact")
        assert verify(tmp_path / "artifact").ok
        store = RowStore.open(tmp_path / "artifact", threads=1)
        rows = np.concatenate([store.gather(t, np.arange(n)) for t, n in (("t", 100_000), ("u", 50_000))])
        assert len(np.unique(rows)) == 1
        seen.add(float(rows[0, 0]))
        assert Engine.open(tmp_path / "artifact").num_dense == 0
    assert kills >= 2
    assert seen <= {1.0, 2.0}
    pack(tmp_path / "model2", None, None, tmp_path / "artifact")
    assert sorted(os.listdir(tmp_path)) == ["artifact", "model1", "model2"]


LOG = "synthetic:rows=200000,seed=3,scale=0.001"


@pytest.fixture
def predict(tmp_path: Path) -> tuple[object, ...]:
    """A verb that predicts 200,000 samples into a file that is there already."""
    specs = open_log(LOG).tables
    layouts = [TableLayout.dense(spec.name, spec.num_embeddings, 2) for spec in specs]
    model = {
        "name": "dlrm",
        "num_dense": 13,
        "embedding_dim": 2,
        "bottom_mlp": [2],
        "top_mlp": [1],
        "interaction": "cat",
    }
    write_checkpoint(
        tmp_path / "model",
        model=model,
        tables=[StoredTable(layout, spec.pooling) for layout, spec in zip(layouts, specs, strict=True)],
        dense={
            "bottom.0.weight": np.ones((2, 13), np.float32),
            "bottom.0.bias": np.zeros(2, np.float32),
            "top.0.weight": np.ones((1, 54), np.float32),
            "top.0.bias": np.zeros(1, np.float32),
        },
        table_tensors=lambda t: {"band.0.rows": np.zeros((specs[t].num_embeddings, 2), np.float32)},
        training={},
    )
    pack(tmp_path / "model", None, None, tmp_path / "artifact")
    out = tmp_path / "p.npy"
    out.write_bytes(b"old")
    return "predict", tmp_path / "artifact", "--data", LOG, "--out", out, "--batch-size", 64


def test_predict_killed_in_the_middle_of_its_work(tmp_path: Path, predict: tuple[object, ...]) -> None:
    """The file of predictions is the old one as long as the new one is not complete."""
    out = tmp_path / "p.npy"
    assert run_verb_and_kill(tmp_path, "p.npy", 0.05, *predict)
    assert out.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".p.npy.tmp-*"))) == 1
    command = [sys.executable, "-m", "screc.cli", *map(str, predict[:-2])]
    subprocess.run(command, check=True, capture_output=True)
    assert np.load(out).shape == (200_000,)
    assert sorted(os.listdir(tmp_path)) == ["artifact", "model", "p.npy"]


def test_predict_onto_a_full_disk(tmp_path: Path, predict: tuple[object, ...]) -> None:
    """A limit on the size of files stands for the disk: the errors come from the same calls."""
    command = [sys.executable, "-m", "screc.cli", *map(str, predict)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 1
    assert "File too large while writing" in result.stderr
    assert "p.npy; what was there is unchanged; free space there or choose another path" in result.stderr
    assert (tmp_path / "p.npy").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["artifact", "model", "p.npy"]


@pytest.mark.slow
def test_train_killed_in_the_middle_of_its_work(tmp_path: Path) -> None:
    """The checkpoint is whole after every kill; the run that goes on ends as one that was never killed."""
    rng, kills = random.Random(0), 0

    def arguments(out: str) -> list[object]:
        return [
            *("train", "--data", "synthetic:rows=6000,seed=3,scale=0.01", "--out", tmp_path / out),
            *("--batch-size", 500, "--checkpoint-every", 1000, "--threads", 1, "--bottom", "16"),
            *("--top", "16", "--epochs", 2),
        ]

    last = 0
    for _ in range(3):
        kills += run_verb_and_kill(tmp_path, "model", rng.random() * 0.3, *arguments("model"))
        if (tmp_path / "model").exists():
            position = Checkpoint.open(tmp_path / "model").training["position"]["samples"]
            assert position >= last
            last = position
            load_model(tmp_path / "model")
    assert kills >= 2
    for out in ("model", "whole"):
        command = [sys.executable, "-m", "screc.cli", *map(str, arguments(out))]
        subprocess.run(command, check=True, capture_output=True)
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        name = file.relative_to(tmp_path / "whole")
        assert (tmp_path / "model" / name).read_bytes() == file.read_bytes(), name
    assert sorted(os.listdir(tmp_path)) == ["model", "whole"]
