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
  /** onChange is called when the scale or the divider changes. */
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.context = canvas.getContext("2d");
    this.scene = null;
    this.view = "overlay";
    this.divider = 0.5; // share of the canvas' width
    this.hasBoxes = false;
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

  draw() {
    const { scene, context } = this;
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    if (!scene) return;
    this.layers ||= this.#makeLayers();
    if (this.view === "overlay") {
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
      before: layer((i, fill) => fill(i.before, colourOf(i.index), 110)),
      after: layer((i, fill) => fill(i.after, colourOf(i.index), 110)),
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
      context.drawImage(this.layers[which], 0, 0);
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
    context.font = "600 13px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const [word, align, x] of [["Before", "right", -12], ["After", "left", 12]]) {
      const width = context.measureText(word).width + 16;
      context.fillStyle = "#000000b0";
      context.beginPath();
      context.roundRect(edge + x - (align === "right" ? width : 0), 12, width, 24, 6);
      context.fill();
      context.fillStyle = "#ffffff";
      context.textAlign = "center";
      context.fillText(word, edge + x + (align === "right" ? -width : width) / 2, 24.5);
    }
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

  #listen() {
    const { canvas } = this;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.scene) return;
      const edge = this.divider * canvas.clientWidth;
      const isDivider = this.view === "overlay" && Math.abs(event.offsetX - edge) < 18;
      drag = { isDivider, x: event.offsetX, y: event.offsetY };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      if (drag.isDivider) {
        this.set({ divider: Math.min(Math.max(event.offsetX / canvas.clientWidth, 0), 1) });
      } else {
        this.move(event.offsetX - drag.x, event.offsetY - drag.y);
        Object.assign(drag, { x: event.offsetX, y: event.offsetY });
      }
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, () => (drag = null));
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
