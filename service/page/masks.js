// Masks as COCO's run-length codes have them: decoded into the window that the object covers.

/** The runs of a compressed code: 5 bits a character, from the fourth run on as differences. */
function parseRuns(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** {x0, y0, width, height, bits}: bits row by row, 1 where the object is. */
export function decode({ size: [height], counts }) {
  const runs = parseRuns(counts);
  let [x0, y0, x1, y1] = [Infinity, Infinity, 0, 0];
  const spans = [];
  let at = 0;
  runs.forEach((run, index) => {
    if (index % 2 && run) {
      const [start, end] = [at, at + run];
      spans.push([start, end]);
      x0 = Math.min(x0, Math.floor(start / height));
      x1 = Math.max(x1, Math.floor((end - 1) / height) + 1);
      const isWhole = Math.floor(start / height) !== Math.floor((end - 1) / height);
      y0 = Math.min(y0, isWhole ? 0 : start % height);
      y1 = Math.max(y1, isWhole ? height : ((end - 1) % height) + 1);
    }
    at += run;
  });
  if (!spans.length) return { x0: 0, y0: 0, width: 0, height: 0, bits: new Uint8Array(0) };
  const width = x1 - x0;
  const bits = new Uint8Array(width * (y1 - y0));
  for (const [start, end] of spans) {
    for (let pixel = start; pixel < end; pixel++) {
      bits[((pixel % height) - y0) * width + Math.floor(pixel / height) - x0] = 1;
    }
  }
  return { x0, y0, width, height: y1 - y0, bits };
}

/** 1 where the object is, 0 elsewhere, outside of the window too. */
export function at(mask, x, y) {
  const [column, row] = [x - mask.x0, y - mask.y0];
  const isInside = column >= 0 && row >= 0 && column < mask.width && row < mask.height;
  return isInside ? mask.bits[row * mask.width + column] : 0;
}

/** The outline of a mask along the edges of its pixels, sharp at every scale. */
export function outline(mask) {
  const path = new Path2D();
  const { x0, y0, width, height } = mask;
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x < width; x++) {
      if (at(mask, x0 + x, y0 + y) === at(mask, x0 + x, y0 + y - 1)) continue;
      const start = x; // one line for a row of edges
      while (x + 1 < width && at(mask, x0 + x + 1, y0 + y) !== at(mask, x0 + x + 1, y0 + y - 1)) x++;
      path.moveTo(x0 + start, y0 + y);
      path.lineTo(x0 + x + 1, y0 + y);
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0; y < height; y++) {
      if (at(mask, x0 + x, y0 + y) === at(mask, x0 + x - 1, y0 + y)) continue;
      const start = y;
      while (y + 1 < height && at(mask, x0 + x, y0 + y + 1) !== at(mask, x0 + x - 1, y0 + y + 1)) y++;
      path.moveTo(x0 + x, y0 + start);
      path.lineTo(x0 + x, y0 + y + 1);
    }
  }
  return path;
}

/** The box of side pixels in which two masks differ most; null where they are equal. */
export function largestChange(before, after, side = 48) {
  const cell = side / 3;
  const counts = new Map();
  const count = (x, y) => {
    const key = `${Math.floor(x / cell)} ${Math.floor(y / cell)}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  };
  for (const [mine, other] of [[before, after], [after, before]]) {
    for (let y = mine.y0; y < mine.y0 + mine.height; y++) {
      for (let x = mine.x0; x < mine.x0 + mine.width; x++) {
        if (at(mine, x, y) && !at(other, x, y)) count(x, y);
      }
    }
  }
  let best = null;
  for (const key of counts.keys()) {
    const [column, row] = key.split(" ").map(Number);
    let sum = 0;
    for (let dx = -1; dx <= 1; dx++) {
      for (let dy = -1; dy <= 1; dy++) sum += counts.get(`${column + dx} ${row + dy}`) || 0;
    }
    if (!best || sum > best.sum) best = { sum, column, row };
  }
  if (!best) return null;
  const [x0, y0] = [(best.column - 1) * cell, (best.row - 1) * cell];
  return [x0, y0, x0 + side, y0 + side];
}
