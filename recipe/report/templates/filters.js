// Which cases are listed, and in which order. `data` and `models` serve the files after this one.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("case-data");
const models = Object.entries(data.models).map(([key, title], place) =>
  ({ key, title, style: `model-${place + 1}` }));
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
