// The image in focus: its values, duplicates and nearest neighbours.

function drawFocus() {
  const panel = byId("image");
  const row = state.focus;
  if (row === NONE) {
    panel.replaceChildren(
      paragraph("Click an image on the map to see it and its nearest neighbours.", "none"),
    );
    return;
  }
  const head = element("div", { class: "portrait" }, thumbnail(row), facts(row));
  panel.replaceChildren(head, ...sameImages(row), ...neighbourPart(row));
}

function facts(row) {
  const key = element("h2", {}, keys[row]);
  const copy = button("Copy key", () => copyText(keys[row], "Key copied"));
  const lines = columns.map((column) => [
    element("dt", {}, column.name),
    element("dd", {}, swatch(valueColour(column, row)), column.text(row)),
  ]);
  return element("div", {}, key, element("dl", {}, ...lines.flat()), copy);
}

function valueColour(column, row) {
  if (!column.isNumber || column.groups[row] < 0) return groupColour(column, column.groups[row]);
  return rampColour(column.share(row));
}

function sameImages(row) {
  if (!copies) return [];
  const root = copies[row] === NONE ? row : copies[row];
  const group = copyGroups.find((one) => one[0] === root);
  if (!group) return [];
  const others = group.filter((other) => other !== row);
  return [
    element("h3", {}, `${counted(others.length, "duplicate")} of it`),
    ...gallery(others, tail),
  ];
}

function neighbourPart(row) {
  const near = neighboursOf(row);
  if (!near.length) {
    const why = about.neighbours.count
      ? "This image has none."
      : "The file has neither neighbours nor vectors.";
    return [element("h3", {}, "Nearest neighbours"), paragraph(why, "none")];
  }
  const distance = new Map(near.map((one) => [one.row, one.distance]));
  const caption = (other) => {
    const value = distance.get(other);
    return Number.isNaN(value) ? "" : String(Number(value.toPrecision(3)));
  };
  const rows = near.map((one) => one.row);
  return [element("h3", {}, "Nearest neighbours"), agreement(row, rows), ...gallery(rows, caption)];
}

// How many neighbours are of the image's class.
function agreement(row, near) {
  const column = columns.find(
    (one) => !one.isNumber && one.name !== "cluster" && one.groups[row] >= 0,
  );
  const source = `By ${about.neighbours.source}, nearest first.`;
  if (!column) return paragraph(source, "small");
  const same = near.filter((other) => column.groups[other] === column.groups[row]).length;
  return paragraph(`${same} of ${near.length} have the same ${column.name}. ${source}`, "small");
}
