// Search by key: images whose key contains the text, shown on the map and in a list.

const LISTED = 8; // images of the list
let lowered = null; // keys in lower case, made at the first search
let active = NONE; // row of the list that the arrows have reached

function found(text) {
  lowered ??= keys.map((key) => key.toLowerCase());
  const wanted = text.trim().toLowerCase();
  const rows = [];
  for (let row = 0; row < count; row++) if (lowered[row].includes(wanted)) rows.push(row);
  const exact = rows.findIndex((row) => lowered[row] === wanted);
  if (exact > 0) rows.unshift(...rows.splice(exact, 1));
  return rows;
}

function search() {
  const text = byId("query").value;
  if (!text.trim()) {
    closeSearch(false);
    return;
  }
  state.matches = found(text);
  active = NONE;
  refreshEmphasis();
  drawHits();
}

function drawHits() {
  const rows = state.matches.slice(0, LISTED);
  byId("hits-count").textContent = counted(state.matches.length, "image");
  byId("hits-list").replaceChildren(...rows.map(hit));
  byId("hits-select").hidden = !rows.length;
  byId("hits").hidden = false;
  byId("query").setAttribute("aria-expanded", "true");
  say(`${counted(state.matches.length, "image")} found`);
}

function hit(row, place) {
  const made = element(
    "li",
    { role: "option", id: `hit-${place}`, "aria-selected": "false" },
    thumbnail(row),
    element("span", {}, keys[row]),
  );
  made.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // the field keeps the focus
    openHit(row);
  });
  return made;
}

function openHit(row) {
  closeSearch();
  focusOn(row);
  flyTo(mapX[row], mapY[row], Math.max(view.scale, fitScale() * 3));
}

function closeSearch(clears = true) {
  if (clears) byId("query").value = "";
  state.matches = null;
  byId("hits").hidden = true;
  byId("query").setAttribute("aria-expanded", "false");
  byId("query").removeAttribute("aria-activedescendant");
  refreshEmphasis();
}

function moveInHits(step) {
  const hits = [...byId("hits-list").children];
  if (!hits.length) return;
  active = (active + step + hits.length) % hits.length;
  hits.forEach((one, place) => one.setAttribute("aria-selected", place === active));
  byId("query").setAttribute("aria-activedescendant", `hit-${active}`);
  hits[active].scrollIntoView({ block: "nearest" });
}

function listenToSearch() {
  const query = byId("query");
  query.addEventListener("input", search);
  query.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") moveInHits(1);
    else if (event.key === "ArrowUp") moveInHits(active === NONE ? 0 : -1);
    else if (event.key === "Escape") closeSearch();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const row = state.matches?.[Math.max(0, active)];
    if (row !== undefined) openHit(row);
  });
  byId("hits-select").addEventListener("click", () => {
    const rows = [...state.matches].sort((a, b) => a - b);
    closeSearch();
    select(rows);
  });
  document.addEventListener("pointerdown", (event) => {
    if (!byId("search").contains(event.target)) byId("hits").hidden = true;
  });
}
