"""A report as blocks, and two ways to write them: one self-contained HTML file, and Markdown with picture files.

Text is plain; both writers escape it. `Table` cells may carry a second, softer text (an interval beside its value).
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from agcxr.evaluation import charts


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
class Cell:
    """A table cell: a value, and softer text beside it."""

    text: str
    soft: str = ""
    strong: bool = False
    worse: bool = False
    """Strong, in the colour of warnings."""


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column is text, the others are numbers; the last row may be a summary."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    caption: str = ""
    summary: bool = False
    accent: int | None = None
    """A column that matters most."""
    texts: tuple[int, ...] = (0,)
    """Columns that are set left."""
    groups: tuple[str, ...] = ()
    """A name over each column; equal neighbours share one."""
    folded: str = ""
    """Folded away under this title."""
    stacked: bool = False
    """Softer texts under their values, for tables of many columns."""


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
class Picture:
    """An image file relative to the results folder."""

    path: str
    caption: str


@dataclass(frozen=True)
class Wide:
    """A picture as wide as the page; small screens scroll it sideways."""

    picture: Picture


@dataclass(frozen=True)
class Example:
    """A film's pictures side by side, and what is said of it."""

    title: str
    detail: str
    pictures: tuple[Picture, ...]


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
class Facts:
    """Names with values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Legend:
    """Which line is which."""

    lines: tuple[tuple[charts.Role, bool, str], ...]
    """(role, dashed, name)"""


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file, folded away under its title."""

    title: str
    text: str


Block: TypeAlias = Text | Heading | Table | Chart | Multiples | Gallery | Wide | Headline | Facts | Legend | Code


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
    css = files("agcxr.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{_slug(s.title)}">{escape(s.title)}</a>' for s in page.sections)
    body = "".join(_html_section(section, folder, first=i == 0) for i, section in enumerate(page.sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(page.title)}</title><style>{css}{charts.STYLE}</style></head><body>"
        # Beside the text where there is room; else above it, folded.
        f'<nav aria-label="Contents"><details><summary>Contents</summary>{links}</details><div>{links}</div></nav>'
        f'<main><header><p class="notice">{escape(page.notice)}</p><h1>{escape(page.title)}</h1>'
        f'<p class="subtitle">{escape(page.subtitle)}</p></header>'
        f"{body}</main></body></html>\n"
    )


def _slug(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _html_section(section: Section, folder: Path, *, first: bool) -> str:
    blocks = "\n".join(_html(block, folder) for block in section.blocks)
    heading = "" if first else f"<h2>{escape(section.title)}</h2>"
    return f'<section id="{_slug(section.title)}">{heading}{blocks}</section>\n'


def _html(block: Block, folder: Path) -> str:
    match block:
        case Text():
            return f'<p class="warning">{escape(block.text)}</p>' if block.warning else f"<p>{escape(block.text)}</p>"
        case Heading():
            return f"<h3>{escape(block.text)}</h3>"
        case Table() if block.folded:
            return f"<details><summary>{escape(block.folded)}</summary>{_html_table(block)}</details>"
        case Table():
            return _html_table(block)
        case Chart():
            return f'<figure class="chart">{block.svg}{_caption(block.caption)}</figure>'
        case Multiples():
            cells = "".join(
                f'<div><h4><span>{escape(title)}</span> <span class="soft">{escape(note)}</span></h4>{svg}</div>'
                for svg, title, note in zip(block.svgs, block.titles, block.notes, strict=True)
            )
            style = f"--cell:{block.cell[0]}px;--most:{block.columns};--phone:{1 if block.cell[0] > 200 else 2}"
            return f'<figure><div class="multiples" style="{style}">{cells}</div>{_caption(block.caption)}</figure>'
        case Gallery():
            return f"<h3>{escape(block.title)}</h3>" + "".join(_html_example(one, folder) for one in block.examples)
        case Wide():
            source, caption = _embedded(folder / block.picture.path), _caption(block.picture.caption)
            image = f'<img src="{source}" alt="{escape(block.picture.caption)}" loading="lazy">'
            return f'<figure class="wide"><div class="scroll">{image}</div>{caption}</figure>'
        case Headline():
            tiles = "".join(
                f"<div><dt>{escape(n.label)}</dt><dd><b>{escape(n.value)}</b><span>{escape(n.detail)}</span></dd></div>"
                for n in block.numbers
            )
            return f'<dl class="headline">{tiles}</dl>'
        case Facts():
            rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in block.rows)
            return f'<dl class="facts">{rows}</dl>'
        case Legend():
            return f'<p class="legend">{"".join(_html_key(*line) for line in block.lines)}</p>'
        case Code():
            return f"<details><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"


def _html_key(role: str, dashed: bool, name: str) -> str:
    dash = " dash" if dashed else ""
    svg = f'<svg viewBox="0 0 22 8" aria-hidden="true"><path class="line {role}{dash}" d="M1 4H21"/></svg>'
    return f"<span>{svg}{escape(name)}</span>"


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _html_table(table: Table) -> str:
    def attributes(i: int) -> str:
        names = [name for name, on in (("text", i in table.texts), ("accent", i == table.accent)) if on]
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f'<th scope="col"{attributes(i)}>{escape(name)}</th>' for i, name in enumerate(table.head))
    runs = [(name, len(list(same))) for name, same in groupby(table.groups)]
    over = "".join(f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in runs)
    above = f'<tr class="groups">{over}</tr>' if runs else ""
    rows = []
    for at, row in enumerate(table.rows):
        last = ' class="summary"' if table.summary and at == len(table.rows) - 1 else ""
        cells = [_html_cell(cell, "th" if i == 0 else "td", attributes(i)) for i, cell in enumerate(row)]
        rows.append(f"<tr{last}>{''.join(cells)}</tr>")
    body = f"<thead>{above}<tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    look = ' class="stacked"' if table.stacked else ""
    return f'<figure{look}><div class="scroll"><table>{body}</table></div>{_caption(table.caption)}</figure>'


def _html_cell(cell: Cell | str, tag: str, attributes: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    look = ' class="worse"' if cell.worse else ""
    text = f"<b{look}>{escape(cell.text)}</b>" if cell.strong else escape(cell.text)
    soft = f' <span class="soft">{escape(cell.soft)}</span>' if cell.soft else ""
    scope = ' scope="row"' if tag == "th" else ""
    return f"<{tag}{scope}{attributes}>{text}{soft}</{tag}>"


def _html_example(example: Example, folder: Path) -> str:
    pictures = "".join(
        f'<figure><img src="{_embedded(folder / p.path)}" alt="{escape(p.caption)}" loading="lazy">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in example.pictures
    )
    words = f'<h4>{escape(example.title)}</h4><p class="soft">{escape(example.detail)}</p>'
    return f'<div class="example"><div>{words}</div><div class="triptych">{pictures}</div></div>'


def _embedded(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def to_markdown(page: Page, folder: Path) -> str:
    """GitHub's Markdown; charts are written into `folder`/pictures."""
    out = [f"# {page.title}", f"{page.subtitle}", f"**{page.notice}**"]
    for i, section in enumerate(page.sections):
        out += ([] if i == 0 else [f"## {section.title}"]) + [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(part for part in out if part) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Text():
            return f"> **{_plain(block.text)}**" if block.warning else _plain(block.text)
        case Heading():
            return f"### {_plain(block.text)}"
        case Table() if block.folded:
            table = _markdown_table(block)
            return f"<details><summary>{escape(block.folded)}</summary>\n\n{table}\n\n</details>"
        case Table():
            return _markdown_table(block)
        case Chart():
            return _markdown_chart(block.svg, block.file, block.caption, folder)
        case Multiples():
            svg = charts.grid(block.svgs, block.titles, block.columns, block.cell, block.notes)
            return _markdown_chart(svg, block.file, block.caption, folder)
        case Gallery():
            return "\n\n".join([f"### {block.title}", *map(_markdown_example, block.examples)])
        case Wide():
            caption = _plain(block.picture.caption)
            return f"![{caption}]({block.picture.path})\n\n{caption}"
        case Headline():
            return "\n".join(f"- **{_plain(n.value)}** {_plain(n.label)} ({_plain(n.detail)})" for n in block.numbers)
        case Facts():
            return "\n".join(f"- {_plain(k)}: {_plain(v)}" for k, v in block.rows)
        case Legend():
            how = {"accent": "strong colour", "ink": "dark", "muted": "gray"}
            return "Lines: " + ", ".join(f"{n} {how[r]}{' dashed' if d else ''}" for r, d, n in block.lines) + "."
        case Code():
            return f"<details><summary>{escape(block.title)}</summary>\n\n```\n{block.text.rstrip()}\n```\n\n</details>"


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return text


def _markdown_chart(svg: str, file: str, caption: str, folder: Path) -> str:
    path = folder / "pictures" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(charts.standalone(svg), encoding="utf-8")
    shown = f"![{_plain(caption or file)}](pictures/{file})"
    return f"{shown}\n\n{_plain(caption)}" if caption else shown


def _markdown_table(table: Table) -> str:
    def cell(value: Cell | str) -> str:
        one = Cell(value) if isinstance(value, str) else value
        text = f"**{_plain(one.text)}**" if one.strong else _plain(one.text)
        return f"{text} ({_plain(one.soft)})" if one.soft else text

    groups = table.groups or ("",) * len(table.head)
    head = [_plain(f"{over} {name}".strip()) for over, name in zip(groups, table.head, strict=True)]
    rule = [":--" if i in table.texts else "--:" for i in range(len(table.head))]
    rows: Sequence[Sequence[str]] = [head, rule, *(map(cell, r) for r in table.rows)]  # type: ignore[list-item]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\n{_plain(table.caption)}" if table.caption else text


def _markdown_example(example: Example) -> str:
    rows = (
        (_plain(p.caption) for p in example.pictures),
        (":--" for _ in example.pictures),
        (f'<img src="{p.path}" width="220" alt="{escape(p.caption)}">' for p in example.pictures),
    )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    detail = ". ".join(_plain(line) for line in example.detail.splitlines())
    return f"**{_plain(example.title)}.** {detail}.\n\n{table}"
