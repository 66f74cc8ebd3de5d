"""Three findings of your own, from a table to an answer, in a minute.

    python examples/own_findings.py [FOLDER]

FOLDER (default: own_findings/) gets 120 synthetic films, their table, the prepared films, a run and its report. With
films of yours the same four calls are `agcxr prepare table`, `train`, `evaluate` and `predict`: docs/own_findings.md.
The network is tiny and hardly learns, so its numbers mean nothing.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from agcxr import Predictor
from agcxr.config import Local, Stage, Train
from agcxr.data import phantom
from agcxr.data.storing import Storing
from agcxr.data.table import prepare_table
from agcxr.evaluation.evaluate import evaluate
from agcxr.experiments.calibrate import calibrate
from agcxr.findings import Findings
from agcxr.training.stages import train

SIGNS = {"Large heart": "Cardiomegaly", "Collapsed lung": "Pneumothorax", "Fluid": "Effusion"}
"""The findings of the table, and how the phantom draws each."""


def films(folder: Path, count: int = 120, side: int = 96) -> pd.DataFrame:
    """Films as PNG, and the table that goes with them: a column a finding, 1, 0 or empty for unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for n in range(count):
        seen = {name: int(rng.random() < 0.35) for name in SIGNS}
        drawn = phantom.film(rng, [SIGNS[name] for name in SIGNS if seen[name]], size=128).pixels_HW
        cv2.imwrite(str(folder / f"{n:03}.png"), cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA))
        rows.append({"file": f"{n:03}.png", "patient": n // 2, **seen, "Normal": int(not any(seen.values()))})
    table = pd.DataFrame(rows)
    table.loc[::10, "Fluid"] = None  # nobody said: such a cell counts in no loss and in no measure
    return table


def main(folder: str = "own_findings") -> None:
    root = Path(folder)
    # 1. A table: a row a film. Any names will do; "Normal" is found to mean "none of the others".
    films(root / "films").to_csv(root / "labels.csv", index=False)

    # 2. Prepared films. Other spellings and DICOM codes may be given; what is standard is known.
    own = Findings.of([*SIGNS, "Normal"], "my clinic")
    prepared = prepare_table(
        root / "labels.csv",
        root / "films",
        root / "prepared",
        image_column="file",
        patient_column="patient",
        findings=own,
        storing=Storing(size=64),
    )

    # 3. A run: here of seconds. `agcxr train --preset lite` is the recipe for real films.
    stage = {"epochs": 2, "batch_size": 16}
    settings = Train(
        backbone="test_resnet",
        weights="none",
        image_size=56,
        resize=64,
        precision="fp32",
        global_=Stage(**stage),
        local=Local(min_side=4, **stage),
    )
    run = train(root / "prepared", settings, root / "run").folder
    calibrate(run, prepared, allow_leak=True, progress=False)

    # 4. How well it ranks films of other patients, finding by finding; "Normal" is in no mean.
    evaluate(run, prepared, resamples=200, examples=0)

    # 5. An answer, in the words of the table.
    prediction = Predictor.from_pretrained(run)(root / "films" / "000.png")
    for finding, probability in prediction.top(3):
        print(f"{finding:20} {probability:.3f}")
    print(f"findings of {prediction.findings.name}: {', '.join(prediction.findings.names)}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
