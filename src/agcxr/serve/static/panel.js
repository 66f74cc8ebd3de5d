// What stands beside the film: what it is, what the model says of it, what can be saved.

import * as api from "./api.js";
import { $, say } from "./dom.js";
import { callsOf, pointName, pointsOf, markChosen, showFindings } from "./findings.js";
import { grayCanvas } from "./paint.js";
import { patiently } from "./patience.js";
import { decodePng, fromBase64 } from "./png.js";
import { boxWords } from "./viewer.js";

const KINDS = { png: "PNG", jpeg: "JPEG", webp: "WebP", dicom: "DICOM" };
const CROP_SIDE = 320, CROP_LARGE = 1024;
let shown = null, choose = null, point = "youden";

/** chooseFinding(finding): called where a map is wanted; null where there are none. */
export function showPanel(film, chooseFinding) {
  shown = film;
  choose = chooseFinding;
  const read = film.state === "read";
  $("reading").hidden = !read;
  $("save-picture").hidden = !read;
  showHead(film);
  showDicom(film);
  if (!read) return;
  showTable(film);
  showCrop(film);
}

function showHead(film) {
  const { width, height, bits, format, view_position: position, orientation, notes } = film.answer.film;
  const who = film.answer.identity;
  $("identity").textContent = who ? [who.patient?.replaceAll("^", " "), who.patient_id, day(who.birth_date), who.sex, who.study, day(who.study_date), who.accession].filter(Boolean).join(" · ") : "";
  $("name").textContent = film.name;
  $("name").title = film.name;
  $("facts").textContent = [`${width} × ${height}`, `${bits} bit`, KINDS[format] || format, position && `view ${position}`, sides(orientation), ...notes].filter(Boolean).join(" · ");
  const intake = film.answer.intake, refused = film.state === "refused";
  $("intake").hidden = !(refused || intake?.decision === "warn");
  $("intake").classList.toggle("refused", refused);
  $("intake-title").textContent = refused ? "The model does not read this film" : "Read with care";
  $("intake-text").textContent = (intake?.reasons || []).map((reason) => api.sentence(advised(reason))).join(" ");
  $("intake-rest").textContent = refused ? "No probabilities are shown for it. You can still look at it, and save the reason as JSON." : "";
}

/** 20240131 -> 2024-01-31 */
export const day = (date) => date?.replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");

/** Where the patient's left is in the file, by its header: ["L", "F"] means that rows go to the left. */
function sides(orientation) {
  const [across] = orientation || [];
  return { L: "left side on the right", R: "left side on the left: mirrored" }[across?.[0]] || "";
}

/** The page's own Invert button is no cure for an inverted file. */
function advised(reason) {
  if (!reason.includes("polarity is inverted")) return reason;
  return `${reason.replace(/: invert it$/, "")}: invert it in the file; the button here changes only the view`;
}

function showTable(film) {
  const { findings, attention } = film.answer;
  const points = pointsOf(findings);
  $("point-label").hidden = !points.length;
  if (points.length && !points.includes(point)) point = points[0];
  $("point").replaceChildren(...points.map((key) => new Option(pointName(key), key, false, key === point)));
  showFindings({ head: $("columns"), body: $("rows"), note: $("findings-note") }, findings, point, choose);
  markChosen($("rows"), film.chosen);
  $("calls").textContent = callsOf(findings, points.length ? point : undefined);
  const [x0, y0, x1, y1] = attention.box.map(Math.round);
  const share = (x1 - x0) * (y1 - y0) / (film.answer.film.width * film.answer.film.height);
  const several = attention.boxes?.map(({ weight }, n) => boxWords(n, weight)).join(", ");
  const which = several ? ` The first of ${attention.boxes.length} regions; their weights: ${several}.` : "";
  $("crop-text").textContent = attention.fallback
    ? "No region stood out, so the local branch read the whole view."
    : `${x1 - x0} × ${y1 - y0} pixels from (${x0}, ${y0}), ${Math.round(100 * share)} % of the film, as the local branch saw it.${which}`;
}

/** DICOM results belong in the study of a DICOM film; where there are none, the words say why. */
function showDicom(film) {
  const { available, reason } = film.answer.dicom || { available: false, reason: null };
  $("save-dicom").hidden = !available;
  $("save-note").textContent = available
    ? "DICOM: a .zip with the report (SR), picture (SC) and region (SEG) for the film's own study; they name its patient."
    : reason ? `No DICOM results: ${reason}${/[.)]$/.test(reason) ? "" : "."}` : "";
}

async function showCrop(film) {
  const picture = await decodePng(fromBase64(film.answer.pictures.crop));
  if (film !== shown) return;
  const [x0, y0, x1, y1] = film.answer.attention.box, aspect = Math.min(Math.max((x1 - x0) / (y1 - y0), 0.4), 2.5);
  for (const [id, side] of [["crop", CROP_SIDE], ["crop-large-picture", CROP_LARGE]]) {
    const canvas = $(id), context = canvas.getContext("2d");
    canvas.width = aspect >= 1 ? side : side * aspect;
    canvas.height = aspect >= 1 ? side / aspect : side;
    context.imageSmoothingQuality = "high";
    context.drawImage(grayCanvas(picture), 0, 0, canvas.width, canvas.height);
  }
  $("crop-large-text").textContent = `${$("crop-text").textContent} The branch was given ${picture.width} × ${picture.height} pixels.`;
}

$("point").onchange = (event) => { point = event.target.value; showTable(shown); };

// --- save ------------------------------------------------------------------------------------------------------------

const stem = (film) => film.name.replace(/\.(png|jpe?g|webp|dcm|dicom)$/i, "") || "film";

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** The answer as it came, without its pictures and whose film it is, and which model gave it. */
function reportJson(film) {
  const { pictures, identity, ...answer } = film.answer;
  return new Blob([JSON.stringify({ ...film.model, ...answer }, null, 2)], { type: "application/json" });
}

const SAVED = {
  "save-json": [reportJson, ".agcxr.json"],
  "save-picture": [(film) => api.picture(film.file), ".agcxr.png"],
  "save-dicom": [(film) => api.dicom(film.file), ".agcxr-dicom.zip"],
  "save-film": [async (film) => new Blob([await api.film(film.file)], { type: "image/png" }), ".film.png"],
};

for (const [id, [make, end]] of Object.entries(SAVED)) {
  const button = $(id), words = button.textContent;
  button.onclick = async () => {
    const film = shown;
    button.disabled = true;
    button.textContent = "One moment …";
    try {
      save(await patiently(() => make(film), (busy) => { $("save-note").textContent = busy; }), stem(film) + end);
      say(`${words} saved`);
      if (film === shown) showDicom(film); // takes away what was said of a busy server
    } catch (error) {
      say(error.message);
      $("save-note").textContent = error.message;
    } finally {
      button.disabled = false;
      button.textContent = words;
    }
  };
}
