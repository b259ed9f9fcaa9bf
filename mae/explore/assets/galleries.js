// Galleries of duplicates and of outliers.

const copyGroups = copies ? groupCopies() : [];

// Rows of each group of equal images, the first image first; groups of several classes first.
function groupCopies() {
  const groups = new Map();
  for (let row = 0; row < count; row++) {
    const root = copies[row];
    if (root === NONE) continue;
    if (!groups.has(root)) groups.set(root, [root]);
    groups.get(root).push(row);
  }
  return [...groups.values()].sort(
    (a, b) => isMixed(b) - isMixed(a) || b.length - a.length || a[0] - b[0],
  );
}

function isMixed(rows) {
  const column = columns[0];
  if (!column || column.isNumber || column.name === "cluster") return false;
  return new Set(rows.map((row) => column.groups[row]).filter((group) => group >= 0)).size > 1;
}

function drawCopies() {
  byId("tab-copies").hidden = !copies;
  const rows = copyGroups.flatMap((group) => group.slice(1)).sort((a, b) => a - b);
  if (!rows.length) {
    byId("copies").replaceChildren(paragraph("No duplicates were found.", "none"));
    return;
  }
  const several = copyGroups.filter(isMixed).length;
  const warning = several ? ` ${counted(several, "group")} of several classes come first.` : "";
  const parts = [
    element("h2", {}, `${counted(copyGroups.length, "group")} of equal images`),
    paragraph(
      `${counted(rows.length, "image")} besides the first of each group.${warning}`,
      "small",
    ),
    buttonRow(button("Select all but the first of each group", () => select(rows))),
  ];
  byId("copies").replaceChildren(...parts, ...pagedGroups());
}

const GROUPS = 20; // groups that are shown at a time

function pagedGroups() {
  const list = element("div");
  const more = button("Show more groups", () => extend(), { class: "more" });
  let shown = 0;
  const extend = () => {
    for (const group of copyGroups.slice(shown, shown + GROUPS)) {
      const class_ = isMixed(group) ? "together mixed" : "together";
      const caption = (row) => (isMixed(group) ? columns[0].text(row) : tail(row));
      list.append(element("div", { class: class_ }, ...gallery(group, caption)));
    }
    shown += GROUPS;
    more.hidden = shown >= copyGroups.length;
  };
  extend();
  return [list, more];
}

const MOST_OUTLIERS = 200;

function drawOutliers() {
  byId("tab-outliers").hidden = about.outlier === null;
  if (about.outlier === null) return;
  const column = columns[about.outlier];
  const rows = Array.from({ length: count }, (_, row) => row).filter(
    (row) => column.groups[row] >= 0,
  );
  rows.sort((a, b) => column.values[b] - column.values[a] || a - b);
  const shown = rows.slice(0, MOST_OUTLIERS);
  byId("outliers").replaceChildren(
    element("h2", {}, "Farthest from all others"),
    paragraph(`${counted(shown.length, "image")}, the largest ${column.name} first.`, "small"),
    buttonRow(button("Select these images", () => select([...shown].sort((a, b) => a - b)))),
    ...gallery(shown, column.text),
  );
}
