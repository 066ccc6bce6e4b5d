// The page of `recipe.ask`: a form, and the case that it asks about, drawn as answers come in.
const form = document.querySelector(".ask"), faultLine = form.querySelector(".fault");
const statusLine = form.querySelector(".status"), detail = document.querySelector(".detail");
// A browser sends nothing after the # of an address: only this script has the key.
const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
let picture = null; // chosen: { picture: its name on the server, size, shown: data URI }
let item = null; // the case shown
let running = null; // stops the answers that come in

function pictureOf() { return picture?.shown; }

function fail(text) {
  faultLine.textContent = text;
}

// The reply to a request: what its JSON holds, or the reply itself where that is a stream.
async function request(address, options = {}) {
  let reply;
  try {
    reply = await fetch(address, { ...options, headers: { "X-Key": key, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the program does not answer: is it still running?");
  }
  if (reply.ok && !reply.headers.get("content-type")?.startsWith("application/json")) return reply;
  const told = await reply.json().catch(() => ({}));
  if (told.fault || !reply.ok) throw new Error(told.fault ?? `the program answered with status ${reply.status}`);
  return told;
}

// --- the picture and the question
function choosePicture(chosen) {
  picture = chosen;
  item = { id: "", kind: form.kind.value, question: "", choices: null, right: [], size: chosen.size,
    regions: [], cited: [], answers: {} };
  drawCase(item);
  detail.scrollTop = 0;
}

async function openFile(file) {
  if (!file) return;
  stop();
  fail("");
  form.example.value = "";
  if (file.size > MOST_MEGABYTES * 2 ** 20) {
    form.file.value = "";
    return fail(`${file.name} is too large: at most ${MOST_MEGABYTES} MB`);
  }
  statusLine.textContent = `reading ${file.name}`;
  try {
    choosePicture(await request("pictures", { method: "POST", body: file }));
    statusLine.textContent = `${file.name}, ${picture.size.join(" × ")} pixels`;
  } catch (error) {
    // The picture before it is still the one that is asked about.
    statusLine.textContent = form.file.value = "";
    fail(error.message.replace(/^the picture/, file.name));
  }
}

async function openExample() {
  if (!form.example.value) return;
  stop();
  fail("");
  form.file.value = "";
  try {
    const row = await request(`examples/${form.example.value}`);
    form.question.value = row.question;
    form.kind.value = row.kind;
    form.choices.value = row.choices.join("\n");
    showChoices();
    choosePicture(row);
    statusLine.textContent = "";
  } catch (error) { fail(error.message); }
}

function showChoices() {
  form.choices.closest("label").hidden = !["single", "multi"].includes(form.kind.value);
}

async function listExamples() {
  try {
    const { examples } = await request("examples");
    for (const kind of new Set(examples.map((each) => each.kind))) {
      const group = el("optgroup", { label: kind });
      for (const each of examples.filter((other) => other.kind === kind)) {
        group.append(new Option(`${each.index}: ${each.question}`, each.index));
      }
      form.example.append(group);
    }
    form.example.closest("label").hidden = !examples.length;
  } catch (error) { fail(error.message); }
}

// --- the answers
function drawAnswer(model) {
  const old = document.querySelector(`.case [data-model="${model.key}"]`);
  const stops = (box) => [...box.querySelectorAll("[tabindex], summary")];
  const focused = stops(old).indexOf(document.activeElement);
  const isOpen = old.querySelector("details")?.open;
  const box = response(item, model);
  old.replaceWith(box);
  if (isOpen) box.querySelector("details").open = true;
  drawBoxes(document.querySelector(".case .picture"), item);
  applyLayers();
  light([]);
  stops(box)[focused]?.focus({ preventScroll: true });
}

function take(line) {
  if (line.case) {
    item = line.case;
    drawCase(item);
    return;
  }
  const model = models.find((each) => each.key === line.model);
  if (line.fault) { fail(`${faultLine.textContent} ${line.fault}`.trim()); return; }
  item.answers[model.key] = { ...line.answer, pending: line.seconds === undefined };
  drawAnswer(model);
  if (line.seconds !== undefined) {
    const places = line.answer.regions.length;
    statusLine.textContent += ` ${model.title}: ${line.answer.answer || "no answer"}; ${places} ${places === 1 ? "place" : "places"}; first word after ${line.first_word_s} s, all after ${line.seconds} s.`;
  }
}

function stop() {
  running?.abort();
  running = null;
  form.stop.disabled = true;
}

async function readLines(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) take(JSON.parse(line));
  }
}

async function ask() {
  stop();
  fail("");
  if (!picture) return fail("choose a picture first");
  const mine = running = new AbortController();
  form.stop.disabled = false;
  statusLine.textContent = "asking …";
  const hasChoices = !form.choices.closest("label").hidden;
  const body = JSON.stringify({ picture: picture.picture, question: form.question.value, kind: form.kind.value,
    choices: hasChoices ? form.choices.value.split("\n") : [], temperature: Number(form.temperature.value) });
  try {
    const reply = await request("ask", { method: "POST", body, signal: mine.signal });
    statusLine.textContent = "";
    await readLines(reply);
  } catch (error) {
    if (mine.signal.aborted) return;
    statusLine.textContent = "";
    fail(error instanceof TypeError ? "the answer broke off: is the program still running?" : error.message);
  }
  if (running === mine) stop();
}

form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
});
form.stop.addEventListener("click", () => { stop(); statusLine.textContent = "stopped"; });
form.file.addEventListener("change", () => openFile(form.file.files[0]));
form.example.addEventListener("change", openExample);
form.kind.addEventListener("change", showChoices);
for (const type of ["dragover", "dragleave", "drop"]) {
  detail.addEventListener(type, (event) => {
    event.preventDefault();
    detail.classList.toggle("over", type === "dragover");
    if (type === "drop") openFile(event.dataTransfer.files[0]);
  });
}
addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const names = [...document.querySelectorAll(".case .legend button")].map((button) => button.dataset.layer);
  const layer = names[Number(event.key) - 1];
  if (layer) toggleLayer(layer);
  else if (event.key === "b") toggleAllLayers(names);
});
showChoices();
listExamples();
