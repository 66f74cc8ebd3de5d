// The film on a canvas: window and level on its true values, zoom, pan, an overlay and boxes.

const SMALLEST = 0.1, LARGEST = 32;
const UNTOUCHED = { centre: 0.5, width: 1, inverted: false, fitted: true, turns: 0, mirrored: false };

/** Number of a box, in the order in which they were taken, and its weight. */
export const boxWords = (n, weight) => `${n + 1} · ${Math.round(100 * weight)} %`;

export class Viewer {
  /** changed(): called when zoom or window changed. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.scratch = document.createElement("canvas");
    this.changed = changed;
    this.film = null;
    this.levels = [];
    this.heat = this.outline = null;
    this.boxes = []; // {rect, opacity, faint, words}, the last on top
    this.opacity = 0.35;
    this.showHeat = this.showBox = true;
    this.muted = false; // its heat is not what the other shows
    this.inverted = false;
    this.centre = 0.5;
    this.width = 1;
    this.fitted = true;
    this.turns = 0; // quarters, clockwise; then mirrored left to right. left and top are of the film before both
    this.mirrored = false;
    this.measuring = false;
    this.line = null; // [x0, y0, x1, y1] in pixels of the film
    this.pointers = new Map();
    this.twin = null; // a viewer that is looked at as this one is
    this.led = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  /** film: {width, height, bits}, its own measures. pixels: {width, height, bits, data} of it at any size. view: of view(). */
  show(film, pixels, { centre, width, inverted, fitted, turns, mirrored, scale, x, y } = UNTOUCHED) {
    this.film = film;
    this.levels = pyramid(pixels);
    Object.assign(this, { centre, width, inverted, turns, mirrored });
    if (fitted) { this.fit(); return; }
    this.scale = scale;
    this.centreOn(x, y);
  }

  /** Put a point of the film into the middle. */
  centreOn(x, y) {
    this.left = this.wide / 2 - x * this.scale;
    this.top = this.high / 2 - y * this.scale;
    this.moved();
  }

  /** The canvas as the film sees it before it is turned. */
  get wide() { return this.turns % 2 ? this.canvas.height : this.canvas.width; }
  get high() { return this.turns % 2 ? this.canvas.width : this.canvas.height; }

  /** Before the turn and the mirror -> on the canvas. */
  turned() {
    const { canvas, turns, mirrored, wide, high } = this;
    return new DOMMatrix().translate(canvas.width / 2, canvas.height / 2).scale(mirrored ? -1 : 1, 1).rotate(90 * turns).translate(-wide / 2, -high / 2);
  }

  /** A quarter to the right, as it looks on the screen. */
  turn() { this.changeView(() => { this.turns = (this.turns + (this.mirrored ? 3 : 1)) % 4; }); }

  /** Left for right. */
  mirror() { this.changeView(() => { this.mirrored = !this.mirrored; }); }

  changeView(change) {
    if (!this.film) return;
    const { x, y } = this.view();
    change();
    if (this.fitted) this.fit();
    else this.centreOn(x, y);
  }

  /** How the film is looked at: its window, the zoom, and the point of it that is in the middle. */
  view() {
    const { centre, width, inverted, fitted, turns, mirrored, scale, left, top, wide, high } = this;
    return { centre, width, inverted, fitted, turns, mirrored, scale, x: (wide / 2 - left) / scale, y: (high / 2 - top) / scale };
  }

  /** After every change of zoom or window. */
  report() {
    this.changed();
    if (!this.led) this.twin?.follow(this);
  }

  /** Look at this film as another viewer looks at its own: the same window, the same part of it, the same things over it. */
  follow(other) {
    if (!this.film || !other.film) return;
    const { centre, width, inverted, fitted, turns, mirrored, scale, x, y } = other.view(), { opacity, showHeat, showBox } = other;
    this.led = true; // so that the other does not follow in turn
    Object.assign(this, { centre, width, inverted, turns, mirrored, opacity, showHeat, showBox });
    if (fitted) {
      this.fit();
    } else {
      this.scale = (scale / other.fitScale()) * this.fitScale();
      this.centreOn((x / other.film.width) * this.film.width, (y / other.film.height) * this.film.height);
    }
    this.led = false;
  }

  /** No film, and nothing over it. */
  clear() {
    this.film = this.heat = this.outline = this.line = null;
    this.boxes = [];
    this.levels = [];
    Object.assign(this, UNTOUCHED);
    this.draw();
    this.changed();
  }

  /** canvas over the rectangle [x0, y0, x1, y1] of the film; null for none. */
  setHeat(canvas, rect) {
    this.heat = canvas && { canvas, rect };
    this.draw();
  }

  setWindow(centre, width) {
    this.width = Math.min(Math.max(width, 0.002), 1);
    this.centre = Math.min(Math.max(centre, 0), 1);
    this.draw();
    this.report();
  }

  /** The window that leaves half a percent of the pixels black and half a percent white. */
  auto() {
    if (!this.film) return;
    const small = this.levels[Math.min(2, this.levels.length - 1)];
    const sorted = small.data.slice().sort(), top = 2 ** small.bits - 1;
    const low = sorted[Math.floor(sorted.length * 0.005)] / top, high = sorted[Math.floor(sorted.length * 0.995)] / top;
    this.setWindow((low + high) / 2, Math.max(high - low, 0.01));
  }

  fit() {
    this.fitted = true;
    if (this.film) {
      const { width, height } = this.film;
      this.scale = this.fitScale() * 0.985;
      this.left = (this.wide - width * this.scale) / 2;
      this.top = (this.high - height * this.scale) / 2;
    }
    this.canvas.style.touchAction = "pan-y";
    this.draw();
    this.report();
  }

  /** Zoom about a point of the canvas, in its own pixels; its middle by default. */
  zoom(factor, ...point) {
    if (!this.film) return;
    const { x, y } = point.length ? this.turned().inverse().transformPoint({ x: point[0], y: point[1] }) : { x: this.wide / 2, y: this.high / 2 };
    const scale = Math.min(Math.max(this.scale * factor, SMALLEST * this.fitScale()), LARGEST);
    this.left = x - (x - this.left) * (scale / this.scale);
    this.top = y - (y - this.top) * (scale / this.scale);
    this.scale = scale;
    this.moved();
  }

  /** By pixels of the canvas, as it looks. */
  pan(dx, dy) {
    const back = this.turned().inverse();
    this.left += back.a * dx + back.c * dy;
    this.top += back.b * dx + back.d * dy;
    this.moved();
  }

  moved() {
    const { width, height } = this.film, keep = 60;
    this.left = Math.min(Math.max(this.left, keep - width * this.scale), this.wide - keep);
    this.top = Math.min(Math.max(this.top, keep - height * this.scale), this.high - keep);
    this.fitted = false;
    this.canvas.style.touchAction = "none";
    this.draw();
    this.report();
  }

  fitScale() { return Math.min(this.wide / this.film.width, this.high / this.film.height); }

  /** Screen pixels for one film pixel. */
  get zoomShown() { return this.film ? this.scale / devicePixelRatio : 1; }

  resize() {
    const width = Math.round(this.canvas.clientWidth * devicePixelRatio), height = Math.round(this.canvas.clientHeight * devicePixelRatio);
    if (!width || (width === this.canvas.width && height === this.canvas.height)) return;
    const { x, y } = this.view();
    this.canvas.width = width;
    this.canvas.height = height;
    if (this.fitted || !this.film) this.fit();
    else this.centreOn(x, y);
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.film) return;
    this.paintFilm();
    context.setTransform(this.turned().multiply(new DOMMatrix([this.scale, 0, 0, this.scale, this.left, this.top])));
    if (this.heat && this.showHeat && !this.muted) this.paintHeat();
    if (this.showBox) {
      for (const { rect, opacity, faint } of this.boxes) this.strokeRect(rect, `rgba(77,208,225,${opacity})`, 2, faint ? [6, 6] : []);
      for (const { rect, words } of this.boxes) if (words) this.letter(rect, words);
    }
    if (this.line) this.paintLine();
  }

  paintLine() {
    const { context } = this, [x0, y0, x1, y1] = this.line, pixel = devicePixelRatio / this.scale;
    for (const [stroke, width] of [["rgba(0,0,0,.65)", 4], ["#ffe082", 2]]) {
      context.strokeStyle = stroke;
      context.lineWidth = width * pixel;
      context.beginPath();
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      for (const [x, y] of [[x0, y0], [x1, y1]]) { context.moveTo(x + 4 * pixel, y); context.arc(x, y, 4 * pixel, 0, 2 * Math.PI); }
      context.stroke();
    }
  }

  /** A point of the canvas -> of the film. */
  filmPoint(x, y) {
    const point = this.turned().inverse().transformPoint({ x, y });
    return [(point.x - this.left) / this.scale, (point.y - this.top) / this.scale];
  }

  /** The overlay, and a fine line around what the model saw: beyond it the overlay ends because nothing was looked at. */
  paintHeat() {
    const { context } = this, [x0, y0, x1, y1] = this.heat.rect;
    context.globalAlpha = this.opacity;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.heat.canvas, x0, y0, x1 - x0, y1 - y0);
    context.globalAlpha = 1;
    if (this.outline) this.strokeRect(this.outline, "rgba(255,255,255,.8)", 1, [2, 4]);
  }

  /** Only what is visible, from the pyramid's level that just suffices: the cost is the screen's, not the film's. */
  paintFilm() {
    const wanted = Math.floor(Math.log2(1 / this.scale));
    const k = Math.min(Math.max(wanted, 0), this.levels.length - 1), level = this.levels[k];
    const scaleX = this.scale * (this.film.width / level.width), scaleY = this.scale * (this.film.height / level.height);
    const x0 = Math.max(Math.floor(-this.left / scaleX), 0), y0 = Math.max(Math.floor(-this.top / scaleY), 0);
    const x1 = Math.min(Math.ceil((this.wide - this.left) / scaleX), level.width);
    const y1 = Math.min(Math.ceil((this.high - this.top) / scaleY), level.height);
    if (x1 <= x0 || y1 <= y0) return;
    this.scratch.width = x1 - x0;
    this.scratch.height = y1 - y0;
    const scratch = this.scratch.getContext("2d");
    const image = scratch.createImageData(x1 - x0, y1 - y0), out = new Uint32Array(image.data.buffer), table = this.table();
    for (let y = y0, o = 0; y < y1; y++) {
      for (let x = x0, i = y * level.width + x0; x < x1; x++) out[o++] = table[level.data[i++]];
    }
    scratch.putImageData(image, 0, 0);
    this.context.setTransform(this.turned());
    this.context.imageSmoothingEnabled = this.scale < 6;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(this.scratch, this.left + x0 * scaleX, this.top + y0 * scaleY, (x1 - x0) * scaleX, (y1 - y0) * scaleY);
  }

  /** Value of the film -> pixel, as little-endian RGBA. */
  table() {
    const { bits } = this.levels[0], key = [bits, this.centre, this.width, this.inverted].join();
    if (this.tableKey !== key) {
      const size = 2 ** bits, low = this.centre - this.width / 2;
      this.tableKey = key;
      this.lut = new Uint32Array(size);
      for (let value = 0; value < size; value++) {
        const share = Math.min(Math.max((value / (size - 1) - low) / this.width, 0), 1);
        const gray = Math.round(255 * (this.inverted ? 1 - share : share));
        this.lut[value] = (0xff000000 | (gray << 16) | (gray << 8) | gray) >>> 0;
      }
    }
    return this.lut;
  }

  /** A line of a width on the screen, with a dark one beneath, so that it is seen on light and on dark. */
  strokeRect([x0, y0, x1, y1], colour, line, dashes) {
    const { context } = this, pixel = devicePixelRatio / this.scale;
    context.setLineDash(dashes.map((length) => length * pixel));
    for (const [stroke, width] of [["rgba(0,0,0,.65)", line + 2], [colour, line]]) {
      context.strokeStyle = stroke;
      context.lineWidth = width * pixel;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    context.setLineDash([]);
  }

  /** Words above a box as it looks on the screen, upright however the film is turned. */
  letter([x0, y0, x1, y1], words) {
    const { context, canvas } = this, before = context.getTransform(), size = 13 * devicePixelRatio;
    const corners = [[x0, y0], [x1, y1]].map(([x, y]) => before.transformPoint(new DOMPoint(x, y)));
    const [left, top] = ["x", "y"].map((axis) => Math.min(...corners.map((corner) => corner[axis])));
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.font = `600 ${size}px system-ui, sans-serif`;
    const wide = context.measureText(words).width + size * 0.8, high = size * 1.4;
    const x = Math.max(Math.min(left, canvas.width - wide), 0), y = Math.max(top - high - 2, 0);
    context.fillStyle = "rgba(0,0,0,.75)";
    context.fillRect(x, y, wide, high);
    context.fillStyle = "#4dd0e1";
    context.textBaseline = "middle";
    context.fillText(words, x + size * 0.4, y + high / 2);
    context.setTransform(before);
  }

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const rect = canvas.getBoundingClientRect();
      return [(event.clientX - rect.left) * devicePixelRatio, (event.clientY - rect.top) * devicePixelRatio];
    };
    canvas.addEventListener("wheel", (event) => {
      if (!this.film) return;
      event.preventDefault();
      this.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) / 500), ...at(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("contextmenu", (event) => { if (this.film) event.preventDefault(); });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.film) return;
      const windowing = event.button === 2 || event.shiftKey;
      if (this.measuring && !windowing) {
        const point = this.filmPoint(...at(event));
        this.line = [...point, ...point];
      }
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, windowing });
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event, at));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
  }

  drag(event, at) {
    const last = this.pointers.get(event.pointerId);
    if (!last || !this.film) return;
    const dx = event.clientX - last.x, dy = event.clientY - last.y;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    if (this.measuring && this.line && !last.windowing) {
      this.line = [...this.line.slice(0, 2), ...this.filmPoint(...at(event))];
      this.draw();
      this.changed();
    } else if (last.windowing) {
      this.setWindow(this.centre - dy / 600, this.width + dx / 600);
    } else if (others.length) {
      const [other] = others, before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      const middle = at({ clientX: (event.clientX + other.x) / 2, clientY: (event.clientY + other.y) / 2 });
      if (before > 0) this.zoom(after / before, ...middle);
      this.pan(dx * devicePixelRatio / 2, dy * devicePixelRatio / 2);
    } else if (event.pointerType !== "touch" || !this.fitted) {
      this.pan(dx * devicePixelRatio, dy * devicePixelRatio);
    }
    this.pointers.set(event.pointerId, { ...last, x: event.clientX, y: event.clientY });
  }
}

/** The film, its half, its quarter ... by averaging, down to about 256 pixels. */
function pyramid(film) {
  const levels = [film];
  for (let last = film; Math.min(last.width, last.height) > 512; last = levels[levels.length - 1]) levels.push(halved(last));
  return levels;
}

function halved({ width, height, bits, data }) {
  const w = width >> 1, h = height >> 1, out = new data.constructor(w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0, i = 2 * y * width; x < w; x++, i += 2) {
      out[y * w + x] = (data[i] + data[i + 1] + data[i + width] + data[i + width + 1] + 2) >> 2;
    }
  }
  return { width: w, height: h, bits, data: out };
}
