"""Check of the variables by which a launcher joins several processes."""

from collections.abc import Mapping

from mae.base.errors import UserError

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")
"""variables that every launcher sets, all of them"""


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
