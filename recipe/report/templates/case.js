// A case: its picture with boxes, the reference, and what each model said. `data` has the models'
// titles by key, the titles of the reward's parts, and whose frame of pixels boxes are in. The file
// after this one has `pictureOf`, the address of a case's picture if there is one.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("case-data");
const models = Object.entries(data.models).map(([key, title], place) =>
  ({ key, title, style: `model-${place + 1}` }));

function el(tag, options = {}, ...children) {
  const { text, data: values, ...attributes } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  Object.assign(element.dataset, values);
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null));
  return element;
}
const number = (value) => (value === undefined ? "" : value.toFixed(2));

// --- the picture with its boxes, and the light that goes from a sentence to its boxes and back
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
  const source = pictureOf(item);
  if (source) {
    image.setAttribute("href", source);
    image.setAttribute("width", width);
    image.setAttribute("height", height);
  } else image.remove();
  drawBoxes(svg, item);
  return svg;
}

function drawBoxes(svg, item) {
  const group = svg.querySelector("g");
  group.replaceChildren();
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

// --- the texts
function choiceList(item) {
  if (!item.choices) return null;
  return el("ul", { class: "choices", "aria-label": "Choices" }, ...Object.entries(item.choices).map(([letter, text]) => {
    const chosen = item.right.includes(letter);
    return el("li", { class: chosen ? "chosen" : "", text: `${letter}. ${text}${chosen ? " ✓" : ""}` });
  }));
}

// What stands for a missing part of an answer: it may still come.
const missing = (answer) => (answer.pending ? "…" : "none");

function regionList(label, regions, prefix, empty = "none") {
  const line = el("p", {}, el("span", { class: "label", text: label }));
  regions.forEach((region, place) => {
    const chip = el("span", { class: "region", tabindex: 0, text: region.ref || "unnamed" },
      el("small", { text: region.text ?? "unreadable box" }));
    if (region.iou !== undefined) chip.append(el("small", { text: `IoU ${number(region.iou)}` }));
    line.append(linkTo(chip, region.at ? [`${prefix}${place}`] : []));
  });
  if (!regions.length) line.append(empty);
  return line;
}

function reasoning(answer, key) {
  const line = el("p", {}, el("span", { class: "label", text: "Reasoning" }));
  for (const parts of answer.think) {
    const sentence = el("span", { class: "sentence" });
    for (const [text, place] of parts) {
      sentence.append(place < 0 ? text : el("span", { class: "cite", text }));
    }
    const places = [...new Set(parts.map(([, place]) => place).filter((place) => place >= 0))];
    if (places.length) sentence.tabIndex = 0;
    line.append(linkTo(sentence, places.map((place) => `${key}-cited-${place}`)), " ");
  }
  if (!answer.think.length) line.append(missing(answer));
  return line;
}

function rewardTable(answer) {
  const table = el("table", { class: "parts", "aria-label": "Reward and its parts" });
  const rows = [["reward", answer.score], ...Object.entries(answer.parts).map(([name, value]) => [data.parts[name], value])];
  for (const [name, value] of rows) {
    const filled = el("i");
    filled.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
    table.append(el("tr", {}, el("th", { text: name, scope: "row" }), el("td", { text: number(value) }),
      el("td", { class: "meter" }, el("div", {}, filled))));
  }
  return table;
}

function response(item, model) {
  const answer = item.answers[model.key];
  const box = el("div", { class: `said response ${model.style}`, data: { model: model.key } }, el("h4", { text: model.title }));
  if (!answer) { box.append("not answered"); return box; }
  const verdict = answer.correct ? "right" : "wrong";
  // Without a reference nothing says whether an answer is right.
  if (answer.correct !== undefined) {
    box.firstChild.append(el("span", { class: `mark ${verdict}`, text: verdict === "right" ? "✓ right" : "✗ wrong" }));
  }
  box.append(el("p", { class: "answer" }, el("span", { class: "label", text: "Answer" }), answer.answer || missing(answer)),
    regionList("Regions of the answer", answer.regions, `${model.key}-`, missing(answer)),
    reasoning(answer, model.key));
  if (answer.parts) box.append(rewardTable(answer));
  box.append(el("details", {}, el("summary", { class: "small", text: "as generated" }), el("pre", { text: answer.raw })));
  return box;
}

function slider(name, low, high) {
  const input = el("input", { type: "range", min: low, max: high, value: pictureStyle[name] });
  input.addEventListener("input", () => changePicture({ [name]: Number(input.value) }));
  return el("label", {}, name, input);
}

function look(item) {
  const legend = document.getElementById("legend").content.firstElementChild.cloneNode(true);
  for (const button of legend.children) {
    button.addEventListener("click", () => toggleLayer(button.dataset.layer));
    button.hidden = item.answer === undefined && button.dataset.layer.startsWith("truth");
  }
  const [width, height] = item.size;
  const caption = pictureOf(item) ? `Boxes in ${data.frame} of ${width} × ${height} pixels. Point at a box or a sentence.` : `No image: ${item.no_image}.`;
  const invert = el("button", { type: "button", text: "invert" }), large = el("button", { type: "button", text: "enlarge" });
  invert.addEventListener("click", () => changePicture({ invert: !pictureStyle.invert }));
  large.addEventListener("click", () => changePicture({ large: !pictureStyle.large }));
  return el("figure", { class: "look" }, drawPicture(item), legend, el("div", { class: "tools" },
    slider("contrast", 50, 300), slider("brightness", 40, 250), invert, large), el("figcaption", { text: caption }));
}

function reference(item) {
  if (item.answer === undefined) return null;
  return el("div", { class: "said reference" },
    el("p", { class: "truth" }, el("span", { class: "label", text: "Reference answer" }), item.answer),
    regionList("Regions of the reference", item.regions, "truth-"),
    item.cited.length ? regionList("Cited by the reference's reasoning", item.cited, "truth-cited-") : null,
    item.findings ? el("p", {}, el("span", { class: "label", text: "Findings" }), item.findings) : null);
}

function drawCase(item) {
  const place = document.querySelector(".case");
  place.replaceChildren(look(item), el("div", {}, el("p", { class: "question", text: item.question }), choiceList(item), reference(item),
    el("div", { class: "responses" }, ...models.map((model) => response(item, model)))));
  place.dataset.id = item.id;
  applyLayers();
  applyPictureStyle();
}
