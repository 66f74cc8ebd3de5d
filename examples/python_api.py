"""Read a film with a trained model, from Python.

    python examples/python_api.py [MODEL [FILM]]

MODEL is a run folder, a model folder or a hub id; FILM a PNG, JPEG, WebP or DICOM file. Without them the script shows
the same calls on a synthetic film with a tiny network that was never trained, so its probabilities mean nothing.
"""

import sys

import numpy as np

from agcxr import AGCNN, Predictor
from agcxr.data import phantom
from agcxr.inference.explain import save_picture


def main(model: str | None = None, film: str | None = None) -> None:
    # 1. A model with its preprocessing.
    if model:
        predictor = Predictor.from_pretrained(model)
    else:
        predictor = Predictor(AGCNN("resnet10t", image_size=112, resize=128, weights="none"))

    # 2. A film: a path, the bytes of a file, or an array (uint8, uint16, or float in [0, 1]; bone bright).
    pixels = phantom.film(np.random.default_rng(0), ["Effusion"]).pixels_HW

    # 3. One film in, one Prediction out. Boxes and heatmaps are in the coordinates of the film as it was given.
    prediction = predictor(film or pixels)
    for finding, probability in prediction.top(3):
        print(f"{finding:20} {probability:.3f}   global branch {prediction.probability(finding, 'global'):.3f}")
    box = tuple(round(edge) for edge in prediction.box)
    print(f"looked at {box} of {prediction.width} x {prediction.height} pixels")
    print(f"heatmap   {prediction.heat_in_original().shape}, fallback to the whole view: {prediction.fallback}")
    print(f"picture   {save_picture(prediction, 'explained.png')}")

    # 4. Many films: decoded in threads ahead of the network, answered in order; an unreadable one is a Failure.
    for answer in predictor.stream([pixels, b"not a film", pixels[:, ::-1].copy()]):
        print(answer.name, getattr(answer, "reason", None) or answer.top(1)[0].finding)


if __name__ == "__main__":
    main(*sys.argv[1:3])
