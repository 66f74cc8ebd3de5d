// The list of films, shown where there are several.

import { $, element } from "./dom.js";
import { calledNames } from "./findings.js";
import { grayCanvas } from "./paint.js";

const SIDE = 72;
const STATES = { waiting: "waiting", refused: "refused", unreadable: "unreadable", failed: "no answer" };

export function showRail(films, current, select) {
  $("rail").hidden = films.length < 2;
  document.body.classList.toggle("several", films.length > 1);
  if (films.length < 2) return;
  const list = $("films");
  while (list.children.length > films.length) list.lastChild.remove();
  films.forEach((film, i) => {
    const item = list.children[i] || list.appendChild(made());
    const button = item.firstChild;
    button.onclick = () => select(film);
    button.setAttribute("aria-current", String(film === current));
    button.querySelector(".film-name").textContent = film.name;
    button.querySelector(".film-state").textContent = stateText(film);
    button.className = `film ${film.state}`;
    thumbnail(film, button.querySelector("canvas"));
  });
}

export function showCurrent() {
  $("films").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** The state of a film in a few words. */
export function stateText(film) {
  if (film.state === "read") return calledNames(film.answer.findings)?.join(", ") || "no call";
  if (film.state === "reading") return film.reason ? "server busy" : "reading …";
  return STATES[film.state];
}

function made() {
  const words = element("span", {}, element("span", { class: "film-name" }), element("span", { class: "film-state" }));
  const canvas = element("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" });
  return element("li", {}, element("button", { type: "button" }, canvas, words));
}

async function thumbnail(film, canvas) {
  if (canvas.film === film && canvas.drawn === Boolean(film.small)) return;
  canvas.film = film;
  canvas.drawn = Boolean(film.small);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, SIDE, SIDE);
  if (!film.small) return;
  const small = grayCanvas(await film.small), { width, height } = film.answer.film;
  if (canvas.film !== film) return;
  const scale = Math.max(SIDE / width, SIDE / height);
  context.drawImage(small, (SIDE - width * scale) / 2, (SIDE - height * scale) / 2, width * scale, height * scale);
}
