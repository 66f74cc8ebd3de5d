"""Pictures that the intake is fitted on and measured with: real films, films spoilt, and pictures of other things.

Photographs and medical pictures of other kinds come from the packages that ship them; the rest is drawn here. Fit and
measure never share a patient, nor a photograph.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.radiograph import Radiograph, RadiographError, read_radiograph

Bytes = NDArray[np.uint8]
Half = Literal["fit", "measure"]
FILMS = Path(__file__).resolve().parents[2] / "shared" / "nih" / "images"

SIDEWAYS = frozenset(
    """
    00000061_025 00001880_006 00002117_004 00002265_000 00002451_012 00002599_004 00003081_000 00004573_000
    00006763_012 00007098_003 00008168_008 00009600_020 00010531_041 00010597_000 00010994_010 00011757_005
    00012681_003 00012935_022 00013594_050 00014439_000 00015040_002 00015920_006 00016182_000 00016287_000
    00016435_000 00016831_003 00017007_002 00017158_024 00017325_007 00017779_000 00017824_000 00017964_001
    00018276_000 00018577_000 00019395_010 00019473_002 00020826_008 00021068_000 00021160_000 00021299_001
    00021916_007 00022463_000 00023684_002 00026986_007 00027539_001 00029358_004
    """.split()  # noqa: SIM905
)
"""Films that the NIH's collection stores on their side (head to the left). Found by a first fit, confirmed by eye."""

PHOTOGRAPHS: dict[Half, tuple[tuple[str, str], ...]] = {
    "fit": tuple(
        ("skimage", f"data/{name}")
        for name in (
            *("astronaut.png", "brick.png", "cell.png", "coffee.png", "coins.png", "grass.png", "ihc.png", "moon.png"),
            *("motorcycle_left.png", "page.png", "retina.jpg", "color.png", "horse.png"),
        )
    ),
    "measure": (
        *(
            ("skimage", f"data/{name}")
            for name in (
                *("camera.png", "chelsea.png", "clock_motion.png", "gravel.png", "hubble_deep_field.jpg", "logo.png"),
                *("rocket.jpg", "text.png", "chessboard_GRAY.png", "microaneurysms.png"),
            )
        ),
        ("sklearn", "datasets/images/china.jpg"),
        ("sklearn", "datasets/images/flower.jpg"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        ("matplotlib", "mpl-data/sample_data/logo2.png"),
        ("networkx", "drawing/tests/baseline/test_display_complex.png"),
        ("networkx", "drawing/tests/baseline/test_display_shortest_path.png"),
    ),
}

MEDICAL = (
    ("skimage", "data/phantom.png"),
    ("pydicom", "data/test_files/CT_small.dcm"),
    ("pydicom", "data/test_files/MR_small.dcm"),
    ("pydicom", "data/test_files/JPEG2000.dcm"),
    ("pydicom", "data/test_files/examples_jpeg2k.dcm"),
    ("pydicom", "data/test_files/examples_palette.dcm"),
    ("pydicom", "data/test_files/examples_rgb_color.dcm"),
    ("pydicom", "data/test_files/J2K_pixelrep_mismatch.dcm"),
    ("pydicom", "data/test_files/SC_rgb_jpeg_dcmd.dcm"),
    ("pynetdicom", "tests/dicom_files/RTImageStorage.dcm"),
)
"""CT, MR, ultrasound, nuclear medicine and a radiotherapy image: medical, gray, and no chest films. Only measured."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A film (upright, or with what is wrong with it) or another picture."""

    film: Radiograph
    kind: str


def half_of(patient: str) -> Half:
    """3 patients of 5 to fit on, 2 to measure with."""
    return "fit" if int(hashlib.sha256(patient.encode()).hexdigest(), 16) % 5 < 3 else "measure"


def films(half: Half) -> Iterator[Radiograph]:
    """The real films of one half of the patients, as they are stored."""
    for path in sorted(FILMS.glob("*.jpg")):
        if half_of(path.stem.split("_")[0]) == half:
            yield read_radiograph(path)


def is_sideways(film: Radiograph) -> bool:
    return Path(film.name).stem in SIDEWAYS


def upright(film: Radiograph) -> Bytes:
    """Its pixels, turned where it is stored on its side."""
    pixels = film.to_uint8()
    return np.ascontiguousarray(np.rot90(pixels, 3)) if is_sideways(film) else pixels


def shipped(pictures: tuple[tuple[str, str], ...]) -> Iterator[Radiograph]:
    """Pictures of installed packages; those of absent ones are left out."""
    for package, name in pictures:
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            path = Path(folder) / name
            if path.is_file():
                try:
                    yield read_radiograph(path, name=f"{package}/{name}")
                except RadiographError as error:
                    print(f"left out: {package}/{name}: {error}")


def cuttings(film: Radiograph, count: int, generator: np.random.Generator) -> Iterator[Radiograph]:
    """The picture and square cuttings of 40 to 100 % of it, as if each had been a photograph of its own."""
    pixels = film.to_uint8()
    yield film
    for _ in range(count):
        yield Radiograph(_square(pixels, generator.uniform(0.4, 1), generator), film.name, film.format, film.notes)


def part_of(pixels: Bytes, generator: np.random.Generator) -> Bytes:
    """A quarter to a half of each side of a film, or a whole film small in a frame."""
    if generator.random() < 0.7:
        return _square(pixels, generator.uniform(0.25, 0.5), generator)
    frame = np.full(pixels.shape, int(generator.choice([0, 30, 128, 240, 255])), np.uint8)
    height, width = (round(side * generator.uniform(0.3, 0.55)) for side in pixels.shape)
    top, left = (
        int(generator.integers(0, whole - part + 1)) for whole, part in zip(pixels.shape, (height, width), strict=True)
    )
    frame[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return frame


def changed(pixels: Bytes, generator: np.random.Generator) -> Bytes:
    """A film as other machines show it: other curve and contrast, slightly cut or with a thin border, or mirrored."""
    curve = (np.linspace(0, 1, 256) ** generator.uniform(0.6, 1.7)) * generator.uniform(0.7, 1) * 255
    pixels = cv2.LUT(pixels, np.clip(curve + generator.uniform(0, 30), 0, 255).astype(np.uint8))
    if generator.random() < 0.5:
        pixels = _square(pixels, generator.uniform(0.86, 1), generator)
    else:
        edge = [int(side * generator.uniform(0, 0.06)) for side in (*pixels.shape, *pixels.shape)]
        pixels = cv2.copyMakeBorder(pixels, edge[0], edge[2], edge[1], edge[3], cv2.BORDER_CONSTANT, value=0)
    return np.ascontiguousarray(pixels[:, ::-1]) if generator.random() < 0.3 else pixels


def _square(pixels: Bytes, share: float, generator: np.random.Generator) -> Bytes:
    side = max(8, round(min(pixels.shape) * share))
    top, left = (int(generator.integers(0, whole - side + 1)) for whole in pixels.shape)
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def most_of(pixels: Bytes, generator: np.random.Generator) -> Bytes:
    """Half to three quarters of each side of a film."""
    return _square(pixels, generator.uniform(0.5, 0.75), generator)


def tilted(
    pixels: Bytes, generator: np.random.Generator, least: float = 10, most: float = 45, *, cut: bool = False
) -> Bytes:
    """A film turned by so many degrees, either way, on black or in its mean gray, or cut free of both."""
    angle = float(generator.uniform(least, most) * generator.choice([-1, 1]))
    return turned_by(pixels, angle, float(generator.choice([0, pixels.mean()])), cut=cut)


def turned_by(pixels: Bytes, angle: float, fill: float, *, cut: bool = False) -> Bytes:
    """Turned to the left about its middle within the same frame.

    cut: only the upright part within it, so that no corner shows that it was turned.
    """
    height, width = pixels.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    made = np.asarray(cv2.warpAffine(pixels, turn, (width, height), borderValue=fill), np.uint8)
    if not cut:
        return made
    share = 1 / (np.cos(np.deg2rad(angle)) + np.sin(np.deg2rad(abs(angle))))
    top, left = (int(np.ceil(side * (1 - share) / 2)) for side in (height, width))
    return np.ascontiguousarray(made[top : height - top, left : width - left])


# --- drawn ------------------------------------------------------------------------------------------------------------


def noise(generator: np.random.Generator, side: int = 512) -> Bytes:
    """White, coarse or cloud-like noise."""
    power = generator.choice([0, 0, 1, 1.5, 2])
    spectrum = np.fft.rfft2(generator.standard_normal((side, side)))
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    clouds = np.fft.irfft2(spectrum / (np.hypot(x, y) + 1 / side) ** power, s=(side, side))
    return np.clip(127 + clouds / clouds.std() * generator.uniform(20, 70), 0, 255).astype(np.uint8)


def document(generator: np.random.Generator, side: int = 512) -> Bytes:
    """Lines of text on paper, black on white or the reverse, with a heading or a table."""
    page = np.full((side, side), 255, np.uint8)
    size = generator.uniform(0.35, 0.8)
    step = round(34 * size)
    for row in range(2 * step, side - step, step):
        if generator.random() < 0.85:
            words = "".join(generator.choice(list("abcdefghijklmnop rstu vwxyz  ,."), int(generator.integers(10, 90))))
            cv2.putText(page, words, (step, row), int(generator.integers(0, 5)), size, 0, 1, cv2.LINE_AA)
    if generator.random() < 0.4:
        for line in range(0, side, round(side / generator.integers(3, 9))):
            page[line : line + 2] = page[:, line : line + 2] = 90
    return 255 - page if generator.random() < 0.3 else page


def screenshot(generator: np.random.Generator, side: int = 512) -> Bytes:
    """Windows, bars and captions."""
    screen = np.full((side, side), int(generator.integers(20, 255)), np.uint8)
    for _ in range(int(generator.integers(5, 25))):
        x, y = (int(one) for one in generator.integers(0, side - 20, 2))
        w, h = (int(one) for one in generator.integers(20, side // 2, 2))
        cv2.rectangle(screen, (x, y), (x + w, y + h), int(generator.integers(0, 256)), -1)
        cv2.putText(screen, "Open  Edit  View", (x + 4, y + 14), 0, 0.4, int(generator.integers(0, 256)), 1)
    return screen


def pattern(generator: np.random.Generator, side: int = 512) -> Bytes:
    """Ramps, rings, stripes and chequers."""
    y, x = np.mgrid[:side, :side] / side
    angle, turns = generator.uniform(0, 2 * np.pi), generator.uniform(0.3, 20)
    along = np.cos(angle) * x + np.sin(angle) * y
    rings = np.hypot(x - generator.random(), y - generator.random())
    drawn = [along, np.sin(2 * np.pi * turns * along), np.sin(2 * np.pi * turns * rings), rings]
    drawn.append(np.sign(np.sin(2 * np.pi * turns * x)) * np.sign(np.sin(2 * np.pi * turns * y)))
    one = drawn[int(generator.integers(len(drawn)))]
    return ((one - one.min()) / (np.ptp(one) + 1e-9) * 255).astype(np.uint8)


def limb(generator: np.random.Generator, side: int = 512) -> Bytes:
    """Bright bones in gray flesh on black: a crude hand, arm or leg, as another body part's film might look."""
    film = np.zeros((side, side), np.float32)
    rays = int(generator.integers(1, 6))
    for ray in range(rays):
        x = side * (ray + 1) / (rays + 1) + generator.uniform(-20, 20)
        lean, width = generator.uniform(-0.3, 0.3), generator.uniform(20, 60) / np.sqrt(rays) * 1.6
        ends = (int(x - lean * side / 2), -10), (int(x + lean * side / 2), side + 10)
        for grown, value in ((2.6, 0.35), (1.0, 0.85), (0.4, 0.6)):
            cv2.line(film, *ends, value, max(2, int(width * grown)))
    film = cv2.GaussianBlur(film, (0, 0), generator.uniform(2, 6)) + generator.normal(0, 0.02, film.shape)
    turned = np.rot90(np.clip(film * 255, 0, 255).astype(np.uint8), int(generator.integers(4)))
    return np.ascontiguousarray(turned)


DRAWN: dict[str, Callable[[np.random.Generator], Bytes]] = {
    "noise": noise,
    "document": document,
    "screenshot": screenshot,
    "pattern": pattern,
    "drawn limb": limb,
}
