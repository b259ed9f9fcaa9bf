// Pieces of the page: elements, thumbnails, galleries, tables.  Texts never become markup.

function byId(id) {
  return document.getElementById(id);
}

function element(name, properties = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...content);
  return made;
}

function button(words, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, words);
}

function buttonRow(...buttons) {
  return element("p", { class: "buttons" }, ...buttons);
}

// Thumbnail as a canvas of its own pixels, drawn when it comes near the screen.
function thumbnail(row) {
  const label = `thumbnail of ${keys[row]}`;
  const canvas = element("canvas", { class: "thumbnail", role: "img", "aria-label": label });
  if (!hasThumbnail(row)) {
    canvas.classList.add("lacking");
    canvas.setAttribute("aria-label", `no thumbnail of ${keys[row]}`);
    return canvas;
  }
  const [width, height] = [sizes[2 * row], sizes[2 * row + 1]];
  [canvas.width, canvas.height] = [Math.max(width, height), Math.max(width, height)];
  canvas.row = row;
  if (canvas.width < 48) canvas.classList.add("small");
  nearby.observe(canvas);
  return canvas;
}

const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      paint(target);
    }
  },
  { rootMargin: "300px" },
);

function paint(canvas) {
  drawThumbnail(canvas.getContext("2d"), canvas.row, 0, 0, canvas.width, () => paint(canvas));
}

// Button with a thumbnail and a caption; it shows the image.
function imageButton(row, caption) {
  const open = () => {
    focusOn(row);
    showOnMap(row);
  };
  const made = button(thumbnail(row), open, { class: "picture", title: keys[row] });
  made.append(element("span", {}, caption));
  made.addEventListener("pointerenter", () => setHover(row));
  made.addEventListener("pointerleave", () => setHover(NONE));
  return made;
}

const PAGE = 60; // pictures that a gallery shows at a time

// Gallery of `rows`, more of them on demand; `captionOf(row)` is a text.
function gallery(rows, captionOf) {
  const made = element("div", { class: "gallery" });
  const more = button("", () => extend(), { class: "more" });
  let shown = 0;
  const extend = () => {
    const next = rows.slice(shown, shown + PAGE);
    made.append(...next.map((row) => imageButton(row, captionOf(row))));
    shown += next.length;
    more.textContent = `Show more (${(rows.length - shown).toLocaleString("en")})`;
    more.hidden = shown >= rows.length;
  };
  extend();
  return [made, more];
}

// End of a key, in which keys differ, for a narrow caption.
function tail(row) {
  const letters = [...keys[row]];
  return letters.length > 10 ? `…${letters.slice(-9).join("")}` : keys[row];
}

function swatch(colour) {
  const made = element("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = css(colour);
  return made;
}

function paragraph(words, class_ = null) {
  return element("p", { class: class_ }, words);
}

function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

// Table with a row for each group: [colour, name, number of images].
function countsTable(groups, total, heads, choose) {
  const most = Math.max(1, ...groups.map((group) => group.count));
  const rows = groups.map((group) => countsRow(group, total, most, choose));
  const cell = ([words, class_]) => element("th", { scope: "col", class: class_ }, words);
  const head = element("tr", {}, ...heads.map(cell));
  return element(
    "table",
    { class: "counts" },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
}

function countsRow(group, total, most, choose) {
  const bar = element("i", { class: "share", "aria-hidden": "true" });
  bar.style.width = `${(100 * group.count) / most}%`;
  bar.style.background = css(group.colour);
  const words = [swatch(group.colour), element("span", {}, group.name)];
  const isChosen = state.groups.has(group.number);
  const name = element(choose ? "button" : "span", { class: "group" }, ...words);
  if (choose) {
    name.type = "button";
    name.setAttribute("aria-pressed", isChosen);
    name.addEventListener("click", () => choose(group.number));
  }
  return element(
    "tr",
    { class: choose && state.groups.size && !isChosen ? "off" : null },
    element("th", { scope: "row" }, name, bar),
    element("td", { class: "number" }, group.count.toLocaleString("en")),
    element("td", { class: "number" }, group.share ?? percent(group.count / total)),
  );
}

// Groups of a column with rows, those without a value last.
function groupsOf(column, counts) {
  const names = [...column.names, column.isNumber ? "no number" : "none"];
  return names
    .map((name, number) => ({
      number,
      name,
      count: counts[number],
      colour: groupColour(column, number),
    }))
    .filter((group) => column.counts[group.number] > 0);
}
