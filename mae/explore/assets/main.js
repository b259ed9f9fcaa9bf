// Start: fill the page, fit the map to its place, listen.

function fillHead() {
  const labels = columns.find(({ name }) => name === "class" || name === "label");
  const parts = [counted(count, "image")];
  if (labels?.names) parts.push(`${labels.names.length.toLocaleString("en")} classes`);
  const further = copyGroups.flat().length - copyGroups.length;
  if (further) parts.push(counted(further, "duplicate"));
  byId("summary").textContent = parts.join(" · ");
  const options = columns.map((column, number) =>
    element("option", { value: number }, column.name),
  );
  byId("colour").append(...options);
  byId("colour").closest("label").hidden = !columns.length;
}

function resize() {
  const box = byId("map").getBoundingClientRect();
  const isFirst = view.width === 1;
  const factor = zoomFactor();
  [view.width, view.height] = [Math.max(1, box.width), Math.max(1, box.height)];
  view.ratio = Math.min(2, window.devicePixelRatio || 1);
  for (const canvas of [dotsCanvas, overlayCanvas]) {
    canvas.width = Math.round(view.width * view.ratio);
    canvas.height = Math.round(view.height * view.ratio);
  }
  resizeDots();
  view.scale = fitScale() * (isFirst ? 1 : factor); // the same part of the map as before
  drawDots();
  drawOverlay();
}

function listenToTools() {
  byId("colour").addEventListener("change", (event) => setColumn(Number(event.target.value)));
  byId("lasso").addEventListener("click", toggleLasso);
  byId("pictures").addEventListener("click", togglePictures);
  byId("in").addEventListener("click", () => zoomBy(1.6));
  byId("out").addEventListener("click", () => zoomBy(1 / 1.6));
  byId("fit").addEventListener("click", fit);
  dark.addEventListener("change", () => setColumn(state.column));
}

function start() {
  fillHead();
  showTabs();
  openTab("legend");
  colourDots(colourColumn());
  drawLegend();
  drawFocus();
  drawSelection();
  drawCopies();
  drawOutliers();
  drawAbout();
  drawCaution();
  resize();
  new ResizeObserver(resize).observe(byId("map"));
  listenToTools();
  listenToPointer();
  listenToKeyboard();
  listenToSearch();
  document.documentElement.dataset.ready = "true";
}

start();

// For the console, and for tests: where an image is on the screen, and what is chosen.
window.explore = {
  state,
  view,
  keys,
  about,
  at: (row) => [screenX(row), screenY(row)],
  pictures: () => drawnPictures,
  focusOn,
  flyTo: (row, factor) => flyTo(mapX[row], mapY[row], fitScale() * factor),
};
