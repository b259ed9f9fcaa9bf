"""HTML pages: style sheet, escaped markup, and documents that load and run nothing."""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NewType

from mae.base.files import new_file
from mae.base.redaction import shown

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content-Security-Policy: nothing is fetched and no script runs, whatever the content"""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #fff; --ink: #1c1d1f; --soft: #62666d; --rule: #e4e4e1;
  --a: #2563b8; --b: #c2570c; --c: #7a4fb5; --d: #0e7c74; --e: #b03070;
  --f: #6b7d12; --g: #0d89b5; --h: #8a5a3c;
  --base: #8b8f96; --warm: #f3efe4;
  --good: #1d7a46; --watch: #a56a00; --bad: #c2272d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141517; --card: #1c1e21; --ink: #e8e8e6; --soft: #9ea3ab; --rule: #303338;
    --a: #6fa8f5; --b: #f29a53; --c: #b795ee; --d: #4fc4b8; --e: #f08cb8;
    --f: #b9cc52; --g: #58c8ee; --h: #cfa07d;
    --base: #7f858e; --warm: #26251f;
    --good: #5cc58a; --watch: #e0ac4a; --bad: #f2777a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 44px 0 4px; letter-spacing: -.005em; }
h3 { font-size: 14px; margin: 26px 0 2px; }
p { margin: 4px 0 12px; }
.lead, .none, small { color: var(--soft); }
small { font-size: 12px; font-weight: 400; }
progress { display: block; width: 100%; height: 6px; margin: 14px 0 22px; border: 0;
  border-radius: 3px; overflow: hidden; background: var(--rule); appearance: none; }
progress::-webkit-progress-bar { background: var(--rule); }
progress::-webkit-progress-value { background: var(--a); }
progress::-moz-progress-bar { background: var(--a); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr));
  background: var(--card); border: 1px solid var(--rule); border-radius: 8px; overflow: hidden; }
.tiles div { padding: 10px 14px; box-shadow: 0 0 0 .5px var(--rule); }
.tiles span { display: block; font-size: 12px; color: var(--soft); }
.tiles b { font-size: 19px; font-weight: 600; }

.findings { list-style: none; margin: 10px 0 0; padding: 0; border-top: 1px solid var(--rule); }
.findings li { display: grid; grid-template-columns: 76px minmax(0, 5fr) minmax(0, 7fr);
  gap: 4px 16px; padding: 10px 0; border-bottom: 1px solid var(--rule); }
.findings b { font-weight: 600; }
.findings p { margin: 0; color: var(--soft); font-size: 13.5px; }
.level { font-size: 13px; font-weight: 600; white-space: nowrap; }
.level::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 50%;
  background: currentColor; margin-right: 7px; }
.level.good { color: var(--good); } .level.watch { color: var(--watch); }
.level.bad { color: var(--bad); } .level.note { color: var(--soft); }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr));
  gap: 18px; margin-top: 12px; }
.chart { margin: 0; padding: 12px 16px 30px; background: var(--card); min-width: 0;
  display: flex; flex-direction: column; justify-content: space-between;
  border: 1px solid var(--rule); border-radius: 8px; break-inside: avoid; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 16px; font-size: 13px;
  margin-bottom: 10px; color: var(--soft); }
.chart figcaption > :first-child { flex: 1 0 auto; color: var(--ink); }
.chart figcaption b { color: var(--ink); font-weight: 600; }
.key { display: inline-block; width: 14px; border-top: 2.5px solid; margin-right: 6px;
  vertical-align: middle; }
.key.a { color: var(--a); } .key.b { color: var(--b); } .key.c { color: var(--c); }
.key.d { color: var(--d); } .key.e { color: var(--e); } .key.f { color: var(--f); }
.key.g { color: var(--g); } .key.h { color: var(--h); }
.key.base { color: var(--base); border-top-style: dashed; }
.key.finer { border-top-style: dotted; }
.plot { position: relative; height: 180px; margin-left: 40px; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot span { position: absolute; font-size: 11.5px; line-height: 1; color: var(--soft);
  white-space: nowrap; }
.plot .y { right: 100%; margin-right: 8px; transform: translateY(-50%); }
.plot .x { top: 100%; margin-top: 8px; transform: translateX(-50%); }
path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--rule); stroke-width: 1px; }
.warmup { fill: var(--warm); }
.line { stroke-width: 1.75px; stroke-linejoin: round; }
.dots { stroke-width: 5.5px; stroke-linecap: round; }
.line.a, .dots.a { stroke: var(--a); } .line.b, .dots.b { stroke: var(--b); }
.line.c, .dots.c { stroke: var(--c); }
.line.d, .dots.d { stroke: var(--d); } .line.e, .dots.e { stroke: var(--e); }
.line.f, .dots.f { stroke: var(--f); } .line.g, .dots.g { stroke: var(--g); }
.line.h, .dots.h { stroke: var(--h); }
.line.base { stroke: var(--base); stroke-dasharray: 6 4; stroke-width: 1.5px; }
.line.finer { stroke-dasharray: 1.5 4; }
.band { stroke: none; fill-opacity: .18; }
.band.a { fill: var(--a); } .band.b { fill: var(--b); } .band.c { fill: var(--c); }
.band.d { fill: var(--d); } .band.e { fill: var(--e); } .band.f { fill: var(--f); }
.band.g { fill: var(--g); } .band.h { fill: var(--h); }
.band.base { fill: none; }
.restart { stroke: var(--soft); stroke-width: 1px; stroke-dasharray: 2 3; }
.fault { stroke: var(--bad); stroke-width: 2px; }
.hover { fill: transparent; }
.hover:hover { fill: var(--ink); fill-opacity: .07; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 20px; font-size: 12.5px; color: var(--soft); }
.legend i { display: inline-block; width: 14px; height: 12px; margin-right: 6px;
  vertical-align: -2px; }
.legend .is-warmup { background: var(--warm); outline: 1px solid var(--rule); }
.legend .is-restart { width: 0; border-left: 1px dashed var(--soft); }
.legend .is-fault { width: 0; height: 8px; border-left: 2px solid var(--bad); }

.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
  gap: 18px; margin-top: 12px; }
.panels figure { margin: 0; break-inside: avoid; }
.panels figcaption { font-size: 13px; color: var(--soft); margin-bottom: 4px; }
.panels label { cursor: zoom-in; display: block; }
.panels input { position: absolute; opacity: 0; }
.panels img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--rule); }
.panels input:focus-visible + img { outline: 2px solid var(--a); outline-offset: 2px; }
.panels input:checked + img { position: fixed; inset: 0; z-index: 9; width: 100vw; height: 100vh;
  object-fit: contain; background: rgb(0 0 0 / .88); border: 0; border-radius: 0; cursor: zoom-out;
  padding: 16px; }

.quarantine { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr));
  margin-top: 10px; }
.quarantine figure { margin: 0; padding: 10px; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; font-size: 12.5px;
  overflow-wrap: anywhere; break-inside: avoid;
  display: flex; gap: 12px; align-items: flex-start; }
.quarantine img, .quarantine .blank { flex: 0 0 88px; width: 88px; height: 88px;
  object-fit: contain; border-radius: 4px; background: var(--rule); }
.quarantine .blank { display: grid; place-items: center; color: var(--soft); font-size: 11px;
  text-align: center; }
.quarantine figcaption b { display: block; }
.quarantine figcaption span { display: block; color: var(--soft); }
.runs .key { width: 18px; border-top-width: 3px; }
pre { margin: 4px 0 0; padding: 8px 12px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.starts { list-style: none; margin: 8px 0 0; padding: 0; }
.starts li { margin-bottom: 12px; font-size: 13px; color: var(--soft); }
.starts pre { color: var(--ink); }

.panels.one { grid-template-columns: minmax(0, 640px); }

.wide { overflow-x: auto; margin-top: 8px; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap; }
th, td { padding: 5px 20px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 90px; }
td.tight { white-space: nowrap; overflow-wrap: normal; }
table.narrow { width: auto; }
.narrow td { min-width: 0; }
th.number, td.number { text-align: right; white-space: nowrap; }
code { font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--soft); }
footer { margin-top: 48px; font-size: 12.5px; color: var(--soft); }

@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 23px; }
  .findings li { grid-template-columns: 76px minmax(0, 1fr); }
  .findings p { grid-column: 2; }
  .chart { padding: 12px 12px 30px; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #555; --rule: #ccc; --a: #2563b8;
    --b: #c2570c; --c: #7a4fb5; --d: #0e7c74; --e: #b03070; --f: #6b7d12; --g: #0d89b5;
    --h: #8a5a3c; --base: #777;
    --warm: #f3efe4; --good: #1d7a46;
    --watch: #8a5800; --bad: #b01f25; color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  .findings li, tr { break-inside: avoid; }
}
"""


Markup = NewType("Markup", str)
"""text that is HTML; all other text is escaped by `text`"""


def tag(name: str, /, *content: Markup, **attributes: Any) -> Markup:
    """Element around `content`.

    Underscores in attribute names become dashes; one at the end is removed (`class_`).  True
    writes the name alone; None and False omit the attribute.
    """
    return Markup(f"<{name}{_attributes(attributes)}>{''.join(content)}</{name}>")


def void(name: str, /, **attributes: Any) -> Markup:
    """Element without content."""
    return Markup(f"<{name}{_attributes(attributes)}/>")


def text(value: Any) -> Markup:
    """Escape any value as text, without secrets and control characters."""
    return Markup(html.escape(shown(str(value)), quote=True))


def join(parts: Iterable[Markup]) -> Markup:
    """Concatenate markup."""
    return Markup("".join(parts))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Markup]], class_: str | None = None
) -> Markup:
    """Table of Markup cells under plain headings; scrolls sideways where it does not fit."""
    head = tag("tr", *(tag("th", text(name), scope="col") for name in heads))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", *body)), class_=f"wide {class_ or ''}"
    )


def _attributes(attributes: dict[str, Any]) -> str:
    written = ""
    for key, value in attributes.items():
        name = key.removesuffix("_").replace("_", "-")
        if value is True:
            written += f" {name}"
        elif value is not None and value is not False:
            # Pictures hold no text, and megabytes.
            is_picture = str(value).startswith("data:image/")
            written += f' {name}="{value if is_picture else text(value)}"'
    return written


def document(title: str, body: Markup, css: str = "", further_policy: str = "") -> str:
    """Whole page in the style of the report, with `css` appended.

    `further_policy`: directive besides those of POLICY, for a page with a script of its own.
    """
    policy = f"{POLICY}; {further_policy}" if further_policy else POLICY
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(title)),
        tag("style", Markup(CSS + css)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def script_source(script: str) -> str:
    """Source of a Content-Security-Policy that allows this one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def write_document(page: str, out: Path) -> None:
    """Write a page, whole or not at all.  Raises UserError where `out` cannot be written."""
    with new_file(out) as part:
        part.write_text(page, encoding="utf-8")
