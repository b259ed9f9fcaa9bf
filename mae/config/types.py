"""Types of settings: number ranges, shards, sizes, and the base class of sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""number in [0, 1)"""
Share = Annotated[float, Field(gt=0, le=1)]
"""number in (0, 1]"""
Rate = Annotated[float, Field(ge=0)]
"""number from 0, such as a learning rate, an interval or a threshold"""
EncoderArgument = float | int | bool | tuple[float | int | bool, ...]
"""argument of timm.create_model"""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def to_tuple(value: object) -> object:
    """One string as a tuple of it; other values as they are."""
    return (value,) if isinstance(value, str) else value


def _to_size(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _none_to_empty(value: object) -> object:
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_none_to_empty)]
"""string; `key=` without a value is the empty string"""


def _with_home(value: object) -> object:
    is_home = isinstance(value, str) and value.startswith("~")
    return str(Path(value).expanduser()) if is_home else value


Folder = Annotated[str, BeforeValidator(_with_home)]
"""path of a folder; `~` is the user's home, though no shell has replaced it"""

Shards = Annotated[tuple[str, ...], BeforeValidator(to_tuple)]
"""one shard pattern or a list of them"""
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_to_size)]
"""height and width; one number for both"""
Interval = tuple[float, float]
"""lowest and highest value"""


class Section(BaseModel):
    """Base class of sections: frozen, typed, without unknown keys.

    A key that is a Python keyword, such as `from`, is the alias of its field.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )


def describe_error(error: Any) -> str:
    """`VALUE should be …`, from one error of pydantic."""
    message = error["msg"]
    should_be = message.startswith("Input should be ")
    return f"{error['input']!r}{message[5:] if should_be else f': {message}'}"


def keys_of(section: type[Section]) -> list[str]:
    """Keys of a section as written in YAML."""
    return [field.alias or name for name, field in section.model_fields.items()]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; empty mappings stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
