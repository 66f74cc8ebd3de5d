// A second film beside the one on the stage, an earlier one for instance: both are moved, turned and windowed as one, each
// with its own attention over it.

import { $, say } from "./dom.js";
import { day } from "./panel.js";
import { heatCanvas } from "./paint.js";
import { decodePng, fromBase64 } from "./png.js";
import { keep, lay, load, viewer } from "./stage.js";
import { Viewer } from "./viewer.js";

const second = new Viewer($("beside"), () => {});
viewer.twin = second;
let beside = null, current = null, films = [];

const visible = (film) => film?.state === "read" || film?.state === "refused";
const caption = (film) => [film.name, day(film.answer.identity?.study_date)].filter(Boolean).join(" · ");

/** Offer the other films for the place beside the current one, and show which has it. */
export function offerBeside(all, shown) {
  [films, current] = [all.filter((film) => visible(film) && film !== shown), shown];
  if (!all.includes(beside) || beside === current) choose(null);
  $("beside-label").hidden = !films.length;
  const names = films.map(caption);
  $("beside-choice").replaceChildren(new Option("no other film", "-1"), ...names.map((name, i) => new Option(name, i, false, films[i] === beside)));
  place();
}

$("beside-choice").onchange = (event) => {
  choose(films[event.target.value] || null);
  place();
  say(beside ? `${beside.name} stands on the right` : "One film");
};

function choose(film) {
  beside = film;
  second.clear();
  if (!film) return;
  showPixels(film);
  showHeat(film);
}

/** Its own attention and box, shown and faint as those of the film on the stage. */
async function showHeat(film) {
  const { attention, pictures } = film.answer;
  lay(second, film);
  if (!attention) return;
  const canvas = heatCanvas(await decodePng(fromBase64(pictures.heat)));
  if (film === beside) second.setHeat(canvas, attention.window);
}

function place() {
  const paired = Boolean(beside) && visible(current);
  $("view").classList.toggle("paired", paired);
  $("beside").hidden = $("pair").hidden = !paired;
  if (!paired) return;
  $("pair-left").textContent = caption(current);
  $("pair-right").textContent = [caption(beside), beside.problem && `full depth did not come: ${beside.problem}`].filter(Boolean).join(" · ");
  $("beside").setAttribute("aria-label", `Beside it: ${caption(beside)}`);
}

async function showPixels(film) {
  const small = await film.small;
  if (film !== beside) return;
  if (!film.pixels) {
    put(film, small);
    try {
      film.loading ||= load(film);
      await film.loading;
    } catch (error) {
      film.problem = error.message;
      if (film === beside) place();
      return;
    } finally {
      film.loading = null;
    }
  }
  if (film !== beside) return;
  put(film, film.pixels);
  keep(film);
}

/** As the film on the stage is looked at, which does not move for it. */
function put(film, pixels) {
  second.twin = null;
  second.show(film.answer.film, pixels);
  second.follow(viewer);
  second.twin = viewer;
}
