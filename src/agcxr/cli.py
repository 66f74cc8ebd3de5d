"""The command line: `agcxr <command>`. Finds the command, reads its flags, and says errors in words.

Each command is a function in `commands.py`; its parameters are the flags and its docstring is the help.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 done with failures, 2 not done, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["--version"], ["-V"]):
        from agcxr import __version__

        print(__version__)
        return 0
    from agcxr.commands import COMMANDS

    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(COMMANDS))
        return 0
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is None:
        return _unknown(words, COMMANDS)
    return _run(name, COMMANDS[name], words[len(name.split()) :])


def _run(name: str, command: Callable[..., int | None], flags: list[str]) -> int:
    import tyro

    from agcxr.commands import with_preset

    try:
        made = with_preset(command, flags)
        call = tyro.cli(
            made, prog=f"agcxr {name}", args=flags, return_unknown_args=False, registry=_settings_in_words()
        )
        return int(call or 0)
    except (ValueError, OSError) as error:
        # What people can mend is said in words; a bug keeps its traceback.
        print(f"agcxr {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nagcxr {name}: interrupted", file=sys.stderr)
        return 130


def _settings_in_words() -> Any:
    """tyro's own way of making settings from flags, but impossible values are told as those of a YAML file are."""
    from pydantic import ValidationError
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

    from agcxr import config

    registry, inside = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inside
        if inside or not (isinstance(info.type, type) and issubclass(info.type, config.Frozen)):
            return None
        inside = True
        try:
            usual = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside = False
        if not isinstance(usual, StructConstructorSpec):
            return None

        def make(**values: Any) -> Any:
            try:
                return usual.instantiate(**values)
            except ValidationError as error:
                raise ValueError(config.in_words(error)) from None

        return replace(usual, instantiate=make)

    return registry


def _overview(commands: dict[str, Callable[..., int | None]]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()]
    head = "agcxr: attention-guided classification of chest X-rays. Research use only, not a medical device."
    return "\n".join(
        [head, "", "usage: agcxr <command> [flags]    (agcxr <command> --help lists its flags)", "", *lines]
    )


def _unknown(words: list[str], commands: dict[str, Callable[..., int | None]]) -> int:
    group = [name for name in commands if name.split()[0] == words[0]]
    if group:
        print(f"agcxr {words[0]} needs one of: {', '.join(name.split()[1] for name in group)}", file=sys.stderr)
        return 0 if words[1:2] in (["-h"], ["--help"]) else 2
    near = difflib.get_close_matches(words[0], list(commands), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    print(f"agcxr: unknown command {words[0]!r}{hint}; `agcxr --help` lists them", file=sys.stderr)
    return 2
