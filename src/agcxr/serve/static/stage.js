// The film on the stage: its pixels, what lies over it, the words below it, and the tools for all three.

import * as api from "./api.js";
import { $, say } from "./dom.js";
import { markChosen, spoken } from "./findings.js";
import { heatCanvas } from "./paint.js";
import { patiently } from "./patience.js";
import { decodePng, fromBase64 } from "./png.js";
import { boxWords, Viewer } from "./viewer.js";

const KEPT_FILMS = 4;
const LOADING = "Loading full depth …";
const kept = [];
let onStage = null;

export const viewer = new Viewer($("film"), showView);

/** Put a film that the server has decoded on the stage; null clears it. What was there goes at once. */
export function stage(film) {
  if (film !== onStage) {
    if (onStage && viewer.film) onStage.view = viewer.view();
    onStage = film;
    viewer.clear();
  }
  $("strip").hidden = $("tools").hidden = !film;
  if (!film) return;
  lay(viewer, film);
  $("overlay-tools").hidden = $("legend").hidden = !film.answer.attention;
  $("legend-outline").hidden = !viewer.outline;
  showHeat(film);
  if (!viewer.film) showPixels(film);
}

/** A film's own boxes and outline over it. */
export function lay(place, { answer: { attention, film } }) {
  place.boxes = attention ? drawn(attention) : [];
  place.outline = attention && !isWhole(attention.window, film) ? attention.window : null;
}

export function forgetAll() {
  stage(null);
  kept.length = 0;
}

/** Of several boxes the heaviest is solid and comes last, so that it lies on top; the others are the fainter the less they weigh. */
function drawn({ box, boxes, fallback }) {
  if (!boxes) return [{ rect: box, faint: fallback, opacity: fallback ? 0.55 : 1 }];
  const most = Math.max(...boxes.map(({ weight }) => weight)) || 1;
  const all = boxes.map(({ box: rect, weight }, n) => ({ rect, opacity: 0.35 + 0.65 * weight / most, words: boxWords(n, weight) }));
  return all.sort((a, b) => a.opacity - b.opacity);
}

function isWhole([x0, y0, x1, y1], { width, height }) {
  return x0 <= 0.5 && y0 <= 0.5 && x1 >= width - 0.5 && y1 >= height - 0.5;
}

// --- pixels ----------------------------------------------------------------------------------------------------------

/** First the small picture that came with the answer, then the film at its full depth. */
async function showPixels(film) {
  const facts = film.answer.film;
  if (!film.pixels) {
    const small = await film.small;
    if (film !== onStage) return;
    if (!viewer.film) viewer.show(facts, small, film.view);
    showDepth(film);
    try {
      film.loading ||= load(film);
      await film.loading;
    } catch (error) {
      film.problem = error.message;
      if (film === onStage) showDepth(film);
      return;
    } finally {
      film.loading = null;
    }
  }
  if (film !== onStage) return;
  viewer.show(facts, film.pixels, viewer.film ? viewer.view() : film.view);
  keep(film);
  showDepth(film);
}

export async function load(film) {
  const words = (text) => { film.depth = text; if (film === onStage) showDepth(film); };
  film.problem = "";
  words(LOADING);
  const bytes = await patiently(() => api.film(film.file), words);
  words(LOADING);
  const pixels = await decodePng(bytes), { width, height } = film.answer.film;
  if (pixels.width !== width || pixels.height !== height) throw new Error("The server sent a film of another size.");
  film.pixels = pixels;
}

/** How far the film's pixels are, in words that go when they are all there. */
function showDepth(film) {
  $("depth").hidden = Boolean(film.pixels);
  $("depth").classList.toggle("failed", Boolean(film.problem));
  $("depth-text").textContent = film.pixels ? "" : film.problem ? `Full depth did not come. ${film.problem}` : film.depth || LOADING;
  $("depth-retry").hidden = !film.problem || Boolean(film.pixels);
}

$("depth-retry").onclick = () => { onStage.problem = ""; showPixels(onStage); };

/** Full-depth pixels are large: those of the last few films stay. */
export function keep(film) {
  if (kept.includes(film)) kept.splice(kept.indexOf(film), 1);
  kept.push(film);
  while (kept.length > KEPT_FILMS) kept.shift().pixels = null;
}

// --- heat ------------------------------------------------------------------------------------------------------------

/** The map of the chosen finding, or else the attention. */
async function showHeat(film) {
  const { attention, pictures, film: { width, height } } = film.answer;
  $("map-bar").hidden = !attention || !film.chosen;
  if (!attention) return;
  const branch = $("map-branch").value, map = film.chosen && film.maps.get(`${film.chosen} ${branch}`);
  const canvas = heatCanvas(await decodePng(fromBase64(map ? map.heat : pictures.heat)));
  if (film !== onStage) return;
  viewer.setHeat(canvas, map ? [0, 0, width, height] : attention.window);
  viewer.twin.muted = Boolean(map); // the film beside has its attention, and no map of a finding
  viewer.twin.draw();
  $("legend-name").textContent = map ? `${spoken(film.chosen)}, ${branch} branch` : "Attention";
  $("heat-on").textContent = map ? "Map" : "Attention";
  if (map) $("map-text").textContent = map.empty ? `Nothing on this film speaks for ${spoken(film.chosen)}.` : `Where ${spoken(film.chosen)} is read`;
  markChosen($("rows"), film.chosen);
}

/** Choosing a finding again goes back to the attention. */
export function chooseFinding(finding) {
  onStage.chosen = onStage.chosen === finding ? null : finding;
  if (matchMedia("(max-width: 900px)").matches) $("stage").scrollIntoView({ block: "start" }); // it lies above the table
  return showMap(onStage);
}

async function showMap(film) {
  const finding = film.chosen, branch = $("map-branch").value, key = `${finding} ${branch}`;
  const words = (text) => { if (film === onStage) { $("map-bar").hidden = false; $("map-text").textContent = text; } };
  markChosen($("rows"), finding);
  if (finding && !film.maps.has(key)) {
    words(`Looking for ${spoken(finding)} …`);
    try {
      film.maps.set(key, await patiently(() => api.map(film.file, finding, branch), words));
    } catch (error) {
      film.chosen = null;
      if (film !== onStage) return;
      await showHeat(film);
      words(error.message);
      say(error.message);
      return;
    }
  }
  if (film !== onStage || film.chosen !== finding) return;
  if (finding && !viewer.showHeat) toggle("heat-on", "showHeat");
  await showHeat(film);
  say(finding ? $("map-text").textContent : "Attention map");
}

export function backToAttention() {
  if (!onStage?.chosen) return;
  onStage.chosen = null;
  showMap(onStage);
}

$("map-branch").onchange = () => showMap(onStage);
$("map-close").onclick = () => { $("map-bar").hidden = true; backToAttention(); };

// --- tools -----------------------------------------------------------------------------------------------------------

/** Called by the viewer whenever zoom or window changed. */
function showView() {
  const { film, centre, width, inverted } = viewer;
  $("zoom-value").textContent = `${Math.round(100 * viewer.zoomShown)} %`;
  $("level").value = Math.round(1000 * centre);
  $("window").value = Math.round(1000 * width);
  $("invert").setAttribute("aria-pressed", String(inverted));
  if (!film) { $("hud").textContent = ""; return; }
  const value = (share) => Math.round(share * (2 ** film.bits - 1)).toLocaleString("en");
  const turned = [viewer.turns ? `turned ${90 * viewer.turns}°` : "", viewer.mirrored ? "mirrored: left is right" : ""].filter(Boolean);
  $("hud").textContent = [`Level ${value(centre)}`, `Window ${value(width)}`, ...turned, length()].filter(Boolean).join(" · ");
  $("mirror").setAttribute("aria-pressed", String(viewer.mirrored));
  $("level").setAttribute("aria-valuetext", value(centre));
  $("window").setAttribute("aria-valuetext", value(width));
}

/** Of the line that was drawn: in mm where the film states its spacing, by rows and columns. */
function length() {
  if (!viewer.line) return viewer.measuring ? "drag to measure" : "";
  const [x0, y0, x1, y1] = viewer.line, { spacing, spacing_at: at } = onStage.answer.film;
  if (!spacing) return `length ${Math.round(Math.hypot(x1 - x0, y1 - y0))} pixels (no spacing is known)`;
  const millimetres = Math.hypot((x1 - x0) * spacing[1], (y1 - y0) * spacing[0]).toFixed(1);
  return `length ${millimetres} mm${at === "detector" ? " at the detector" : ""}`;
}

function toggle(id, property) {
  viewer[property] = !viewer[property];
  $(id).setAttribute("aria-pressed", String(viewer[property]));
  $("legend").classList.toggle("off", !viewer.showHeat);
  viewer.draw();
  viewer.report();
}

export function setOpacity(value) {
  const percent = Math.min(Math.max(Math.round(value), 0), 100);
  $("opacity").value = percent;
  $("opacity-value").textContent = `${percent} %`;
  viewer.opacity = percent / 100;
  if (!viewer.showHeat && percent > 0) toggle("heat-on", "showHeat");
  viewer.draw();
  viewer.report();
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
$("measure").onclick = () => {
  viewer.measuring = !viewer.measuring;
  viewer.line = null;
  $("measure").setAttribute("aria-pressed", String(viewer.measuring));
  $("film").style.cursor = viewer.measuring ? "crosshair" : "";
  $("film").style.touchAction = viewer.measuring ? "none" : "pan-y";
  viewer.draw();
  showView();
};
$("turn").onclick = () => { viewer.turn(); say($("hud").textContent); };
$("mirror").onclick = () => { viewer.mirror(); say($("hud").textContent); };
