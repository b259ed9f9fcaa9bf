// Points of the map, written into the pixels of a canvas: 50,000 take milliseconds on any machine.

const dotsCanvas = document.getElementById("dots");
const dotsContext = dotsCanvas.getContext("2d", { alpha: false });
const PADDING = 24; // pixels around the canvas, so that points at its edge need no check
const drawing = { image: null, pixels: null, stride: 0, order: null, colours: null, faded: null };

// An order that has nothing to do with classes: no class covers the others.
function drawingOrder() {
  const hash = Uint32Array.from(
    { length: count },
    (_, row) => Math.imul(row + 1, 2654435761) >>> 0,
  );
  return Uint32Array.from({ length: count }, (_, row) => row).sort((a, b) => hash[a] - hash[b]);
}

drawing.order = drawingOrder();

function resizeDots() {
  const [width, height] = [dotsCanvas.width, dotsCanvas.height];
  drawing.stride = width + 2 * PADDING;
  drawing.image = new ImageData(drawing.stride, height + 2 * PADDING);
  drawing.pixels = new Uint32Array(drawing.image.data.buffer);
}

function colourDots(column) {
  const ground = styleColour("--card");
  drawing.ground = pixel(ground);
  drawing.colours = rowColours(column);
  const grey = mixed(ground, noneColour(), 0.35);
  drawing.faded = pixel(grey);
}

// Radius in pixels of the screen: smaller for many images, larger when zoomed in.
function dotRadius() {
  const share = Math.sqrt((view.width * view.height) / count);
  const first = Math.min(5, Math.max(1.5, 0.22 * share));
  return Math.min(7, first * Math.max(1, zoomFactor()) ** 0.35);
}

// Offsets and weights of the pixels of a disc: [offset, weight of 256, …].
function disc(radius) {
  const found = [];
  const most = Math.ceil(radius + 0.5);
  for (let y = -most; y <= most; y++) {
    for (let x = -most; x <= most; x++) {
      const weight = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y))));
      if (weight > 0) found.push(y * drawing.stride + x, weight);
    }
  }
  return Int32Array.from(found);
}

function drawDots() {
  const { pixels, ground, faded, colours, order } = drawing;
  pixels.fill(ground);
  const radius = dotRadius() * view.ratio;
  const dot = disc(radius);
  const ring = radius > 2.6 ? disc(radius + 0.8 * view.ratio) : null;
  const { marked } = state;
  view.visible = 0;
  for (const pass of marked ? [0, 1] : [1]) {
    for (const row of order) {
      if (marked && marked[row] !== pass) continue;
      const place = pixelOf(row);
      if (place < 0) continue;
      view.visible += pass;
      if (pass && ring) stamp(pixels, place, ring, ground);
      stamp(pixels, place, dot, pass ? colours[row] : faded);
    }
  }
  dotsContext.putImageData(drawing.image, -PADDING, -PADDING);
}

// Place of a row in the pixels, -1 outside.
function pixelOf(row) {
  const x = Math.round(screenX(row) * view.ratio);
  const y = Math.round(screenY(row) * view.ratio);
  const edge = PADDING / 2;
  if (x < -edge || y < -edge || x >= dotsCanvas.width + edge || y >= dotsCanvas.height + edge)
    return -1;
  return (y + PADDING) * drawing.stride + x + PADDING;
}

function stamp(pixels, place, shape, colour) {
  for (let at = 0; at < shape.length; at += 2) {
    const there = place + shape[at];
    const weight = shape[at + 1];
    pixels[there] = weight === 256 ? colour : blended(pixels[there], colour, weight);
  }
}

// Mixture of two pixels, two channels at a time.
function blended(below, above, weight) {
  const rest = 256 - weight;
  const even = ((below & 0xff00ff) * rest + (above & 0xff00ff) * weight) >>> 8;
  const odd = ((below >>> 8) & 0xff) * rest + ((above >>> 8) & 0xff) * weight;
  return (0xff000000 | (even & 0xff00ff) | (odd & 0xff00)) >>> 0;
}
