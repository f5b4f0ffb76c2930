// Downloads of the answer that is shown: nothing is computed a second time.

import { encodePng, encodeZip } from "/pack.js";

const $ = (id) => document.getElementById(id);

/** getShown gives {answer, image, instances, source, selected}, or nothing. */
export function takeDownloads(getShown, showError) {
  const makers = {
    "download-cutout": [cutOut, "_cutout.png", "image/png"],
    "download-png": [instanceMap, "_refined.png", "image/png"],
    "download-zip": [zip, "_refined.zip", "application/zip"],
    "download-rle": [coco, "_refined.json", "application/json"],
  };
  for (const [id, [make, ending, type]] of Object.entries(makers)) {
    $(id).addEventListener("click", async () => {
      const shown = getShown();
      if (!shown) return;
      showError(null);
      try {
        save(new Blob([await make(shown)], { type }), stemOf(shown) + ending);
      } catch (error) {
        showError(error);
      }
    });
  }
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function stemOf({ source }) {
  return source.image.name.replace(/\.[^.]*$/, "") || "image";
}

/** The photo where the objects are, nothing elsewhere. */
async function cutOut({ image, answer, instances, selected }) {
  const { width, height } = answer.image;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  const data = context.getImageData(0, 0, width, height);
  const isObject = new Uint8Array(width * height);
  for (const { after, index } of instances) {
    if (selected === null || selected === index) paint(isObject, width, after, 1);
  }
  for (let pixel = 0; pixel < isObject.length; pixel++) if (!isObject[pixel]) data.data[4 * pixel + 3] = 0;
  context.putImageData(data, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** As `Accept: image/png` gives: where masks overlap, the one with the higher score is seen. */
function instanceMap({ answer, instances }) {
  const { width, height } = answer.image;
  const values = new Uint16Array(width * height);
  const lowestFirst = [...instances].sort((a, b) => a.score - b.score || b.index - a.index);
  for (const { after, value } of lowestFirst) paint(values, width, after, value);
  return encodePng(values, width, height);
}

async function zip({ answer, instances, ...shown }) {
  const { width, height } = answer.image;
  const stem = stemOf(shown).replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "_").replace(/^[._-]+|[._-]+$/g, "") || "image";
  const files = [];
  let lines = "";
  for (const { after, index, score } of instances) {
    const values = new Uint8Array(width * height);
    paint(values, width, after, 255);
    files.push([`${stem}_${index}.png`, await encodePng(values, width, height)]);
    const text = Number.isInteger(score) ? score.toFixed(1) : String(score);
    lines += `${stem}_${index}.png ${answer.instances[index].category_id ?? 0} ${text}\n`;
  }
  files.push([`${stem}_pred.txt`, new TextEncoder().encode(lines)]);
  return encodeZip(files);
}

function coco({ answer }) {
  const own = answer.instances.map(({ patch_boxes, coarse, ...instance }) => instance);
  return JSON.stringify(own, null, 1);
}

function paint(values, width, mask, value) {
  for (let y = 0; y < mask.height; y++) {
    for (let x = 0; x < mask.width; x++) {
      if (mask.bits[y * mask.width + x]) values[(mask.y0 + y) * width + mask.x0 + x] = value;
    }
  }
}
