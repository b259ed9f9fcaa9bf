// Colours of groups and numbers, for the light and the dark page.

const dark = matchMedia("(prefers-color-scheme: dark)");
const GOLDEN = 137.508; // degrees: hues of following numbers differ most
const FEW = 12;

// OKLCH (Ottosson 2020) → [red, green, blue] of 255; hue in degrees.
function fromOklch(lightness, chroma, hue) {
  const angle = (hue * Math.PI) / 180;
  const [a, b] = [chroma * Math.cos(angle), chroma * Math.sin(angle)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(gamma);
}

function gamma(linear) {
  const value = Math.min(1, Math.max(0, linear));
  const bent = value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055;
  return Math.round(255 * bent);
}

// Colour of class `number` of `total`: evenly spaced hues for few classes.
function classColour(number, total) {
  const hue = 255 + (total <= FEW ? (360 / total) * number : GOLDEN * number);
  const steps = dark.matches ? [0.72, 0.84, 0.62] : [0.58, 0.71, 0.46];
  const lightness = steps[total <= FEW ? number % 2 : number % 3];
  return fromOklch(lightness, dark.matches ? 0.135 : 0.155, hue);
}

// Colour map of numbers in [0, 1]: the heat maps' of mae, without the end that the page has.
function rampColour(share) {
  const place = dark.matches ? 0.26 + 0.74 * share : 0.06 + 0.78 * share;
  const chroma = 0.05 + 0.12 * Math.sin(Math.PI * place);
  return fromOklch(0.18 + 0.77 * place, chroma, 290 + 175 * place);
}

function noneColour() {
  return dark.matches ? [105, 110, 118] : [172, 175, 180];
}

// Colour of a group in the legend.
function groupColour(column, group) {
  if (group < 0 || group >= column.names.length) return noneColour();
  if (column.isNumber) return rampColour((group + 0.5) / BINS);
  return classColour(group, column.names.length);
}

function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

// Colour of each row as a pixel of a canvas, by a column or, without one, all alike.
function rowColours(column) {
  const pixels = new Uint32Array(count);
  if (!column) return pixels.fill(pixel(classColour(0, 5)));
  const table = column.isNumber ? rampTable() : groupTable(column);
  for (let row = 0; row < count; row++) {
    const group = column.groups[row];
    const place = column.isNumber && group >= 0 ? Math.round(column.share(row) * STEPS) : group;
    pixels[row] = group < 0 ? table[table.length - 1] : table[place];
  }
  return pixels;
}

const STEPS = 255;

function rampTable() {
  const found = Array.from({ length: STEPS + 1 }, (_, step) => pixel(rampColour(step / STEPS)));
  return [...found, pixel(noneColour())];
}

function groupTable(column) {
  const found = column.names.map((_, group) => pixel(groupColour(column, group)));
  return [...found, pixel(noneColour())];
}

// Little-endian RGBA, as the canvas has it on every machine that browsers run on.
function pixel([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Colour of the style sheet → [red, green, blue].
function styleColour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const full = text.length === 4 ? text.replace(/[0-9a-f]/gi, "$&$&") : text;
  return [1, 3, 5].map((start) => parseInt(full.slice(start, start + 2), 16));
}

function mixed(one, other, share) {
  return one.map((part, at) => Math.round(part + (other[at] - part) * share));
}
