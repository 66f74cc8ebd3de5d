"""Write the map of files in docs/architecture.md: each package with its docstring, each file with its first line.

python docs/map.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "agcxr"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- map of files: made by docs/map.py -->\n", "<!-- end of the map -->\n"
# In the order in which they may import each other; "" are the files beside the packages.
PACKAGES = (
    "",
    "data",
    "models",
    "training",
    "inference",
    "evaluation",
    "experiments",
    "dicom",
    "serve",
    "serve/static",
)


def first_line(path: Path) -> str:
    """The first sentence of what a file says of itself; empty for a file that says nothing."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"(?://[^\n]*\n)+|/\*.*?\*/", text, re.S)
        text = re.sub(r"^(?://|/\*) ?|\*/$", "", comment[0], flags=re.M) if comment else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.) (?=[A-Z`])", paragraph)[0].rstrip(".").replace("|", "\\|")


def files_of(package: str) -> list[Path]:
    folder = PACKAGE / package
    return sorted(
        path for path in folder.glob("*") if path.suffix in {".py", ".js", ".css"} and path.name != "__init__.py"
    )


def map_of_files() -> str:
    lines = []
    for package in PACKAGES:
        title = f"`{package}/`" if package else "Beside the packages"
        summary = first_line(PACKAGE / package / "__init__.py") if (PACKAGE / package / "__init__.py").is_file() else ""
        lines += [f"### {title}", "", *([f"{summary}.", ""] if summary else []), "| file | what it is |", "|---|---|"]
        prefix = f"{package}/" if package else ""
        lines += [f"| `{prefix}{path.name}` | {first_line(path)} |" for path in files_of(package)]
        lines.append("")
    return "\n".join(lines)


def with_map(page: str) -> str:
    """The page with its map made anew. Raises ValueError where the two marks of the map are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN.strip()!r} and {END.strip()!r}, in this order")
    return f"{before}{begin}\n{map_of_files()}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
