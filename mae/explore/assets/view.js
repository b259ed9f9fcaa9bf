// View of the map: which part of it is where on the screen.  Map and screen have y downwards.

const mapX = new Float64Array(count);
const mapY = new Float64Array(count); // centred, the longer side is 1

function placeImages() {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let row = 0; row < count; row++) {
    const [x, y] = [places[2 * row], places[2 * row + 1]];
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  const span = Math.max(right - left, bottom - top) || 1;
  for (let row = 0; row < count; row++) {
    mapX[row] = (places[2 * row] - (left + right) / 2) / span;
    mapY[row] = -(places[2 * row + 1] - (top + bottom) / 2) / span;
  }
  return { width: (right - left) / span, height: (bottom - top) / span };
}

const extent = placeImages();
const view = { x: 0, y: 0, scale: 1, width: 1, height: 1, ratio: 1 };
const MARGIN = 28; // pixels around the whole map
const DEEPEST = 4000; // how many times the whole map may be enlarged

function fitScale() {
  const width = Math.max(10, view.width - 2 * MARGIN) / (extent.width || 1e-9);
  const height = Math.max(10, view.height - 2 * MARGIN) / (extent.height || 1e-9);
  return Math.min(width, height, 1e6);
}

function zoomFactor() {
  return view.scale / fitScale();
}

function screenX(row) {
  return (mapX[row] - view.x) * view.scale + view.width / 2;
}

function screenY(row) {
  return (mapY[row] - view.y) * view.scale + view.height / 2;
}

function mapAt(x, y) {
  return [(x - view.width / 2) / view.scale + view.x, (y - view.height / 2) / view.scale + view.y];
}

function isOnScreen(row, margin = 0) {
  const [x, y] = [screenX(row), screenY(row)];
  return x >= -margin && y >= -margin && x <= view.width + margin && y <= view.height + margin;
}

function bounded(scale) {
  return Math.min(fitScale() * DEEPEST, Math.max(fitScale() * 0.5, scale));
}

function pan(dx, dy) {
  const half = 0.5 + view.width / view.scale / 4;
  view.x = Math.min(half, Math.max(-half, view.x - dx / view.scale));
  view.y = Math.min(half, Math.max(-half, view.y - dy / view.scale));
  redraw();
}

// Zoom so that the place under a point of the screen stays there.
function zoomAt(x, y, factor) {
  const [fixedX, fixedY] = mapAt(x, y);
  view.scale = bounded(view.scale * factor);
  view.x = fixedX - (x - view.width / 2) / view.scale;
  view.y = fixedY - (y - view.height / 2) / view.scale;
  redraw();
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const DURATION = 220; // milliseconds
let flight = 0;

// Move the view there, visibly unless a person asks for less motion.
function flyTo(x, y, scale) {
  const from = { ...view };
  const start = performance.now();
  const own = ++flight;
  const step = (now) => {
    if (own !== flight) return;
    const share = still.matches ? 1 : Math.min(1, Math.max(0, now - start) / DURATION);
    const eased = 1 - (1 - share) ** 3;
    view.scale = from.scale * (scale / from.scale) ** eased;
    view.x = from.x + (x - from.x) * eased;
    view.y = from.y + (y - from.y) * eased;
    redraw();
    if (share < 1) requestAnimationFrame(step);
  };
  step(start + (still.matches ? DURATION : 0));
}

function fit() {
  flyTo(0, 0, fitScale());
}

function zoomBy(factor) {
  flyTo(view.x, view.y, bounded(view.scale * factor));
}

function showOnMap(row) {
  if (!isOnScreen(row, -20)) flyTo(mapX[row], mapY[row], view.scale);
}

// Draw again in the next frame, once however often it is asked for.
const due = { isAsked: false, withDots: false };

function redraw(withDots = true) {
  due.withDots ||= withDots;
  if (due.isAsked) return;
  due.isAsked = true;
  requestAnimationFrame(() => {
    if (due.withDots) drawDots();
    due.isAsked = due.withDots = false;
    drawOverlay();
  });
}

// What lies over the points has changed, they have not.
function redrawOverlay() {
  redraw(false);
}
