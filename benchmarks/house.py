"""How large and how plain code is: files, lines, functions, classes, and names that say nothing.

    python benchmarks/house.py src/agcxr [FOLDER ...]

A row a folder, of all its Python files. Function lines are those from `def` to the last statement; annotated is the
share of functions whose arguments and result all are; vague are bound names (arguments, variables, loop targets) that
are pronouns or participles, and so do not say what they hold.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

PRONOUNS = {"one", "mine", "theirs", "it", "they", "this", "that", "these", "those"}
PARTICIPLES = {"found", "known", "told", "said", "asked", "given", "made", "seen", "done"}
VAGUE = PRONOUNS | PARTICIPLES
HEAD = ("folder", "files", "lines", "function lines median/p90/max", "annotated", "classes/1,000 lines", "vague names")


def measured(folder: Path) -> tuple[str, ...]:
    """The numbers of HEAD."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = sum(len(text.splitlines()) for text in texts)
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)
    names = list(bound(nodes))
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    return (
        str(folder),
        f"{len(texts):,}",
        f"{lines:,}",
        f"{statistics.median(lengths):.0f} / {lengths[int(0.9 * (len(lengths) - 1))]} / {lengths[-1]}",
        f"{sum(map(annotated, functions)) / len(functions):.0%}",
        f"{1000 * classes / lines:.1f}",
        f"{sum(name in VAGUE for name in names) / len(names):.1%}",
    )


def bound(nodes: list[ast.AST]) -> Iterator[str]:
    """Names that something is bound to."""
    for node in nodes:
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Every argument but self and cls, and the result."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    own = [arg for arg in every if arg.arg not in ("self", "cls")]
    return function.returns is not None and all(arg.annotation is not None for arg in own)


def main() -> None:
    rows = [HEAD, *(measured(Path(folder)) for folder in sys.argv[1:] or ["src/agcxr"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
