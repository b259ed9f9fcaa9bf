// What a person has chosen, and the steps that change it.

const state = {
  column: columns.length ? 0 : NONE, // colour of the points
  hover: NONE, // image under the pointer
  focus: NONE, // image that is shown with its neighbours
  groups: new Set(), // rows of the legend that are marked
  selection: [], // rows, ascending
  matches: null, // rows found by their key, while a person searches
  marked: null, // 1 for rows to show, 0 for those that are faded; null: all are shown
  tool: "pan",
  pictures: "auto",
  lasso: [],
};

function colourColumn() {
  return columns[state.column];
}

function refreshEmphasis() {
  const { matches, groups, selection } = state;
  if (matches) state.marked = flags(matches);
  else if (groups.size) {
    const own = colourColumn();
    const last = own.names.length;
    state.marked = Uint8Array.from(own.groups, (group) =>
      groups.has(group < 0 ? last : group) ? 1 : 0,
    );
  } else state.marked = selection.length ? flags(selection) : null;
  redraw();
}

function flags(rows) {
  const found = new Uint8Array(count);
  for (const row of rows) found[row] = 1;
  return found;
}

function setColumn(number) {
  state.column = number;
  state.groups.clear();
  colourDots(colourColumn());
  refreshEmphasis();
  drawLegend();
  drawFocus();
}

function toggleGroup(group) {
  if (!state.groups.delete(group)) state.groups.add(group);
  refreshEmphasis();
  drawLegend();
}

function clearGroups() {
  state.groups.clear();
  refreshEmphasis();
  drawLegend();
}

function markedRows() {
  const found = [];
  for (let row = 0; row < count; row++) if (!state.marked || state.marked[row]) found.push(row);
  return found;
}

// Show an image and its neighbours; NONE: no image.
function focusOn(row, opens = true) {
  state.focus = row;
  drawFocus();
  redrawOverlay();
  if (row === NONE) return;
  if (opens) openTab("image");
  say(`${keys[row]}: ${describe(row)}`);
}

function select(rows, opens = true) {
  state.selection = rows;
  state.groups.clear();
  refreshEmphasis();
  drawLegend();
  drawSelection();
  if (opens) openTab("selection");
  say(`${counted(rows.length, "image")} selected`);
}

function setTool(tool) {
  state.tool = tool;
  state.lasso = [];
  byId("lasso").setAttribute("aria-pressed", tool === "lasso");
  byId("map").classList.toggle("drawing", tool === "lasso");
  redrawOverlay();
}

function toggleLasso() {
  setTool(state.tool === "lasso" ? "pan" : "lasso");
}

const FEW_VISIBLE = 400; // images on the screen up to which their pictures are shown unasked

function showsPictures() {
  if (state.pictures !== "auto") return state.pictures === "on";
  return view.visible <= FEW_VISIBLE;
}

function togglePictures() {
  state.pictures = showsPictures() ? "off" : "on";
  redrawOverlay();
}

// Escape: undo the latest choice.
function stepBack() {
  if (state.tool === "lasso") setTool("pan");
  else if (state.matches) closeSearch();
  else if (state.focus !== NONE) focusOn(NONE);
  else if (state.groups.size) clearGroups();
  else if (state.selection.length) select([], false);
}

// Class and colour of an image in words.
function describe(row) {
  const shown = columns[0] && !columns[0].isNumber ? [columns[0]] : [];
  const own = colourColumn();
  if (own && !shown.includes(own)) shown.push(own);
  return shown.map((column) => valueOf(column, row)).join(", ");
}

function valueOf(column, row) {
  const isPlain = column.name === "class";
  return isPlain ? column.text(row) : `${column.name} ${column.text(row)}`;
}

function say(text) {
  byId("said").textContent = text;
}
