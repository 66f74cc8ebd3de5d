"""A report as blocks, and two ways to write them: one self-contained HTML file (templates/page.html), and Markdown with
picture files. Text is plain; both escape it.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined

from agcxr.evaluation import charts
from agcxr.table import Table, plain
from agcxr.table import to_markdown as markdown_table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str


@dataclass(frozen=True)
class Chart:
    """One SVG; `file` is its name in pictures/ for Markdown."""

    svg: str
    file: str
    caption: str = ""


@dataclass(frozen=True)
class Multiples:
    """Small charts of one size, each with a title and a softer note."""

    svgs: tuple[str, ...]
    titles: tuple[str, ...]
    notes: tuple[str, ...]
    file: str
    cell: tuple[int, int]
    caption: str = ""
    columns: int = 3
    """In Markdown; a page fits as many as it can."""


@dataclass(frozen=True)
class PictureFile:
    """An image file relative to the results folder."""

    path: str
    caption: str


@dataclass(frozen=True)
class Wide:
    """A picture as wide as the page; small screens scroll it sideways."""

    picture: PictureFile


@dataclass(frozen=True)
class Example:
    """A film's pictures side by side, and what is said of it."""

    title: str
    detail: str
    pictures: tuple[PictureFile, ...]


@dataclass(frozen=True)
class Gallery:
    """Examples under a heading."""

    title: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Number:
    """A headline number."""

    value: str
    label: str
    detail: str


@dataclass(frozen=True)
class Headline:
    """A few numbers, large."""

    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class FactList:
    """Names with values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Legend:
    """Which line is which."""

    lines: tuple[tuple[charts.Role, bool, str], ...]
    """(role, dashed, name)"""


@dataclass(frozen=True)
class CodeBlock:
    """Text as it stands in a file, folded away under its title."""

    title: str
    text: str


Block: TypeAlias = (
    Text | Heading | Table | Chart | Multiples | Gallery | Wide | Headline | FactList | Legend | CodeBlock
)


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    notice: str
    sections: tuple[Section, ...]


def to_html(page: Page, folder: Path) -> str:
    """One file that needs no other: styles, charts and pictures are inside. Pictures are read from `folder`."""

    def embedded(path: str) -> str:
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode((folder / path).read_bytes()).decode('ascii')}"

    environment = Environment(loader=PackageLoader("agcxr.evaluation"), autoescape=True, undefined=StrictUndefined)
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["slug"], environment.filters["runs"] = _slug, _runs
    html = environment.get_template("page.html").render(page=page, embedded=embedded, chart_style=charts.STYLE)
    return f"{html}\n"


def _slug(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """Equal neighbours once, with how many there are."""
    return [(name, len(list(same))) for name, same in groupby(names)]


def to_markdown(page: Page, folder: Path) -> str:
    """GitHub's Markdown; charts are written into `folder`/pictures."""
    out = [f"# {page.title}", f"{page.subtitle}", f"**{page.notice}**"]
    for i, section in enumerate(page.sections):
        out += ([] if i == 0 else [f"## {section.title}"]) + [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(part for part in out if part) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Text():
            return f"> **{plain(block.text)}**" if block.warning else plain(block.text)
        case Heading():
            return f"### {plain(block.text)}"
        case Table() if block.folded:
            table = markdown_table(block)
            return f"<details><summary>{escape(block.folded)}</summary>\n\n{table}\n\n</details>"
        case Table():
            return markdown_table(block)
        case Chart():
            return _markdown_chart(block.svg, block.file, block.caption, folder)
        case Multiples():
            svg = charts.grid(block.svgs, block.titles, block.columns, block.cell, block.notes)
            return _markdown_chart(svg, block.file, block.caption, folder)
        case Gallery():
            return "\n\n".join([f"### {block.title}", *map(_markdown_example, block.examples)])
        case Wide():
            caption = plain(block.picture.caption)
            return f"![{caption}]({block.picture.path})\n\n{caption}"
        case Headline():
            return "\n".join(f"- **{plain(n.value)}** {plain(n.label)} ({plain(n.detail)})" for n in block.numbers)
        case FactList():
            return "\n".join(f"- {plain(k)}: {plain(v)}" for k, v in block.rows)
        case Legend():
            how = {"accent": "strong colour", "ink": "dark", "muted": "gray"}
            return "Lines: " + ", ".join(f"{n} {how[r]}{' dashed' if d else ''}" for r, d, n in block.lines) + "."
        case CodeBlock():
            return f"<details><summary>{escape(block.title)}</summary>\n\n```\n{block.text.rstrip()}\n```\n\n</details>"


def _markdown_chart(svg: str, file: str, caption: str, folder: Path) -> str:
    path = folder / "pictures" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(charts.standalone(svg), encoding="utf-8")
    shown = f"![{plain(caption or file)}](pictures/{file})"
    return f"{shown}\n\n{plain(caption)}" if caption else shown


def _markdown_example(example: Example) -> str:
    rows = (
        (plain(p.caption) for p in example.pictures),
        (":--" for _ in example.pictures),
        (f'<img src="{p.path}" width="220" alt="{escape(p.caption)}">' for p in example.pictures),
    )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    detail = ". ".join(plain(line) for line in example.detail.splitlines())
    return f"**{plain(example.title)}.** {detail}.\n\n{table}"
