// Data of the page: texts as JSON, numbers as typed arrays, thumbnails as sheets further below.

const about = JSON.parse(document.getElementById("about").textContent);
const keys = about.keys;
const count = keys.length;
const TYPES = { float32: Float32Array, int32: Int32Array, int16: Int16Array, uint8: Uint8Array };
const NONE = -1; // row, group or cell that is not there
const BINS = 10; // intervals of a column of numbers in the legend

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Typed array of an element, or null.  The element is emptied: its text is not needed again.
function arrayOf(name) {
  const element = document.getElementById(`array-${name}`);
  if (!element) return null;
  const bytes = bytesOf(element.textContent);
  element.textContent = "";
  return new TYPES[element.dataset.type](bytes.buffer);
}

const places = arrayOf("places"); // x and y of each image, in turn
const cells = arrayOf("cells"); // number of its thumbnail
const sizes = arrayOf("sizes"); // width and height of its thumbnail
const neighbourIds = arrayOf("neighbours");
const neighbourDistances = arrayOf("distances");
const copies = arrayOf("copies"); // row of the first image of its group
const columns = about.columns.map((column, number) => readColumn(column, number));

// A column has groups, the rows of the legend: its classes, or intervals of its numbers.
function readColumn(column, number) {
  const values = arrayOf(`column-${number}`);
  return column.names ? classesColumn(column, values) : numbersColumn(column, values);
}

function classesColumn(column, codes) {
  const text = (row) => (codes[row] < 0 ? "none" : column.names[codes[row]]);
  return {
    ...column,
    isNumber: false,
    groups: codes,
    text,
    counts: countsOf(codes, column.names.length),
  };
}

function numbersColumn(column, values) {
  const known = Float32Array.from(values.filter((value) => !Number.isNaN(value))).sort();
  const at = (share) => known[Math.round(share * (known.length - 1))];
  let [low, high] = [at(0.01), at(0.99)]; // a few extreme values must not take all colours
  if (!(high > low)) [low, high] = [known[0], known[known.length - 1]];
  const span = high > low ? high - low : 1;
  const share = (row) => Math.min(1, Math.max(0, (values[row] - low) / span));
  const groups = new Int16Array(count);
  for (let row = 0; row < count; row++) {
    groups[row] = Number.isNaN(values[row])
      ? NONE
      : Math.min(BINS - 1, Math.floor(share(row) * BINS));
  }
  const edge = (bin) => short(low + (span * bin) / BINS);
  const names = Array.from({ length: BINS }, (_, bin) => {
    if (bin === 0) return `below ${edge(1)}`;
    return bin === BINS - 1 ? `${edge(bin)} and more` : `${edge(bin)} to ${edge(bin + 1)}`;
  });
  const text = (row) => (Number.isNaN(values[row]) ? "none" : short(values[row]));
  const counts = countsOf(groups, BINS);
  return { ...column, isNumber: true, names, groups, text, counts, values, share, low, high };
}

// Number of rows of each group, and of those without one at the end.
function countsOf(groups, length) {
  const counts = new Uint32Array(length + 1);
  for (const group of groups) counts[group < 0 ? length : group]++;
  return counts;
}

function short(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function counted(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

function neighboursOf(row) {
  const most = about.neighbours.count;
  const found = [];
  for (let place = row * most; place < (row + 1) * most; place++) {
    const id = neighbourIds[place];
    if (id !== NONE) found.push({ row: id, distance: neighbourDistances[place] });
  }
  return found;
}
