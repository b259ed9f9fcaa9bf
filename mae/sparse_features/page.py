"""HTML page of latents: a table that sorts, filters and pages in the browser, from data in it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mae.pictures.html import Markup, document, join, script_source, table, tag, text

CSS = """
.totals td { white-space: nowrap; }
.totals td:first-child { min-width: 15em; white-space: normal; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin: 12px 0;
  font-size: 13.5px; position: sticky; top: 0; background: var(--page); padding: 8px 0;
  z-index: 2; }
.controls select, .controls input, .controls button { font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 4px 8px; }
.controls button { cursor: pointer; } .controls button:disabled { opacity: .4; cursor: default; }
.controls input[type=search] { width: 11em; }
.controls .count { color: var(--soft); }
.latent { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 6px 18px;
  padding: 12px 0; border-bottom: 1px solid var(--rule); }
.latent h3 { margin: 0 0 2px; font-size: 15px; }
.latent dl { display: grid; grid-template-columns: auto auto; gap: 0 10px; margin: 0;
  font-size: 12.5px; justify-content: start; }
.latent dt { color: var(--soft); } .latent dd { margin: 0; text-align: right; }
.latent dd.wide { text-align: left; }
.latent .strip { overflow-x: auto; }
.latent img { display: block; max-width: none; border-radius: 4px; }
.mark { display: inline-block; font-size: 11.5px; font-weight: 600; border-radius: 9px;
  padding: 0 8px; margin-left: 6px; background: var(--warm); color: var(--watch);
  vertical-align: 2px; }
.mark.dead { color: var(--bad); }
.notes li { margin: 2px 0; }
@media (max-width: 640px) { .latent { grid-template-columns: minmax(0, 1fr); } }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 25, $ = id => document.getElementById(id);
const percent = x => x == null ? "–" : (100 * x).toFixed(x < .1 ? 2 : 1) + " %";
const marks = {dead: "dead", place: "by place", common: "almost anywhere"};
let page = 0, shown = [];
const words = row => ["latent " + row.latent, row.class == null ? "" : data.classes[row.class]];
function matches(row, query) {
  if (!query) return true;
  if (/^\\d+$/.test(query)) return row.latent === Number(query);
  return words(row).some(word => word.toLowerCase().includes(query));
}
function add(parent, name, content, className) {
  const one = document.createElement(name);
  if (content != null) one.textContent = content;
  if (className) one.className = className;
  parent.appendChild(one);
  return one;
}
function card(row) {
  const box = document.createElement("article");
  box.className = "latent";
  const left = add(box, "div"), head = add(left, "h3", "latent " + row.latent);
  if (row.kind) {
    head.append(" ");
    add(head, "span", marks[row.kind], "mark " + row.kind);
  }
  const list = add(left, "dl");
  const line = (name, value) => { add(list, "dt", name); add(list, "dd", value); };
  line("patches", percent(row.patches));
  line("images", percent(row.images));
  line("mean size", row.mean.toPrecision(3));
  line("by place", percent(row.place));
  if (row.auroc != null && row.kind !== "dead") {
    line("class", data.classes[row.class]);
    line("AUROC", row.auroc.toFixed(3));
    line("of that class", percent(row.precision));
  }
  const strip = add(box, "div", null, "strip"), picture = data.pictures[row.latent];
  if (picture) {
    const image = add(strip, "img");
    image.src = picture;
    image.alt = "where latent " + row.latent + " fires on average, and its largest images";
  } else if (row.kind !== "dead") {
    add(strip, "small", "no picture; largest in " + row.top.slice(0, 3).join(", "));
  }
  return box;
}
function draw() {
  const list = $("list");
  list.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(card));
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  $("count").textContent = shown.length.toLocaleString("en") + " latents, page " + (page + 1) +
    " of " + pages;
  $("back").disabled = page === 0;
  $("on").disabled = page + 1 >= pages;
}
function choose() {
  const key = $("sort").value, kind = $("kind").value;
  const query = $("query").value.trim().toLowerCase();
  shown = data.rows.filter(row => (kind === "all" || (kind === "usual" ? row.kind === "" :
    kind === "pictured" ? data.pictures[row.latent] : row.kind === kind)) && matches(row, query));
  const sign = key === "latent" || key === "rare" ? 1 : -1, name = key === "rare" ? "patches" : key;
  shown.sort((a, b) => sign * ((a[name] ?? -1) - (b[name] ?? -1)) || a.latent - b.latent);
  page = 0;
  draw();
}
for (const id of ["sort", "kind"]) $(id).addEventListener("change", choose);
$("query").addEventListener("input", choose);
$("back").addEventListener("click", () => { page -= 1; draw(); });
$("on").addEventListener("click", () => {
  page += 1;
  draw();
  scrollTo(0, $("list").offsetTop - 60);
});
choose();
"""

SORTS = {
    "auroc": "class selectivity",
    "patches": "frequency",
    "rare": "rarest first",
    "mean": "mean size",
    "place": "explained by place",
    "latent": "number",
}
KINDS = {
    "usual": "without marks",
    "all": "all",
    "pictured": "with pictures",
    "place": "by place",
    "common": "almost anywhere",
    "dead": "dead",
}


class Contents(NamedTuple):
    """Contents of the page."""

    title: str
    lead: str
    rows: Sequence[Mapping[str, Any]]
    """of all latents; `top`: names of their largest images"""
    pictures: Mapping[int, str]
    classes: Sequence[str]
    figures: Mapping[str, Any]
    untrained: Mapping[str, Any] | None
    """figures of a run on the untrained encoder"""
    notes: Sequence[str]


def latents_page(contents: Contents) -> str:
    """The page; its only script is named by its checksum in the page's policy."""
    rows = [{key: _short(value) for key, value in row.items()} for row in contents.rows]
    data = {
        "rows": rows,
        "pictures": {str(latent): picture for latent, picture in contents.pictures.items()},
        "classes": list(contents.classes),
    }
    # In a script element < may begin a tag, whatever string it is in.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    has_classes = bool(contents.classes)
    sorts = {key: name for key, name in SORTS.items() if has_classes or key != "auroc"}
    body = tag(
        "main",
        tag("h1", text(contents.title)),
        tag("p", text(contents.lead), class_="lead"),
        _totals(contents),
        tag("ul", *(tag("li", text(note)) for note in contents.notes), class_="notes"),
        tag("h2", text("Latents")),
        tag(
            "p",
            text(
                "A row has the places at which the latent fires on average, then the images in "
                "which it is largest and, below, where in them it fires (light: most). By place: "
                "share of its variance that the patch's place alone explains; above 50 % it fires "
                "by place, not by content."
                + " AUROC: of its maximum in an image, for its best class against all others."
                * has_classes
            ),
        ),
        tag(
            "div",
            _labelled("sort by", _select("sort", sorts)),
            _labelled("show", _select("kind", KINDS)),
            tag(
                "input", id="query", type="search", placeholder="class or number", aria_label="find"
            ),
            tag("button", text("‹ back"), id="back", type="button"),
            tag("button", text("next ›"), id="on", type="button"),
            tag("span", id="count", class_="count", role="status"),
            class_="controls",
        ),
        tag("div", id="list"),
        tag("noscript", text("The table needs JavaScript; the JSON file has all figures.")),
    )
    scripts = join(
        [
            tag("script", Markup(embedded), id="data", type="application/json"),
            tag("script", Markup(SCRIPT)),
        ]
    )
    policy = f"script-src {script_source(SCRIPT)}"
    return document(contents.title, join([body, scripts]), CSS, policy)


def _short(value: Any) -> Any:
    """Numbers with as many digits as are shown."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _select(name: str, options: Mapping[str, str]) -> Markup:
    return tag(
        "select",
        *(tag("option", text(words), value=key) for key, words in options.items()),
        id=name,
    )


def _labelled(words: str, control: Markup) -> Markup:
    return tag("label", text(f"{words} "), control)


def _totals(contents: Contents) -> Markup:
    """Table of the latents, PCA and the latents of the untrained encoder."""
    figures, other = contents.figures, contents.untrained
    heads = ["", "explained variance", "active per patch", "dead", "by place"]
    if "selectivity" in figures:
        heads += ["best AUROC of a class", "labels drawn at random"]

    def cells(name: str, shown: Sequence[str], own: Any, key: str) -> list[Markup]:
        """Row of the table; `key`: the figure of selectivity, if there is one."""
        best = [f"{own[one]:.3f}" for one in (key, f"{key}_drawn")] if own and key else ["–"] * 2
        return [text(cell) for cell in (name, *shown, *best)[: len(heads)]]

    def rows_of(one: Mapping[str, Any], names: Sequence[str]) -> list[list[Markup]]:
        own, active = one.get("selectivity"), f"{one['active_latents']:.1f}"
        dead = f"{one['dead']:,} ({one['dead'] / one['latents']:.0%})"
        all_latents = f"{active} of {one['latents']:,}", dead, f"{one['by_place']:,}"
        rows = [cells(names[0], [f"{one['explained']:.1%}", *all_latents], own, "all_latents")]
        if own:
            few = f"{own['compared']:,} of them, as many as PCA has directions"
            rows.append(cells(few, ["–"] * 4, own, "latents"))
        for name, key, which in (
            (names[1], "explained_pca", "pca"),
            (names[2], "explained_topk_pca", ""),
        ):
            rows.append(cells(name, [f"{one[key]:.1%}", active, "–", "–"], own, which))
        return rows

    rows = rows_of(
        figures, ("latents", "PCA, as many numbers", "top-k PCA, as many numbers of each patch")
    )
    if other:
        rows += rows_of(other, ("untrained encoder: latents", "its PCA", "its top-k PCA"))
    return table(heads, rows, "totals")
