// Keyboard: on the map, and shortcuts of the whole page.

const STEP = 60; // pixels that an arrow moves the map
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function isKeyboardUsed() {
  return byId("map").matches(":focus-visible");
}

function listenToKeyboard() {
  byId("map").addEventListener("keydown", mapKey);
  byId("map").addEventListener("focus", redrawOverlay);
  byId("map").addEventListener("blur", redrawOverlay);
  document.addEventListener("keydown", pageKey);
}

function mapKey(event) {
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) goToNext(arrow);
  else if (arrow) pan(-arrow[0] * STEP, -arrow[1] * STEP);
  else if (event.key === "Enter") focusOn(imageAt(view.width / 2, view.height / 2, 40));
  else return;
  event.preventDefault();
}

function pageKey(event) {
  const isTyping = event.target.matches?.("input, select, textarea");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "+": () => zoomBy(1.6),
    "=": () => zoomBy(1.6),
    "-": () => zoomBy(1 / 1.6),
    0: fit,
    l: toggleLasso,
    p: togglePictures,
    "/": () => byId("query").focus(),
    Escape: stepBack,
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  action();
  event.preventDefault();
}

// Show the nearest image within 45° of a direction from the one in focus.
function goToNext([dx, dy]) {
  const row = state.focus;
  if (row === NONE) {
    focusOn(nearestAt(view.width / 2, view.height / 2, Math.max(view.width, view.height)));
    return;
  }
  let [best, least] = [NONE, Infinity];
  const { marked } = state;
  for (let other = 0; other < count; other++) {
    if (other === row || (marked && !marked[other])) continue;
    const [x, y] = [mapX[other] - mapX[row], mapY[other] - mapY[row]];
    const along = x * dx + y * dy;
    const across = Math.abs(x * dy) + Math.abs(y * dx);
    const length = along + across; // straight ahead is nearer
    if (along > across && length < least) [best, least] = [other, length];
  }
  if (best === NONE) return;
  focusOn(best);
  showOnMap(best);
}
