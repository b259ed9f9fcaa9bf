// Sheets of thumbnails: decoded when they are needed, the latest ones kept.

const CELLS = about.sheet.across ** 2;
const MOST_SHEETS = 64; // decoded ones, 4 MB each
const sheets = new Map(); // number → bitmap, in the order of their use; null while it is decoded
const waiting = new Map(); // number → functions to call once it is there

// Bitmap of a sheet, or null; then `whenThere` is called once.
function sheet(number, whenThere) {
  const known = sheets.get(number);
  if (known) {
    sheets.delete(number); // to the end
    sheets.set(number, known);
    return known;
  }
  if (!waiting.has(number)) {
    waiting.set(number, new Set());
    decodeSheet(number);
  }
  waiting.get(number).add(whenThere);
  return null;
}

async function decodeSheet(number) {
  const element = await sheetElement(number);
  if (!element) return;
  const blob = new Blob([bytesOf(element.textContent)], { type: "image/jpeg" });
  sheets.set(number, await createImageBitmap(blob));
  for (const [old, bitmap] of sheets) {
    if (sheets.size <= MOST_SHEETS) break;
    bitmap.close();
    sheets.delete(old);
  }
  const calls = waiting.get(number);
  waiting.delete(number);
  for (const call of calls) call();
}

const elements = document.getElementsByClassName("sheet"); // grows while the page is being read

function sheetElement(number) {
  // The last one that is there may still be incomplete.
  const isWhole = () => elements.length > number + 1 || document.readyState !== "loading";
  if (isWhole()) return elements[number];
  return new Promise((done) => {
    const look = () => (isWhole() ? done(elements[number]) : setTimeout(look, 30));
    look();
  });
}

function hasThumbnail(row) {
  return cells[row] !== NONE;
}

// Draw a thumbnail, centred in a square; `whenThere` is called where its sheet is not there yet.
function drawThumbnail(context, row, x, y, side, whenThere) {
  const number = Math.floor(cells[row] / CELLS);
  const bitmap = sheet(number, whenThere);
  if (!bitmap) return;
  const place = cells[row] % CELLS;
  const { cell, across } = about.sheet;
  const [width, height] = [sizes[2 * row], sizes[2 * row + 1]];
  const factor = side / Math.max(width, height);
  const [w, h] = [width * factor, height * factor];
  const left = (place % across) * cell;
  const top = Math.floor(place / across) * cell;
  context.imageSmoothingEnabled = factor < 2;
  context.drawImage(bitmap, left, top, width, height, x + (side - w) / 2, y + (side - h) / 2, w, h);
}
