// Sends files one after the other and shows what is said of them. File names stay here.

const AT_ONCE = 2; // requests: one is decoded while the networks see the other
const TRIES = 10; // of one file, where the server has too much to do
const TOLD_EVERY = 4000; // ms: a screen reader is not to be told of each file

const LOOKING = "Looking; the first picture takes some seconds more.";

const byId = (id) => document.getElementById(id);
const number = (value) => value.toFixed(3);

let model = null;
let work = start();
let toldAt = 0;
let toTell = 0;

fetch("api/model").then(async (response) => {
  model = await response.json();
  byId("model").textContent =
    `Frontal chest radiographs of children. The network “${model.variant}” says PNEUMONIA from a ` +
    `probability of ${number(model.threshold)} on: its operating point, chosen on validation.`;
}).catch(() => { byId("model").textContent = "The server does not answer."; });

// What is under way; replaced when the list is cleared.
function start() {
  return { waiting: [], running: 0, all: 0, skipped: 0, done: { NORMAL: 0, PNEUMONIA: 0, error: 0 },
           stop: new AbortController() };
}

// --- files ---------------------------------------------------------------------------------------

for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", async (event) => {
    const files = [...event.target.files].map((file) => ({ file, path: pathOf(file) }));
    event.target.value = ""; // so that the same can be chosen again
    add(id === "folder" ? await withReasons(files) : files);
  });
}

// The whole page takes drops: a browser would leave it to show a file that misses the frame.
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  // Entries are to be had during the event only, so before anything is waited for.
  const entries = [...event.dataTransfer.items].filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry()).filter((entry) => entry);
  const found = await Promise.all(entries.map((entry) => filesOf(entry, false)));
  add(found.flat());
});

const pathOf = (file) => file.webkitRelativePath || file.name;

// All files of a folder, also of those below, with the reasons why some are skipped; or the one file
// itself. What cannot be read is among them, without a file, so that it is reported.
async function filesOf(entry, isBelow) {
  const path = entry.fullPath.replace(/^\//, "");
  const found = [];
  try {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      return isBelow ? await withReasons([{ file, path }]) : [{ file, path }];
    }
    const reader = entry.createReader();
    for (;;) { // a browser gives a hundred at a time
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return found;
      for (const below of some) found.push(...await filesOf(below, true));
    }
  } catch {
    return [...found, { file: null, path }];
  }
}

async function withReasons(files) {
  const reasons = await Promise.all(files.map(whySkipped));
  return files.map((one, place) => ({ ...one, reason: reasons[place] }));
}

// As `cxr predict` chooses the files of a folder; empty: the file may be a radiograph.
async function whySkipped({ file, path }) {
  const parts = path.split("/").slice(1);
  const name = parts.at(-1) ?? path;
  if (parts.some((part) => part.startsWith("."))) return "hidden";
  if (name.endsWith(".explained.png")) return "picture of --explain";
  if (name.toUpperCase() === "DICOMDIR") return "table of contents of a DICOM medium";
  const suffix = /(\.[^.]*)?$/.exec(name)[0].toLowerCase();
  if (model?.suffixes.includes(suffix) || await beginsAsImage(file)) return "";
  return "not a JPEG, PNG or DICOM file";
}

async function beginsAsImage(file) {
  try {
    const bytes = new Uint8Array(await file.slice(0, 132).arrayBuffer());
    const begins = (...wanted) => wanted.every((byte, place) => bytes[place] === byte);
    return begins(0xff, 0xd8, 0xff) || begins(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a) ||
      String.fromCharCode(...bytes.slice(128)) === "DICM" ||
      begins(2, 0) || begins(8, 0) || begins(0, 8);
  } catch {
    return true; // cannot be read, which is then reported
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
  byId("answers").hidden = false;
  for (const { file, path } of files) {
    const item = byId("result").content.firstElementChild.cloneNode(true);
    item.querySelector("h3").textContent = path;
    byId("results").append(item);
    work.waiting.push({ item, file, path });
  }
  work.all += files.length;
  report();
  while (work.running < Math.min(AT_ONCE, work.waiting.length + work.running)) run(work);
}

byId("clear").addEventListener("click", () => {
  work.stop.abort();
  work = start();
  byId("results").replaceChildren();
  byId("skipped-names").replaceChildren();
  byId("skipped").hidden = true;
  byId("answers").hidden = true;
  tell("Cleared.");
  byId("files").focus();
});

// --- answers -------------------------------------------------------------------------------------

async function run(mine) {
  mine.running += 1;
  while (mine.waiting.length && !mine.stop.signal.aborted) {
    const { item, file, path } = mine.waiting.shift();
    try {
      const answer = await (await post("api/predict", file, mine.stop.signal)).json();
      show(item, answer, file, path);
      mine.done[answer.decision] += 1;
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
  if (model && file.size > model.most_bytes) {
    throw new Error(`the file has more than ${model.most_bytes} bytes`);
  }
  const body = await file.arrayBuffer().catch(() => { throw new Error("the file cannot be read"); });
  const headers = { "Content-Type": "application/octet-stream" };
  for (let tries = 1; ; tries += 1) {
    const response = await fetch(url, { method: "POST", headers, body, signal })
      .catch(() => { throw new Error("the server does not answer"); });
    if (response.ok) return response;
    if (response.status !== 503 || tries === TRIES) throw new Error(await reason(response));
    await new Promise((done) => setTimeout(done, 1000 * (response.headers.get("Retry-After") || 5)));
  }
}

async function reason(response) {
  const said = await response.json().catch(() => ({}));
  return said.detail || `the server answers ${response.status}`;
}

function show(item, answer, file, path) {
  const part = (name) => item.querySelector(`.${name}`);
  item.firstElementChild.classList.add(answer.decision);
  part("waiting").hidden = true;
  part("answer").hidden = false;
  part("decision").textContent = answer.decision;
  for (const name of ["probability", "threshold", "confidence"]) {
    part(name).textContent = number(answer[name]);
  }
  part("value").style.width = `${100 * answer.probability}%`;
  part("mark").style.left = `${100 * answer.threshold}%`;
  part("warnings").hidden = !answer.warnings.length;
  part("warnings").append(...answer.warnings.map((text) => filled("li", `Warning: ${text}`)));
  part("show").hidden = !model?.explains;
  part("show").setAttribute("aria-label", `Show where, ${path}`);
  part("show").addEventListener("click", () => toggle(item, file, path));
}

function showError(item, error) {
  item.firstElementChild.classList.add("error");
  item.querySelector(".waiting").replaceChildren(filled("strong", "ERROR"), ` ${error.message}`);
}

function filled(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

// --- where ---------------------------------------------------------------------------------------

async function toggle(item, file, path) {
  const [button, where, pictures, state] =
    ["show", "where", "pictures", "state"].map((name) => item.querySelector(`.${name}`));
  where.hidden = !where.hidden;
  button.setAttribute("aria-expanded", String(!where.hidden));
  if (where.hidden || pictures.childElementCount || state.textContent === LOOKING) return;
  state.textContent = LOOKING;
  try {
    const signal = work.stop.signal;
    const [seen, overlay] = await Promise.all(["api/image", "api/explain"].map(
      async (url) => (await post(url, file, signal)).blob()));
    pictures.append(
      await picture(seen, "What the network sees", `${path} as the network sees it`),
      await picture(overlay, "Where it sees PNEUMONIA (Grad-CAM)",
        `${path} under a map of colours, light where it speaks most for PNEUMONIA`));
    state.textContent = "";
  } catch (error) {
    pictures.replaceChildren();
    state.textContent = `ERROR ${error.message}`;
  }
}

async function picture(blob, caption, alternative) {
  const image = new Image();
  image.alt = alternative;
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
  const answers = work.all
    ? `${done} of ${work.all} done: ${PNEUMONIA} PNEUMONIA, ${NORMAL} NORMAL, ${error} without an answer.`
    : "No JPEG, PNG or DICOM file was found.";
  const text = work.skipped ? `${answers} ${work.skipped} skipped.` : answers;
  byId("progress").textContent = text;
  clearTimeout(toTell);
  const wait = done === work.all ? 0 : Math.max(0, toldAt + TOLD_EVERY - Date.now());
  toTell = setTimeout(() => tell(text), wait);
}

function tell(text) {
  toldAt = Date.now();
  byId("told").textContent = text;
}
