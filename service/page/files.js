// What a dropped file is, told by its content: the photo, a mask, a map of instances, json.

const MAX_MAP_VALUES = 64; // a grey PNG with more different values is a photo

/** {file, kind, why}: kind is image, mask, map, instances, or "" with the reason in why. */
export async function describe(file) {
  const head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.slice(4, 8) === "ftyp" && /^(heic|heix|hevc|mif1|msf1|avif)/.test(text.slice(8))) {
    const what = text.slice(8, 12) === "avif" ? "AVIF" : "HEIC";
    return { file, kind: "", why: `${file.name} is ${what}, which is not taken. Save it as JPEG or PNG first.` };
  }
  if (/^\s*[[{]/.test(text.replace(/^\u00ef\u00bb\u00bf/, ""))) return { file, kind: "instances" };
  const isPng = text.startsWith("\u0089PNG");
  const isJpeg = head[0] === 0xff && head[1] === 0xd8;
  const isWebp = text.startsWith("RIFF") && text.slice(8, 12) === "WEBP";
  if (isJpeg || isWebp) return { file, kind: "image" };
  if (!isPng) {
    return { file, kind: "", why: `${file.name}: expected a PNG, JPEG or WebP image, or a COCO json.` };
  }
  return { file, kind: await kindOfPng(file, head) };
}

async function kindOfPng(file, head) {
  const [depth, colours] = [head[24], head[25]];
  const isGrey = colours === 0 || colours === 4;
  if (depth === 16) return isGrey ? "map" : "image"; // a canvas would cut the values to 8 bits
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    return "image"; // the service says what is wrong with it
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const values = new Set();
  for (let top = 0; top < height; top += 256) {
    const rows = Math.min(256, height - top);
    const pixels = new Uint32Array(context.getImageData(0, top, width, rows).data.buffer);
    for (const pixel of pixels) {
      if (values.has(pixel)) continue;
      const [red, green, blue] = [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
      const isColour = red !== green || green !== blue;
      if (isColour && colours !== 3) return "image"; // palettes of maps have colours
      values.add(pixel);
      if (values.size > MAX_MAP_VALUES) return "image";
    }
  }
  return values.size > 2 ? "map" : "mask";
}

/** Of a COCO data set only the instances of one image; lists stay as they are. */
export async function ownInstances(file, imageName) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    return file; // the service says what is wrong with it
  }
  if (Array.isArray(content) || !Array.isArray(content?.annotations)) return file;
  const images = content.images || [];
  const image = images.length === 1 ? images[0] : images.find((i) => i.file_name === imageName);
  if (!image) {
    throw new Error(`${file.name}: expected an entry in images with the file_name ${imageName}.`);
  }
  const own = content.annotations.filter((annotation) => annotation.image_id === image.id);
  return new File([JSON.stringify(own)], file.name, { type: "application/json" });
}
