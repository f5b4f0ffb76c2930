// The page: files in, POST /refine or /segment, the answer shown.

import { takeDownloads } from "/downloads.js";
import { describe, ownInstances } from "/files.js";
import { decode } from "/masks.js";
import { AFTER, BEFORE, Viewer, colourOf } from "/viewer.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["decode", "detect", "plan", "queue", "network", "merge", "encode"];
const SAMPLES = { coffee: "Coffee", astronaut: "Astronaut", camera: "Photographer", rocket: "Rocket" };
const MAX_TRIES = 6; // of a service that is busy
const LEGENDS = {
  overlay: [["", "Left of the line: the masks before. Right of it: refined."]],
  contour: [[BEFORE, "before"], [AFTER, "after"]],
  difference: [[AFTER, "added"], [BEFORE, "removed"]],
};

const NOTHING = { image: null, masks: [], kind: "masks", outlines: [] };
let given = { ...NOTHING }; // what the visitor has chosen; examples are not among it
let shown = null; // {answer, image, scene, source}: an answer and the files that it belongs to
let running = null; // AbortController of the request on its way
let hasDetector = false;

const viewer = new Viewer($("canvas"), {
  onChange: () => {
    $("scale").textContent = `${Math.round(viewer.scale * 100)} %`;
    $("divider").value = viewer.divider * 100;
  },
  onPick: (index) => select(index),
  onOutline: (points) => {
    given.outlines.push(points);
    refine();
  },
});
takeDownloads(() => shown && { ...shown, selected: viewer.selected }, showError);

// ---- input

async function take(files) {
  const found = await Promise.all([...files].map(describe));
  forget();
  const wrong = found.find(({ kind }) => !kind);
  if (wrong) showError(new Error(wrong.why));
  const images = found.filter(({ kind }) => kind === "image");
  const masks = found.filter(({ kind }) => kind && kind !== "image");
  if (images.length) given = { ...given, image: images[0].file, masks: [], outlines: [] };
  if (images.length > 1) {
    showError(new Error(`One photo at a time: ${images[0].file.name} was taken. If the others are masks, save them as PNG with two values.`));
  }
  if (masks.length) {
    const kinds = new Set(masks.map(({ kind }) => kind));
    const json = masks.find(({ kind }) => kind === "instances");
    const isMap = masks.length === 1 && kinds.has("map");
    given.kind = json ? "instances" : isMap ? "instance_map" : "masks";
    given.masks = json ? [json.file] : masks.map(({ file }) => file);
    given.outlines = [];
  }
  update();
  if (given.image && !masks.length) await showImageAlone();
}

/** What was shown belongs to other files: take it away, and the errors of before too. */
function forget() {
  running?.abort();
  running = null;
  shown = null;
  document.body.dataset.state = "input";
  $("result").hidden = true;
  $("status").textContent = "";
  showError(null);
  setBusy(false);
}

function update() {
  const hasMasks = given.masks.length > 0;
  const chips = [given.image && [given.image, "photo"], ...given.masks.map((file) => [file, "masks"])].filter(Boolean);
  $("given").replaceChildren(
    ...chips.slice(0, 8).map(([file, what]) => element("li", `${file.name} · ${what}`)),
    ...(chips.length > 8 ? [element("li", `and ${chips.length - 8} more`)] : []),
  );
  $("kind-row").hidden = given.masks.length !== 1 || given.kind === "instances";
  $("kind").value = given.kind === "instance_map" ? "instance_map" : "masks";
  $("refine").hidden = !(given.image && hasMasks);
  $("find").hidden = !given.image || hasMasks || !hasDetector;
  $("draw").hidden = !given.image || hasMasks;
  if (hasMasks && !given.image) $("status").textContent = "Now add the photo that the masks belong to.";
}

/** A photo without masks: look at it, and draw on it where nothing finds the objects. */
async function showImageAlone() {
  let image;
  try {
    image = await createImageBitmap(given.image);
  } catch {
    showError(new Error(`${given.image.name}: this browser cannot show it.`));
    return;
  }
  document.body.dataset.state = "drawing";
  $("result").hidden = false;
  $("result-title").textContent = given.image.name;
  place(image, image.width, image.height);
  viewer.show({ image, width: image.width, height: image.height, instances: [] });
  if (!hasDetector) startDrawing();
  else $("status").textContent = "Find the objects, or draw a rough outline around one.";
}

function startDrawing() {
  viewer.set({ isDrawing: true, view: "overlay" });
  $("canvas").classList.add("drawing");
  $("status").textContent = "Draw a rough outline around an object, with a finger or the mouse.";
}

function place(image, width, height) {
  $("canvas").style.aspectRatio = `${width} / ${height}`;
}

$("files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // the same file may be chosen again
  if (files.length) take(files);
});
window.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
window.addEventListener("drop", (event) => {
  event.preventDefault(); // a file must not replace the page
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) take(event.clipboardData.files);
});
$("kind").addEventListener("change", () => {
  const { image, masks, outlines } = given;
  forget();
  given = { image, masks, outlines, kind: $("kind").value };
  update();
});
$("key").addEventListener("input", () => showError(null));
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("refine").hidden) refine();
});
$("find").addEventListener("click", () => refine("/segment"));
$("draw").addEventListener("click", async () => {
  const isShown = document.body.dataset.state === "drawing";
  if (!isShown) {
    forget();
    await showImageAlone();
  }
  startDrawing();
});
$("cancel").addEventListener("click", () => running?.abort());

fetch("/openapi.json").then(async (response) => {
  const { paths } = await response.json();
  hasDetector = Boolean(paths["/segment"]);
  update();
}, () => {}); // masks can be refined without

// ---- examples

for (const [name, title] of Object.entries(SAMPLES)) {
  const button = element("button", "", { type: "button", className: "sample" });
  button.dataset.name = name;
  button.append(
    element("img", "", { src: `/samples/${name}/image.png`, alt: "", width: 72, height: 54, loading: "lazy" }),
    element("span", title),
  );
  button.addEventListener("click", () => {
    forget();
    given = { ...NOTHING };
    update();
    showSample(name);
  });
  $("samples").append(button);
}

/** A finished before and after of this service: it is made once, and costs visitors nothing. */
async function showSample(name, tries = 40) {
  const mine = (running = new AbortController());
  try {
    const [image, masks, answer] = await Promise.all(
      ["image.png", "instances.json", "refined.json"].map((file) =>
        fetch(`/samples/${name}/${file}`, { signal: mine.signal }),
      ),
    );
    if (answer.status === 503 && tries) {
      $("status").textContent = "The service is starting …";
      await wait(1000 * (Number(answer.headers.get("Retry-After")) || 2), mine.signal);
      await showSample(name, tries - 1);
      return;
    }
    for (const response of [image, masks, answer]) if (!response.ok) throw await problemOf(response);
    const files = {
      image: new File([await image.blob()], `${name}.png`, { type: "image/png" }),
      masks: [new File([await masks.blob()], `${name}.json`, { type: "application/json" })],
      kind: "instances",
      outlines: [],
    };
    const received = await answer.json();
    if (mine.signal.aborted) return;
    await show(received, { ...files, address: "/refine" });
    document.body.dataset.state = "sample";
    $("status").textContent = `${SAMPLES[name]}: drag the line in the picture. ${summary(received)}`;
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (running === mine) running = null;
  }
}
showSample("coffee");

// ---- the request

function parts(source, own) {
  const form = new FormData();
  form.append("image", source.image);
  if (source.address === "/segment") return form;
  if (source.kind === "masks") for (const file of own) form.append("masks", file);
  else form.append(source.kind, own[0]);
  return form;
}

function outlinesAsJson(outlines) {
  const records = outlines.map((points, index) => ({
    name: `outline ${index + 1}`,
    segmentation: [points.flat()],
  }));
  return new File([JSON.stringify(records)], "outlines.json", { type: "application/json" });
}

async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.includes("json");
  const problem = isProblem ? await response.json() : {};
  if (response.status === 401) $("key-row").hidden = false;
  return new Error(problem.detail || `The service answered ${response.status}.`);
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}

/** Send until the service has a place, at the times that it names. */
async function send(source, own, signal) {
  for (let attempt = 1; ; attempt++) {
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const headers = { Accept: "application/json", "X-Request-ID": id };
    if ($("key").value) headers["X-API-Key"] = $("key").value;
    const watching = watch(id, signal);
    const response = await fetch(`${source.address}?details=true`, {
      method: "POST",
      headers,
      body: parts(source, own),
      signal,
    }).finally(() => watching.stop());
    const isBusy = response.status === 429 || response.status === 503;
    if (!isBusy || attempt === MAX_TRIES) {
      if (!response.ok) throw await problemOf(response);
      return response;
    }
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    $("status").textContent = `The service is busy. Trying again in ${seconds} s (${attempt} of ${MAX_TRIES - 1}).`;
    await wait(1000 * seconds, signal);
  }
}

/** Show how far a request is, as the service says. */
function watch(id, signal) {
  const started = performance.now();
  const timer = setInterval(async () => {
    try {
      const response = await fetch(`/progress/${id}`, { signal });
      if (!response.ok || signal.aborted) return;
      const { patches, patches_done: done, ahead } = await response.json();
      if (!patches || timer === null) return;
      $("progress").value = done / patches;
      const seconds = (performance.now() - started) / 1000;
      const left = done ? Math.ceil((seconds * (patches - done)) / done) : null;
      const line = ahead && !done ? `, ${ahead} request${ahead === 1 ? "" : "s"} before yours` : "";
      $("status").textContent = `${number.format(done)} of ${number.format(patches)} patches${line}${left === null ? "" : `, about ${left} s left`}`;
    } catch {
      // the request itself says what is wrong
    }
  }, 400);
  return { stop: () => clearInterval(timer) };
}

function setBusy(isBusy) {
  $("form").toggleAttribute("aria-busy", isBusy);
  $("progress").hidden = !isBusy;
  $("progress").removeAttribute("value");
  $("cancel").hidden = !isBusy;
}

async function refine(address = "/refine") {
  running?.abort();
  const mine = (running = new AbortController());
  const source = { ...given, address, outlines: [...given.outlines] };
  if (source.outlines.length) Object.assign(source, { kind: "instances", masks: [outlinesAsJson(source.outlines)] });
  showError(null);
  $("status").textContent = address === "/segment" ? "Looking …" : "Refining …";
  setBusy(true);
  const started = performance.now();
  try {
    const own = source.kind === "instances" && source.masks.length
      ? [await ownInstances(source.masks[0], source.image.name)]
      : source.masks;
    const response = await send(source, own, mine.signal);
    const received = await response.json();
    if (mine.signal.aborted) return;
    const seconds = (performance.now() - started) / 1000;
    await show(received, source, seconds);
    document.body.dataset.state = "result";
    $("status").textContent = `Done: ${summary(received, seconds)}`;
    $("result").scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    if (error.name === "AbortError") {
      if (running === mine) $("status").textContent = "Cancelled.";
    } else showError(error);
  } finally {
    if (running === mine) {
      running = null;
      setBusy(false);
    }
  }
}

/** The image as the service has read it: its size tells whether EXIF orientation was applied. */
async function readImage(file, { width, height }) {
  const turned = await createImageBitmap(file);
  if (turned.width === width && turned.height === height) return turned;
  return createImageBitmap(file, { imageOrientation: "none" });
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
  if (error) $("status").textContent = "";
}

// ---- the answer

const number = new Intl.NumberFormat("en");

function summary(received, seconds) {
  const count = received.instances.length;
  if (!count) return "no object was found.";
  const words = `${number.format(received.changed_pixels)} pixels of ${count} object${count === 1 ? "" : "s"} changed`;
  return seconds === undefined ? `${words}.` : `${words}, in ${seconds.toFixed(2)} s.`;
}

function nameOf(instance, index, source) {
  const file = source.kind === "masks" ? source.masks[index]?.name : "";
  return String(instance.name || (instance.category && `${instance.category} ${index + 1}`) || file || (instance.value && `value ${instance.value}`) || `object ${index + 1}`);
}

async function show(received, source, seconds) {
  const image = await readImage(source.image, received.image);
  const instances = received.instances.map((instance, index) => ({
    index,
    name: nameOf(instance, index, source),
    before: decode(instance.coarse),
    after: decode(instance.segmentation),
    boxes: instance.patch_boxes,
    changed: instance.changed_pixels,
    area: instance.area,
    patches: instance.patches,
    score: instance.score ?? 1,
    value: instance.value ?? index + 1,
  }));
  shown = { answer: received, image, instances, source };
  $("result").hidden = false; // first: the canvas needs its size
  $("result-title").textContent = source.image.name;
  $("canvas").classList.remove("drawing");
  place(image, received.image.width, received.image.height);
  viewer.set({ isDrawing: false });
  viewer.show({ image, ...received.image, instances });
  viewer.divideAtChange();
  listInstances(instances);
  showTimings(received.timings, seconds, received.patches);
  $("notes").replaceChildren(...received.notes.map((note) => element("li", note)));
  $("curl").textContent = curlLine(source);
  $("canvas").setAttribute("aria-label", `${source.image.name} with its masks: ${summary(received, seconds)}`);
}

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

function figures({ changed, area, patches }) {
  if (changed) {
    const share = area ? (100 * changed) / area : 0;
    return `${number.format(changed)} px · ${share.toFixed(1)} % · ${patches} patches`;
  }
  return patches
    ? "left as it was, because the change would be smaller than the network's noise"
    : "left as it was, because it has no boundary inside the image";
}

function listInstances(instances) {
  const sorted = [...instances].sort((a, b) => b.changed - a.changed || a.index - b.index);
  $("instances").replaceChildren(
    ...sorted.map((instance) => {
      const button = element("button", "", { type: "button", className: "instance" });
      const swatch = element("span", "", { className: "swatch" });
      swatch.style.background = colourOf(instance.index);
      button.append(
        swatch,
        element("span", instance.name, { className: "name" }),
        element("span", figures(instance), { className: "figures" }),
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
  const rows = stages.map((stage) => [stage, timings[stage]]);
  if (seconds !== undefined) rows.push(["transfer and rest", Math.max(seconds - inside, 0)]);
  const total = ["in all", seconds ?? inside];
  $("timings").tBodies[0].replaceChildren(
    ...[...rows, total].map(([stage, value]) => {
      const row = element("tr", "", { className: `stage-${stage.split(" ")[0]}` });
      const note = stage === "network" ? `${number.format(patches)} patches` : "";
      const head = element("th", stage, { scope: "row" });
      row.append(head, element("td", `${value.toFixed(3)} s`), element("td", note));
      return row;
    }),
  );
  $("time-bar").replaceChildren(
    ...rows.map(([stage, value]) => {
      const part = element("span", "", { className: `stage-${stage.split(" ")[0]}` });
      part.style.flexGrow = value;
      return part;
    }),
  );
}

function curlLine({ image, masks, kind, address }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const others = address === "/segment" ? [] : masks.map((file) => [kind, file]);
  const files = [["image", image], ...others];
  const words = files.map(([name, file]) => `-F ${quoted(`${name}=@${file.name}`)}`);
  if ($("key").value) words.push(`-H "X-API-Key: $KEY"`);
  return `curl ${words.join(" \\\n  ")} \\\n  ${location.origin}${address}`;
}

// ---- looking

function showLegend(view) {
  $("legend").replaceChildren(
    ...LEGENDS[view].map(([colour, text]) => {
      const item = element("li");
      if (colour) {
        const swatch = element("span", "", { className: "swatch" });
        swatch.style.background = colour;
        item.append(swatch);
      }
      item.append(text);
      return item;
    }),
  );
}

for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", () => {
    viewer.set({ view: radio.value });
    $("divider-row").hidden = $("opacity-row").hidden = radio.value !== "overlay";
    showLegend(radio.value);
  });
}
showLegend("overlay");
$("boxes").addEventListener("change", () => viewer.set({ hasBoxes: $("boxes").checked }));
$("divider").addEventListener("input", () => viewer.set({ divider: $("divider").value / 100 }));
$("opacity").addEventListener("input", () => viewer.set({ opacity: $("opacity").value / 100 }));
const isHoldKey = (event) => event.key === " " || event.key === "Enter";
for (const [kind, isHeld] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false], ["blur", false]]) {
  $("hold").addEventListener(kind, () => viewer.set({ isHeld }));
}
$("hold").addEventListener("keydown", (event) => isHoldKey(event) && viewer.set({ isHeld: true }));
$("hold").addEventListener("keyup", (event) => isHoldKey(event) && viewer.set({ isHeld: false }));
$("zoom-in").addEventListener("click", () => viewer.zoom(1.5));
$("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.5));
$("fit").addEventListener("click", () => viewer.fit());
$("zoom-changes").addEventListener("click", () => {
  if (!viewer.zoomToChange()) $("status").textContent = "Nothing has changed here.";
});
$("all").addEventListener("click", () => {
  select(null);
  viewer.fit();
});

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
