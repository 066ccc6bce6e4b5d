// The picture with its boxes, and the light that goes from a sentence to its boxes and back.
let images = null; // read when the first picture is shown
const hiddenLayers = new Set();
let pictureStyle = { invert: false, contrast: 100, brightness: 100, large: false };

// Everything that names the same box carries the same keys, so lighting one lights the others.
function light(keys) {
  const wanted = new Set(keys);
  for (const each of document.querySelectorAll(".case [data-boxes]")) {
    each.classList.toggle("lit", each.dataset.boxes.split(" ").some((key) => wanted.has(key)));
  }
  document.querySelector(".case .picture")?.classList.toggle("dim", wanted.size > 0);
}

function linkTo(element, keys) {
  if (!keys.length) return element;
  element.dataset.boxes = keys.join(" ");
  element.classList.add("link");
  const on = () => light(keys), off = () => light([]);
  element.addEventListener("pointerenter", on);
  element.addEventListener("pointerleave", off);
  element.addEventListener("focus", on);
  element.addEventListener("blur", off);
  return element;
}

function drawBox(region, key, layer, style, title, size) {
  const box = document.getElementById("box").content.querySelector("g").cloneNode(true);
  const [x, y, width, height] = region.at;
  box.classList.add(...style.split(" "));
  box.dataset.layer = layer;
  for (const rect of box.querySelectorAll("rect")) {
    for (const [name, value] of Object.entries({ x, y, width, height })) rect.setAttribute(name, value);
  }
  const name = region.ref || "unnamed", named = `${title.split(",")[0]}: ${name}`;
  box.querySelector("title").textContent = `${title}: ${name}`;
  const text = box.querySelector("text"), letter = size[0] / 26;
  text.textContent = named;
  text.setAttribute("font-size", letter);
  const room = named.length * letter * 0.6;
  text.setAttribute("x", Math.max(letter / 3, Math.min(x, size[0] - room)));
  text.setAttribute("y", y > letter * 1.4 ? y - letter * 0.4 : Math.min(y + height, size[1]) - letter * 0.4);
  return linkTo(box, [key]);
}

function drawPicture(item) {
  const svg = document.getElementById("picture").content.querySelector("svg").cloneNode(true);
  const [width, height] = item.size, image = svg.querySelector("image");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (item.image >= 0) {
    images ??= read("image-data");
    image.setAttribute("href", images[item.image]);
    image.setAttribute("width", width);
    image.setAttribute("height", height);
  } else image.remove();
  const group = svg.querySelector("g");
  const add = (regions, prefix, layer, style, title) => regions.forEach((region, place) => {
    if (region.at) group.append(drawBox(region, `${prefix}${place}`, layer, style, title, item.size));
  });
  // Below, the smaller boxes end up on top, so that each can be pointed at.
  add(item.cited, "truth-cited-", "truth-cited", "truth cited", "reference, reasoning");
  for (const { key, title, style } of models) {
    add(item.answers[key]?.cited ?? [], `${key}-cited-`, `${key}-cited`, `${style} cited`, `${title}, reasoning`);
  }
  add(item.regions, "truth-", "truth", "truth", "reference");
  for (const { key, title, style } of models) {
    add(item.answers[key]?.regions ?? [], `${key}-`, key, style, title);
  }
  const area = (box) => { const rect = box.querySelector("rect"); return rect.getAttribute("width") * rect.getAttribute("height"); };
  group.append(...[...group.children].sort((a, b) => area(b) - area(a)));
  svg.setAttribute("aria-label", `X-ray of question ${item.id} with ${group.childElementCount} boxes`);
  return svg;
}

function applyLayers() {
  for (const box of document.querySelectorAll(".case .picture .box")) {
    box.toggleAttribute("hidden", hiddenLayers.has(box.dataset.layer));
  }
  for (const button of document.querySelectorAll(".case .legend button")) {
    button.ariaPressed = String(!hiddenLayers.has(button.dataset.layer));
  }
}

function toggleLayer(name) {
  if (!hiddenLayers.delete(name)) hiddenLayers.add(name);
  applyLayers();
}

function toggleAllLayers(names) {
  if (hiddenLayers.size) hiddenLayers.clear();
  else for (const name of names) hiddenLayers.add(name);
  applyLayers();
}

function applyPictureStyle() {
  const { invert, contrast, brightness, large } = pictureStyle;
  const image = document.querySelector(".case .picture image");
  if (image) image.style.filter = `invert(${invert ? 1 : 0}) contrast(${contrast}%) brightness(${brightness}%)`;
  document.querySelector(".case").classList.toggle("large", large);
}

function changePicture(changes) {
  pictureStyle = { ...pictureStyle, ...changes };
  applyPictureStyle();
}
