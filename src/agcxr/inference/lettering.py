"""Words in a picture: fonts, lines that fit, names cut to length."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]


@lru_cache(maxsize=32)
def font(size: int, plain: bool = True) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own grotesque; for names it has no letters for, the DejaVu Sans that matplotlib ships."""
    if plain:
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", round(size * 0.92))


def text_at(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str = "ls"
) -> None:
    plain = all(letter.isascii() or letter in "·…" for letter in text)
    draw.text(at, text, font=font(size, plain), fill=colour, anchor=anchor)


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


def shorten(text: str, limit: int) -> str:
    """Cut out the middle of a long text: both the start and the end of a file name tell films apart."""
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
