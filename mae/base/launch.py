"""Launch of this process: check of a launcher's variables, and the command or call as typed."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mae.base.errors import UserError
from mae.base.redaction import without_secrets

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")
"""variables that every launcher sets, all of them"""
COMMAND = "MAE_COMMAND"
"""variable with the words, as JSON, of the command that started this process through another"""

_calls: list[str] = []
"""call of the program that this process belongs to, while it is at work"""


@contextmanager
def called_as(call: str) -> Iterator[None]:
    """Context in which the `call` of a program or notebook, without secrets, is what was typed."""
    _calls.append(call)
    try:
        yield
    finally:
        _calls.remove(call)


def typed_text(environment: Mapping[str, str]) -> str:
    """Command that started this process, or the call within a program, without secrets."""
    return _calls[-1] if _calls else shlex.join(without_secrets(typed_command(environment)))


def typed_command(environment: Mapping[str, str]) -> list[str]:
    """Words of the command that started this process, or the one that it belongs to."""
    with suppress(ValueError):
        words = json.loads(environment.get(COMMAND, ""))
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    program, *words = sys.argv or [""]
    if Path(program).stem == "mae":
        return ["mae", *words]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:  # python -m
        return ["python", "-m", module.name.removesuffix(".__main__"), *words]
    return ["python", program, *words]


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for processes that do the work of this one."""
    return {COMMAND: json.dumps(typed_command(environment))}


def check_launch(environment: Mapping[str, str]) -> None:
    """Raise UserError where only some of a launcher's VARIABLES are set, or are no numbers.

    Left over in a shell or a job script, they would make this process wait for others.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    is_joined = given.get("WORLD_SIZE", "1") != "1" or bool({"RANK", "LOCAL_RANK"} & given.keys())
    if not is_joined:
        return
    shown = ", ".join(f"{name}={value}" for name, value in given.items())
    hint = "launch with `accelerate launch` or torchrun, which set all of them, or unset these"
    if missing := [name for name in VARIABLES if name not in given]:
        raise UserError(f"environment: {shown}, but no {', '.join(missing)}: {hint}")
    for name in NUMBERS:
        if not given[name].isdecimal():
            raise UserError(f"environment: {name}={given[name]} is no number: {hint}")
    if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        raise UserError(f"environment: {shown}: RANK counts from 0: {hint}")
