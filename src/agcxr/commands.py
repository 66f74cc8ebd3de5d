"""What each command does: one thin function a command, its parameters the flags. Heavy imports stay inside.

The main path in order: phantom (or download) -> prepare -> train -> evaluate -> predict / explain; `demo` runs all.
"""

from __future__ import annotations

import functools
import os
from collections import UserDict
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from agcxr.dicom_commands import dicom_commands
from agcxr.extras import needs
from agcxr.feature_commands import feature_commands
from agcxr.flags import Inputs, Others, Run, ViewSet
from agcxr.import_commands import import_commands
from agcxr.preflight import check_free
from agcxr.prepare_commands import prepare_commands

if TYPE_CHECKING:
    from agcxr.inference.batch import Request

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


def demo(out: Path = Path("agcxr-demo"), *, films: int = 2000, seed: int = 0) -> int:
    """The whole method on synthetic films: make, prepare, train, evaluate, explain (minutes on two cores).

    Args:
        out: Folder for everything the demo makes.
        films: How many synthetic films to draw.
        seed: Of the films and of the training.
    """
    from agcxr.demo import run_demo

    run_demo(out, films=films, seed=seed)
    return 0


def phantom(
    out: Path,
    *,
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000,
    size: int = 512,
    seed: int = 0,
    nodules: Literal["usual", "small"] = "usual",
    prevalence: dict[str, float] | None = None,
    workers: int | None = None,
) -> int:
    """Write synthetic chest films with findings and boxes, in the layout of the NIH files.

    Args:
        out: Folder to make: images/, Data_Entry_2017_v2020.csv, the split lists, BBox_List_2017.csv.
        n: How many films.
        size: Side of a film in pixels.
        seed: The same seed draws the same films.
        nodules: Of 1 to 3 cm, or small ones of 0.5 to 2 cm.
        prevalence: Share of films with a finding, for some of them, such as Nodule 0.4.
        workers: Processes; default one a core.
    """
    from agcxr.data.phantom_collection import write_phantom

    write_phantom(out, n, seed=seed, size=size, nodules=nodules, prevalence=prevalence or {}, workers=workers)
    return 0


def download_nih(
    out: Path = Path("nih"),
    *,
    table: Path | None = None,
    only: tuple[str, ...] = (),
    parallel: int = 4,
    recheck: bool = False,
    print_table: bool = False,
) -> int:
    """Fetch the twelve ChestX-ray14 archives (42 GB), resumable, and say where the tables are to be had.

    Args:
        out: Folder for the archives.
        table: Your own CSV of names and links (name,url,bytes,sha256,md5) instead of the built-in one.
        only: Some files of the table, such as images_001.tar.gz.
        parallel: Archives at once.
        recheck: Also read the archives that are there already against their checksums.
        print_table: Print the built-in table, to edit for --table, and fetch nothing.
    """
    from agcxr.data.download import download_nih as download
    from agcxr.data.download import table_text

    if print_table:
        print(table_text(), end="")
    else:
        download(out, table=table, only=only, parallel=parallel, recheck=recheck)
    return 0


def evaluate(
    run: Run,
    data: tuple[Path, ...] = (),
    *,
    split: Literal["train", "val", "test"] = "test",
    out: Path | None = None,
    resamples: int = 10_000,
    allow_leak: bool = False,
    pictures: bool = True,
    maps: bool = True,
    rectify: Literal["minmax", "relu"] = "minmax",
    average: bool = False,
    others: Others = (),
    views: ViewSet = "plain",
    probe: bool = True,
    overwrite: bool = False,
) -> int:
    """Measure a run on a split: AUROC per finding and branch, where it looks, with intervals, and a report.

    Args:
        run: Run folder, folder of runs of several seeds or of folds, model folder or hub id.
        data: Prepared folder; default: the one that the run was trained on. Of several, each collection is measured
            apart and all together.
        split: Which part.
        out: Results folder; default RUN/evaluation/<split>, of an average <split>-average, of views <split>-flip ...,
            where each evaluation replaces the one before.
        resamples: Of the bootstrap over patients; 1000 is quicker, and moves ends by up to .003.
        allow_leak: Go on although patients of the split were trained on; the report says so.
        pictures: Show films in the report; without, it may go where films may not.
        maps: Also score Grad-CAM maps against annotated boxes, the slowest part. (The crops always are.)
        rectify: Signed Grad-CAM maps over their lowest value (minmax), or cut at 0 as published (relu).
        average: Measure the runs of a folder of seeds as one model, their average, not each of them.
        others: Another model to average with, as often as wanted: --also B --also C.
        views: Views of every film to average over: flip, also mirrored left to right; five, its corners beside its
            centre.
        probe: Also measure what is known without training (view, sex, age, follow-up; the run's first weights,
            frozen) and which shortcuts the networks could take, on the same films: a minute or two for 2,000.
        overwrite: Replace files of the same names in the folder of --out.
    """
    check_free(folders=[out] if out else [], overwrite=overwrite)
    from agcxr.evaluation.study import study
    from agcxr.experiments.folds import evaluate_folds
    from agcxr.experiments.seeds import SEEDS, evaluate_seeds
    from agcxr.train_commands import films_to_measure
    from agcxr.training.folds import FOLDS

    options: dict[str, Any] = {"resamples": resamples, "allow_leak": allow_leak, "pictures": pictures, "maps": maps}
    options |= {"rectify": rectify, "views": views, "probe": probe}
    together = average or bool(others)
    films = films_to_measure(run, data)
    if (Path(run) / FOLDS).is_file() and not together:
        reports = evaluate_folds(run, films, split, out=out, resamples=resamples, views=views, probe=probe)
    elif out is None and not together and (Path(run) / SEEDS).is_file():
        _, reports = evaluate_seeds(run, films, split, **options)
    else:
        reports = (study(run, films, split=split, out=out, others=others, **options).report,)
    several = len(reports) > 1
    print("Reports:" if several else "Report:", *(report.html for report in reports), sep="\n  " if several else " ")
    return 0


def predict(
    run: Run,
    inputs: Inputs,
    *,
    out: str = "predictions.csv",
    explain: Path | None = None,
    dicom: Path | None = None,
    objects: str = "sr,sc,seg",
    fhir: Path | None = None,
    study: str | None = None,
    point: Literal["youden", "sensitivity95", "specificity95"] = "youden",
    prevalence: str | None = None,
    batch_size: int = 16,
    devices: int = 1,
    nodes: int = 1,
    engine: Literal["plain", "ray"] = "plain",
    precision: Literal["fp32", "bf16"] = "fp32",
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime",
    others: Others = (),
    views: ViewSet = "plain",
    overwrite: bool = False,
) -> int:
    """Probabilities for films: files, folders or globs in, one row a film out.

    Args:
        run: Run folder, folder of runs of seeds or folds (averaged), model folder, hub id, exported file, or starter.
        inputs: Films (PNG, JPEG, WebP, DICOM), folders or archives of them (.zip, .tar.gz), globs in quotes, URIs
            (s3://, https:// ...), or a DICOMweb service: dicomweb://host/root (docs/dicomweb.md).
        out: CSV to write; with --engine ray a .parquet file, or a folder or URI for many.
        explain: Also write a picture per film into this folder.
        dicom: Also write report, picture and segmentation of each DICOM film into this folder, as DICOM.
        objects: Which of them, with commas between; docs/dicom.md lists all.
        fhir: Also write a FHIR R4 DiagnosticReport of each film into this folder, as JSON.
        study: Of a DICOMweb service: UID of the study whose films are fetched.
        point: Operating point at which findings are called (a calibrated model has all three).
        prevalence: Correct calibrated probabilities for how common findings are where the films come from: a share
            for every finding, or pairs such as Effusion=0.1,Mass=0.02.
        batch_size: Films at once.
        devices: Ray actors that share the films, one a GPU, or without GPUs one a few cores (docs/scale.md).
        nodes: Must be 1: which machines there are, the Ray cluster of RAY_ADDRESS knows.
        engine: ray: by actors of a Ray cluster, or of this machine, also for one device.
        precision: bf16: faster on processors that compute in it (a run; an exported file only with OpenVINO). Boxes
            and probabilities differ then: docs/results/export_parity.md says by how much.
        runtime: Of an exported file (.onnx).
        others: Another model to average with (--also B --also C); folders of runs (seeds, folds) are averaged anyway.
        views: Views of every film to average over: flip, also mirrored left to right; five, its corners beside its
            centre. Box and pictures are those of the first model on the plain view.
        overwrite: Replace a table that is there already, and files in the folders.
    """
    from agcxr.inference.readers import launch

    if engine == "plain" and inputs and os.path.isfile(inputs[0]):
        launch(inputs[0])  # it gets ready while this process imports, and loads the model
    from agcxr.data.dicomweb import with_study
    from agcxr.inference.batch import Request

    films, beside, looks = with_study(inputs, study), (explain, dicom, objects, fhir), (others, views, overwrite)
    request = Request(run, films, out, *beside, point, prevalence, batch_size, precision, runtime, *looks)
    return _predicted(request, engine, devices, nodes, _beside(dicom, objects, fhir))


def _predicted(request: Any, engine: str, devices: int, nodes: int, also: list[Callable[..., Any]]) -> int:
    """The status of a prediction, in this process or on Ray."""
    if engine == "plain" and (devices, nodes) == (1, 1):
        from agcxr.inference.batch import predict_here

        return predict_here(request, also)
    return _predict_on_ray(engine, request, devices=devices, nodes=nodes, also=also)


def _predict_on_ray(engine: str, request: Request, **options: Any) -> int:
    if find_spec("ray") is None:
        raise ValueError(needs("--engine ray" if engine == "ray" else "more than one device", "ray"))
    from agcxr.inference.ray_engine import predict_on_ray

    return predict_on_ray(request, **options)


def _beside(dicom: Path | None, objects: str, fhir: Path | None) -> list[Callable[..., Any]]:
    """What is written of each film beside its row."""
    sinks: list[Callable[..., Any]] = []
    if dicom is not None:
        from agcxr.dicom.files import DicomFiles
        from agcxr.dicom.objects import parse_roles

        sinks.append(functools.partial(DicomFiles, folder=dicom, roles=parse_roles(objects)))
    if fhir is not None:
        from agcxr.dicom.fhir import FhirFiles

        sinks.append(functools.partial(FhirFiles, folder=fhir))
    return sinks


def export(
    run: Run,
    out: Path = Path("model.onnx"),
    *,
    others: Others = (),
    views: ViewSet = "plain",
    half: bool = False,
    precision: Literal["fp32", "int8"] = "fp32",
    calibrate_on: tuple[str, ...] = (),
    branches: Literal["local", "both"] = "local",
    tolerance: float = 0.01,
    overwrite: bool = False,
) -> int:
    """Write a model as one ONNX file, from the gray film to everything, compared with the model before it is kept.

    Args:
        run: Run folder, folder of runs of seeds or folds (averaged), model folder or hub id.
        out: File to write; predict, explain, serve and dicom-node take it in place of the run.
        others: Another model to average with, as often as wanted: --also B --also C.
        views: Views of every film to average over: flip, also mirrored left to right; five, its corners beside its
            centre.
        half: Store the weights in half precision, in half the bytes. All is still computed in float32, with weights
            rounded to three to four digits.
        precision: int8: convolutions compute in 8-bit integers, faster on processors that have instructions for it
            (VNNI). Needs --calibrate-on. (bf16 needs no file of its own: predict --runtime openvino --precision bf16.)
        calibrate_on: For int8, films like those the model is for: files, folders or archives, or a prepared folder. Up
            to 256 are taken: half say how large numbers get, on the others is measured what int8 moves.
        branches: For int8: local leaves the global branch, and so every box, as in float32; both is faster, and boxes
            move a little.
        tolerance: For int8: by how much a probability may move on average, and the share of calls that may change.
            A file beyond it is refused; what was measured is in its metadata.
        overwrite: Replace a file that is there already.
    """
    check_free([out], overwrite=overwrite)
    from agcxr.inference.export import export as export_model
    from agcxr.inference.quantise import Int8

    if (precision == "int8") != bool(calibrate_on):
        raise ValueError(
            "--precision int8 and --calibrate-on FILMS go together: films say how large the network's numbers get; "
            f"given are --precision {precision} and {len(calibrate_on)} folders or films"
        )
    int8 = Int8(calibrate_on, branches, tolerance) if precision == "int8" else None
    print(export_model(run, out, others=others, views=views, half=half, int8=int8))
    return 0


def explain(
    run: Run,
    inputs: Inputs,
    *,
    out: Path = Path("explained"),
    others: Others = (),
    views: ViewSet = "plain",
    overwrite: bool = False,
) -> int:
    """Pictures of films: the box on the film, the heatmap, the crop, and the top findings.

    Args:
        run: Run folder, folder of runs of seeds or folds (averaged), model folder, hub id, exported file, or starter.
        inputs: Films (PNG, JPEG, WebP, DICOM), folders or archives of them (.zip, .tar.gz), or globs in quotes.
        out: Folder for a PNG a film, and the probabilities as predictions.csv.
        others: Another model to average with, as often as wanted: --also B --also C.
        views: Views of every film to average over: flip, also mirrored left to right; five, its corners beside its
            centre.
        overwrite: Replace pictures and a table that are there already.
    """
    table = str(out / "predictions.csv")
    return predict(run, inputs, out=table, explain=out, others=others, views=views, overwrite=overwrite)


def score(
    predictions: File,
    labels: Path,
    *,
    against: Path | None = None,
    points_from: tuple[Path, ...] = (),
    out: tuple[Path, ...] = (),
    image_column: str | None = None,
    patient_column: str | None = None,
    logits: bool = False,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Evaluate probabilities made by any program: the measures of `evaluate` from a CSV and a label table.

    Args:
        predictions: CSV or Parquet with an image column and a column per finding, prefixed (prob_) or not.
        labels: Label table, e.g. Data_Entry_2017_v2020.csv, or any with a column per finding or one of class names.
        against: Another program's predictions, to compare with film by film.
        points_from: Predictions of validation films, to choose operating points on; a second file for --against.
            Labels beside them, or in --labels.
        out: Files to write too: results as .json, tables as .md, all estimates in one table as .csv.
        image_column: What the images' column is called, where it is not found by itself.
        patient_column: The same for patients.
        logits: The scores are logits.
        resamples: Of the bootstrap over patients; 1000 is quicker, and moves ends by up to .003.
        level: Of the intervals.
        seed: Of the resamples.
        overwrite: Replace files that are there already.
    """
    from agcxr.evaluation.score import score as score_file
    from agcxr.evaluation.score_results import check_out

    check_out(out)
    check_free(out, overwrite=overwrite)
    scored = score_file(
        predictions,
        labels,
        against=against,
        points_from=points_from,
        image_column=image_column,
        patient_column=patient_column,
        logits=logits,
        resamples=resamples,
        level=level,
        seed=seed,
    )
    print(scored)
    for file in out:
        scored.save(file)
    return 0


def serve(
    run: Run,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_to_all: bool = False,
    public_url: str | None = None,
    check_films: bool = True,
    device: str | None = None,
    verbose: bool = False,
    others: Others = (),
    views: ViewSet = "plain",
    point: Literal["youden", "sensitivity95", "specificity95"] = "youden",
    prevalence: str | None = None,
    token_file: Path | None = None,
    audit: Path | None = None,
) -> int:
    """A web page and an API over a model: drop films, see where the model looks and what it says.

    Where the environment variable AGCXR_TOKEN is set, clients must send that token.

    Args:
        run: Run folder, folder of runs of seeds or folds (averaged), model folder, hub id, exported file, or starter.
        host: Address to listen on; anything but this machine's own needs AGCXR_TOKEN or --open-to-all.
        port: 0 takes a free one.
        open_to_all: Let everyone who can reach the address use the server.
        public_url: Address of the proxy with TLS before it, such as https://hospital.example.org/reading-room.
        check_films: Refuse what is no frontal chest film before any probability is shown.
        device: cpu, cuda, cuda:1 ...; default a GPU where there is one.
        verbose: A line per request: route, status, seconds. Nothing of the films.
        others: Another model to average with, as often as wanted: --also B --also C.
        views: Views of every film to average over: flip, also mirrored left to right; five, its corners beside its
            centre.
        point: Operating point at which findings are called (a calibrated model has all three).
        prevalence: How common findings are where the films come from, as in `agcxr predict`.
        token_file: Tokens that clients may send, a line each: NAME TOKEN. Read anew when it changes.
        audit: File to add a line of JSON to for each film: time, name of the token, route, the film's SHA-256, model
            and outcome. Nothing of a patient.
    """
    from agcxr.calibration import parse_prevalence
    from agcxr.serve.run import serve as serve_model

    serve_model(
        run,
        host=host,
        port=port,
        open_to_all=open_to_all,
        public_url=public_url,
        check_films=check_films,
        device=device,
        verbose=verbose,
        others=others,
        views=views,
        point=point,
        prevalence=None if prevalence is None else parse_prevalence(prevalence),
        token_file=token_file,
        audit=audit,
    )
    return 0


def calibrate(run: Run, data: Path, *, allow_leak: bool = False, views: ViewSet = "plain") -> int:
    """Fit calibration and operating points anew on the validation films of a folder (train does it by itself).

    Args:
        run: Run folder or model folder; its model's card is written anew, its weights stay. Or a folder of runs of
            seeds: their average is calibrated as a whole, in average-<views>.json, and the runs stay as they are.
        data: Prepared folder.
        allow_leak: Go on although patients of its validation films were trained on; card and reports say so.
        views: Calibrate the average over these views of a film, as a whole, likewise.
    """
    from agcxr.calibration import MIN_POSITIVES
    from agcxr.experiments.calibrate import calibrate as calibrate_run

    found = calibrate_run(run, data, allow_leak=allow_leak, views=views)
    enough, known = sum(one.enough for one in found.findings.values()), len(found.findings)
    by = "" if not enough else " by keeping their scores" if found.method == "none" else f" by {found.method}"
    few = f"fewer than {MIN_POSITIVES} films with the finding, or without it: raw scores, no calls"
    rest = "" if enough == known else f"; {known - enough} had {few}"
    print(f"Calibrated {enough} of {known} findings{by} on {found.words}{rest}; stored in {run}")
    if not (found.fitted_on and found.fitted_on.of_training):
        print(f"What tells far films was left as it was: {data} is not known to hold the films of its training")
    return 0


class Commands(UserDict[str, Callable[..., int | None]]):
    """Commands by name. One given as "module:function" is imported when it is asked for."""

    def __getitem__(self, name: str) -> Callable[..., int | None]:
        command: Any = self.data[name]
        if isinstance(command, str):
            module, _, function = command.partition(":")
            command = self.data[name] = getattr(import_module(module), function)
        return cast("Callable[..., int | None]", command)


# Those that train are given by name: to make their settings takes longer than to import all other commands.
TABLE: dict[str, Any] = {
    "demo": demo,
    "phantom": phantom,
    "download nih": download_nih,
    **prepare_commands(),
    "train": "agcxr.train_commands:train",
    "ablate": "agcxr.train_commands:ablate",
    "calibrate": calibrate,
    "evaluate": evaluate,
    "predict": predict,
    "serve": serve,
    **dicom_commands(),
    "explain": explain,
    "export": export,
    **feature_commands(),
    "score": score,
    **import_commands(),
}
COMMANDS = Commands(TABLE)
