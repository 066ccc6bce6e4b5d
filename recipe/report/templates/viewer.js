// The cases of a report: which are listed and in which order, the list, and the keys.
let images = null; // read when the first picture is shown
function pictureOf(item) {
  if (item.image < 0) return null;
  images ??= read("image-data");
  return images[item.image];
}

// --- filters
const [first, last] = [models[0], models[models.length - 1]];
const isRight = (item, model) => Boolean(item.answers[model.key]?.correct);
const score = (item, model) => item.answers[model.key]?.score ?? 0;
const gain = (item) => score(item, last) - score(item, first);

data.cases.forEach((item, place) => {
  item.place = place;
  item.names = new Set(item.regions.map((region) => region.ref));
  const answers = Object.values(item.answers).map((answer) => answer.answer);
  item.text = [item.id, item.patient, item.question, item.answer, ...answers].join("\n").toLowerCase();
});

const outcomes = new Map();
for (const model of models) {
  outcomes.set(`${model.title} right`, (item) => isRight(item, model));
  outcomes.set(`${model.title} wrong`, (item) => !isRight(item, model));
}
if (models.length > 1) {
  const step = (was, is) => (item) => isRight(item, first) === was && isRight(item, last) === is;
  outcomes.set(`${first.title} wrong → ${last.title} right`, step(false, true));
  outcomes.set(`${first.title} right → ${last.title} wrong`, step(true, false));
  const [all, none] = models.length > 2 ? ["all right", "all wrong"] : ["both right", "both wrong"];
  outcomes.set(all, (item) => models.every((model) => isRight(item, model)));
  outcomes.set(none, (item) => !models.some((model) => isRight(item, model)));
}

const orders = new Map([["as in the file", (a, b) => a.place - b.place]]);
if (models.length > 1) {
  orders.set("reward gained most", (a, b) => gain(b) - gain(a));
  orders.set("reward lost most", (a, b) => gain(a) - gain(b));
}
for (const model of models) {
  orders.set(`lowest reward, ${model.title}`, (a, b) => score(a, model) - score(b, model));
}
orders.set(`lowest mean IoU, ${last.title}`, (a, b) =>
  (a.answers[last.key]?.parts.mean_iou ?? 0) - (b.answers[last.key]?.parts.mean_iou ?? 0));

const form = document.querySelector(".filters");
const chips = [...form.querySelectorAll(".chip")];

function addOptions(select, entries) {
  for (const [value, label] of entries) select.append(new Option(label, value));
}

function fillFilters() {
  const counts = new Map();
  for (const item of data.cases) {
    for (const name of item.names) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const names = [...counts.keys()].sort((a, b) => a.localeCompare(b));
  addOptions(form.region, names.map((name) => [name, `${name || "unnamed"} (${counts.get(name)})`]));
  addOptions(form.outcome, [...outcomes.keys()].map((name) => [name, name]));
  addOptions(form.order, [...orders.keys()].map((name) => [name, name]));
  for (const chip of chips) {
    chip.append(` ${data.cases.filter((item) => item.kind === chip.dataset.kind).length}`);
  }
}

function chosenCases() {
  const kinds = new Set(chips.filter((chip) => chip.ariaPressed === "true").map((c) => c.dataset.kind));
  const region = form.region.value, outcome = outcomes.get(form.outcome.value);
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  return data.cases
    .filter((item) => kinds.has(item.kind) && (!form.region.selectedIndex || item.names.has(region))
      && (!outcome || outcome(item)) && words.every((word) => item.text.includes(word)))
    .sort((a, b) => orders.get(form.order.value)(a, b) || a.place - b.place);
}

// A chip alone: a click on it while all are on. The last one on cannot be turned off alone.
function pressChip(chip) {
  const on = chips.filter((each) => each.ariaPressed === "true");
  if (on.length === chips.length) for (const each of chips) each.ariaPressed = String(each === chip);
  else if (on.length === 1 && on[0] === chip) for (const each of chips) each.ariaPressed = "true";
  else chip.ariaPressed = String(chip.ariaPressed !== "true");
}

// --- the page
const ROW = 58; // pixels, as in cases.css
const $ = (selector) => document.querySelector(`#cases ${selector}`);
let listed = [], current = null;

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
  drawCase(item);
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
