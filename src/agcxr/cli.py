"""The command line: `agcxr <command>`. Finds the command, reads its flags, and says errors in words.

Each command is a function in `commands.py`; its parameters are the flags and its docstring is the help.
"""

from __future__ import annotations

import difflib
import inspect
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TextIO, get_args

from agcxr.extras import needs_for

PIPE_CLOSED = 141
"""Exit status when nobody reads any more (`agcxr ... | head`): the shells' for a program ended by SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 done with failures, 2 not done, 130 interrupted, 141 nobody
    read the output to its end."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as with `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        try:
            return _main(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        return PIPE_CLOSED


def _main(words: list[str]) -> int:
    if words[:1] in (["--version"], ["-V"]):
        from agcxr import __version__

        print(__version__)
        return 0
    from agcxr.commands import COMMANDS

    if words[:1] == ["help"] and words[1:]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(COMMANDS))
        return 0
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    if name is None:
        return _unknown(words, COMMANDS)
    return _run(name, COMMANDS[name], words[len(name.split()) :])


def _run(name: str, command: Callable[..., int | None], flags: list[str]) -> int:
    import tyro

    try:
        flags = _run_first(command, flags)
        made = _with_plain_help(_with_settings(command, flags))
        with _warnings_in_words(name):
            call = tyro.cli(
                made, prog=f"agcxr {name}", args=flags, return_unknown_args=False, registry=_settings_in_words()
            )
        return int(call or 0)
    except ModuleNotFoundError as error:
        if (words := needs_for(f"agcxr {name}", error)) is None:
            raise
        print(words, file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        # What people can mend is said in words; a bug keeps its traceback.
        print(f"agcxr {name}: {_in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nagcxr {name}: interrupted", file=sys.stderr)
        return 130


def _in_words(error: ValueError | OSError) -> str:
    """Our own errors are sentences; the system's are `[Errno 2] No such file or directory: 'x'`."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _nobody_reads() -> bool:
    """Whether a broken pipe was our own output, not a connection of the command's."""
    return any(_is_broken(stream) for stream in (sys.stdout, sys.stderr))


def _is_broken(stream: TextIO) -> bool:
    try:
        stream.flush()
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # no file behind it, or closed
        return False


def _give_up_output() -> None:
    """Send what is still held back for a reader who has left to nowhere, so that Python's own end stays quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def _warnings_in_words(name: str) -> Iterator[None]:
    """Warnings of this package are for people: without the Python file and line that a library user wants to see."""
    with warnings.catch_warnings():
        # They quote values of headers, which may name a patient, and nobody at a command line can mend them.
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__.split(".")[0] == "agcxr":
                print(f"agcxr {name}: warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _settings_in_words() -> Any:
    """tyro's own way of making settings from flags, but impossible values are told as those of a YAML file are."""
    from pydantic import ValidationError
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
        StructConstructorSpec,
        StructTypeInfo,
    )

    from agcxr.data.storing import Storing
    from agcxr.values import Frozen

    registry, inside = ConstructorRegistry(), False

    def usual_of(get: Callable[[Any], Any], info: Any) -> Any:
        """tyro's own answer, which our rules then change: they keep out of it."""
        nonlocal inside
        inside = True
        try:
            return get(info)
        finally:
            inside = False

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """PATH, not {None}|PATH: to leave a flag out is how None is said."""
        if inside or type(None) not in get_args(info.type):
            return None
        usual = usual_of(ConstructorRegistry.get_primitive_spec, info)
        if not isinstance(usual, PrimitiveConstructorSpec):
            return None
        return replace(usual, metavar=usual.metavar.replace("{None}|", "").replace("{None,", "{"))

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if inside or not (isinstance(info.type, type) and issubclass(info.type, Frozen | Storing)):
            return None
        usual = usual_of(ConstructorRegistry.get_struct_spec, info)
        if not isinstance(usual, StructConstructorSpec):
            return None

        def make(**values: Any) -> Any:
            try:
                return usual.instantiate(**values)
            except ValidationError as error:
                from agcxr import config

                raise ValueError(config.in_words(error)) from None

        fields = tuple(replace(field, type=_plain(field.type, field.default)) for field in usual.fields)
        return replace(usual, instantiate=make, fields=fields)

    return registry


def _run_first(command: Callable[..., int | None], flags: list[str]) -> list[str]:
    """RUN before the flags. Behind --data, which takes several folders, it would be one of them."""
    parameters = list(inspect.signature(command).parameters)
    if parameters[:2] != ["run", "data"] or "--data" not in flags or not flags[0].startswith("-"):
        return flags
    first = flags.index("--data") + 1
    end = next((at for at in range(first, len(flags)) if flags[at].startswith("-")), len(flags))
    from agcxr.preflight import is_prepared

    if end - first < 2 or is_prepared(Path(flags[end - 1])):
        return flags
    return [flags[end - 1], *flags[: end - 1], *flags[end:]]


def _with_settings(command: Callable[..., int | None], flags: list[str]) -> Callable[..., Any]:
    """A command that trains, its settings starting from what `flags` name; any other command as it is."""
    if "settings" not in inspect.signature(command).parameters:
        return command
    from agcxr.train_commands import with_preset

    return with_preset(command, flags)


def _with_plain_help(command: Callable[..., int | None]) -> Callable[..., Any]:
    """The same function; the help of its flags leaves out a default that says nothing."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        each.replace(annotation=_plain(each.annotation, each.default)) for each in signature.parameters.values()
    ]

    def call(*args: Any, **flags: Any) -> Any:
        return command(*args, **flags)

    call.__doc__, call.__name__ = command.__doc__, command.__name__
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": int}
    return call


def _plain(annotation: Any, default: Any) -> Any:
    """The type of a flag, with the default left out of its help where it is None or empty."""
    import tyro

    return Annotated[annotation, tyro.conf.arg(help_behavior_hint="")] if default in (None, ()) else annotation


def _overview(commands: Mapping[str, Callable[..., int | None]]) -> str:
    head = "agcxr: attention-guided classification of chest X-rays. Research use only, not a medical device."
    usage = "usage: agcxr <command> [flags]    (agcxr <command> --help lists its flags)"
    return "\n".join([head, "", usage, "", *_listed(commands)])


def _listed(commands: Mapping[str, Callable[..., int | None]]) -> list[str]:
    """A line a command: its name and the first line of its help."""
    width = max(map(len, commands))
    return [f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()]


def _unknown(words: list[str], commands: Mapping[str, Callable[..., int | None]]) -> int:
    group = {name: command for name, command in commands.items() if name.split()[0] == words[0]}
    seconds = [name.split()[1] for name in group]
    if group and words[1:2] in (["-h"], ["--help"]):
        usage = f"usage: agcxr {words[0]} {{{','.join(seconds)}}} [flags]"
        print("\n".join([usage, "", *_listed(group)]))
        return 0
    if group:
        near = difflib.get_close_matches(words[1] if words[1:] else "", seconds, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        print(f"agcxr {words[0]} needs one of: {', '.join(seconds)}{hint}", file=sys.stderr)
        return 2
    near = difflib.get_close_matches(words[0], list(commands), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    print(f"agcxr: unknown command {words[0]!r}{hint}; `agcxr --help` lists them", file=sys.stderr)
    return 2
