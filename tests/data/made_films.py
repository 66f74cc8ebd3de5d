"""Small films and collections in the NIH's layout, made in code, for the tests of the data path."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np

from agcxr.labels import FINDINGS


def picture(height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    """A smooth uint8 picture that uses the range from dark to bright."""
    y, x = np.mgrid[:height, :width].astype(float)
    wave = np.sin(x / 5 + seed) + np.cos(y / 7 - seed)
    return np.rint((wave - wave.min()) / np.ptp(wave) * 255).astype(np.uint8)


def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return data.tobytes()


def collection(folder: Path, patients: int = 20, films: int = 2, *, side: int = 32) -> Path:
    """images/, Data_Entry.csv, BBox.csv and the two lists for `patients` x `films` films. Returns the folder."""
    (folder / "images").mkdir(parents=True)
    table = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    lists: tuple[list[str], list[str]] = ([], [])
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for patient in range(1, patients + 1):
        for film in range(films):
            name = f"{patient:08d}_{film:03d}.png"
            (folder / "images" / name).write_bytes(encode(picture(side, side, patient * 10 + film)))
            finding = FINDINGS[patient % 14] if patient % 2 else "No Finding"
            table.append(
                f"{name},{finding},{film},{patient},{30 + patient},{'MF'[patient % 2]},{('PA', 'AP')[film % 2]}"
            )
            lists[patient % 5 == 0].append(name)
            if patient % 5 == 0 and patient % 2:
                boxes.append(f"{name},{finding},256,128,512,256")
    (folder / "Data_Entry.csv").write_text("\n".join(table))
    (folder / "BBox.csv").write_text("\n".join(boxes))
    (folder / "train_val_list.txt").write_text("\n".join(lists[0]))
    (folder / "test_list.txt").write_text("\n".join(lists[1]))
    return folder


def pack(archive: Path, images: list[Path]) -> None:
    """Files into a .tar.gz as the NIH packs them: images/<name>."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in images:
            info, data = tarfile.TarInfo(f"images/{path.name}"), path.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
