"""`agcxr predict --dicom`: the three DICOM objects beside the rows of the CSV."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from agcxr.data.radiograph import RadiographError
from agcxr.dicom.algorithm import Algorithm
from agcxr.dicom.results import Refused, make_results, to_bytes
from agcxr.dicom.source import read_source
from agcxr.inference.batch import KEPT_FILM, predict_files
from agcxr.inference.prediction import Failure, Prediction
from agcxr.inference.predictor import Predictor


def predict_dicom(
    model: str, inputs: list[str], out_csv: Path, folder: Path, *, explain_dir: Path | None = None, batch_size: int = 16
) -> int:
    """`predict_files`, and DICOM results into `folder`. Returns the exit status: 1 where a film has no results."""
    engines: list[DicomEngine] = []

    def wrap(predictor: Predictor) -> DicomEngine:
        engines.append(DicomEngine(predictor, folder))
        return engines[0]

    summary = predict_files(model, inputs, out_csv, explain_dir=explain_dir, batch_size=batch_size, wrap=wrap)
    print(engines[0], file=sys.stderr)
    return 1 if summary.failed or engines[0].without else 0


class DicomEngine:
    """A Predictor that also writes the DICOM results of each film it answers for.

    Args:
        predictor: what answers.
        folder: OUT/<n of the film>/ gets sr.dcm, sc.dcm and seg.dcm, numbered in the order of the rows from 1.

    `written` counts films with results, `without` those without, by the reason.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self._predictor, self._folder = predictor, folder
        self._algorithm = Algorithm.of(predictor)
        self.written = 0
        self.without: Counter[str] = Counter()

    @property
    def labels(self) -> tuple[str, ...]:
        """As the predictor's."""
        return self._predictor.labels

    @property
    def calibrated(self) -> bool:
        """As the predictor's."""
        return self._predictor.calibrated

    def stream(
        self, films: Iterable[Path], *, batch_size: int = 16, workers: int | None = None, keep_film: int = 0
    ) -> Iterator[Prediction | Failure]:
        """As the predictor's; a film's results are on disk when its answer comes."""
        under_way: deque[Path] = deque()

        def remembered() -> Iterator[Path]:
            for film in films:
                under_way.append(film)
                yield film

        answers = self._predictor.stream(
            remembered(), batch_size=batch_size, workers=workers, keep_film=max(keep_film, KEPT_FILM)
        )
        for number, answer in enumerate(answers, start=1):
            path = under_way.popleft()
            if isinstance(answer, Prediction):
                self._write(path, number, answer)
            yield answer

    def _write(self, path: Path, number: int, prediction: Prediction) -> None:
        data = Path(path).read_bytes()
        if data[:4] in (b"\x89PNG", b"RIFF") or data[:3] == b"\xff\xd8\xff":
            self.without["not a DICOM file, so there is no study to put results in"] += 1
            return
        try:
            results = make_results(read_source(data), prediction, self._algorithm)
        except Refused as error:
            self.without[f"refused, {error}"] += 1
            return
        except RadiographError as error:
            self.without[str(error)] += 1
            return
        folder = self._folder / f"{number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for role, dataset in results:
            (folder / f"{role}.dcm").write_bytes(to_bytes(dataset))
        self.written += 1

    def __str__(self) -> str:
        parts = [f"DICOM results of {self.written:,} films in {self._folder}"]
        parts += [f"{count:,} without: {reason}" for reason, count in self.without.most_common(5)]
        return "; ".join(parts)
