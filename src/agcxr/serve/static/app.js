// The page: films in, one of them on the stage, its reading beside it.

import * as api from "./api.js";
import { offerBeside } from "./beside.js";
import { showModel } from "./dialogs.js";
import { $, element, say } from "./dom.js";
import { callsOf } from "./findings.js";
import { showPanel } from "./panel.js";
import { patiently } from "./patience.js";
import { decodePng, fromBase64 } from "./png.js";
import { showCurrent, showRail, stateText } from "./rail.js";
import { backToAttention, chooseFinding, forgetAll, setOpacity, stage, viewer } from "./stage.js";

const AT_ONCE = 2;
const READS = "This page reads PNG of 8 or 16 bits, JPEG, WebP and DICOM. Drop another film here, or choose one.";
const films = [];
let current = null, limits = null, maps = true;

// --- films come in ---------------------------------------------------------------------------------------------------

function add(files) {
  const chosen = [...files].filter((file) => file.size > 0 || file.type);
  if (!chosen.length) return;
  const start = films.length;
  for (const file of chosen) films.push({ file, name: file.name, state: "waiting", reason: "", answer: null, maps: new Map() });
  say(chosen.length === 1 ? `Reading ${chosen[0].name}` : `Reading ${chosen.length} films`);
  select(films[start]);
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
  if (limits && film.file.size > limits.file_bytes) {
    change(film, "unreadable", `It is larger than the ${Math.round(limits.file_bytes / 2 ** 20)} MiB that this server takes.`);
    return;
  }
  change(film, "reading", "");
  try {
    const { films: [answer], error: _, ...model } = await patiently(() => api.predict(film.file), (words) => change(film, "reading", words));
    const thumbnail = answer.pictures?.thumbnail;
    Object.assign(film, { answer, model, small: thumbnail && decodePng(fromBase64(thumbnail)) });
    change(film, answer.status, api.sentence(answer.reason));
    if (film === current) say(spokenResult(film));
  } catch (error) {
    change(film, "failed", error.message);
  }
}

function spokenResult(film) {
  if (film.state === "read") return `${film.name} is read. ${callsOf(film.answer.findings)}`;
  return `${film.name}: ${film.reason}`;
}

function change(film, state, reason) {
  film.state = state;
  film.reason = reason;
  list();
  if (film === current) show();
}

// --- one of them is shown --------------------------------------------------------------------------------------------

function list() {
  showRail(films, current, select);
  offerBeside(films, current);
}

function select(film) {
  current = film;
  if (film && $("welcome").contains(document.activeElement)) $("film").focus(); // what had it is about to go
  show();
  list();
  showCurrent();
}

function step(by) {
  if (films.length) select(films[(films.indexOf(current) + by + films.length) % films.length]);
}

function show() {
  const film = current, state = film ? film.state : "empty";
  const readable = state === "read" || state === "refused";
  $("room").dataset.state = state;
  $("welcome").hidden = Boolean(film);
  $("busy").hidden = !(state === "waiting" || state === "reading");
  $("busy-text").textContent = film ? film.reason || (state === "waiting" ? `${film.name} waits for its turn` : `Reading ${film.name} …`) : "";
  showProblem(film, state);
  $("panel").hidden = !readable;
  $("film").setAttribute("aria-label", readable ? label(film) : film ? stateText(film) : "No film is open");
  if (readable) showPanel(film, maps ? chooseFinding : null);
  stage(readable ? film : null);
}

function showProblem(film, state) {
  const title = { unreadable: "This file cannot be read", failed: "No answer" }[state];
  $("problem").hidden = !title;
  if (!title) return;
  $("problem-title").textContent = title;
  $("problem-text").textContent = film.reason;
  $("problem-next").textContent = state === "failed" ? "The film is not lost: try again, or drop another one here." : READS;
  $("retry").hidden = state !== "failed";
}

function label(film) {
  const { film: { width, height }, attention } = film.answer;
  if (!attention) return `Chest film ${film.name}, ${width} by ${height} pixels, not read`;
  const [x0, y0, x1, y1] = attention.box.map(Math.round), others = attention.boxes ? ` It is the first of ${attention.boxes.length}.` : "";
  const where = attention.fallback ? "No region stood out." : `The attended region reaches from ${x0} to ${x1} across and from ${y0} to ${y1} down.${others}`;
  return `Chest film ${film.name}, ${width} by ${height} pixels. ${where}`;
}

$("retry").onclick = () => { change(current, "waiting", ""); work(); };
$("clear").onclick = () => { films.length = 0; forgetAll(); select(null); say("All films are closed"); };

// --- opening films ---------------------------------------------------------------------------------------------------

for (const id of ["open", "choose", "another"]) $(id).onclick = () => $("files").click();
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
  const examples = await api.examples();
  $("examples").hidden = !examples.length;
  $("example-list").replaceChildren(...examples.map(({ id, title }) => {
    const button = element("button", { type: "button", text: title });
    button.onclick = async () => {
      button.disabled = true;
      say(`Drawing the example ${title}`);
      try {
        const drawn = await patiently(() => api.example(id));
        add([new File([drawn], `synthetic ${title.toLowerCase()}.png`, { type: "image/png" })]);
      } catch (error) {
        say(error.message);
      } finally {
        button.disabled = false;
      }
    };
    return element("li", {}, button);
  }));
}

// --- keys ------------------------------------------------------------------------------------------------------------

const press = (id) => () => { if ($(id).checkVisibility()) $(id).click(); };
const KEYS = {
  o: press("open"), h: press("heat-on"), b: press("box-on"), i: press("invert"), m: press("measure"), r: press("turn"), f: press("mirror"), c: press("crop-open"),
  a: () => viewer.auto(), w: press("window-reset"), "0": () => viewer.fit(), j: () => step(1), k: () => step(-1),
  "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8),
  "[": () => setOpacity(Number($("opacity").value) - 10), "]": () => setOpacity(Number($("opacity").value) + 10),
  "?": press("help-open"), Escape: backToAttention,
};
const ARROWS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) return;
  if (["film", "beside"].includes(event.target.id) && ARROWS[event.key] && viewer.film) {
    viewer.pan(...ARROWS[event.key]);
    event.preventDefault();
    return;
  }
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { act(); event.preventDefault(); }
});

async function begin() {
  try {
    const model = await patiently(api.model);
    ({ limits, maps } = model);
    showModel(model);
    await showExamples();
  } catch (error) {
    say(error.message);
    $("notice").textContent += ` ${error.message}`;
  }
}

show();
begin();
