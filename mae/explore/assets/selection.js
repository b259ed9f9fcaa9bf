// Selected images: their keys to copy or keep, their classes, a gallery.

function drawSelection() {
  const rows = state.selection;
  byId("tab-selection").textContent = rows.length
    ? `Selection ${rows.length.toLocaleString("en")}`
    : "Selection";
  const visible = button("Select what is on the screen", selectVisible);
  if (!rows.length) {
    byId("selection").replaceChildren(
      paragraph(
        "Draw around images with the lasso (L, or Shift and drag) to list their keys.",
        "none",
      ),
      buttonRow(visible),
    );
    return;
  }
  const list = () => rows.map((row) => keys[row]).join("\n") + "\n";
  const buttons = buttonRow(
    button("Copy keys", () => copyText(list(), `${counted(rows.length, "key")} copied`), {
      class: "strong",
    }),
    button("Download keys", () => download(list()), { id: "download" }),
    button("Clear", () => select([], false)),
  );
  byId("selection").replaceChildren(
    element("h2", {}, counted(rows.length, "image")),
    buttons,
    ...selectionCounts(rows),
    ...gallery(rows, tail),
  );
}

function selectVisible() {
  select(markedRows().filter((row) => isOnScreen(row)));
}

// Counts of the selected images by the column of the colours; "of all" compares with the whole set.
function selectionCounts(rows) {
  const column = colourColumn();
  if (!column) return [];
  const chosen = rows.map((row) => column.groups[row]);
  const counts = countsOf(chosen, column.names.length);
  const groups = groupsOf(column, counts).filter((group) => group.count);
  for (const group of groups) group.share = percent(group.count / column.counts[group.number]);
  const heads = [
    [column.name, null],
    ["selected", "number"],
    ["of all", "number"],
  ];
  return [countsTable(groups, rows.length, heads, null)];
}

async function copyText(text, done) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  say(done);
  notify(done);
}

// Where browsers give pages from disk no clipboard.
function copyBySelection(text) {
  const area = element("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

let noticeTimer = 0;

function notify(words) {
  document.querySelector(".notice")?.remove();
  const made = element("div", { class: "notice", "aria-hidden": "true" }, words);
  document.body.append(made);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => made.remove(), 1800);
}

function download(text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = element("a", {
    href: address,
    download: `${about.title.replace(/[^\w.-]+/g, "-")}-keys.txt`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
