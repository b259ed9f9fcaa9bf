"""`mae recipes encoders`: names of timm's that can be encoders, and why others cannot."""

import argparse
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae.networks.encoders.survey import Surveyed

WIDTH = 100
"""columns of the lists of names"""


def add_encoders(kinds: Any) -> None:
    """Add the subcommand and its options to the subcommands of `mae recipes`."""
    text = "list timm's names that can be model.encoder, by class, and why others cannot"
    parser = kinds.add_parser("encoders", help=text, description=f"{text.capitalize()}.")
    parser.add_argument(
        "word", nargs="?", default="", help="list names that contain it, one a line, with a reason"
    )
    parser.add_argument("--counts", action="store_true", help="print a Markdown table of counts")
    parser.set_defaults(work=list_encoders)


def list_encoders(args: argparse.Namespace) -> None:
    """Print names by class, or counts, or the names that contain a word."""
    from mae.networks.encoders.survey import survey

    found = list(survey(args.word))
    print("\n".join(_counts(found) if args.counts else _lines(found, bool(args.word))))


def _lines(found: "list[Surveyed]", one_by_one: bool) -> list[str]:
    from mae.networks.encoders.registry import ADAPTERS

    if one_by_one:
        width = max((len(one.name) for one in found), default=0)
        return [f"{one.name:{width}}  {one.kind}{_because(one)}" for one in found] or ["none"]
    usable = [one for one in found if not one.reason]
    lines = [f"{len(usable)} of {len(found)} names can be model.encoder:"]
    for adapter in ADAPTERS:
        names = [one.name for one in usable if one.kind == adapter.kind.__name__]
        lines += ["", f"{adapter.kind.__name__}: {len(names)} {adapter.name}"]
        lines += textwrap.wrap(
            ", ".join(names),
            WIDTH,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
    refused = Counter((one.kind, one.reason) for one in found if one.reason)
    lines += ["", "refused (mae recipes encoders WORD lists names that contain WORD):"]
    lines += [f"  {count:3}  {kind}: {why}" for (kind, why), count in refused.most_common()]
    return lines


def _because(one: "Surveyed") -> str:
    return f": refused: {one.reason}" if one.reason else ""


def _counts(found: "list[Surveyed]") -> list[str]:
    """Markdown table: names of each module of timm, those of each supported class, refused ones."""
    from mae.networks.encoders.registry import ADAPTERS

    kinds = [adapter.kind.__name__ for adapter in ADAPTERS]
    lines = [
        f"| module of timm | names | {' | '.join(kinds)} | refused |",
        f"|---|{'---:|' * (len(kinds) + 2)}",
    ]
    modules = [*dict.fromkeys(one.module for one in found), "all"]
    for module in modules:
        own = [one for one in found if module in ("all", one.module)]
        usable = Counter(one.kind for one in own if not one.reason)
        cells = [len(own), *(usable[kind] for kind in kinds), len(own) - sum(usable.values())]
        lines.append(f"| {module} | {' | '.join(map(str, cells))} |")
    return lines
