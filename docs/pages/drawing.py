"""Drawings of the pages: chains in mermaid's notation, which the site shows without a script."""

import re

DRAWING = re.compile(r"^```mermaid\nflowchart (TD|BT)\n(.*?)^```$", re.M | re.S)
NODE = re.compile(r'^\s*(\w+)\["(.*)"\]$', re.M)
CHAIN = re.compile(r"^\s*(\w+(?: --> \w+)+)$", re.M)


def with_drawings(text: str) -> str:
    """Markdown with each drawing as an ordered list, from top to bottom."""
    return DRAWING.sub(_list, text)


def _list(found: re.Match[str]) -> str:
    nodes, chains = dict(NODE.findall(found[2])), CHAIN.findall(found[2])
    if len(chains) != 1 or len(NODE.sub("", CHAIN.sub("", found[2])).strip()):
        raise ValueError(f"not one chain of nodes: {found[0]}")
    names = chains[0].split(" --> ")
    if found[1] == "BT":
        names.reverse()
    return "\n".join(
        ['<ol class="chain">', *(f"<li>{nodes[name]}</li>" for name in names), "</ol>"]
    )
