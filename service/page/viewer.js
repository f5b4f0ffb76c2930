// The picture: image, masks before and after, patch boxes, at any scale.

import { at, largestChange, outline } from "/masks.js";

// Okabe and Ito's colours, told apart with every kind of colour vision
const PALETTE = ["#56b4e9", "#f0e442", "#cc79a7", "#e69f00", "#009e73", "#0072b2", "#d55e00"];
export const BEFORE = "#ff5b4f";
export const AFTER = "#2fd17c";
const BOX = "#ffffff";
const MIN_CSS_PIXELS = 24; // of the image that stay in view
const MAX_SCALE = 32;

export function colourOf(index) {
  return PALETTE[index % PALETTE.length];
}

export class Viewer {
  /**
   * onChange is called when the scale or the divider changes, onPick with the index of a clicked
   * instance (null beside all), onOutline with the points [x, y] of an outline that was drawn.
   */
  constructor(canvas, { onChange, onPick, onOutline }) {
    this.canvas = canvas;
    Object.assign(this, { onChange, onPick, onOutline });
    this.context = canvas.getContext("2d");
    this.scene = null;
    this.view = "overlay";
    this.divider = 0.5; // share of the canvas' width
    this.hasBoxes = false;
    this.opacity = 0.2; // of the fill of masks
    this.isHeld = false; // show everything as it was before
    this.isDrawing = false; // the next drag is an outline
    this.drawn = []; // its points so far, in the image's pixels
    this.selected = null; // index of an instance, null: all
    this.scale = 1; // css pixels per image pixel
    this.offset = [0, 0]; // css pixels of the image's corner
    this.isFitted = true;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    this.#listen();
  }

  /** scene: {image, width, height, instances: [{index, before, after, boxes}]} */
  show(scene) {
    this.scene = scene;
    for (const instance of scene.instances) {
      instance.paths = { before: outline(instance.before), after: outline(instance.after) };
    }
    this.selected = null;
    this.layers = null;
    this.drawn = [];
    this.fit();
  }

  select(index) {
    this.selected = index;
    this.layers = null;
    this.draw();
  }

  set(options) {
    Object.assign(this, options);
    this.draw();
    this.onChange();
  }

  fit() {
    if (!this.scene) return;
    const { clientWidth, clientHeight } = this.canvas;
    const { width, height } = this.scene;
    this.isFitted = true;
    this.scale = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.offset = [
      (clientWidth - width * this.scale) / 2,
      (clientHeight - height * this.scale) / 2,
    ];
    this.#changed();
  }

  /** Zoom by a factor, around a point in css pixels (the middle if not given). */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const fitted = Math.min(
      this.canvas.clientWidth / this.scene.width,
      this.canvas.clientHeight / this.scene.height,
    );
    const scale = Math.min(Math.max(this.scale * factor, Math.min(fitted, 1) / 2), MAX_SCALE);
    const ratio = scale / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.move(0, 0, [x - (x - this.offset[0]) * ratio, y - (y - this.offset[1]) * ratio]);
  }

  move(dx, dy, from = this.offset) {
    const { clientWidth, clientHeight } = this.canvas;
    const [width, height] = [this.scene.width * this.scale, this.scene.height * this.scale];
    const keep = (value, size, room) =>
      Math.min(Math.max(value, MIN_CSS_PIXELS - size), room - MIN_CSS_PIXELS);
    this.offset = [keep(from[0] + dx, width, clientWidth), keep(from[1] + dy, height, clientHeight)];
    this.isFitted = false;
    this.#changed();
  }

  /** Show where the masks changed most, whole pixels enlarged; false where nothing changed. */
  zoomToChange() {
    const places = this.#shown()
      .map(({ before, after, changed }) => ({ box: largestChange(before, after), changed }))
      .filter(({ box }) => box);
    if (!places.length) return false;
    const [x0, y0, x1, y1] = places.reduce((a, b) => (b.changed > a.changed ? b : a)).box;
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.floor(Math.min(clientWidth / (x1 - x0), clientHeight / (y1 - y0)));
    this.scale = Math.min(Math.max(scale, 1), MAX_SCALE);
    this.isFitted = false;
    this.offset = [
      Math.round(clientWidth / 2 - ((x0 + x1) / 2) * this.scale),
      Math.round(clientHeight / 2 - ((y0 + y1) / 2) * this.scale),
    ];
    this.#changed();
    return true;
  }

  /** Put the divider where the masks changed most. */
  divideAtChange() {
    const places = this.scene.instances
      .map(({ before, after, changed }) => ({ box: largestChange(before, after), changed }))
      .filter(({ box }) => box);
    this.divider = 0.5;
    if (places.length) {
      const [x0, , x1] = places.reduce((a, b) => (b.changed > a.changed ? b : a)).box;
      const x = this.offset[0] + ((x0 + x1) / 2) * this.scale;
      this.divider = Math.min(Math.max(x / this.canvas.clientWidth, 0.12), 0.88);
    }
    this.#changed();
  }

  draw() {
    const { scene, context } = this;
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    if (!scene) return;
    this.layers ||= this.#makeLayers();
    if (this.isHeld) {
      this.#drawHalf("before", 0, clientWidth);
      this.#drawWord("Before", clientWidth / 2, "center");
    } else if (this.isDrawing || !scene.instances.length) {
      this.#inImage(() => {
        context.drawImage(scene.image, 0, 0, scene.width, scene.height);
        const path = new Path2D();
        this.drawn.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
        this.#stroke(path, "#000000", 5, 0.5);
        this.#stroke(path, AFTER, 3);
      });
    } else if (this.view === "overlay") {
      const edge = clientWidth * this.divider;
      this.#drawHalf("before", 0, edge);
      this.#drawHalf("after", edge, clientWidth - edge);
      this.#drawDivider(edge);
    } else {
      this.#inImage(() => {
        if (this.view === "difference") context.globalAlpha = 0.45;
        context.drawImage(scene.image, 0, 0, scene.width, scene.height);
        context.globalAlpha = 1;
        if (this.view === "difference") context.drawImage(this.layers.difference, 0, 0);
        else {
          for (const { paths } of this.#shown()) {
            this.#stroke(paths.before, BEFORE, 2);
            this.#stroke(paths.after, AFTER, 2);
          }
        }
        this.#drawBoxes();
      });
    }
  }

  #shown() {
    const { instances } = this.scene;
    return this.selected === null ? instances : instances.filter((i) => i.index === this.selected);
  }

  /** Tints and differences as canvases of the image's size. */
  #makeLayers() {
    const { width, height } = this.scene;
    const layer = (paint) => {
      const canvas = document.createElement("canvas");
      Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d");
      const data = context.createImageData(width, height);
      const pixels = new Uint32Array(data.data.buffer);
      const fill = (mask, colour, alpha, other = null) => {
        const [red, green, blue] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
        const value = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
        for (let y = 0; y < mask.height; y++) {
          for (let x = 0; x < mask.width; x++) {
            if (!mask.bits[y * mask.width + x]) continue;
            if (other && at(other, mask.x0 + x, mask.y0 + y)) continue;
            pixels[(mask.y0 + y) * width + mask.x0 + x] = value;
          }
        }
      };
      for (const instance of this.#shown()) paint(instance, fill);
      context.putImageData(data, 0, 0);
      return canvas;
    };
    return {
      before: layer((i, fill) => fill(i.before, colourOf(i.index), 255)),
      after: layer((i, fill) => fill(i.after, colourOf(i.index), 255)),
      difference: layer((i, fill) => {
        fill(i.before, BEFORE, 255, i.after);
        fill(i.after, AFTER, 255, i.before);
      }),
    };
  }

  #drawHalf(which, left, width) {
    const { context, scene } = this;
    context.save();
    context.beginPath();
    context.rect(left, 0, width, this.canvas.clientHeight);
    context.clip();
    this.#inImage(() => {
      context.drawImage(scene.image, 0, 0, scene.width, scene.height);
      context.globalAlpha = this.opacity;
      context.drawImage(this.layers[which], 0, 0);
      context.globalAlpha = 1;
      for (const { paths, index } of this.#shown()) {
        this.#stroke(paths[which], "#000000", 3.5, 0.55);
        this.#stroke(paths[which], colourOf(index), 2);
      }
      this.#drawBoxes();
    });
    context.restore();
  }

  #drawDivider(edge) {
    const { context } = this;
    const middle = this.canvas.clientHeight / 2;
    context.fillStyle = "#ffffff";
    context.shadowColor = "#000000";
    context.shadowBlur = 4;
    context.fillRect(edge - 1.5, 0, 3, this.canvas.clientHeight);
    context.beginPath();
    context.arc(edge, middle, 16, 0, 2 * Math.PI);
    context.fill();
    context.shadowBlur = 0;
    context.fillStyle = "#222222";
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(edge + side * 10, middle);
      context.lineTo(edge + side * 4, middle - 5);
      context.lineTo(edge + side * 4, middle + 5);
      context.fill();
    }
    this.#drawWord("Before", edge - 12, "right");
    this.#drawWord("After", edge + 12, "left");
  }

  /** A word on a dark ground at the top, which ends (right) or begins (left) at x. */
  #drawWord(word, x, align) {
    const { context } = this;
    context.font = "600 13px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "center";
    const width = context.measureText(word).width + 16;
    const left = x - { left: 0, center: width / 2, right: width }[align];
    context.fillStyle = "#000000b0";
    context.beginPath();
    context.roundRect(left, 12, width, 24, 6);
    context.fill();
    context.fillStyle = "#ffffff";
    context.fillText(word, left + width / 2, 24.5);
  }

  #drawBoxes() {
    if (!this.hasBoxes) return;
    const path = new Path2D();
    for (const { boxes } of this.#shown()) {
      for (const [x0, y0, x1, y1] of boxes) path.rect(x0, y0, x1 - x0, y1 - y0);
    }
    this.#stroke(path, "#000000", 2, 0.35);
    this.#stroke(path, BOX, 1, 0.85);
  }

  #stroke(path, colour, width, alpha = 1) {
    const { context } = this;
    context.globalAlpha = alpha;
    context.strokeStyle = colour;
    context.lineWidth = width / this.scale;
    context.lineCap = "square";
    context.stroke(path);
    context.globalAlpha = 1;
  }

  /** Draw in the image's pixels; enlarged ones stay squares. */
  #inImage(draw) {
    const { context } = this;
    context.save();
    context.translate(...this.offset);
    context.scale(this.scale, this.scale);
    context.imageSmoothingEnabled = this.scale < 1;
    context.imageSmoothingQuality = "high";
    draw();
    context.restore();
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.isFitted) this.fit();
    else this.draw();
  }

  #changed() {
    this.draw();
    this.onChange();
  }

  /** A point of the canvas in the image's pixels, inside of the image. */
  #inside(x, y) {
    const keep = (value, size) => Math.min(Math.max(value, 0), size);
    return [
      keep((x - this.offset[0]) / this.scale, this.scene.width),
      keep((y - this.offset[1]) / this.scale, this.scene.height),
    ].map((value) => Math.round(value * 10) / 10);
  }

  /** The smallest instance at a point of the canvas; null beside all. */
  #instanceAt(x, y) {
    const [column, row] = this.#inside(x, y).map(Math.floor);
    const found = this.scene.instances.filter(({ after }) => at(after, column, row));
    return found.length ? found.reduce((a, b) => (b.area < a.area ? b : a)).index : null;
  }

  #finishOutline() {
    const points = this.drawn;
    this.drawn = [];
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const isLarge = (values) => Math.max(...values) - Math.min(...values) >= 4;
    if (points.length >= 3 && isLarge(xs) && isLarge(ys)) this.onOutline(points);
    this.draw();
  }

  #listen() {
    const { canvas } = this;
    const pointers = new Map(); // of all that are down: where they are
    let drag = null;
    const between = () => {
      const [a, b] = [...pointers.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.scene) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
      if (pointers.size === 2) {
        drag = { kind: "pinch", ...between() };
        this.drawn = [];
        return;
      }
      const edge = this.divider * canvas.clientWidth;
      const isDivider = this.view === "overlay" && Math.abs(event.offsetX - edge) < 22;
      const kind = this.isDrawing ? "outline" : isDivider && this.scene.instances.length ? "divider" : "move";
      drag = { kind, x: event.offsetX, y: event.offsetY, isClick: true };
      if (kind === "outline") this.drawn = [this.#inside(event.offsetX, event.offsetY)];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag || !pointers.has(event.pointerId)) return;
      const [x, y] = [event.offsetX, event.offsetY];
      pointers.set(event.pointerId, { x, y });
      if (drag.kind === "pinch") {
        if (pointers.size < 2) return;
        const now = between();
        this.zoom(now.apart / Math.max(drag.apart, 1), now.x, now.y);
        this.move(now.x - drag.x, now.y - drag.y);
        Object.assign(drag, now);
      } else if (drag.kind === "outline") {
        this.drawn.push(this.#inside(x, y));
        this.draw();
      } else if (drag.kind === "divider") {
        this.set({ divider: Math.min(Math.max(x / canvas.clientWidth, 0), 1) });
      } else {
        if (drag.isClick && Math.hypot(x - drag.x, y - drag.y) < 4) return;
        this.move(x - drag.x, y - drag.y);
        Object.assign(drag, { x, y, isClick: false });
      }
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        if (!pointers.delete(event.pointerId) || !drag) return;
        if (drag.kind === "outline") this.#finishOutline();
        else if (drag.kind === "move" && drag.isClick && kind === "pointerup" && this.scene.instances.length) {
          this.onPick(this.#instanceAt(event.offsetX, event.offsetY));
        }
        if (!pointers.size || drag.kind !== "pinch") drag = null;
      });
    }
    // two fingers zoom the picture, not the page; one moves the page, unless it draws
    for (const kind of ["touchstart", "touchmove"]) {
      canvas.addEventListener(
        kind,
        (event) => {
          if (event.touches.length > 1 || this.isDrawing) event.preventDefault();
        },
        { passive: false },
      );
    }
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.scene || !(event.ctrlKey || event.metaKey)) return; // else the page scrolls
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    const step = 40;
    const keys = {
      ArrowLeft: () => this.move(step, 0),
      ArrowRight: () => this.move(-step, 0),
      ArrowUp: () => this.move(0, step),
      ArrowDown: () => this.move(0, -step),
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
    };
    canvas.addEventListener("keydown", (event) => {
      const act = keys[event.key];
      if (!act || !this.scene || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
  }
}
