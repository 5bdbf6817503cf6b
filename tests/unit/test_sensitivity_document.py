"""The sensitivity document: losses of bands, their cleaning, and what it refuses."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_samples import made_up_sensitivity, zipf_statistics, zipf_table

from screc.planning import Additivity, Effect, Point, Sensitivity, TableSensitivity
from screc.planning.sensitivity import CheckedLayouts, falling
from screc.storage import Band, TableLayout, TtShape

TABLE = zipf_table("t", 1000, samples=5000)
CUTS = (0, 10, 100, 1000)


def bands(*beyond: float, narrower: float = 1.0) -> list[list[Point]]:
    """Points of all bands from what is lost beyond each cut; bands that end early cost less by a factor."""
    last = len(beyond)
    ends = [*beyond, 0.0]
    return [
        [
            Point(rise=loss, standard_error=1e-6, expected=loss)
            for j in range(i + 1, last + 1)
            for loss in [(ends[i] - ends[j]) * (1.0 if j == last else narrower)]
        ]
        for i in range(last)
    ]


INT4 = Effect.of("int4", CUTS, bands(4e-5, 3e-5, 1e-5))
TT8 = Effect.of("tt", CUTS, bands(4e-3, 3e-3, 1e-3, narrower=0.5), tt_rank=8)
TT32 = Effect.of("tt", CUTS, bands(2e-3, 1e-3, 1e-4, narrower=0.5), tt_rank=32)
SENSITIVITY = TableSensitivity.of(TABLE, [INT4, TT8, TT32])


def test_a_band_costs_what_was_measured_of_it() -> None:
    assert SENSITIVITY.loss("tt", 8, 0, 1000) == pytest.approx(4e-3)
    assert SENSITIVITY.loss("tt", 8, 10, 100) == pytest.approx(1e-3)
    assert SENSITIVITY.loss("int4", None, 0, 1000) == pytest.approx(4e-5)
    assert SENSITIVITY.loss("int4", None, 10, 100) == pytest.approx(2e-5)
    assert SENSITIVITY.loss("tt", 8, 100, 1000) == pytest.approx(1e-3)
    assert SENSITIVITY.loss("fp32", None, 0, 1000) == 0


def test_bands_of_one_format_add_up_whichever_way_a_table_is_cut() -> None:
    cuts = np.unique(np.random.default_rng(0).integers(0, 1001, 40))
    cuts = np.concatenate(([0], cuts, [1000]))
    parts = SENSITIVITY.loss("int4", None, cuts[:-1], cuts[1:])
    assert parts.shape == (len(cuts) - 1,)
    assert (parts >= 0).all()
    assert parts.sum() == pytest.approx(4e-5)


def test_between_cuts_the_loss_is_spread_as_the_lookups_are() -> None:
    share = TABLE.smoothed_curve.share(np.array([10, 30, 100]))
    expected = 2e-5 * (share[1] - share[0]) / (share[2] - share[0])
    # The document keeps 64 points of the curve, not the curve.
    assert SENSITIVITY.loss("int4", None, 10, 30) == pytest.approx(expected, rel=0.02)


def test_a_tt_rank_between_two_takes_the_smaller_one() -> None:
    assert SENSITIVITY.loss("tt", 16, 0, 1000) == SENSITIVITY.loss("tt", 8, 0, 1000)
    assert SENSITIVITY.loss("tt", 64, 0, 1000) == SENSITIVITY.loss("tt", 32, 0, 1000)


def test_narrow_bands_of_cores_cost_less_than_a_wide_one() -> None:
    cuts = np.unique(np.random.default_rng(0).integers(0, 1001, 30))
    for start, stop in itertools.combinations([0, *cuts.tolist(), 1000], 2):
        whole = float(SENSITIVITY.loss("tt", 8, start, stop))
        middle = (start + stop) // 2
        parts = SENSITIVITY.loss("tt", 8, np.array([start, middle]), np.array([middle, stop]))
        assert parts.min() >= 0
        assert whole >= parts.max() - 1e-12
    assert SENSITIVITY.loss("tt", 8, 500, 500) == 0


def test_what_was_not_measured_is_refused_by_name() -> None:
    assert SENSITIVITY.knows("fp32")
    assert SENSITIVITY.knows("tt", 100)
    assert not SENSITIVITY.knows("tt", 4)
    assert not SENSITIVITY.knows("int4", scale="table")
    with pytest.raises(ValueError, match=r"table t: .*int8.*only to fp32, int4, tt of TT rank 8"):
        SENSITIVITY.loss("int8", None, 0, 10)
    with pytest.raises(ValueError, match="TT rank 4"):
        SENSITIVITY.loss("tt", 4, 0, 10)
    with pytest.raises(ValueError, match="a scale a table"):
        SENSITIVITY.loss("int4", None, 0, 10, "table")


@pytest.mark.parametrize(("start", "stop"), [(-1, 10), (0, 1001), (20, 10)])
def test_a_band_outside_the_table_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="within its 1000 ranks"):
        SENSITIVITY.loss("int4", None, start, stop)


def test_ranks_that_no_lookup_asks_for_are_spread_evenly() -> None:
    sensitivity = TableSensitivity(
        table="t", num_embeddings=100, ranks=(0, 10, 100), shares=(0, 1, 1), effects=(
            Effect.of("int4", (0, 10, 100), bands(3.0, 2.0)),
        ),
    )  # fmt: skip
    assert sensitivity.loss("int4", None, 10, 55) == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.floats(-1, 1, allow_subnormal=False), st.floats(0.01, 1)), min_size=1, max_size=4)
)
def test_cleaning_finds_the_nearest_curve_that_falls(points: list[tuple[float, float]]) -> None:
    values, errors = zip(*points, strict=True)
    found = falling(values, errors)
    assert (np.diff(found) <= 0).all()
    assert found[-1] >= 0
    weights = np.array(errors) ** -2.0

    def distance(curve: np.ndarray) -> float:
        return float((weights * (np.array(values) - curve) ** 2).sum())

    # Oracle: the best such curve is constant on runs, each the run's weighted mean or 0.
    best = np.inf
    for ends in itertools.product([False, True], repeat=len(values) - 1):
        runs = np.split(np.arange(len(values)), np.flatnonzero(ends) + 1)
        means = [max(0.0, np.average(np.array(values)[run], weights=weights[run])) for run in runs]
        curve = np.repeat(means, [len(run) for run in runs])
        if (np.diff(curve) <= 0).all():
            best = min(best, distance(curve))
    assert distance(found) == pytest.approx(best, abs=1e-6 * weights.max())


def test_losses_are_made_to_grow_with_the_band() -> None:
    def point(rise: float) -> Point:
        return Point(rise=rise, standard_error=1e-3, expected=rise)

    noisy = [[point(2.0), point(1.0), point(3.0)], [point(-1.0), point(4.0)], [point(1.0)]]
    effect = Effect.of("tt", CUTS, noisy, tt_rank=8)
    # To the end: 3, 4, 1 become 3.5, 3.5, 1; a band that is wider than one of loss 2 loses no less.
    assert effect.loss == ((2.0, 2.0, 3.5), (0.0, 3.5), (1.0,))


def test_it_comes_back_as_it_was_saved(tmp_path) -> None:
    statistics = zipf_statistics((1000, 50))
    made = made_up_sensitivity(statistics)
    made.save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json") == made
    assert made.digest == made.model_copy(update={"created": "later"}).digest
    assert made.digest != made.model_copy(update={"samples": 7}).digest
    data = json.loads((tmp_path / "s.json").read_text())
    data["tables"][0]["effects"][0]["loss"][0][0] = -1
    with pytest.raises(ValueError, match=r"tables\.0\.effects\.0\.loss\.0\.0"):
        Sensitivity.from_dict(data)


def test_a_plan_costs_the_sum_of_its_bands() -> None:
    statistics = zipf_statistics((1000, 50))
    made = made_up_sensitivity(statistics)
    shape = TtShape.balanced(1000, 16, 16)
    layouts = [
        TableLayout(
            table="t0",
            num_embeddings=1000,
            embedding_dim=16,
            bands=(
                Band(start=0, stop=10, format="fp32", memory="dram"),
                Band(start=10, stop=100, format="int4", memory="dram", scale="table"),
                Band(start=100, stop=1000, format="tt", memory="dram", tt=shape),
            ),
        ),
        TableLayout(
            table="t1",
            num_embeddings=50,
            embedding_dim=16,
            bands=(Band(start=0, stop=50, format="int8", memory="dram"),),
        ),
    ]
    first, second = made.table("t0"), made.table("t1")
    expected = first.loss("int4", None, 10, 100, "table") + first.loss("tt", 16, 100, 1000)
    expected += second.loss("int8", None, 0, 50)
    assert made.plan_loss(layouts) == pytest.approx(float(expected))
    assert made.plan_loss(layouts) > 0


def test_cores_that_can_rebuild_any_rows_cost_nothing() -> None:
    made = made_up_sensitivity(zipf_statistics((1000, 50)))

    def loss(tt_rank: int) -> float:
        shape = TtShape.balanced(50, 4, tt_rank)
        band = Band(start=0, stop=50, format="tt", memory="dram", tt=shape)
        layout = TableLayout(table="t1", num_embeddings=50, embedding_dim=4, bands=(band,))
        assert shape.exact == (tt_rank == 64)
        return made.plan_loss([layout])

    assert loss(8) > 0
    assert loss(64) == 0


def test_other_statistics_are_refused() -> None:
    made = made_up_sensitivity(zipf_statistics((1000, 50)))
    made.check(zipf_statistics((1000, 50)))
    with pytest.raises(ValueError, match="other access statistics"):
        made.check(zipf_statistics((1000, 50), samples=100))
    with pytest.raises(ValueError, match="it is of tables"):
        made.check(zipf_statistics((1000, 51)))
    with pytest.raises(ValueError, match="no table t7"):
        made.table("t7")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cuts": (0, 10, 10, 1000)}, "ascend"),
        ({"cuts": (1, 10, 100, 1000)}, "from 0"),
        ({"loss": ((1.0, 1.0, 2.0), (1.0, 3.0), (1.0,))}, "grow with the band"),
        ({"loss": ((1.0, 2.0, 1.0), (1.0, 1.0), (1.0,))}, "grow with the band"),
        ({"measured": INT4.measured[1:]}, r"measured has \[2, 1\] entries, 4 cuts need \[3, 2, 1\]"),
        ({"tt_rank": 8}, "tt_rank"),
        ({"format": "fp16", "scale": "table"}, "scale to share"),
    ],
)
def test_effects_that_contradict_themselves_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Effect(**{**INT4.model_dump(), **change})


def test_chance_is_left_out_of_what_was_measured() -> None:
    def left(rise: float) -> float:
        return Point(rise=rise, standard_error=1.0, expected=0.5).without_chance

    assert left(0.5) == 0.5
    assert left(3.4) == 0.5  # less than three standard errors more than expected
    assert left(-2.4) == 0.5
    assert left(6.5) == pytest.approx(0.5 + 6 * 0.75)
    assert left(-99.5) == pytest.approx(-99.5, abs=0.1)
    assert Point(rise=-3, standard_error=0, expected=0).without_chance == -3


def test_additivity_says_how_well_sums_predict() -> None:
    def checked(predicted: float, measured: float) -> CheckedLayouts:
        point = Point(rise=measured, standard_error=1e-6, expected=measured)
        return CheckedLayouts(predicted=predicted, measured=point, auc_loss=0.0)

    good = Additivity(checked=tuple(checked(i * 1e-4, i * 1.1e-4) for i in range(1, 5)))
    assert good.correlation == pytest.approx(1.0)
    assert good.worst_ratio == pytest.approx(1.1)
    bad = Additivity(checked=(checked(1e-4, 3e-5), checked(1e-4, 2e-4)))
    assert bad.worst_ratio == pytest.approx(0.3)
    assert bad.correlation is None
    nothing = Additivity(checked=(checked(0.0, 0.0),))
    assert nothing.worst_ratio is None
