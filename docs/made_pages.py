"""Pages of the site that are made as it is built (MkDocs calls the functions here): one for each command, from its own
`--help`, with a table of flags for each group that the help shows; and the card of the included model.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.structure.files import File, Files

import agcxr
from agcxr.cli import main
from agcxr.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
STARTER_CARD = ROOT / "src" / "agcxr" / "weights" / "starter.md"
COLUMNS = "110"
"""Of the help that is read here: wide enough for its flags, too narrow for two boxes side by side."""


def on_config(config: Any) -> Any:
    reference = next(part["Reference"] for part in config.nav if "Reference" in part)
    place = next(part for part in reference if "Commands" in part)
    place["Commands"] = ["commands/index.md", *({name: f"commands/{file_name(name)}.md"} for name in COMMANDS)]
    return config


def on_files(files: Files, config: Any) -> Files:
    card = STARTER_CARD.read_text(encoding="utf-8")
    files.append(File.generated(config, "starter_card.md", content=card))
    for name in COMMANDS:
        files.append(File.generated(config, f"commands/{file_name(name)}.md", content=command_page(name)))
    files.append(File.generated(config, "commands/index.md", content=overview()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page on Python ends with every public name; links out of docs/ lead to the same text on the site."""
    if page.file.src_uri == "api.md":
        markdown += "".join(f"\n\n::: agcxr.{name}" for name in agcxr.__all__ if not name.startswith("_"))
    return markdown.replace(f"(../{STARTER_CARD.relative_to(ROOT).as_posix()})", "(starter_card.md)")


def file_name(command: str) -> str:
    return command.replace(" ", "-")


def overview() -> str:
    rows = [f"| [`agcxr {name}`]({file_name(name)}.md) | {summary(name)} |" for name in COMMANDS]
    head = "# Commands\n\nEach page is made from the command's own `--help`.\n\n| command | what it does |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def summary(command: str) -> str:
    return (COMMANDS[command].__doc__ or "").splitlines()[0]


def command_page(command: str) -> str:
    usage, about, groups = read_help(help_of(command))
    parts = [f"# agcxr {command}", f"```text\n{usage}\n```", about]
    for title, flags in groups:
        rows = [f"| {as_cell(flag)} | {as_text(meaning)} |" for flag, meaning in flags]
        parts += [f"## {title[0].upper()}{title[1:]}", "\n".join(["| | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def help_of(command: str) -> str:
    held = io.BytesIO()
    out = io.TextIOWrapper(held, encoding="utf-8", write_through=True)  # an encoding that has lines to draw boxes with
    settings = mock.patch.dict(os.environ, COLUMNS=COLUMNS)
    with settings, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", held.getvalue().decode())


def read_help(text: str) -> tuple[str, str, list[tuple[str, list[tuple[str, str]]]]]:
    """Usage, what stands between it and the first box, and the boxes: title, then pairs of flag and meaning.

    A box is `╭─ title ─╮`, lines `│ --flag TYPE   meaning │` whose further lines are indented, and `╰──╯`.
    """
    head, *boxes = re.split(r"^╭─ (?=\w)", text, flags=re.M)
    usage, _, about = head.strip().partition("\n\n")
    groups = []
    for box in boxes:
        title, *lines = box.splitlines()
        flags: list[tuple[str, str]] = []
        for line in (line.removeprefix("│ ").removesuffix("│").rstrip() for line in lines if line.startswith("│ ")):
            if line.startswith(" "):
                flag, meaning = flags.pop()
                flags.append((flag, f"{meaning} {line.strip()}".strip()))
            else:
                flag, _, meaning = line.partition("  ")
                flags.append((flag, meaning.strip()))
        groups.append((title.strip("─╮ "), flags))
    return usage, about, groups


def as_cell(flag: str) -> str:
    """A flag's names, and below them what it takes: `--point {youden,sensitivity95}`, `-h, --help`, `RUN`."""
    names, value = re.fullmatch(r"((?:--?[\w.-]+(?:, )?)*)(.*)", flag).groups()  # type: ignore[union-attr]
    parts = [f"<code>{as_text(name)}</code>" for name in (names or value).strip(" ,").split(", ")]
    if names and value:
        parts.append(f"<small>{as_text(value.strip().replace(',', ', '))}</small>")
    return "<br>".join(parts)


def as_text(words: str) -> str:
    return html.escape(words, quote=False).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;")
