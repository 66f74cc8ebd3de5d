"""Settings as people write them: a YAML file, and what is wrong with a setting in words, with the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError


def read(path: str | Path, presets: Sequence[str]) -> dict[str, Any]:
    """What a YAML file of settings holds. `presets`: names to offer where there is no file. Raises ValueError saying
    what is wrong with the file."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"the configuration {path} does not exist; every run folder holds one as config.yaml, or start from a "
            f"recipe with --preset ({', '.join(presets)})"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"the configuration {path} cannot be read ({reason}); expected a YAML file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        held = "nothing" if found is None else type(found).__name__
        raise ValueError(f"{path} holds {held}, expected `field: value` lines such as `backbone: resnet50`")
    return found


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, field by field at every depth."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def in_words(error: ValidationError, root: type[BaseModel]) -> str:
    """A line a problem. `root`: the model that was being made."""
    return "\n".join(_explain(problem, root) for problem in error.errors())


def did_you_mean(given: str, valid: list[str]) -> str:
    """` (did you mean 'x'?)` for the nearest valid word; empty where none is near."""
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _explain(problem: Any, root: type[BaseModel]) -> str:
    """One pydantic problem in words for people."""
    where = ".".join(str(part) for part in problem["loc"])
    given = problem.get("input")
    if problem["type"] == "extra_forbidden":
        return (
            f"unknown setting {where!r}{did_you_mean(str(problem['loc'][-1]), _fields_at(problem['loc'][:-1], root))}"
        )
    if problem["type"] == "literal_error":
        near = did_you_mean(str(given), _choices(problem["loc"], root))
        return f"{where} is {given!r}; expected {problem['ctx']['expected']}{near}"
    if not where:  # a check over several fields: its message says it all
        return problem["msg"].removeprefix("Value error, ")
    return f"{where} is {given!r}: {problem['msg']}"


def _model_at(path: tuple[Any, ...], root: type[BaseModel]) -> type[BaseModel]:
    model = root
    for part in path:
        model = next(field.annotation for name, field in model.model_fields.items() if part in (name, field.alias))  # type: ignore[assignment]
    return model


def _fields_at(path: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in _model_at(path, root).model_fields.items()]


def _choices(path: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    return [str(choice) for choice in get_args(_model_at(path[:-1], root).model_fields[path[-1]].annotation)]
