"""The commands about features of a network: `embed` writes them, `probe` asks what they know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from agcxr.flags import Inputs, Run
from agcxr.preflight import check_backbone, check_free, check_prepared


def feature_commands() -> dict[str, Callable[..., int | None]]:
    """`embed` and `probe`, as the command line calls them."""
    return {"embed": embed, "probe": probe}


def embed(run: Run, inputs: Inputs, *, out: Path = Path("features.parquet"), overwrite: bool = False) -> int:
    """Features of films for search, probes and drift: the global branch's, pooled, a row a film.

    Args:
        run: Run folder, model folder, hub id, exported file, or starter.
        inputs: Films (PNG, JPEG, WebP, DICOM), folders of them, globs in quotes; or one prepared folder.
        out: Parquet file to write: image_id, feature (a list), intake, error.
        overwrite: Replace a file that is there already.
    """
    check_free([out], overwrite=overwrite)
    from agcxr.inference.embed import embed as embed_films

    count = embed_films(run, inputs, out)
    print(f"Features of {count:,} films; written to {out}")
    return 0


def probe(
    data: Path,
    *,
    features: Path | None = None,
    backbone: str = "tf_efficientnet_lite0",
    weights: str = "imagenet",
    image_size: int | None = None,
    split: Literal["train", "val", "test"] = "test",
    folds: int = 0,
    out: Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """What a frozen network knows of films, in a minute: a ridge on its features, beside view, sex, age and follow-up.

    Also which shortcuts its features hold: how well they tell view, sex, size of file and further columns of the index,
    and how much AUROC goes when each is balanced away. `evaluate` does the same for a run, beside its scores.

    Args:
        data: Prepared folder.
        features: Table that `agcxr embed RUN PREPARED` wrote; default: features of --backbone, computed here.
        backbone: Any timm model, without training on these films.
        weights: Its weights, as `train` takes them.
        image_size: Side of the view, which shows the whole film; default: the films' own.
        split: The part that is measured; the other parts are fitted on.
        folds: Instead: so many folds by patient over all films (5).
        out: Folder to write probe.json into; default: nothing is written.
        resamples: Of the bootstrap over patients.
        seed: Of folds and resamples.
        overwrite: Replace a probe.json that is there already.
    """
    check_free([out / "probe.json"] if out else [], overwrite=overwrite)
    check_prepared(data)
    if features is None:
        check_backbone(backbone)
    from agcxr.data.prepared import open_prepared
    from agcxr.evaluation.probe import frozen_features
    from agcxr.evaluation.probe import probe as probe_films
    from agcxr.inference.embed import read_embedding

    films = open_prepared(data)
    if features is not None:
        source, values = str(features), read_embedding(features, films.index["image_id"].astype(str).tolist())
    else:
        side = image_size or films.images.shape[1]
        source = f"{backbone} ({weights} weights), views of {side} x {side}"
        values = frozen_features(films, backbone, weights, image_size=image_size)
    result = probe_films(films, values, source, split=split, folds=folds, resamples=resamples, seed=seed)
    print(result)
    if out is not None:
        print(f"Written to {result.save(out)}")
    return 0
