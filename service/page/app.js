// The page: files in, POST /refine or /segment, the answer shown.

import { decode } from "/masks.js";
import { AFTER, BEFORE, Viewer, colourOf } from "/viewer.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["decode", "detect", "plan", "queue", "network", "merge", "encode"];
const LEGENDS = {
  overlay: [["", "left of the divider the coarse masks, right of it the refined ones"]],
  contour: [[BEFORE, "before"], [AFTER, "after"]],
  difference: [[AFTER, "added"], [BEFORE, "removed"]],
};

const input = { image: null, masks: [] }; // files
let answer = null;
let running = null; // AbortController of the request on its way

const viewer = new Viewer($("canvas"), () => {
  $("scale").textContent = `${Math.round(viewer.scale * 100)} %`;
  $("divider").value = viewer.divider * 100;
});

// ---- input

/** Show files that came another way in their input too. */
function fill(id, files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  $(id).files = transfer.files;
}

function takeImage(files) {
  if (!files.length) return;
  input.image = files[0];
  const thumbnail = $("thumbnail");
  if (thumbnail.src) URL.revokeObjectURL(thumbnail.src);
  thumbnail.src = URL.createObjectURL(input.image);
  thumbnail.hidden = false;
  $("image-hint").hidden = true;
  update();
}

function takeMasks(files) {
  if (!files.length) return;
  input.masks = [...files];
  const [first] = input.masks;
  const isJson = first.type === "application/json" || first.name.toLowerCase().endsWith(".json");
  if (isJson) $("kind").value = "instances";
  else if (input.masks.length > 1 || $("kind").value === "instances") $("kind").value = "masks";
  const names = input.masks.slice(0, 3).map((file) => file.name);
  const more = input.masks.length > 3 ? ` and ${input.masks.length - 3} more` : "";
  $("masks-hint").textContent = input.masks.length > 1 ? names.join(", ") + more : "";
  update();
}

function update() {
  $("refine").disabled = !input.image || !(input.masks.length || segments());
  $("drop-masks").hidden = segments();
}

/** The service is to find the objects itself. */
function segments() {
  return $("kind").value === "segment";
}

$("kind").addEventListener("change", update);
fetch("/openapi.json").then(async (response) => {
  const { paths } = await response.json();
  $("segment").hidden = $("segment").disabled = !paths["/segment"];
}, () => {}); // masks can be refined without

for (const [name, take] of [["image", takeImage], ["masks", takeMasks]]) {
  $(name).addEventListener("change", (event) => take(event.target.files));
  const zone = $(`drop-${name}`);
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const files = name === "image" ? [...event.dataTransfer.files].slice(0, 1) : event.dataTransfer.files;
    fill(name, files);
    take($(name).files);
  });
}
// a file dropped beside a zone must not replace the page
for (const kind of ["dragover", "drop"]) {
  window.addEventListener(kind, (event) => event.preventDefault());
}

$("example").addEventListener("click", async () => {
  try {
    const [image, masks] = await Promise.all(
      ["/example/image.png", "/example/instances.json"].map(async (path) => {
        const response = await fetch(path);
        if (!response.ok) throw await problemOf(response);
        const name = path.split("/").pop();
        const type = response.headers.get("content-type");
        return new File([await response.blob()], name, { type });
      }),
    );
    fill("image", [image]);
    fill("masks", [masks]);
    takeImage([image]);
    takeMasks([masks]);
    await refine();
  } catch (error) {
    showError(error);
  }
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  refine();
});

// ---- the request

/** The parts of the request; of a COCO data set only the annotations of this image. */
async function parts() {
  const form = new FormData();
  form.append("image", input.image);
  const kind = $("kind").value;
  if (segments()) return form;
  if (kind === "masks") {
    for (const file of input.masks) form.append("masks", file);
    return form;
  }
  if (input.masks.length > 1) throw new Error("Expected one file of masks of this kind.");
  const [file] = input.masks;
  form.append(kind, kind === "instances" ? await ownInstances(file) : file);
  return form;
}

async function ownInstances(file) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    return file; // the service says what is wrong with it
  }
  if (Array.isArray(content) || !Array.isArray(content?.annotations)) return file;
  const images = content.images || [];
  const image = images.length === 1 ? images[0] : images.find((i) => i.file_name === input.image.name);
  if (!image) {
    throw new Error(`${file.name}: expected an entry in images with the file_name ${input.image.name}.`);
  }
  const own = content.annotations.filter((annotation) => annotation.image_id === image.id);
  return new File([JSON.stringify(own)], file.name, { type: "application/json" });
}

async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.includes("json");
  const problem = isProblem ? await response.json() : {};
  if (response.status === 401) $("key-details").open = true;
  return new Error(problem.detail || `The service answered ${response.status}.`);
}

function address() {
  return segments() ? "/segment" : "/refine";
}

async function post(accept, signal) {
  const headers = { Accept: accept };
  if ($("key").value) headers["X-API-Key"] = $("key").value;
  const body = await parts();
  const response = await fetch(`${address()}?details=true`, { method: "POST", headers, body, signal });
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function refine() {
  running?.abort();
  const mine = (running = new AbortController());
  showError(null);
  $("status").textContent = segments() ? "Looking …" : "Refining …";
  $("form").setAttribute("aria-busy", "true");
  const started = performance.now();
  try {
    const response = await post("application/json", mine.signal);
    const received = await response.json();
    const image = await readImage(received.image);
    show(received, image, (performance.now() - started) / 1000);
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (running === mine) $("form").removeAttribute("aria-busy");
  }
}

/** The image as the service has read it: its size tells whether EXIF orientation was applied. */
async function readImage({ width, height }) {
  const turned = await createImageBitmap(input.image);
  if (turned.width === width && turned.height === height) return turned;
  return createImageBitmap(input.image, { imageOrientation: "none" });
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
  if (error) $("status").textContent = "";
}

// ---- the answer

const number = new Intl.NumberFormat("en");

function nameOf(instance, index) {
  const file = $("kind").value === "masks" ? input.masks[index]?.name : "";
  return String(instance.name || (instance.category && `${instance.category} ${index + 1}`) || file || (instance.value && `value ${instance.value}`) || `instance ${index + 1}`);
}

function show(received, image, seconds) {
  answer = received;
  const instances = received.instances.map((instance, index) => ({
    index,
    name: nameOf(instance, index),
    before: decode(instance.coarse),
    after: decode(instance.segmentation),
    boxes: instance.patch_boxes,
    changed: instance.changed_pixels,
    area: instance.area,
    patches: instance.patches,
  }));
  $("result").hidden = false; // first: the canvas needs its size
  $("canvas").style.aspectRatio = `${image.width} / ${image.height}`;
  viewer.show({ image, ...received.image, instances });
  listInstances(instances);
  showTimings(received.timings, seconds, received.patches);
  $("notes").replaceChildren(...received.notes.map((note) => element("li", note)));
  $("curl").textContent = curlLine();
  const words = `${number.format(received.changed_pixels)} pixels of ${instances.length} instance${instances.length === 1 ? "" : "s"} changed, in ${seconds.toFixed(2)} s`;
  $("status").textContent = `Done: ${words}.`;
  $("canvas").setAttribute("aria-label", `${input.image.name} with its masks: ${words}`);
  $("result").scrollIntoView({ block: "nearest" });
}

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

function listInstances(instances) {
  const sorted = [...instances].sort((a, b) => b.changed - a.changed || a.index - b.index);
  $("instances").replaceChildren(
    ...sorted.map((instance) => {
      const button = element("button", "", { type: "button", className: "instance" });
      const swatch = element("span", "", { className: "swatch" });
      swatch.style.background = colourOf(instance.index);
      const share = instance.area ? (100 * instance.changed) / instance.area : 0;
      button.append(
        swatch,
        element("span", instance.name, { className: "name" }),
        element("span", `${number.format(instance.changed)} px · ${share.toFixed(1)} % · ${instance.patches} patches`, { className: "figures" }),
      );
      button.dataset.index = instance.index;
      button.addEventListener("click", () => {
        select(instance.index);
        if (!viewer.zoomToChange()) viewer.fit();
      });
      const item = element("li");
      item.append(button);
      return item;
    }),
  );
  select(null);
}

function select(index) {
  viewer.select(index);
  $("all").setAttribute("aria-pressed", index === null);
  for (const button of $("instances").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", Number(button.dataset.index) === index);
  }
}

function showTimings(timings, seconds, patches) {
  const stages = STAGES.filter((stage) => stage in timings);
  const inside = stages.reduce((sum, stage) => sum + timings[stage], 0);
  const rows = [
    ...stages.map((stage) => [stage, timings[stage]]),
    ["transfer and rest", Math.max(seconds - inside, 0)],
    ["in all", seconds],
  ];
  $("timings").tBodies[0].replaceChildren(
    ...rows.map(([stage, value]) => {
      const row = element("tr", "", { className: `stage-${stage.split(" ")[0]}` });
      const note = stage === "network" ? `${number.format(patches)} patches` : "";
      const head = element("th", stage, { scope: "row" });
      row.append(head, element("td", `${value.toFixed(3)} s`), element("td", note));
      return row;
    }),
  );
  $("time-bar").replaceChildren(
    ...rows.slice(0, -1).map(([stage, value]) => {
      const part = element("span", "", { className: `stage-${stage.split(" ")[0]}` });
      part.style.flexGrow = value;
      return part;
    }),
  );
}

function curlLine() {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const kind = $("kind").value;
  const masks = segments() ? [] : input.masks.map((file) => [kind, file]);
  const files = [["image", input.image], ...masks];
  const words = files.map(([name, file]) => `-F ${quoted(`${name}=@${file.name}`)}`);
  if ($("key").value) words.push(`-H "X-API-Key: $KEY"`);
  return `curl ${words.join(" \\\n  ")} \\\n  ${location.origin}${address()}`;
}

// ---- controls

for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", () => setView(radio.value));
}

function setView(view) {
  viewer.set({ view });
  $("divider-row").hidden = view !== "overlay";
  $("legend").replaceChildren(
    ...LEGENDS[view].map(([colour, word]) => {
      const item = element("li");
      const swatch = element("span", "", { className: "swatch" });
      swatch.style.background = colour;
      if (colour) item.append(swatch);
      item.append(word);
      return item;
    }),
  );
}
setView("overlay");

$("divider").addEventListener("input", (event) => viewer.set({ divider: event.target.value / 100 }));
$("boxes").addEventListener("change", (event) => viewer.set({ hasBoxes: event.target.checked }));
$("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
$("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
$("fit").addEventListener("click", () => viewer.fit());
$("zoom-changes").addEventListener("click", () => viewer.zoomToChange());
$("all").addEventListener("click", () => {
  select(null);
  viewer.fit();
});

function save(blob, name) {
  const link = element("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function stem() {
  return input.image.name.replace(/\.[^.]*$/, "");
}

$("download-rle").addEventListener("click", () => {
  const records = answer.instances.map(({ coarse, patch_boxes, ...record }) => record);
  const text = JSON.stringify(records, null, 1);
  save(new Blob([text], { type: "application/json" }), `${stem()}_refined.json`);
});

for (const [id, type, name] of [
  ["download-png", "image/png", "_refined.png"],
  ["download-zip", "application/zip", "_refined.zip"],
]) {
  $(id).addEventListener("click", async (event) => {
    event.target.disabled = true;
    showError(null);
    try {
      const response = await post(type);
      save(await response.blob(), stem() + name);
    } catch (error) {
      showError(error);
    } finally {
      event.target.disabled = false;
    }
  });
}

$("copy").addEventListener("click", async () => {
  const range = document.createRange();
  range.selectNodeContents($("curl"));
  getSelection().removeAllRanges();
  getSelection().addRange(range); // what is left to do by hand where the clipboard is closed
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copy").textContent = "Copied";
  } catch {
    $("copy").textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});
