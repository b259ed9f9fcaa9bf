// Grid over the map: the images near a place without a look at all of them.

const SIDE = Math.max(1, Math.min(256, Math.round(Math.sqrt(count) / 2)));
const grid = buildGrid();

function cellAt(value) {
  return Math.min(SIDE - 1, Math.max(0, Math.floor((value + 0.5) * SIDE)));
}

function buildGrid() {
  const starts = new Uint32Array(SIDE * SIDE + 1);
  const cellOf = (row) => cellAt(mapY[row]) * SIDE + cellAt(mapX[row]);
  for (let row = 0; row < count; row++) starts[cellOf(row) + 1]++;
  for (let cell = 0; cell < SIDE * SIDE; cell++) starts[cell + 1] += starts[cell];
  const rows = new Uint32Array(count);
  const next = starts.slice();
  for (let row = 0; row < count; row++) rows[next[cellOf(row)]++] = row;
  return { starts, rows };
}

// Call `use(row)` for the images of the cells that touch a rectangle of the screen.
function eachWithin(left, top, right, bottom, use) {
  const [x0, y0] = mapAt(left, top).map(cellAt);
  const [x1, y1] = mapAt(right, bottom).map(cellAt);
  for (let y = y0; y <= y1; y++) {
    const end = grid.starts[y * SIDE + x1 + 1];
    for (let at = grid.starts[y * SIDE + x0]; at < end; at++) use(grid.rows[at]);
  }
}

// Nearest image to a point of the screen within `reach` pixels, or NONE.
function nearestAt(x, y, reach) {
  const { marked } = state;
  let [best, least] = [NONE, reach * reach];
  eachWithin(x - reach, y - reach, x + reach, y + reach, (row) => {
    const distance = (screenX(row) - x) ** 2 + (screenY(row) - y) ** 2;
    // Of those that are drawn on each other, the one on top.
    const isBelow = marked && marked[row] === 0;
    if (distance < least && !isBelow) [best, least] = [row, distance];
  });
  return best;
}

// Rows inside a polygon of the screen, [x, y] each; the even-odd rule.
function rowsInside(polygon) {
  const found = [];
  const xs = polygon.map(([x]) => x);
  const ys = polygon.map(([, y]) => y);
  const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  eachWithin(...box, (row) => {
    if (isInside(polygon, screenX(row), screenY(row))) found.push(row);
  });
  return found.sort((a, b) => a - b);
}

function isInside(polygon, x, y) {
  let inside = false;
  let [beforeX, beforeY] = polygon[polygon.length - 1];
  for (const [hereX, hereY] of polygon) {
    const crosses = hereY > y !== beforeY > y;
    if (crosses && x < ((beforeX - hereX) * (y - hereY)) / (beforeY - hereY) + hereX)
      inside = !inside;
    [beforeX, beforeY] = [hereX, hereY];
  }
  return inside;
}
