"""What the settings of `mae.config.sections` are made of: sections, and types with their ranges."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _not_none(value: object) -> object:
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_not_none)]
"""`key=` without a value is the empty string"""

Shards = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_square)]
Interval = tuple[float, float]


class Section(BaseModel):
    """Frozen, typed, no unknown keys.

    A key that is a word of Python, such as `from`, is the alias of its field.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )


def keys_of(section: type[Section]) -> list[str]:
    """As they are written in YAML."""
    return [field.alias or name for name, field in section.model_fields.items()]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
