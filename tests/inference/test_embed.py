"""Features of films as a table: those of the predictor, in any order, film by film or all at once."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from agcxr.inference.embed import embed, read_embedding
from evaluation.evaluated import write_prepared, write_run
from inference.make import chest


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for n in range(3):
        cv2.imwrite(str(folder / f"film-{n}.png"), chest(90, 80, seed=n))
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def test_features_of_files_are_the_predictors(films, eager, model_folder, tmp_path):
    out = tmp_path / "deep" / "features.parquet"
    assert embed(model_folder, [str(films)], out, progress=False) == 3
    table = pq.read_table(out).to_pydict()
    assert [name.rsplit("/", 1)[-1] for name in table["image_id"]] == [
        "broken.png",
        "film-0.png",
        "film-1.png",
        "film-2.png",
    ]
    assert table["feature"][0] is None
    assert "PNG" in table["error"][0] or "image" in table["error"][0]
    assert table["error"][1:] == ["", "", ""]
    single = eager(films / "film-1.png")
    np.testing.assert_allclose(table["feature"][2], single.features, atol=1e-5)
    assert single.features.shape == (eager.model.global_branch.backbone.channels,)
    assert table["intake"][2] == single.intake.decision
    features = read_embedding(out, ["film-2.dcm", "other/film-0.png"])
    assert features.tolist() == [table["feature"][3], table["feature"][1]]
    assert not out.with_name("features.parquet.partial").exists()


def test_features_of_a_prepared_folder(tmp_path):
    run, prepared, out = write_run(tmp_path / "run"), write_prepared(tmp_path / "prepared"), tmp_path / "out.parquet"
    assert embed(run, [str(prepared)], out, progress=False) == 78
    names = pq.read_table(out)["image_id"].to_pylist()
    assert names[5] == "film <5> & co.png"
    features = read_embedding(out, names[::-1])
    assert features.shape[0] == 78
    assert features.std(0).max() > 0


def test_an_exported_file_gives_the_same_features(films, model_folder, onnx_file, tmp_path):
    tables = []
    for n, model in enumerate((model_folder, onnx_file)):
        assert embed(model, [str(films)], tmp_path / f"{n}.parquet", progress=False) == 3
        tables.append(read_embedding(tmp_path / f"{n}.parquet", [f"film-{k}" for k in range(3)]))
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-4)


def test_what_gives_no_features_is_refused(films, model_folder, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.parquet"):
        embed(model_folder, [str(films)], tmp_path / "x.csv")
    with pytest.raises(ValueError, match="none of the films .* could be read: `agcxr predict` says why"):
        embed(model_folder, [str(films / "broken.png")], tmp_path / "x.parquet", progress=False)
    with pytest.raises(ValueError, match="no film found"):
        embed(model_folder, [str(tmp_path)], tmp_path / "x.parquet", progress=False)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ValueError, match="no table of features .*make one with `agcxr embed`"):
        read_embedding(tmp_path / "text.parquet", ["a.png"])


def test_a_film_without_features_is_named(films, model_folder, tmp_path):
    embed(model_folder, [str(films)], tmp_path / "x.parquet", progress=False)
    with pytest.raises(ValueError, match="lacks 1 of 2 films, such as broken.png"):
        read_embedding(tmp_path / "x.parquet", ["film-0.png", "broken.png"])
