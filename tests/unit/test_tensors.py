"""Safetensors files: both ways with the safetensors library, and every malformed header refused."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screc import _native
from screc.storage import DamagedFileError, TensorFile, TensorSpec, write_arrays, write_tensors

ARRAYS = {
    "bytes": np.arange(7, dtype=np.uint8),
    "rows": np.arange(15, dtype=np.float32).reshape(5, 3),
    "keys": np.array([-1, 2**62], np.int64),
    "halves": np.array([[1.5]], np.float16),
    "empty": np.empty((0, 4), np.float32),
    "scalar": np.array(2.5, np.float64),
    "flags": np.array([True, False]),
    "words": np.array([2**64 - 1], np.uint64),
}


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def raw(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def test_the_library_reads_ours(tmp_path):
    entry = write_arrays(tmp_path / "f", ARRAYS, metadata={"made": "here"})
    same(safetensors.numpy.load_file(tmp_path / "f"), ARRAYS)
    with safetensors.safe_open(tmp_path / "f", "numpy") as file:
        assert file.metadata() == {"made": "here"}
    assert (entry.path, entry.bytes) == ("f", (tmp_path / "f").stat().st_size)
    assert entry.crc32c == _native.crc32c_file(str(tmp_path / "f"))


def test_we_read_the_library(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "f", metadata={"made": "there"})
    file = TensorFile(tmp_path / "f")
    same({name: file[name] for name in file.names}, ARRAYS)
    assert file.metadata == {"made": "there"}


def test_data_are_aligned(tmp_path):
    write_arrays(tmp_path / "f", ARRAYS)
    file = TensorFile(tmp_path / "f")
    assert file.data_start % 64 == 0
    for name in file.names:
        assert file.spec(name).offset % file.spec(name).dtype.itemsize == 0
        assert file[name].flags.aligned


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(
            st.sampled_from(["<f4", "<i8", "u1", "<f8", "<u4", "<i2"]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=6,
    )
)
def test_round_trip(tmp_path, shapes):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 100, shape).astype(dtype) for name, (dtype, shape) in shapes.items()}
    write_arrays(tmp_path / "f", arrays)
    file = TensorFile(tmp_path / "f")
    same({name: file[name] for name in file.names}, arrays)
    same(safetensors.numpy.load_file(tmp_path / "f"), arrays)


def test_streams_without_holding_the_data(tmp_path):
    chunk = np.ones((1024, 256), np.float32)
    chunks = 64
    spec = TensorSpec((chunks * 1024, 256), np.dtype(np.float32))
    tracemalloc.start()
    write_tensors(tmp_path / "f", {"rows": spec}, lambda name: (chunk for _ in range(chunks)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * chunk.nbytes
    assert TensorFile(tmp_path / "f")["rows"].sum() == chunks * 1024 * 256


def test_producers_are_held_to_their_specs(tmp_path):
    spec = {"a": TensorSpec((2, 2), np.dtype(np.float32))}
    with pytest.raises(ValueError, match=r"tensor 'a': its spec \[2, 2\] has 16 bytes, 12 were produced"):
        write_tensors(tmp_path / "f", spec, lambda name: np.ones(3, np.float32))
    with pytest.raises(ValueError, match="tensor 'a': its spec says float32, the data are float64"):
        write_tensors(tmp_path / "f", spec, lambda name: np.ones(4))
    with pytest.raises(ValueError, match="dtype complex64 has no safetensors name"):
        write_arrays(tmp_path / "f", {"a": np.ones(1, np.complex64)})
    with pytest.raises(ValueError, match="'__metadata__' is reserved"):
        write_arrays(tmp_path / "f", {"__metadata__": np.ones(1)})


def test_read_into(tmp_path):
    write_arrays(tmp_path / "f", ARRAYS)
    file = TensorFile(tmp_path / "f")
    for name, array in ARRAYS.items():
        out = np.zeros_like(array)
        file.read_into(name, out)
        np.testing.assert_array_equal(out, array)
    with pytest.raises(
        ValueError, match=r"expected C-contiguous float32 \[5, 3\] for 'rows', got float32 \[3, 5\]"
    ):
        file.read_into("rows", np.empty((3, 5), np.float32))
    with pytest.raises(KeyError, match="has no tensor 'nothing'"):
        file["nothing"]


def test_views_are_read_only_and_survive_release(tmp_path):
    write_arrays(tmp_path / "f", ARRAYS)
    file = TensorFile(tmp_path / "f")
    view = file["rows"]
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    file.release()
    np.testing.assert_array_equal(view, ARRAYS["rows"])


MALFORMED = {
    "too short": (b"\x00" * 5, "too few"),
    "length beyond the file": (raw({}, length=10**6), "says its header has 1000000 bytes"),
    "huge length": (b"\xff" * 16, "says its header has"),
    "not an object": (raw(b"[]"), "has no safetensors header"),
    "not json": (raw(b"{oops}"), "unreadable header"),
    "not utf-8": (raw(b'{"\xff": 1}'), "unreadable header"),
    "deep": (raw(b'{"a":' * 50000), "unreadable header"),
    "twice": (raw(b'{"a": 1, "a": 2}'), "a key occurs twice"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "not a map of strings"),
    "no dtype": (raw({"a": {"shape": [], "data_offsets": [0, 4]}}, bytes(4)), "expected dtype, shape"),
    "more": (raw({"a": tensor(more=1)}, bytes(4)), "expected dtype, shape"),
    "dtype": (raw({"a": tensor("F31")}, bytes(4)), "dtype 'F31' is not one of"),
    "bfloat": (raw({"a": tensor("BF16", (2,))}, bytes(4)), "dtype 'BF16' is not one of"),
    "negative shape": (raw({"a": tensor(shape=(-1,))}, bytes(4)), r"shape \[-1\] is not a list of sizes"),
    "boolean shape": (raw({"a": tensor(shape=(True,))}, bytes(4)), "is not a list of sizes"),
    "fraction": (raw({"a": tensor(shape=(1.0,))}, bytes(4)), "is not a list of sizes"),
    "one offset": (raw({"a": tensor(offsets=(0,))}, bytes(4)), "needs a begin and an end"),
    "backwards": (raw({"a": tensor(offsets=(4, 0))}, bytes(4)), "do not fit its 4 bytes"),
    "size": (raw({"a": tensor(shape=(2,))}, bytes(4)), "do not fit its 8 bytes"),
    "overflow": (raw({"a": tensor(shape=(2**62, 2**62))}, bytes(4)), "do not fit its"),
    "hole": (raw({"a": tensor(offsets=(4, 8))}, bytes(8)), "hole or an overlap before tensor 'a'"),
    "overlap": (raw({"a": tensor(), "b": tensor()}, bytes(4)), "hole or an overlap before tensor 'b'"),
    "cut": (raw({"a": tensor()}, bytes(3)), "it was cut or added to"),
    "added to": (raw({"a": tensor()}, bytes(5)), "it was cut or added to"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_files_are_refused(tmp_path, fault):
    data, message = MALFORMED[fault]
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(DamagedFileError, match=message) as info:
        TensorFile(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(info.value)
    assert "restore it" in str(info.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_read_or_refused(tmp_path, data):
    """A damaged header never gives anything but the right exception (or a file that is well formed)."""
    write_arrays(tmp_path / "f", ARRAYS)
    content = bytearray((tmp_path / "f").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "f").write_bytes(content)
    try:
        file = TensorFile(tmp_path / "f")
    except DamagedFileError:
        return
    for name in file.names:
        assert file[name].nbytes == file.spec(name).num_bytes


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        TensorFile(tmp_path / "nothing")
