"""Words in a picture: fonts, lines that fit, names cut to length."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]


WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts with more than Latin letters, as systems have them."""


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own grotesque, which has ASCII, "·" and "…"."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=32)
def _wide_font(size: int) -> ImageFont.FreeTypeFont | None:
    """For names in other letters: the DejaVu Sans that matplotlib ships, or one of the system; None without either."""
    matplotlib = find_spec("matplotlib")
    shipped = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" if matplotlib and matplotlib.origin else None
    for name in ([str(shipped / WIDE_FONTS[0])] if shipped else []) + [*WIDE_FONTS]:
        with suppress(OSError):
            return ImageFont.truetype(name, round(size * 0.92))
    return None


def text_at(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str = "ls"
) -> None:
    text, letters_font = _with_font(text, size)
    draw.text(at, text, font=letters_font, fill=colour, anchor=anchor)


def _with_font(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """A font that has the letters, and the text; where there is none, é as e, and ж as ?."""
    if all(letter.isascii() or letter in "·…" for letter in text):
        return text, font(size)
    if wide := _wide_font(size):
        return text, wide
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    return "".join(letters).encode("ascii", "replace").decode(), font(size)


def lines_of(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most `width` pixels where its words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def short_name(name: str) -> str:
    """The last part of a path, printable and of a bounded length."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or name
    return shorten("".join(letter if letter.isprintable() else "?" for letter in last), 60)


def width_of(draw: ImageDraw.ImageDraw, text: str, size: int) -> int:
    """In pixels."""
    return round(draw.textlength(text, font=_with_font(text, size)[1]))


def fitting(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """The text, cut at its end where it is wider than so many pixels."""
    cuts = (text, *(f"{text[:n].rstrip()}…" for n in range(len(text) - 1, 0, -1)))
    return next((cut for cut in cuts if width_of(draw, cut, size) <= width), "…")


def shorten(text: str, limit: int) -> str:
    """Cut out the middle of a long text: both the start and the end of a file name tell films apart."""
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
