// The page: films in, one of them on the stage, its reading beside it.

import * as api from "./api.js";
import { first, markChosen, pointName, pointsOf, showFindings, spoken } from "./findings.js";
import { grayCanvas, heatCanvas } from "./paint.js";
import { decodePng, fromBase64 } from "./png.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const AT_ONCE = 2, TRIES = 6, KEPT_FILMS = 4;
const films = [];
let current = null, point = "youden", limits = null, maps = true, researchOnly = "Research use only. Not a medical device.";

const viewer = new Viewer($("film"), () => {
  $("zoom-value").textContent = `${Math.round(100 * viewer.zoomShown)} %`;
  $("level").value = Math.round(1000 * viewer.centre);
  $("window").value = Math.round(1000 * viewer.width);
  showHud();
});

const say = (text) => { $("live").textContent = text; };

// --- films come in ---------------------------------------------------------------------------------------------------

function add(files) {
  const chosen = [...files].filter((file) => file.size > 0 || file.type);
  if (!chosen.length) return;
  const start = films.length;
  for (const file of chosen) films.push({ file, name: file.name, state: "waiting", reason: "", answer: null, maps: new Map() });
  say(chosen.length === 1 ? `Reading ${chosen[0].name}` : `Reading ${chosen.length} films`);
  if (!current || chosen.length) select(films[start]);
  showRail();
  work();
}

function work() {
  const running = films.filter((one) => one.state === "reading").length;
  const next = [current, ...films].find((one) => one && one.state === "waiting");
  if (!next || running >= AT_ONCE) return;
  read(next).finally(work);
  work();
}

async function read(film) {
  change(film, "reading", "");
  if (limits && film.file.size > limits.file_bytes) {
    change(film, "failed", `The file is larger than the ${Math.round(limits.file_bytes / 2 ** 20)} MiB that this server takes.`);
    return;
  }
  for (let tries = 1; ; tries++) {
    try {
      const answer = (await api.predict(film.file)).films[0];
      film.answer = answer;
      change(film, answer.status, api.sentence(answer.reason));
      if (film === current) say(spokenResult(film));
      return;
    } catch (error) {
      if (error.status === 401 && await askToken()) continue;
      if (error.status !== 503 || tries >= TRIES) {
        change(film, "failed", error.message);
        return;
      }
      const seconds = Math.max(error.retryAfter, 1);
      change(film, "reading", `The server is busy. Trying again in ${seconds} s.`);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    }
  }
}

function spokenResult(film) {
  if (film.state === "read") return `${film.name} is read. Most probable: ${first(film.answer.findings).join(" ")}`;
  return `${film.name}: ${film.reason}`;
}

function change(film, state, reason) {
  film.state = state;
  film.reason = reason;
  showRail();
  if (film === current) show();
}

// --- the list --------------------------------------------------------------------------------------------------------

function showRail() {
  $("rail").hidden = films.length < 2;
  document.body.classList.toggle("several", films.length > 1);
  if (films.length < 2) return;
  const list = $("films");
  while (list.children.length > films.length) list.lastChild.remove();
  films.forEach((film, i) => {
    const item = list.children[i] || list.appendChild(railItem());
    const button = item.firstChild;
    button.onclick = () => select(film);
    button.setAttribute("aria-current", String(film === current));
    button.querySelector(".film-name").textContent = film.name;
    button.querySelector(".film-state").textContent = stateText(film);
    button.className = `film ${film.state}`;
    thumbnail(film, button.querySelector("canvas"));
  });
}

function railItem() {
  const item = document.createElement("li"), button = document.createElement("button"), canvas = document.createElement("canvas");
  button.type = "button";
  canvas.width = canvas.height = 72;
  canvas.setAttribute("aria-hidden", "true");
  const words = document.createElement("span");
  for (const kind of ["film-name", "film-state"]) {
    const line = document.createElement("span");
    line.className = kind;
    words.append(line);
  }
  button.append(canvas, words);
  item.append(button);
  return item;
}

function stateText(film) {
  if (film.state === "read") return first(film.answer.findings).reverse().join(" "); // the number is never cut off
  return { waiting: "waiting", reading: film.reason ? "server busy" : "reading …", refused: "refused", unreadable: "unreadable", failed: "no answer" }[film.state];
}

async function thumbnail(film, canvas) {
  const data = film.answer?.pictures?.thumbnail;
  const key = data ? film.name + data.length : film.small ? film.name : "";
  if (canvas.dataset.key === key) return;
  canvas.dataset.key = key;
  canvas.getContext("2d").clearRect(0, 0, 72, 72);
  if (!key) return;
  const small = data ? grayCanvas(await decodePng(fromBase64(data))) : film.small;
  const { width, height } = film.answer.film, scale = Math.max(72 / width, 72 / height);
  canvas.getContext("2d").drawImage(small, (72 - width * scale) / 2, (72 - height * scale) / 2, width * scale, height * scale);
}

function select(film) {
  current = film;
  if (film && $("welcome").contains(document.activeElement)) $("film").focus(); // what had it is about to go
  film?.pixels || viewer.show(null);
  show();
  showRail();
  $("films").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function step(by) {
  if (films.length) select(films[(films.indexOf(current) + by + films.length) % films.length]);
}

// --- the film on the stage -------------------------------------------------------------------------------------------

function show() {
  const film = current, state = film ? film.state : "empty";
  const readable = state === "read" || state === "refused";
  $("room").dataset.state = state;
  $("welcome").hidden = Boolean(film);
  $("busy").hidden = !(state === "waiting" || state === "reading");
  $("busy-text").textContent = film ? film.reason || (state === "waiting" ? `${film.name} waits for its turn` : `Reading ${film.name} …`) : "";
  $("problem").hidden = !["unreadable", "failed"].includes(state);
  $("problem-title").textContent = { unreadable: "This file cannot be read", failed: "No answer" }[state] || "";
  $("problem-text").textContent = film ? film.reason : "";
  $("retry").hidden = state !== "failed";
  $("tools").hidden = $("hud").hidden = $("zoom").hidden = !readable;
  $("panel").hidden = !film || !readable;
  $("reading").hidden = state !== "read";
  $("legend").hidden = state !== "read";
  if (!readable) {
    viewer.show(null);
    viewer.setHeat(null);
    viewer.box = null;
    $("film").setAttribute("aria-label", film ? stateText(film) : "No film is open");
    return;
  }
  showHead(film);
  if (film.state === "read") showReading(film);
  showPixels(film);
}

function showHead(film) {
  const { width, height, bits, format, view_position: position, notes } = film.answer.film;
  $("name").textContent = film.name;
  $("name").title = film.name;
  const kind = { png: "PNG", jpeg: "JPEG", webp: "WebP", dicom: "DICOM" }[format] || format;
  $("facts").textContent = [`${width} × ${height}`, `${bits} bit`, kind, position, ...notes].filter(Boolean).join(" · ");
  const intake = film.answer.intake;
  const refused = film.state === "refused";
  $("intake").hidden = !(refused || (intake && intake.decision === "warn"));
  $("intake").classList.toggle("refused", refused);
  $("intake-title").textContent = refused ? "The model does not read this film" : "Read with care";
  $("intake-text").textContent = `${(intake?.reasons || []).map(api.sentence).join(" ")}${refused ? " No probabilities are shown for it." : ""}`;
  $("overlay-tools").hidden = refused;
}

function showReading(film) {
  const { findings, attention } = film.answer;
  const points = pointsOf(findings);
  $("point-label").hidden = !points.length;
  if (points.length && !points.includes(point)) point = points[0];
  $("point").replaceChildren(...points.map((key) => new Option(pointName(key), key, false, key === point)));
  showFindings({ head: $("columns"), body: $("rows"), note: $("findings-note") }, findings, point, maps ? toggleMap : null);
  markChosen($("rows"), film.chosen);
  const [x0, y0, x1, y1] = attention.box.map(Math.round);
  const share = (x1 - x0) * (y1 - y0) / (film.answer.film.width * film.answer.film.height);
  $("crop-text").textContent = attention.fallback
    ? "No region stood out, so the local branch read the whole view."
    : `${x1 - x0} × ${y1 - y0} pixels from (${x0}, ${y0}), ${Math.round(100 * share)} % of the film, as the local branch saw it.`;
  showDicom(film);
  showCrop(film);
}

/** DICOM results belong in the study of a DICOM film; where there are none, the words say why. */
function showDicom(film) {
  const { available, reason } = film.answer.dicom;
  $("save-dicom").hidden = !available;
  $("save-note").textContent = available
    ? "DICOM: a .zip with the report (SR), the picture (SC) and the region (SEG), for the film's own study. They name the patient as the film does."
    : `No DICOM results: ${reason}${/[.)]$/.test(reason) ? "" : "."}`;
}

async function showCrop(film) {
  const made = grayCanvas(await decodePng(fromBase64(film.answer.pictures.crop)));
  if (film !== current) return;
  const canvas = $("crop"), [x0, y0, x1, y1] = film.answer.attention.box, aspect = Math.min(Math.max((x1 - x0) / (y1 - y0), 0.4), 2.5);
  const side = 320;
  canvas.width = aspect >= 1 ? side : side * aspect;
  canvas.height = aspect >= 1 ? side / aspect : side;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(made, 0, 0, canvas.width, canvas.height);
}

/** First the small picture that came with the answer, then the film at its full depth. */
async function showPixels(film) {
  const { width, height } = film.answer.film;
  viewer.box = film.state === "read" ? { rect: film.answer.attention.box, faint: film.answer.attention.fallback } : null;
  $("film").setAttribute("aria-label", label(film));
  await showHeat(film);
  if (viewer.owner === film && viewer.film) return viewer.draw();
  if (!film.pixels) {
    try {
      film.pixels = await decodePng(await api.film(film.file));
      forget(film);
    } catch (error) {
      if (film === current) say(error.message);
      $("hud").textContent = error.message;
      return;
    }
  }
  if (film !== current || film.pixels.width !== width || film.pixels.height !== height) return;
  viewer.owner = film;
  viewer.show(film.pixels);
  if (film.state === "refused" && !film.small) { // its answer holds no pictures
    film.small = grayCanvas(viewer.levels[viewer.levels.length - 1]);
    showRail();
  }
}

function label(film) {
  const { width, height } = film.answer.film;
  if (film.state !== "read") return `Chest film ${film.name}, ${width} by ${height} pixels, not read`;
  const [x0, y0, x1, y1] = film.answer.attention.box.map(Math.round);
  const where = film.answer.attention.fallback ? "No region stood out." : `The attended region reaches from ${x0} to ${x1} across and from ${y0} to ${y1} down.`;
  return `Chest film ${film.name}, ${width} by ${height} pixels. ${where}`;
}

/** Full-depth pixels are large: keep those of the last few films. */
function forget(latest) {
  const holding = films.filter((one) => one.pixels && one !== latest);
  latest.used = performance.now();
  holding.sort((a, b) => a.used - b.used).slice(0, Math.max(holding.length - KEPT_FILMS + 1, 0)).forEach((one) => { one.pixels = null; });
}

async function showHeat(film) {
  if (film.state !== "read") return viewer.setHeat(null);
  const { width, height } = film.answer.film;
  const map = film.chosen && film.maps.get(`${film.chosen} ${$("map-branch").value}`);
  const picture = map ? map.heat : film.answer.pictures.heat;
  const canvas = heatCanvas(await decodePng(fromBase64(picture)));
  if (film !== current) return;
  viewer.setHeat(canvas, map ? [0, 0, width, height] : film.answer.attention.window);
  $("legend-name").textContent = map ? `${spoken(film.chosen)}, ${$("map-branch").value} branch` : "Attention";
  $("heat-on").textContent = map ? "Map" : "Attention";
  $("map-bar").hidden = !film.chosen;
  $("map-text").textContent = map?.empty ? `Nothing on this film speaks for ${spoken(film.chosen)}.` : `Where ${spoken(film.chosen || "")} is read`;
  markChosen($("rows"), film.chosen);
}

async function toggleMap(finding) {
  const film = current;
  film.chosen = film.chosen === finding ? null : finding;
  await fetchMap(film);
}

async function fetchMap(film) {
  const key = `${film.chosen} ${$("map-branch").value}`;
  markChosen($("rows"), film.chosen);
  if (film.chosen && !film.maps.has(key)) {
    $("map-bar").hidden = false;
    $("map-text").textContent = `Looking for ${spoken(film.chosen)} …`;
    try {
      film.maps.set(key, await api.map(film.file, film.chosen, $("map-branch").value));
    } catch (error) {
      film.chosen = null;
      await showHeat(film);
      $("map-bar").hidden = false;
      $("map-text").textContent = error.message;
      return say(error.message);
    }
  }
  if (film !== current) return;
  if (film.chosen && !viewer.showHeat) toggle("heat-on", "showHeat");
  await showHeat(film);
  say(film.chosen ? $("map-text").textContent : "Attention map");
}

function showHud() {
  const film = viewer.film;
  if (!film) { $("hud").textContent = ""; return; }
  const top = 2 ** film.bits - 1;
  $("hud").textContent = `L ${Math.round(viewer.centre * top).toLocaleString("en")}  W ${Math.round(viewer.width * top).toLocaleString("en")}`;
}

// --- tools -----------------------------------------------------------------------------------------------------------

function toggle(id, property) {
  viewer[property] = !viewer[property];
  $(id).setAttribute("aria-pressed", String(viewer[property]));
  $("legend").classList.toggle("off", !viewer.showHeat);
  viewer.draw();
}

function setOpacity(value) {
  const percent = Math.min(Math.max(Math.round(value), 0), 100);
  $("opacity").value = percent;
  $("opacity-value").textContent = `${percent} %`;
  viewer.opacity = percent / 100;
  if (!viewer.showHeat && percent > 0) toggle("heat-on", "showHeat");
  viewer.draw();
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stem = (film) => film.name.replace(/\.(png|jpe?g|webp|dcm|dicom)$/i, "") || "film";

async function saving(button, make) {
  const words = button.textContent;
  button.disabled = true;
  button.textContent = "One moment …";
  try {
    await make();
    say(`${words} saved`);
  } catch (error) {
    say(error.message);
    $("save-note").textContent = error.message;
  } finally {
    button.disabled = false;
    button.textContent = words;
  }
}

function reportJson(film) {
  const { pictures, ...answer } = film.answer;
  return JSON.stringify({ research_only: researchOnly, ...answer }, null, 2);
}

$("heat-on").onclick = () => toggle("heat-on", "showHeat");
$("box-on").onclick = () => toggle("box-on", "showBox");
$("invert").onclick = () => toggle("invert", "inverted");
$("opacity").oninput = (event) => setOpacity(event.target.value);
$("level").oninput = (event) => viewer.setWindow(event.target.value / 1000, viewer.width);
$("window").oninput = (event) => viewer.setWindow(viewer.centre, event.target.value / 1000);
$("auto").onclick = () => viewer.auto();
$("window-reset").onclick = () => viewer.setWindow(0.5, 1);
$("zoom-in").onclick = () => viewer.zoom(1.25);
$("zoom-out").onclick = () => viewer.zoom(0.8);
$("zoom-fit").onclick = () => viewer.fit();
$("point").onchange = (event) => { point = event.target.value; showReading(current); };
$("map-branch").onchange = () => fetchMap(current);
$("map-close").onclick = () => { current.chosen = null; fetchMap(current); };
$("retry").onclick = () => { change(current, "waiting", ""); work(); };
$("clear").onclick = () => { films.length = 0; viewer.owner = null; select(null); showRail(); say("All films are closed"); };
$("save-json").onclick = (event) => saving(event.target, () => save(new Blob([reportJson(current)], { type: "application/json" }), `${stem(current)}.agcxr.json`));
$("save-picture").onclick = (event) => saving(event.target, async () => { const film = current; save(await api.picture(film.file), `${stem(film)}.agcxr.png`); });
$("save-dicom").onclick = (event) => saving(event.target, async () => { const film = current; save(await api.dicom(film.file), `${stem(film)}.agcxr-dicom.zip`); });
$("save-film").onclick = (event) => saving(event.target, async () => { const film = current; save(new Blob([await api.film(film.file)], { type: "image/png" }), `${stem(film)}.film.png`); });

// --- opening films ---------------------------------------------------------------------------------------------------

for (const id of ["open", "choose"]) $(id).onclick = () => $("files").click();
$("files").onchange = (event) => { add(event.target.files); event.target.value = ""; };

let depth = 0;
const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth++; document.body.classList.add("dragging"); } });
addEventListener("dragleave", () => { depth = Math.max(depth - 1, 0); if (!depth) document.body.classList.remove("dragging"); });
addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => { if (event.clipboardData?.files.length) add(event.clipboardData.files); });

async function showExamples() {
  const list = await api.examples();
  $("examples").hidden = !list.length;
  $("example-list").replaceChildren(...list.map(({ id, title }) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.onclick = async () => {
      button.disabled = true;
      say(`Drawing the example ${title}`);
      try {
        add([new File([await api.example(id)], `synthetic ${title.toLowerCase()}.png`, { type: "image/png" })]);
      } catch (error) {
        say(error.message);
      } finally {
        button.disabled = false;
      }
    };
    item.append(button);
    return item;
  }));
}

// --- keys, dialogs, theme --------------------------------------------------------------------------------------------

const KEYS = {
  o: () => $("files").click(), h: () => $("heat-on").click(), b: () => $("box-on").click(), i: () => $("invert").click(),
  a: () => viewer.auto(), w: () => viewer.setWindow(0.5, 1), "0": () => viewer.fit(), j: () => step(1), k: () => step(-1),
  "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8),
  "[": () => setOpacity(Number($("opacity").value) - 10), "]": () => setOpacity(Number($("opacity").value) + 10),
  "?": () => $("help").showModal(), Escape: () => current?.chosen && $("map-close").click(),
};
const ARROWS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) return;
  if (event.target === $("film") && ARROWS[event.key] && viewer.film) {
    viewer.pan(...ARROWS[event.key]);
    event.preventDefault();
    return;
  }
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { act(); event.preventDefault(); }
});

$("help-open").onclick = () => $("help").showModal();
$("about-open").onclick = () => $("about").showModal();
for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();

const scheme = matchMedia("(prefers-color-scheme: light)");
$("theme").onclick = () => {
  const now = document.documentElement.dataset.theme || (scheme.matches ? "light" : "dark");
  document.documentElement.dataset.theme = now === "light" ? "dark" : "light";
};

let asking = null;
function askToken() {
  asking ||= new Promise((done) => {
    const finish = async () => {
      api.setToken($("token-input").value);
      try {
        await api.model();
        $("token").close();
        asking = null;
        done(true);
      } catch (error) {
        $("token-problem").textContent = error.status === 401 ? "That is not the token." : error.message;
      }
    };
    $("token-send").onclick = finish;
    $("token-input").onkeydown = (event) => { if (event.key === "Enter") finish(); };
    $("token").oncancel = () => { asking = null; done(false); };
    $("token").showModal();
  });
  return asking;
}

function showModel(model) {
  limits = model.limits;
  maps = model.maps;
  researchOnly = model.research_only;
  $("notice").textContent = model.research_only;
  const rows = [
    ["Backbone", `${model.backbone}, ${model.image_size} pixels`], ["Films prepared at", `${model.prepared_size} pixels`],
    ["Attention", Object.entries(model.attention).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")],
    ["Calibration", model.calibration || "none"], ["Intake check", model.intake ? "yes" : "none"],
    ["Runs on", `${model.device}, ${model.precision}`], ["agcxr", model.version],
    ["Limits", `${Math.round(limits.file_bytes / 2 ** 20)} MiB and ${limits.pixels / 1e6} megapixels a film`],
  ];
  $("about-list").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    row.append(dt, dd);
    return row;
  }));
}

async function begin() {
  try {
    showModel(await api.model());
    await showExamples();
  } catch (error) {
    if (error.status === 401 && await askToken()) return begin();
    say(error.message);
    $("notice").textContent = `${error.message} ${researchOnly}`;
  }
}

show();
begin();
