// Tabs of the panels beside the map.

const TABS = ["legend", "image", "selection", "copies", "outliers", "about"];

function panelOf(tab) {
  return byId(tab === "about" ? "about-page" : tab);
}

function openTab(chosen) {
  for (const tab of TABS) {
    const own = byId(`tab-${tab}`);
    own.setAttribute("aria-selected", tab === chosen);
    own.tabIndex = tab === chosen ? 0 : -1;
    panelOf(tab).hidden = tab !== chosen;
    if (tab === chosen) own.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function showTabs() {
  const tabs = byId("tab-legend").parentElement;
  for (const tab of TABS) byId(`tab-${tab}`).addEventListener("click", () => openTab(tab));
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const shown = TABS.filter((tab) => !byId(`tab-${tab}`).hidden);
    const at = shown.findIndex((tab) => byId(`tab-${tab}`) === document.activeElement);
    const next = shown[(at + step + shown.length) % shown.length];
    openTab(next);
    byId(`tab-${next}`).focus();
    event.preventDefault();
  });
}
