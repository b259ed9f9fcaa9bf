// What the map means, keys of the keyboard, what was left out.

const KEYS = [
  ["wheel, pinch, + −", "zoom"],
  ["drag, arrows", "move the map"],
  ["click, Enter", "show an image and its neighbours"],
  ["Shift + arrows", "next image in that direction"],
  ["L, Shift + drag", "lasso"],
  ["P", "pictures on the map"],
  ["0", "whole map"],
  ["/", "find a key"],
  ["Esc", "one step back"],
];

function drawAbout() {
  const rows = KEYS.map(([key, use]) =>
    element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, use)),
  );
  const notes = about.notes.map((note) => element("li", {}, note));
  byId("about-page").replaceChildren(
    element("h2", {}, "What the map means"),
    ...meaning().map((words) => paragraph(words)),
    element("h2", {}, "Keys"),
    element("table", { class: "keys" }, element("tbody", {}, ...rows)),
    ...(notes.length ? [element("h2", {}, "Left out"), element("ul", {}, ...notes)] : []),
    paragraph(`Written by mae explore from ${about.file}.`, "small"),
  );
}

function meaning() {
  const made = about.projection ? ` The map was made by ${about.projection}.` : "";
  const from = about.vectors ? ` (${about.vectors})` : "";
  const words = [
    `Images that lie close together are mostly alike for the model${from}. Distances between groups, their ` +
      "sizes, densities and empty space between them mean nothing: they come from squeezing many " +
      `dimensions into two.${made}`,
  ];
  const { trust } = about;
  if (trust) {
    const compared = trust.images.toLocaleString("en");
    const among =
      trust.images < count ? `${compared} images drawn at random` : `all ${compared} images`;
    words.push(
      `Trustworthiness ${trust.map.toFixed(3)} (Venna and Kaski 2001; ${trust.k} neighbours of each ` +
        `image, among ${among}): 1 means that all neighbours on the map are neighbours among the ` +
        `vectors, 0.5 is a random map. The two principal components alone: ${trust.pca.toFixed(3)}.`,
    );
  }
  words.push(
    "The nearest neighbours of an image are those among the vectors, not those on the map.",
  );
  return words;
}

function drawCaution() {
  const { trust } = about;
  const figures = trust
    ? ` Trustworthiness ${trust.map.toFixed(2)} (PCA: ${trust.pca.toFixed(2)}).`
    : "";
  byId("caution").replaceChildren(
    `Close together means alike; distances between groups mean nothing.${figures} `,
    button("More", () => openTab("about"), { class: "link" }),
  );
}
