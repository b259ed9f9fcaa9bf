// Mouse, pen and fingers on the map.

const CLICK = 5; // pixels that a pointer may move during a click
const REACH = { mouse: 10, pen: 14, touch: 24 }; // pixels around a point that belong to it
const fingers = new Map(); // pointers that are down: id → [x, y]
const gesture = { kind: "", start: [0, 0], adds: false };

function placeOf(event) {
  const box = overlayCanvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function listenToPointer() {
  const map = byId("map");
  map.addEventListener("pointerdown", pointerDown);
  map.addEventListener("pointermove", pointerMove);
  map.addEventListener("pointerup", pointerUp);
  map.addEventListener("pointercancel", pointerUp);
  map.addEventListener("pointerleave", () => setHover(NONE));
  map.addEventListener("dblclick", (event) => zoomAt(...placeOf(event), 2));
  map.addEventListener("wheel", wheel, { passive: false });
}

function wheel(event) {
  event.preventDefault();
  flight++; // a movement under way ends here
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 : 1;
  const delta = Math.max(-120, Math.min(120, event.deltaY * lines * (event.ctrlKey ? 4 : 1)));
  zoomAt(...placeOf(event), Math.exp(-delta * 0.0025));
}

function pointerDown(event) {
  if (event.button > 0) return;
  flight++;
  setHover(NONE);
  byId("map").setPointerCapture(event.pointerId);
  const place = placeOf(event);
  fingers.set(event.pointerId, place);
  if (fingers.size === 2) {
    gesture.kind = "pinch";
    state.lasso = [];
    return;
  }
  gesture.start = place;
  gesture.adds = event.altKey;
  gesture.kind = state.tool === "lasso" || event.shiftKey ? "lasso" : "press";
  state.lasso = gesture.kind === "lasso" ? [place] : [];
}

function pointerMove(event) {
  const place = placeOf(event);
  const before = fingers.get(event.pointerId);
  if (!before) {
    if (event.pointerType !== "touch") hoverAt(place, event.pointerType);
    return;
  }
  if (gesture.kind === "pinch") pinch(event.pointerId, place);
  fingers.set(event.pointerId, place);
  if (gesture.kind === "press" && distance(place, gesture.start) > CLICK) {
    gesture.kind = "drag";
    setHover(NONE);
    pan(place[0] - gesture.start[0], place[1] - gesture.start[1]);
  } else if (gesture.kind === "drag") pan(place[0] - before[0], place[1] - before[1]);
  else if (gesture.kind === "lasso") {
    state.lasso.push(place);
    redrawOverlay();
  }
}

function pointerUp(event) {
  const wasDown = fingers.delete(event.pointerId);
  if (!wasDown || fingers.size) return; // the last finger of a pinch ends it
  if (event.type === "pointercancel") state.lasso = [];
  else if (gesture.kind === "press") click(placeOf(event), event.pointerType);
  else if (gesture.kind === "lasso") closeLasso();
  gesture.kind = "";
  redraw();
}

function distance([x, y], [otherX, otherY]) {
  return Math.hypot(x - otherX, y - otherY);
}

function click([x, y], kind) {
  const row = imageAt(x, y, REACH[kind] ?? 10);
  focusOn(row);
}

function closeLasso() {
  const polygon = state.lasso;
  state.lasso = [];
  if (state.tool === "lasso") setTool("pan");
  if (polygon.length < 3) return;
  const inside = rowsInside(polygon);
  const all = gesture.adds ? new Set([...state.selection, ...inside]) : inside;
  select([...all].sort((a, b) => a - b));
}

// Two fingers: what was between them stays between them.
function pinch(id, place) {
  const [other] = [...fingers].filter(([finger]) => finger !== id).map(([, there]) => there);
  const before = fingers.get(id);
  const middle = (one) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
  const [from, to] = [middle(before), middle(place)];
  zoomAt(...from, distance(place, other) / Math.max(1, distance(before, other)));
  pan(to[0] - from[0], to[1] - from[1]);
}

function hoverAt([x, y], kind) {
  setHover(imageAt(x, y, REACH[kind] ?? 10));
  placeTip(x, y);
}

function setHover(row) {
  const tip = byId("tip");
  if (row !== state.hover) {
    state.hover = row;
    redrawOverlay();
    if (row !== NONE) fillTip(row);
  }
  tip.hidden = row === NONE || !isOnScreen(row);
  if (!tip.hidden) placeTip(screenX(row), screenY(row));
}

function fillTip(row) {
  const column = colourColumn();
  const line = element("span", {}, describe(row));
  if (column) line.prepend(swatch(valueColour(column, row)));
  byId("tip").replaceChildren(thumbnail(row), element("b", {}, keys[row]), line);
}

// Beside the place, within the map.
function placeTip(x, y) {
  const tip = byId("tip");
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const left = x + 16 + width > view.width ? x - 16 - width : x + 16;
  const top = Math.min(view.height - height - 4, Math.max(4, y - height / 2));
  tip.style.transform = `translate(${Math.max(4, left)}px, ${top}px)`;
}
