// What is drawn over the points: pictures, the image in focus, the lasso.

const overlayCanvas = document.getElementById("overlay");
const overlayContext = overlayCanvas.getContext("2d");
const PICTURE = { least: 30, most: 96, gap: 3 }; // pixels
let drawnPictures = []; // {row, x, y, side} of those on the screen

function drawOverlay() {
  overlayContext.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  overlayContext.clearRect(0, 0, view.width, view.height);
  const isOn = showsPictures();
  byId("pictures").setAttribute("aria-pressed", isOn);
  drawnPictures = isOn ? placePictures() : [];
  drawLines();
  drawPictures();
  drawRings();
  if (isKeyboardUsed()) drawCross();
  drawLasso();
}

function pictureSide() {
  const side = PICTURE.least * Math.max(1, zoomFactor()) ** 0.4;
  return Math.round(Math.min(PICTURE.most, Math.max(view.width < 500 ? 24 : PICTURE.least, side)));
}

// Pictures that do not overlap: the first in their order take their places.  A square of the
// screen holds one at most, so only the squares around are looked at.
function placePictures() {
  const side = pictureSide();
  const pitch = side + PICTURE.gap;
  const across = Math.ceil(view.width / pitch) + 4;
  const down = Math.ceil(view.height / pitch) + 4;
  const taken = new Int32Array(across * down).fill(NONE);
  const found = [];
  const { marked } = state;
  for (const row of pictureOrder()) {
    if ((marked && !marked[row]) || !hasThumbnail(row)) continue;
    const [x, y] = [screenX(row), screenY(row)];
    if (x < -pitch || y < -pitch || x > view.width + pitch || y > view.height + pitch) continue;
    const square = (Math.floor(y / pitch) + 2) * across + Math.floor(x / pitch) + 2;
    if (isTaken(taken, found, square, across, x, y, pitch)) continue;
    taken[square] = found.length;
    found.push({ row, x, y, side });
  }
  return found;
}

// The image in focus and its neighbours first.
function* pictureOrder() {
  if (state.focus !== NONE) {
    yield state.focus;
    for (const { row } of neighboursOf(state.focus)) yield row;
  }
  yield* drawing.order;
}

function isTaken(taken, found, square, across, x, y, pitch) {
  for (let dy = -across; dy <= across; dy += across) {
    for (let dx = -1; dx <= 1; dx++) {
      const other = taken[square + dy + dx];
      if (other === undefined || other === NONE) continue;
      const isNear = Math.abs(found[other].x - x) < pitch && Math.abs(found[other].y - y) < pitch;
      if (isNear) return true;
    }
  }
  return false;
}

function drawPictures() {
  const column = colourColumn();
  for (const { row, x, y, side } of drawnPictures) {
    const [left, top] = [x - side / 2, y - side / 2];
    const colour = column ? rowColour(row) : styleColour("--a");
    overlayContext.fillStyle = css(colour);
    overlayContext.beginPath();
    frame({ row, x, y, side }, 2);
    overlayContext.fill();
    drawThumbnail(overlayContext, row, left, top, side, redrawOverlay);
  }
}

// Colour of a row, out of the pixel that the points have.
function rowColour(row) {
  const value = drawing.colours[row];
  return [value & 255, (value >>> 8) & 255, (value >>> 16) & 255];
}

// From the image in focus to its neighbours.
function drawLines() {
  if (state.focus === NONE) return;
  const [x, y] = [screenX(state.focus), screenY(state.focus)];
  overlayContext.strokeStyle = css(styleColour("--ink"));
  overlayContext.lineWidth = 1;
  overlayContext.globalAlpha = 0.55;
  overlayContext.beginPath();
  for (const { row } of neighboursOf(state.focus)) {
    overlayContext.moveTo(x, y);
    overlayContext.lineTo(screenX(row), screenY(row));
  }
  overlayContext.stroke();
  overlayContext.globalAlpha = 1;
}

function drawRings() {
  if (state.focus !== NONE) {
    for (const { row } of neighboursOf(state.focus)) drawRing(row, 5, 1.5);
    drawRing(state.focus, 9, 2.5);
  }
  if (state.hover !== NONE && state.hover !== state.focus) drawRing(state.hover, 7, 1.5);
}

// Ring around a point, or frame around its picture.
function drawRing(row, radius, width) {
  const picture = drawnPictures.find((one) => one.row === row);
  for (const [colour, thick] of [
    ["--card", width + 2.5],
    ["--ink", width],
  ]) {
    overlayContext.strokeStyle = css(styleColour(colour));
    overlayContext.lineWidth = thick;
    overlayContext.beginPath();
    if (picture) frame(picture, 2 + width);
    else
      overlayContext.arc(screenX(row), screenY(row), radius + Math.max(0, dotRadius() - 3), 0, 7);
    overlayContext.stroke();
  }
}

// Rectangle around a picture, `edge` pixels outside of it.
function frame({ row, x, y, side }, edge) {
  const [width, height] = [sizes[2 * row], sizes[2 * row + 1]];
  const factor = side / Math.max(width, height);
  const [w, h] = [width * factor + 2 * edge, height * factor + 2 * edge];
  overlayContext.roundRect(x - w / 2, y - h / 2, w, h, 2 + edge);
}

function drawCross() {
  const [x, y] = [view.width / 2, view.height / 2];
  overlayContext.strokeStyle = css(styleColour("--ink"));
  overlayContext.lineWidth = 1;
  overlayContext.beginPath();
  for (const [dx, dy] of [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ]) {
    overlayContext.moveTo(x + 4 * dx, y + 4 * dy);
    overlayContext.lineTo(x + 12 * dx, y + 12 * dy);
  }
  overlayContext.stroke();
}

function drawLasso() {
  if (!state.lasso.length) return;
  overlayContext.beginPath();
  for (const [x, y] of state.lasso) overlayContext.lineTo(x, y);
  overlayContext.closePath();
  overlayContext.fillStyle = css(styleColour("--a"));
  overlayContext.globalAlpha = 0.12;
  overlayContext.fill();
  overlayContext.globalAlpha = 1;
  overlayContext.strokeStyle = overlayContext.fillStyle;
  overlayContext.lineWidth = 1.5;
  overlayContext.setLineDash([5, 4]);
  overlayContext.stroke();
  overlayContext.setLineDash([]);
}

// Image under a point of the screen: its picture, or the nearest point within `reach` pixels.
function imageAt(x, y, reach) {
  const isUnder = (one) =>
    Math.abs(one.x - x) <= one.side / 2 && Math.abs(one.y - y) <= one.side / 2;
  const picture = drawnPictures.find(isUnder);
  return picture ? picture.row : nearestAt(x, y, Math.max(reach, dotRadius() + 2));
}
