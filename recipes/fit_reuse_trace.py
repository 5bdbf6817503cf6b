"""The fit behind ``screc.data.reuse_trace``: rows by intensity, from Meta's published reuse histograms.

    python -m recipes.fit_reuse_trace --data DIR [--plot FILE.svg]

DIR holds ``locality_stats.csv``: the columns year, file, batch_size, avg_indices, avg_unique_rows, reuse_bin,
share_of_unique_rows and share_of_lookups of ``embedding_bag/*/locality_stats.txt`` in
facebookresearch/dlrm_datasets (MIT). Prints the parameters, how far they are from what was published, and how
much the number of different rows differs from batch to batch, which was not fitted; draws published, fitted
and generated shares.

A row of intensity x is looked up Poisson(x) times in a batch. The shares of the different rows and of the
look-ups in each bin of look-ups are then linear in the numbers of rows by intensity, which are found by
multiplicative updates (Richardson-Lucy: they stay positive and keep the smooth start where nothing is known).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from screc.data.reuse_trace import PROFILES, ReuseProfile, ReuseTraceConfig, ReuseTraceLog

BINS = np.array([0, *(1 << k for k in range(16))])  # (BINS[b], BINS[b + 1]], the last without an end
_POINTS = 8  # intensities that stand for an octave
_ITERATIONS = 20_000
# Row shares are rounded to 0.001: smaller ones say less than the share of the look-ups does.
_LEAST_SHARE = 0.004


def octave_intensities(octave: int) -> np.ndarray:
    """Intensities that stand for [2^k, 2^(k + 1)), evenly spread over the logarithm."""
    return 2.0 ** (octave + 1 - (np.arange(_POINTS) + 0.5) / _POINTS)


def bin_moments(intensities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability that a row's look-ups fall into each bin, and look-ups expected there; both [17], means."""
    counts = np.arange(BINS[-1] + 1)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
    rows, lookups = np.zeros(BINS.size), np.zeros(BINS.size)
    for intensity in intensities:
        probabilities = np.exp(counts * np.log(intensity) - intensity - log_factorials)
        below = np.cumsum(probabilities)[BINS], np.cumsum(probabilities * counts)[BINS]
        rows += np.diff(np.append(below[0], 1.0))
        lookups += np.diff(np.append(below[1], intensity))
    return rows / intensities.size, lookups / intensities.size


def moments(octaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`bin_moments` of cold rows, for each look-up of theirs, and of every octave; both [17, 1 + k]."""
    cold = np.zeros(BINS.size)
    cold[0] = 1.0
    columns = [(cold, cold), *(bin_moments(octave_intensities(int(k))) for k in octaves)]
    return np.stack([rows for rows, _ in columns], axis=1), np.stack([looks for _, looks in columns], axis=1)


def expected_shares(profile: ReuseProfile) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the different rows and of the look-ups in each bin that a profile's parameters make; [17]."""
    octaves = profile.first_octave + np.arange(len(profile.octave_rows))
    weights = np.array([profile.cold_lookups, *profile.octave_rows])
    rows, lookups = (part @ weights for part in moments(octaves))
    return rows / rows.sum(), lookups / lookups.sum()


def fit(profile: ReuseProfile) -> np.ndarray:
    """Look-ups of cold rows, and rows of each octave, for each different row of the published batch."""
    octaves = profile.first_octave + np.arange(len(profile.octave_rows))
    rows, lookups = moments(octaves)
    row_shares, lookup_shares = (
        np.array(part) / sum(part) for part in (profile.row_shares, profile.lookup_shares)
    )
    told = row_shares >= _LEAST_SHARE
    model = np.concatenate((rows[told], lookups * (profile.distinct / profile.lookups)))
    target = np.concatenate((row_shares[told], lookup_shares))
    weights = np.concatenate(([0.3], 0.3 * 2.0 ** (-0.9 * np.maximum(octaves, 0))))
    for _ in range(_ITERATIONS):
        weights *= (model.T @ (target / (model @ weights))) / model.sum(axis=0)
    return weights


def distinct_deviation(profile: ReuseProfile) -> float:
    """Standard deviation of a batch's different rows, in all tables, if look-ups are drawn independently."""
    variance = profile.cold_lookups
    for place, rows in enumerate(profile.octave_rows):
        absent = np.exp(-octave_intensities(profile.first_octave + place))
        variance += rows * float(np.mean(absent * (1 - absent)))
    return float(np.sqrt(variance * profile.distinct))


def generated_shares(year: str, tables: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the different rows and of the look-ups in each bin of one generated batch."""
    size = PROFILES[year].batch_size
    log = ReuseTraceLog(ReuseTraceConfig(num_rows=size, year=year, tables=tables))
    batch = next(log.batches(size))
    counts = np.concatenate(
        [np.unique(batch.table_ids(table), return_counts=True)[1] for table in range(tables)]
    )
    bins = np.searchsorted(BINS, counts) - 1
    rows = np.bincount(bins, minlength=BINS.size)
    lookups = np.bincount(bins, weights=counts, minlength=BINS.size)
    return rows / rows.sum(), lookups / lookups.sum()


def published(path: Path) -> dict[str, list[dict[str, str]]]:
    """The lines of ``locality_stats.csv`` by file."""
    files: dict[str, list[dict[str, str]]] = {}
    with (path / "locality_stats.csv").open() as lines:
        for line in csv.DictReader(lines):
            files.setdefault(line["file"], []).append(line)
    return files


def draw(path: Path, tables: int) -> None:
    """Published, fitted and generated shares, one row of panels a year."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(len(PROFILES), 2, sharex=True)
    names = ["1", "2", *(f"≤ {end:,}" for end in BINS[3:]), f">{BINS[-1]:,}"]
    places = np.arange(BINS.size)
    for line, (year, profile) in zip(panels, PROFILES.items(), strict=True):
        shown = zip(
            line,
            ("different rows", "look-ups"),
            (profile.row_shares, profile.lookup_shares),
            expected_shares(profile),
            generated_shares(year, tables),
            strict=True,
        )
        for axes, what, truth, expected, drawn in shown:
            axes.bar(places, truth, width=0.85, color="lightsteelblue", label="published")
            axes.plot(places, expected, "k_", markersize=11, label="fitted, expected")
            axes.plot(places, drawn, "o", color="crimson", markersize=4, label=f"one batch, {tables} tables")
            axes.set_title(f"{year}: share of the {what}", loc="left", fontsize=11)
            axes.grid(axis="y", alpha=0.25)
        line[0].legend(fontsize=9)
    for axes in panels[-1]:
        axes.set_xticks(places, names, rotation=60, fontsize=8)
        axes.set_xlabel("look-ups of a row in one batch")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of locality_stats.csv")
    parser.add_argument("--plot", type=Path, help="draw the fit (.svg or .png)")
    parser.add_argument("--tables", type=int, default=8, help="tables of the batch that is drawn")
    options = parser.parse_args()
    files = published(options.data)
    for year, profile in PROFILES.items():
        name = Path(profile.source).name
        shares = expected_shares(profile)
        errors = [
            np.abs(found - truth).max()
            for found, truth in zip(shares, (profile.row_shares, profile.lookup_shares), strict=True)
        ]
        print(f"{year} ({name}): " + " ".join(f"{weight:.3g}" for weight in fit(profile)))
        print(f"  largest error of a share: {errors[0]:.4f} of the rows, {errors[1]:.4f} of the look-ups")
        series = name.rpartition("_")[0]
        alike = [int(rows[0]["avg_unique_rows"]) for file, rows in files.items() if file.startswith(series)]
        if profile.source.endswith("_0.pt"):  # one of many batches
            print(
                f"  different rows of a batch, standard deviation: {distinct_deviation(profile):,.0f} "
                f"expected, {np.std(alike, ddof=1):,.0f} over {len(alike)} published batches"
            )
    if options.plot:
        draw(options.plot, options.tables)


if __name__ == "__main__":
    main()
