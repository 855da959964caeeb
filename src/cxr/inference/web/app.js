// Sends files to the server and shows the predictions. File names stay in the browser.

const MAX_REQUESTS = 2; // concurrent: one file is decoded while the networks predict another
const MAX_TRIES = 10; // for a file, if the server is busy
const ANNOUNCE_INTERVAL = 4000; // ms; a screen reader would otherwise read progress for each file

const COMPUTING = "Computing; the first heatmap takes a few seconds longer.";

const byId = (id) => document.getElementById(id);
const number = (value) => value.toFixed(3);

let model = null;
let work = start();
let announcedAt = 0;
let timer = 0;

fetch("api/model").then(async (response) => {
  model = await response.json();
  byId("model").textContent =
    `Frontal chest radiographs of children. Model: ${model.variant}. It predicts PNEUMONIA at a ` +
    `probability of at least ${number(model.threshold)}, its operating point.`;
}).catch(() => { byId("model").textContent = "The server does not respond."; });

// State of the current list of files; replaced when it is cleared.
function start() {
  return { waiting: [], running: 0, total: 0, skipped: 0, done: { NORMAL: 0, PNEUMONIA: 0, error: 0 },
           stop: new AbortController() };
}

// --- files ---------------------------------------------------------------------------------------

for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", async (event) => {
    const files = [...event.target.files].map((file) => ({ file, path: pathOf(file) }));
    event.target.value = ""; // so that the same files can be chosen again
    add(id === "folder" ? await withReasons(files) : files);
  });
}

// The whole page accepts drops: otherwise the browser would open a file dropped beside the frame.
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  // Entries are available during the event only, so before the first await.
  const entries = [...event.dataTransfer.items].filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry()).filter((entry) => entry);
  const found = await Promise.all(entries.map((entry) => filesOf(entry, false)));
  add(found.flat());
});

const pathOf = (file) => file.webkitRelativePath || file.name;

// The file of an entry, or all files of a folder and its subfolders, with the reasons why some are
// skipped. An unreadable entry is included without a file, so that it is reported.
async function filesOf(entry, isBelow) {
  const path = entry.fullPath.replace(/^\//, "");
  const found = [];
  try {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      return isBelow ? await withReasons([{ file, path }]) : [{ file, path }];
    }
    const reader = entry.createReader();
    for (;;) { // browsers return up to a hundred entries at a time
      const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!entries.length) return found;
      for (const below of entries) found.push(...await filesOf(below, true));
    }
  } catch {
    return [...found, { file: null, path }];
  }
}

async function withReasons(files) {
  const reasons = await Promise.all(files.map(skipReason));
  return files.map((one, index) => ({ ...one, reason: reasons[index] }));
}

// The same rules as in `cxr predict`; empty: the file may be a radiograph.
async function skipReason({ file, path }) {
  const parts = path.split("/").slice(1);
  const name = parts.at(-1) ?? path;
  if (parts.some((part) => part.startsWith("."))) return "hidden";
  if (name.endsWith(".explained.png")) return "heatmap of --explain";
  if (name.toUpperCase() === "DICOMDIR") return "index of a DICOM medium";
  const suffix = /(\.[^.]*)?$/.exec(name)[0].toLowerCase();
  if (model?.suffixes.includes(suffix) || await beginsAsImage(file)) return "";
  return "not a JPEG, PNG or DICOM file";
}

async function beginsAsImage(file) {
  try {
    const bytes = new Uint8Array(await file.slice(0, 132).arrayBuffer());
    const begins = (...expected) => expected.every((byte, index) => bytes[index] === byte);
    return begins(0xff, 0xd8, 0xff) || begins(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a) ||
      String.fromCharCode(...bytes.slice(128)) === "DICM" ||
      begins(2, 0) || begins(8, 0) || begins(0, 8);
  } catch {
    return true; // unreadable, which is reported later
  }
}

function add(found) {
  found.sort((a, b) => a.path.localeCompare(b.path, "en", { numeric: true }));
  const files = found.filter((one) => !one.reason);
  const skipped = found.filter((one) => one.reason);
  work.skipped += skipped.length;
  byId("skipped").hidden = !work.skipped;
  byId("skipped-count").textContent = `Skipped: ${work.skipped}`;
  byId("skipped-names").append(
    ...skipped.map(({ path, reason }) => filled("li", `${path}: ${reason}`)));
  byId("predictions").hidden = false;
  for (const { file, path } of files) {
    const item = byId("result").content.firstElementChild.cloneNode(true);
    item.querySelector("h3").textContent = path;
    byId("results").append(item);
    work.waiting.push({ item, file, path });
  }
  work.total += files.length;
  report();
  while (work.running < Math.min(MAX_REQUESTS, work.waiting.length + work.running)) run(work);
}

byId("clear").addEventListener("click", () => {
  work.stop.abort();
  work = start();
  byId("results").replaceChildren();
  byId("skipped-names").replaceChildren();
  byId("skipped").hidden = true;
  byId("predictions").hidden = true;
  announce("Cleared.");
  byId("files").focus();
});

// --- predictions ---------------------------------------------------------------------------------

async function run(mine) { // `work` may be replaced meanwhile
  mine.running += 1;
  while (mine.waiting.length && !mine.stop.signal.aborted) {
    const { item, file, path } = mine.waiting.shift();
    try {
      const prediction = await (await post("api/predict", file, mine.stop.signal)).json();
      show(item, prediction, file, path);
      mine.done[prediction.decision] += 1;
    } catch (error) {
      showError(item, error);
      mine.done.error += 1;
    }
    if (mine === work) report();
  }
  mine.running -= 1;
}

async function post(url, file, signal) {
  if (!file) throw new Error("cannot be read");
  if (model && file.size > model.max_bytes) {
    throw new Error(`the file exceeds the limit of ${model.max_bytes} bytes`);
  }
  const body = await file.arrayBuffer().catch(() => { throw new Error("the file cannot be read"); });
  const headers = { "Content-Type": "application/octet-stream" };
  for (let tries = 1; ; tries += 1) {
    const response = await fetch(url, { method: "POST", headers, body, signal })
      .catch(() => { throw new Error("the server does not respond"); });
    if (response.ok) return response;
    if (response.status !== 503 || tries === MAX_TRIES) throw new Error(await reason(response));
    await new Promise((done) => setTimeout(done, 1000 * (response.headers.get("Retry-After") || 5)));
  }
}

async function reason(response) {
  const error = await response.json().catch(() => ({}));
  return error.detail || `the server responds with status ${response.status}`;
}

function show(item, prediction, file, path) {
  const part = (name) => item.querySelector(`.${name}`);
  item.firstElementChild.classList.add(prediction.decision);
  part("waiting").hidden = true;
  part("prediction").hidden = false;
  part("decision").textContent = prediction.decision;
  for (const name of ["probability", "threshold", "confidence"]) {
    part(name).textContent = number(prediction[name]);
  }
  part("value").style.width = `${100 * prediction.probability}%`;
  part("mark").style.left = `${100 * prediction.threshold}%`;
  part("warnings").hidden = !prediction.warnings.length;
  part("warnings").append(...prediction.warnings.map((text) => filled("li", `Warning: ${text}`)));
  part("show").hidden = !model?.explains;
  part("show").setAttribute("aria-label", `Heatmap, ${path}`);
  part("show").addEventListener("click", () => toggle(item, file, path));
}

function showError(item, error) {
  item.firstElementChild.classList.add("error");
  item.querySelector(".waiting").replaceChildren(filled("strong", "ERROR:"), ` ${error.message}`);
}

function filled(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

// --- heatmap -------------------------------------------------------------------------------------

async function toggle(item, file, path) {
  const [button, where, pictures, state] =
    ["show", "where", "pictures", "state"].map((name) => item.querySelector(`.${name}`));
  where.hidden = !where.hidden;
  button.setAttribute("aria-expanded", String(!where.hidden));
  if (where.hidden || pictures.childElementCount || state.textContent === COMPUTING) return;
  state.textContent = COMPUTING;
  try {
    const signal = work.stop.signal;
    const [input, overlay] = await Promise.all(["api/image", "api/explain"].map(
      async (url) => (await post(url, file, signal)).blob()));
    pictures.append(
      await picture(input, "Network input", `Network input of ${path}`),
      await picture(overlay, "Grad-CAM heatmap for PNEUMONIA", `Grad-CAM heatmap of ${path}`));
    state.textContent = "";
  } catch (error) {
    pictures.replaceChildren();
    state.textContent = `ERROR: ${error.message}`;
  }
}

async function picture(blob, caption, alt) {
  const image = new Image();
  image.alt = alt;
  image.src = URL.createObjectURL(blob);
  await image.decode().finally(() => URL.revokeObjectURL(image.src));
  const figure = document.createElement("figure");
  figure.append(image, filled("figcaption", caption));
  return figure;
}

// --- progress ------------------------------------------------------------------------------------

function report() {
  const { NORMAL, PNEUMONIA, error } = work.done;
  const done = NORMAL + PNEUMONIA + error;
  const counts = work.total
    ? `${done} of ${work.total} done: ${PNEUMONIA} PNEUMONIA, ${NORMAL} NORMAL, ${error} failed.`
    : "No JPEG, PNG or DICOM file was found.";
  const text = work.skipped ? `${counts} ${work.skipped} skipped.` : counts;
  byId("progress").textContent = text;
  clearTimeout(timer);
  const wait = done === work.total ? 0 : Math.max(0, announcedAt + ANNOUNCE_INTERVAL - Date.now());
  timer = setTimeout(() => announce(text), wait);
}

// For screen readers.
function announce(text) {
  announcedAt = Date.now();
  byId("announcement").textContent = text;
}
