"""Registry of objectives: name → package, imported at first use."""

import difflib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import create_model

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.declaration import DataNeeds, Declaration

if TYPE_CHECKING:
    from mae.objectives.implementation import Implementation

OBJECTIVES = {
    "mae": "mae.objectives.mae",
    "classifier": "mae.objectives.classifier",
    "linear_probe": "mae.objectives.linear_probe",
    "attentive": "mae.objectives.attentive",
    "ae": "mae.objectives.ae",
    "dae": "mae.objectives.dae",
    "noise2void": "mae.objectives.noise2void",
    "sparse": "mae.objectives.sparse",
    "vae": "mae.objectives.vae",
    "beta_vae": "mae.objectives.vae.beta",
    "aae": "mae.objectives.aae",
    "ladder": "mae.objectives.vae.ladder",
    "vqvae": "mae.objectives.vqvae",
    "vqvae2": "mae.objectives.vqvae.levels",
    "fsq": "mae.objectives.fsq",
    "prior": "mae.objectives.prior",
    "kl": "mae.objectives.kl",
    "sae": "mae.objectives.sae",
}
"""name → package with the modules `declaration` (DECLARATION, without torch) and `implementation`
(IMPLEMENTATION); add an objective here"""

DEFAULT = "mae"
"""objective of settings that name none"""


def declaration(name: str) -> Declaration:
    """Declaration of the objective `name`.  Raises UserError for an unknown name."""
    if name not in OBJECTIVES:
        close = difflib.get_close_matches(name, OBJECTIVES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(OBJECTIVES)}"
        raise UserError(f"objective: no {name!r}, {hint}")
    return import_module(f"{OBJECTIVES[name]}.declaration").DECLARATION


def data_needs(config: Config) -> DataNeeds:
    """Requirements of a run on its images: the objective's; floats are never resized."""
    needs = declaration(config.objective).data_needs(config)
    return needs._replace(native_crops=True) if config.data.is_float else needs


def implementation(name: str) -> "Implementation":
    """Implementation of the objective `name`: the half that needs torch."""
    return import_module(f"{OBJECTIVES[declaration(name).name]}.implementation").IMPLEMENTATION


def declarations(command: str) -> list[Declaration]:
    """Declarations of the objectives that `command` trains."""
    return [one for one in map(declaration, OBJECTIVES) if one.command == command]


def config_type(name: str) -> type[Config]:
    """Type of the settings of a run with this objective: the core's sections and its own."""
    declared = declaration(name)
    return _config_type(declared.model, declared.section)


@cache
def _config_type(model: type, section: tuple[str, type] | None) -> type[Config]:
    own: dict[str, Any] = {"model": (model, model())}
    if section:
        own[section[0]] = (section[1], section[1]())
    return create_model("Config", __base__=Config, **own)
