"""The recipe of DeepRecSys' eight models, on a thousandth of their rows."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.deeprecsys_shapes import SHAPES, run
from screc.serving.load import EngineTarget, ZipfSamples


def test_there_are_eight_and_three_are_served_as_they_are():
    assert len(SHAPES) == len({shape.name for shape in SHAPES}) == 8
    assert [shape.name for shape in SHAPES if not shape.missing] == ["DLRM-RMC1", "DLRM-RMC2", "DLRM-RMC3"]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_shape_predicts(shape):
    engine = shape.engine(1e-3, threads=1)
    assert [table.num_embeddings for table in engine.tables] == list(shape.scaled(1e-3))
    batch = ZipfSamples(EngineTarget(engine).shape, pooling=shape.pooling).take(5)
    probabilities = engine.predict(batch)
    assert probabilities.shape == (5,)
    assert np.isfinite(probabilities).all()
    assert probabilities.std() > 0


def test_the_highest_load_of_a_shape_is_found():
    report = run(scale=1e-3, seconds=0.2, names=("NCF",), threads=1)
    assert report["results"]["NCF"]["queries_per_s"] >= 0
    with pytest.raises(ValueError, match="no shape GPT"):
        run(names=("GPT",))
