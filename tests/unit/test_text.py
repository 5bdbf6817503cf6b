"""Criteo and Avazu text against a plain reading, and what is said about malformed files."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screc.data import AVAZU, CRITEO, CategoricalColumn, DenseColumn, Schema, fit_encoder, open_log
from screc.data import text as text_module
from screc.data.reader import open_reader

AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def criteo_line(number: int) -> list[str]:
    """A made Criteo line with missing and negative values."""
    dense = [str((number * 7 + i) % 50 - 2) if (number + i) % 5 else "" for i in range(13)]
    codes = [f"{(number * 31 + i) % (7 + i):08x}" if (number + i) % 4 else "" for i in range(26)]
    return [str(number % 2), *dense, *codes]


def avazu_line(number: int) -> list[str]:
    """A made Avazu line."""
    return [f"{10**19 + number}", str(number % 2), f"1410{21 + number % 9:02d}{number % 24:02d}"] + [
        f"{(number * 13 + i) % (3 + i):x}" for i in range(21)
    ]


def _naive(rows: list[list[str]], dense: int) -> tuple[list[int], list[list[float]], list[list[str]]]:
    labels = [int(row[0]) for row in rows]
    numbers = [[np.log1p(max(float(c), 0)) if c else 0.0 for c in row[1 : 1 + dense]] for row in rows]
    return labels, numbers, [row[1 + dense :] for row in rows]


def _check(source: str, rows: list[list[str]], dense: int) -> None:
    """The log behind ``source`` encodes ``rows`` (label, dense, categories) by vocabulary and by hash."""
    labels, numbers, categories = _naive(rows, dense)
    for encoder in (fit_encoder(source), fit_encoder(source, kind="hash", rows=1 << 40)):
        log = open_log(source, encoder)
        batches = list(log.batches(37))
        assert sum(batch.batch_size for batch in batches) == len(rows)
        assert np.concatenate([b.labels for b in batches]).tolist() == labels
        found = np.concatenate([b.dense for b in batches])
        assert np.allclose(found, np.array(numbers).reshape(len(rows), dense), rtol=1e-6)
        ids = np.concatenate([b.ids.reshape(b.num_tables, -1) for b in batches], axis=1)
        for table, column in enumerate(zip(*categories, strict=True)):
            # Equal values have equal ids, different values different ones (2^40 rows do not collide here).
            assert len(set(zip(column, ids[table].tolist(), strict=True))) == len(set(column))
            assert np.unique(ids[table]).size == len(set(column))
        skipped = list(log.batches(37, skip=len(rows) // 2))
        assert np.concatenate([b.dense for b in skipped]).tolist() == found[len(rows) // 2 :].tolist()


def _write(path: Path, rows: list[list[str]], delimiter: str, *, end: str = "\n", header: str = "") -> None:
    content = "".join(delimiter.join(row) + end for row in rows)
    data = ((header + end if header else "") + content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of few lines, so that small files have many."""
    monkeypatch.setattr(text_module, "_BLOCK_BYTES", 1000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "renamed_gzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_criteo(tmp_path, name, end) -> None:
    rows = [criteo_line(i) for i in range(300)]
    if name == "renamed_gzip":
        _write(tmp_path / "b.gz", rows, "\t", end=end)
        (tmp_path / "b.gz").rename(tmp_path / name)
    else:
        _write(tmp_path / name, rows, "\t", end=end)
    _check(f"criteo:{tmp_path}/{name}", rows, 13)


@pytest.mark.usefixtures("small_blocks")
def test_parts_in_a_directory_and_no_final_newline(tmp_path) -> None:
    rows = [criteo_line(i) for i in range(100)]
    for part in range(3):
        _write(tmp_path / f"day_{part}", rows[part * 40 : part * 40 + 40], "\t")
        content = (tmp_path / f"day_{part}").read_bytes()
        (tmp_path / f"day_{part}").write_bytes(content.rstrip(b"\n"))
    (tmp_path / ".hidden").write_text("x")
    _check(f"criteo:{tmp_path}", rows, 13)
    _check(f"criteo:{tmp_path}/day_[01]", rows[:80], 13)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("header", ["", AVAZU_HEADER])
def test_avazu(tmp_path, header) -> None:
    rows = [avazu_line(i) for i in range(200)]
    _write(tmp_path / "a.csv.gz", rows, ",", header=header)
    wanted = []
    for row in rows:
        day = int(row[2][4:6])
        wanted.append([row[1], row[2][6:], str((day - 20) % 7), *row[3:]])  # 2014-10-20 was a Monday
    _check(f"avazu:{tmp_path}/a.csv.gz", wanted, 0)
    chunk = next(open_reader(f"avazu:{tmp_path}/a.csv.gz").chunks())
    assert chunk.schema.names == list(AVAZU.columns)
    assert chunk.column("weekday")[0].as_py() == 1
    assert chunk.column("hour_of_day")[5].as_py() == 5


def test_avazu_header_in_another_order(tmp_path) -> None:
    names = AVAZU_HEADER.split(",")
    order = [5, 1, 0, 2, 3, 4, *range(6, 24)]
    rows = [avazu_line(i) for i in range(50)]
    _write(tmp_path / "a.csv", rows, ",", header=AVAZU_HEADER)
    moved = [[row[i] for i in order] for row in rows]
    _write(tmp_path / "b.csv", moved, ",", header="\ufeff" + ",".join(names[i] for i in order))
    first, second = (next(open_reader(f"avazu:{tmp_path}/{n}.csv").chunks()) for n in "ab")
    assert first.equals(second)


def test_unlabelled_files(tmp_path) -> None:
    _write(tmp_path / "a.tsv", [criteo_line(i)[1:] for i in range(20)], "\t")
    _write(tmp_path / "b.tsv", [criteo_line(i) for i in range(20)], "\t")
    encoder = fit_encoder(f"criteo:{tmp_path}/b.tsv")
    (bare,) = open_log(f"criteo:{tmp_path}/a.tsv", encoder).batches(100)
    (labelled,) = open_log(f"criteo:{tmp_path}/b.tsv", encoder).batches(100)
    assert bare.labels is None
    assert np.array_equal(bare.ids, labelled.ids)
    rows = [avazu_line(i) for i in range(20)]
    header = AVAZU_HEADER.replace("click,", "")
    _write(tmp_path / "c.csv", [[r[0], *r[2:]] for r in rows], ",", header=header)
    chunk = next(open_reader(f"avazu:{tmp_path}/c.csv").chunks())
    assert "click" not in chunk.schema.names
    with pytest.raises(ValueError, match="some parts of the log have labels"):
        list(open_log(f"criteo:{tmp_path}/[ab].tsv", encoder).batches(100))


def test_a_part_of_the_columns(tmp_path) -> None:
    _write(tmp_path / "a.tsv", [criteo_line(i) for i in range(20)], "\t")
    schema = Schema(
        dense=(DenseColumn(name="I2", transform="none"),), categorical=(CategoricalColumn(name="C7"),)
    )
    chunk = next(open_reader(f"criteo:{tmp_path}/a.tsv", schema=schema).chunks())
    assert chunk.schema.names == ["label", "I2", "C7"]
    assert chunk.column("C7").to_pylist() == [criteo_line(i)[20].encode() or None for i in range(20)]
    wrong = Schema(categorical=(CategoricalColumn(name="C27"),))
    with pytest.raises(ValueError, match="criteo has no column 'C27'"):
        open_reader(f"criteo:{tmp_path}/a.tsv", schema=wrong)


def _spoil(place: int, value: str):
    def change(row: list[str]) -> list[str]:
        return [*row[:place], value, *row[place + 1 :]]

    return change


CRITEO_FAULTS = [
    (lambda row: row[:-1], "expected 40 columns, got 39"),
    (lambda row: [*row, "x"], "expected 40 columns, got 41"),
    (lambda row: ["garbage"], "expected 40 columns, got 1"),
    (_spoil(0, "2"), "column 'label': expected 0 or 1, got '2'"),
    (_spoil(0, ""), "column 'label': expected 0 or 1, got ''"),
    (_spoil(0, "yes"), "column 'label': expected 0 or 1, got 'yes'"),
    (_spoil(3, "12a"), "column 'I3': expected a number, got '12a'"),
    (_spoil(13, "0x10"), "column 'I13': expected a number, got '0x10'"),
    (_spoil(2, "inf"), "column 'I2': expected a number, got 'inf'"),
    (_spoil(2, "1e999"), "column 'I2': expected a finite number"),
    (_spoil(20, "a\rb"), "carriage return"),
    (lambda row: [""] * 40, "column 'label': expected 0 or 1, got ''"),
    (lambda row: [" "], "expected 40 columns, got 1"),
]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("change", "message"), CRITEO_FAULTS)
@pytest.mark.parametrize("place", [0, 57, 99])
def test_malformed_criteo_lines_are_named(tmp_path, change, message, place) -> None:
    rows = [criteo_line(i) for i in range(100)]
    rows[place] = change(rows[place])
    _write(tmp_path / "a.tsv", rows, "\t")
    source = f"criteo:{tmp_path}/a.tsv"
    with pytest.raises(
        ValueError, match=rf"a\.tsv, line {place + 1}: .*; correct the line or read with"
    ) as error:
        list(open_reader(source).chunks())
    if message != "carriage return":
        assert message in str(error.value)
    reader = open_reader(source, on_error="skip")
    kept = [label for chunk in reader.chunks() for label in chunk.column("label").to_pylist()]
    assert reader.skipped == 1
    assert kept == [i % 2 for i in range(100) if i != place]


@pytest.mark.parametrize(
    ("hour", "shown"),
    [(h, h) for h in ("14133100", "14023000", "14102124", "-1", "noon")] + [("", "missing")],
)
def test_malformed_hours_are_named(tmp_path, hour, shown) -> None:
    rows = [avazu_line(i) for i in range(30)]
    rows[7][2] = hour
    _write(tmp_path / "a.csv", rows, ",", header=AVAZU_HEADER)
    with pytest.raises(ValueError, match=r"a\.csv, line 9: ") as error:
        list(open_reader(f"avazu:{tmp_path}/a.csv").chunks())
    assert "hour" in str(error.value)
    assert shown in str(error.value)


def test_many_bad_lines_are_counted(tmp_path) -> None:
    rows = [criteo_line(i) if i % 3 else ["bad"] for i in range(200)]
    rows[100][3] = "x"
    rows[101] = ["bad"]
    _write(tmp_path / "a.tsv", rows, "\t")
    encoder = fit_encoder(f"criteo:{tmp_path}/a.tsv", on_error="skip")
    log = open_log(f"criteo:{tmp_path}/a.tsv", encoder, on_error="skip")
    for _ in range(2):
        assert sum(b.batch_size for b in log.batches(64)) == 131
        assert log.skipped == 69
    rest = list(log.batches(1000, skip=100))
    assert rest[0].batch_size == 31


def test_blank_lines_and_empty_files(tmp_path) -> None:
    rows = [criteo_line(i) for i in range(5)]
    content = "\n\n".join("\t".join(row) for row in rows) + "\n\n\n"
    (tmp_path / "a.tsv").write_text(content)
    (tmp_path / "b.tsv").write_text("")
    (tmp_path / "c.csv").write_text(AVAZU_HEADER + "\n")
    (tmp_path / "d.csv").write_text(AVAZU_HEADER)
    assert sum(c.num_rows for c in open_reader(f"criteo:{tmp_path}/a.tsv").chunks()) == 5
    assert list(open_reader(f"criteo:{tmp_path}/b.tsv").chunks()) == []
    assert list(open_reader(f"avazu:{tmp_path}/c.csv").chunks()) == []
    assert list(open_reader(f"avazu:{tmp_path}/d.csv").chunks()) == []


def test_headers_that_lack_a_column(tmp_path) -> None:
    (tmp_path / "a.csv").write_text(AVAZU_HEADER.replace("C21", "C22") + "\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 1: the header lacks column 'C21'"):
        list(open_reader(f"avazu:{tmp_path}/a.csv").chunks())
    (tmp_path / "b.csv").write_text(AVAZU_HEADER + ",C21\n")
    with pytest.raises(ValueError, match="names a column twice"):
        list(open_reader(f"avazu:{tmp_path}/b.csv").chunks())


def test_damaged_gzip(tmp_path) -> None:
    _write(tmp_path / "a.gz", [criteo_line(i) for i in range(500)], "\t")
    whole = (tmp_path / "a.gz").read_bytes()
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.gz: damaged gzip file"):
        list(open_reader(f"criteo:{tmp_path}/a.gz").chunks())
    (tmp_path / "a.gz").write_bytes(whole[:200] + b"\0\0\0\0\xff" + whole[205:])
    with pytest.raises(ValueError, match=r"a\.gz"):
        list(open_reader(f"criteo:{tmp_path}/a.gz").chunks())


def test_a_file_without_lines(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(text_module, "_LONGEST_LINE", 5000)
    (tmp_path / "a.tsv").write_bytes(bytes(range(11, 255)) * 100)
    with pytest.raises(ValueError, match=r"a\.tsv: no line end within"):
        list(open_reader(f"criteo:{tmp_path}/a.tsv").chunks())


def test_bytes_that_are_not_utf8(tmp_path) -> None:
    row = b"\t".join(c.encode() for c in criteo_line(1))
    (tmp_path / "a.tsv").write_bytes(row.replace(b"00000000", b"\xff\xfe\xff\xfe") + b"\n" + row + b"\n")
    encoder = fit_encoder(f"criteo:{tmp_path}/a.tsv")
    assert sum(b.batch_size for b in open_log(f"criteo:{tmp_path}/a.tsv", encoder).batches(5)) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    kind=st.sampled_from(["criteo", "avazu"]),
)
def test_any_damage_is_skipped_or_named(tmp_path, changes, kind) -> None:
    """Every line is either read or counted, whatever bytes are changed."""
    if kind == "criteo":
        _write(tmp_path / "a", [criteo_line(i) for i in range(12)], "\t")
    else:
        _write(tmp_path / "a", [avazu_line(i) for i in range(12)], ",")
    content = bytearray((tmp_path / "a").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / "a").write_bytes(content)
    reader = open_reader(f"{kind}:{tmp_path}/a", on_error="skip")
    rows = sum(chunk.num_rows for chunk in reader.chunks())
    lines = sum(bool(line.strip(b"\r")) for line in bytes(content).split(b"\n"))
    assert rows + reader.skipped == lines
    strict = open_reader(f"{kind}:{tmp_path}/a")
    if reader.skipped:
        with pytest.raises(ValueError, match=r"/a, line \d+: "):
            list(strict.chunks())
    else:
        assert sum(chunk.num_rows for chunk in strict.chunks()) == rows


def test_memory_is_bounded(tmp_path, monkeypatch) -> None:
    """Twelve times the file, about the same peak."""
    monkeypatch.setattr(text_module, "_BLOCK_BYTES", 50_000)
    rows = [criteo_line(i) for i in range(2000)]
    _write(tmp_path / "a.tsv", rows, "\t")
    _write(tmp_path / "b.tsv", rows * 12, "\t")
    encoder = fit_encoder(f"criteo:{tmp_path}/a.tsv")
    peaks = []
    for name in ("a", "b"):
        pool = pa.default_memory_pool()
        before, most = pool.bytes_allocated(), 0
        tracemalloc.start()
        for _ in open_log(f"criteo:{tmp_path}/{name}.tsv", encoder).batches(256):
            most = max(most, pool.bytes_allocated() - before)
        peaks.append(tracemalloc.get_traced_memory()[1] + most)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def _real(name: str) -> Path:
    root = os.environ.get("SCREC_DATA")
    if not root or not (Path(root) / name).exists():
        pytest.skip(f"SCREC_DATA does not point at a directory with {name}")
    return Path(root) / name


def test_real_criteo_sample() -> None:
    path = _real("criteo_dac_8k") / "train.tsv.gz"
    with gzip.open(path, "rt") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream]
    assert len(rows) == 7200
    _check(f"criteo:{path}", rows, 13)
    assert len(CRITEO.columns) == len(rows[0])


@pytest.mark.parametrize(("name", "count"), [("train", 8087), ("dev", 480)])
def test_real_avazu_sample(name, count) -> None:
    path = _real("avazu_9k") / f"{name}.csv.gz"
    with gzip.open(path, "rt") as stream:
        rows = [line.rstrip("\n").split(",") for line in stream]
    rows = rows[rows[0][0] == "id" :]
    assert len(rows) == count
    _check(f"avazu:{path}", [[r[1], r[2][6:], str((int(r[2][4:6]) - 20) % 7), *r[3:]] for r in rows], 0)
