// The list, the case shown, and the keys.
const ROW = 58; // pixels, as in cases.css
const $ = (selector) => document.querySelector(`#cases ${selector}`);
let listed = [], current = null;

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
const mean = (values) => (values.length ? number(values.reduce((a, b) => a + b, 0) / values.length) : "–");
const percent = (values) => (values.length ? `${Math.round(100 * values.reduce((a, b) => a + b, 0) / values.length)} %` : "–");

// --- the list: only the rows in sight are in the page
function listRow(item, place) {
  const marks = el("span", { class: "marks" });
  for (const model of models) {
    const verdict = isRight(item, model) ? "right" : "wrong";
    // The names of more than two do not fit; they stand in the models' order.
    const name = models.length > 2 ? "" : `${model.title} `;
    marks.append(el("span", { text: name, title: `${model.title}: ${verdict}` }, el("span", { class: `sign ${verdict}`, "aria-label": `${model.title} ${verdict}` })));
  }
  const row = el("div", { class: "row", role: "option", id: `row-${place}`, "aria-posinset": place + 1,
    "aria-setsize": listed.length, "aria-selected": String(item === current), data: { id: item.id } },
    el("div", { class: "head" }, el("span", { text: item.kind }), el("span", { text: `#${item.id}` }), marks),
    el("div", { class: "what", text: item.question }));
  row.style.top = `${place * ROW}px`;
  row.addEventListener("click", () => show(item));
  return row;
}

function drawList() {
  const list = $(".list"), rows = $(".rows");
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const to = Math.min(listed.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  rows.style.height = `${listed.length * ROW}px`;
  rows.replaceChildren(...listed.slice(from, to).map((item, place) => listRow(item, from + place)));
  if (!listed.length) rows.append(el("p", { class: "empty", text: "No case fits these filters." }));
  const place = listed.indexOf(current);
  if (place >= from && place < to) list.setAttribute("aria-activedescendant", `row-${place}`);
  else list.removeAttribute("aria-activedescendant");
}

function drawTally() {
  const table = el("table", {}, el("thead", {}, el("tr", {}, el("th"),
    ...["right", "mean IoU", "reward"].map((text) => el("th", { text, scope: "col" })))));
  for (const model of models) {
    const answers = listed.map((item) => item.answers[model.key]).filter(Boolean);
    table.append(el("tr", {}, el("th", { text: model.title, scope: "row" }),
      el("td", { text: percent(answers.map((answer) => Number(answer.correct))) }),
      el("td", { text: mean(answers.map((answer) => answer.parts.mean_iou ?? 0)) }),
      el("td", { text: mean(answers.map((answer) => answer.score)) })));
  }
  $(".tally").replaceChildren(el("strong", { class: "count", text: `${listed.length} of ${data.cases.length} cases` }), table);
}

function update() {
  listed = chosenCases();
  $(".list").scrollTop = 0;
  drawTally();
  if (listed.length && !listed.includes(current)) show(listed[0]);
  else { drawList(); drawPlace(); }
}

// --- the case
function choiceList(item) {
  if (!item.choices) return null;
  return el("ul", { class: "choices", "aria-label": "Choices" }, ...Object.entries(item.choices).map(([letter, text]) => {
    const chosen = item.right.includes(letter);
    return el("li", { class: chosen ? "chosen" : "", text: `${letter}. ${text}${chosen ? " ✓" : ""}` });
  }));
}

function regionList(label, regions, prefix) {
  const line = el("p", {}, el("span", { class: "label", text: label }));
  regions.forEach((region, place) => {
    const chip = el("span", { class: "region", tabindex: 0, text: region.ref || "unnamed" },
      el("small", { text: region.text ?? "unreadable box" }));
    if (region.iou !== undefined) chip.append(el("small", { text: `IoU ${number(region.iou)}` }));
    line.append(linkTo(chip, region.at ? [`${prefix}${place}`] : []));
  });
  if (!regions.length) line.append("none");
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
  if (!answer.think.length) line.append("none");
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
  if (!answer) return el("div", { class: `said response ${model.style}` }, el("h4", { text: model.title }), "not answered");
  const verdict = answer.correct ? "right" : "wrong";
  return el("div", { class: `said response ${model.style}`, data: { model: model.key } },
    el("h4", { text: model.title }, el("span", { class: `mark ${verdict}`, text: verdict === "right" ? "✓ right" : "✗ wrong" })),
    el("p", { class: "answer" }, el("span", { class: "label", text: "Answer" }), answer.answer || "none"),
    regionList("Regions of the answer", answer.regions, `${model.key}-`),
    reasoning(answer, model.key),
    rewardTable(answer),
    el("details", {}, el("summary", { class: "small", text: "as generated" }), el("pre", { text: answer.raw })));
}

function slider(name, low, high) {
  const input = el("input", { type: "range", min: low, max: high, value: pictureStyle[name] });
  input.addEventListener("input", () => changePicture({ [name]: Number(input.value) }));
  return el("label", {}, name, input);
}

function look(item) {
  const legend = document.getElementById("legend").content.firstElementChild.cloneNode(true);
  for (const button of legend.children) button.addEventListener("click", () => toggleLayer(button.dataset.layer));
  const [width, height] = item.size;
  const caption = item.image < 0 ? `No image: ${item.no_image}.` : `Boxes in the model's frame of ${width} × ${height} pixels. Point at a box or a sentence.`;
  const invert = el("button", { type: "button", text: "invert" }), large = el("button", { type: "button", text: "enlarge" });
  invert.addEventListener("click", () => changePicture({ invert: !pictureStyle.invert }));
  large.addEventListener("click", () => changePicture({ large: !pictureStyle.large }));
  return el("figure", { class: "look" }, drawPicture(item), legend, el("div", { class: "tools" },
    slider("contrast", 50, 300), slider("brightness", 40, 250), invert, large), el("figcaption", { text: caption }));
}

function drawPlace() {
  const place = listed.indexOf(current);
  $(".place").textContent = place < 0 ? "not in this list" : `${place + 1} of ${listed.length}`;
  $("#before").disabled = place <= 0;
  $("#after").disabled = place >= listed.length - 1;
}

function show(item) {
  current = item;
  const tags = [item.kind, `question ${item.id}`, item.patient && `patient ${item.patient}`].filter(Boolean);
  $(".tags").replaceChildren(...tags.map((text) => el("li", { text })));
  const reference = el("div", { class: "said reference" },
    el("p", { class: "truth" }, el("span", { class: "label", text: "Reference answer" }), item.answer),
    regionList("Regions of the reference", item.regions, "truth-"),
    item.cited.length ? regionList("Cited by the reference's reasoning", item.cited, "truth-cited-") : null,
    item.findings ? el("p", {}, el("span", { class: "label", text: "Findings" }), item.findings) : null);
  $(".case").replaceChildren(look(item), el("div", {}, el("p", { class: "question", text: item.question }), choiceList(item), reference,
    el("div", { class: "responses" }, ...models.map((model) => response(item, model)))));
  $(".case").dataset.id = item.id;
  applyLayers();
  applyPictureStyle();
  $(".detail").scrollTop = 0;
  keepInSight(listed.indexOf(item));
  drawList();
  drawPlace();
  if (location.hash.startsWith("#case")) history.replaceState(null, "", `#case-${encodeURIComponent(item.id)}`);
}

function keepInSight(place) {
  const list = $(".list"), top = place * ROW;
  if (place < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

function step(by) {
  const place = listed.indexOf(current) + by;
  if (place >= 0 && place < listed.length) show(listed[place]);
}

function caseInAddress() {
  const id = location.hash.startsWith("#case-") ? decodeURIComponent(location.hash.slice(6)) : null;
  return data.cases.find((item) => item.id === id);
}

// --- keys
const layerNames = [...document.getElementById("legend").content.querySelectorAll("button")].map((b) => b.dataset.layer);
const keys = {
  ArrowRight: () => step(1), j: () => step(1), ArrowLeft: () => step(-1), k: () => step(-1),
  b: () => toggleAllLayers(layerNames), i: () => changePicture({ invert: !pictureStyle.invert }),
  z: () => changePicture({ large: !pictureStyle.large }), "/": () => form.text.focus(), "?": () => $("dialog").showModal(),
};

function onKey(event) {
  if ($(".list").closest("[hidden]") || $("dialog").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select");
  if (field) { if (event.key === "Escape") field.blur(); return; }
  const inList = event.target === $(".list");
  const layer = layerNames[Number(event.key) - 1];
  const act = inList && event.key === "ArrowDown" ? keys.j : inList && event.key === "ArrowUp" ? keys.k
    : layer ? () => toggleLayer(layer) : Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!act) return;
  event.preventDefault();
  act();
}

fillFilters();
for (const chip of chips) chip.addEventListener("click", () => { pressChip(chip); update(); });
form.addEventListener("input", update);
form.addEventListener("submit", (event) => event.preventDefault());
$(".list").addEventListener("scroll", drawList, { passive: true });
$("#before").addEventListener("click", () => step(-1));
$("#after").addEventListener("click", () => step(1));
$("#help").addEventListener("click", () => $("dialog").showModal());
addEventListener("keydown", onKey);
addEventListener("resize", drawList);
addEventListener("hashchange", () => { const item = caseInAddress(); if (item && item !== current) show(item); });
const asked = caseInAddress();
update();
if (asked && asked !== current) show(asked);
requestAnimationFrame(() => setTimeout(() => performance.mark("case shown")));
