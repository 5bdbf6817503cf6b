"""Schema: presets, JSON round trip, and messages that name the column."""

import json

import pytest

from screc.data import AVAZU, CRITEO, CategoricalColumn, DenseColumn, Schema


def test_presets() -> None:
    assert len(CRITEO.dense) == 13
    assert [c.name for c in CRITEO.categorical] == [f"C{i}" for i in range(1, 27)]
    assert AVAZU.label == "click"
    assert not AVAZU.dense
    assert len(AVAZU.categorical) == 23
    assert "id" not in AVAZU.columns
    assert "hour" not in AVAZU.columns


def test_json_round_trip(tmp_path) -> None:
    schema = Schema(
        label="clicked",
        dense=(DenseColumn(name="price"), DenseColumn(name="age", transform="none")),
        categorical=(
            CategoricalColumn(name="user", max_rows=1000),
            CategoricalColumn(name="tags", multi_valued=True, pooling="mean", num_embeddings=7),
        ),
    )
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CategoricalColumn(name="user", pooling="max"), "categorical column 'user': pooling"),
        (lambda: CategoricalColumn(name="user", max_rows=0), "'user': max_rows must be a positive"),
        (lambda: CategoricalColumn(name="user", num_embeddings=True), "'user': num_embeddings must be"),
        (lambda: DenseColumn(name="age", transform="sqrt"), "dense column 'age': transform"),
        (lambda: Schema(categorical=()), "at least one categorical"),
        (lambda: Schema(categorical=(CategoricalColumn(name="label"),)), "'label' is named twice"),
        (lambda: Schema(categorical=(CategoricalColumn(name=""),)), "must be a non-empty string"),
    ],
)
def test_bad_columns_are_named(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_types_are_named() -> None:
    with pytest.raises(TypeError, match="'tags': multi_valued must be true or false"):
        CategoricalColumn(name="tags", multi_valued=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a schema of this version"),
        ({"version": 2}, "not a schema of this version"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"categorical": [{"name": "u", "size": 3}]}, "column 'u': unknown field 'size'"),
        ({"categorical": [{"pooling": "sum"}]}, "must be an object with a name"),
        ({"categorical": ["u"]}, "must be an object with a name"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message) -> None:
    value = Schema(categorical=(CategoricalColumn(name="u"),)).to_dict() | change
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message) as error:
        Schema.load(path)
    assert "schema.json" in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_not_json(tmp_path, content) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"schema\.json"):
        Schema.load(path)
