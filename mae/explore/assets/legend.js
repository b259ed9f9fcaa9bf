// Legend: the groups of the column that colours the map, with their counts.

function drawLegend() {
  const column = colourColumn();
  const panel = byId("legend");
  if (!column) {
    panel.replaceChildren(paragraph("The file has no column to colour by.", "none"));
    return;
  }
  const groups = groupsOf(column, column.counts);
  const heads = [
    [column.name, null],
    ["images", "number"],
    ["share", "number"],
  ];
  const parts = [countsTable(groups, count, heads, toggleGroup), legendButtons()];
  if (column.isNumber) parts.unshift(scaleBar(column));
  if (column.about) parts.push(paragraph(sentence(column.about), "small"));
  const rowButtons = () => [...panel.querySelectorAll("button.group")];
  const focused = rowButtons().indexOf(document.activeElement);
  panel.replaceChildren(...parts);
  rowButtons()[focused]?.focus(); // a row that was chosen by the keyboard keeps the focus
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}

function legendButtons() {
  if (!state.groups.size) return paragraph("Click a row to show its images alone.", "small");
  return buttonRow(
    button("Show all", clearGroups),
    button("Select these images", () => select(markedRows())),
  );
}

function scaleBar(column) {
  const stops = Array.from({ length: 17 }, (_, stop) => css(rampColour(stop / 16)));
  const bar = element("i", { "aria-hidden": "true" });
  bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  const ends = element(
    "span",
    {},
    element("b", {}, short(column.low)),
    element("b", {}, short(column.high)),
  );
  return element("div", { class: "scale" }, bar, ends);
}
