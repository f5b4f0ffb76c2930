// Files made in the browser from the answer that is shown: grey PNGs and zips.

const CRC = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ CRC[(value ^ byte) & 255];
  return (value ^ 0xffffffff) >>> 0;
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A grey PNG of 8 bits, or of 16 where a value needs it. values: row by row. */
export async function encodePng(values, width, height) {
  const wide = values.some((value) => value > 255);
  const row = 1 + width * (wide ? 2 : 1);
  const raw = new Uint8Array(row * height); // each row begins with its filter, 0
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = values[y * width + x];
      if (wide) {
        raw[y * row + 1 + 2 * x] = value >> 8;
        raw[y * row + 2 + 2 * x] = value & 255;
      } else raw[y * row + 1 + x] = value;
    }
  }
  const stream = new Blob([raw]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = wide ? 16 : 8;
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  return joined([signature, chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", new Uint8Array(0))]);
}

function chunk(name, data) {
  const body = joined([new TextEncoder().encode(name), data]);
  const all = new Uint8Array(body.length + 8);
  const view = new DataView(all.buffer);
  view.setUint32(0, data.length);
  all.set(body, 4);
  view.setUint32(all.length - 4, crc32(body));
  return all;
}

/** A zip of files that are compressed already. files: [name, Uint8Array] */
export function encodeZip(files) {
  const [bodies, directory] = [[], []];
  let offset = 0;
  for (const [name, data] of files) {
    const label = new TextEncoder().encode(name);
    const shared = new Uint8Array(26); // what both headers say
    const view = new DataView(shared.buffer);
    view.setUint16(0, 20, true); // version
    view.setUint16(2, 0x800, true); // names are UTF-8
    view.setUint16(8, 0x21, true); // 1980-01-01: the same masks give the same bytes
    view.setUint32(10, crc32(data), true);
    view.setUint32(14, data.length, true);
    view.setUint32(18, data.length, true);
    view.setUint16(22, label.length, true);
    bodies.push(new Uint8Array([0x50, 0x4b, 3, 4]), shared, label, data);
    const rest = new Uint8Array(14);
    new DataView(rest.buffer).setUint32(10, offset, true);
    directory.push(new Uint8Array([0x50, 0x4b, 1, 2, 20, 0]), shared, rest, label);
    offset += 30 + label.length + data.length;
  }
  const index = joined(directory);
  const end = new Uint8Array(22);
  const view = new DataView(end.buffer);
  view.setUint32(0, 0x06054b50, true);
  view.setUint16(8, files.length, true);
  view.setUint16(10, files.length, true);
  view.setUint32(12, index.length, true);
  view.setUint32(16, offset, true);
  return joined([...bodies, index, end]);
}
