// The table of findings: bars and numbers on one scale, the one that the rows are ordered by.

import { element } from "./dom.js";

const POINTS = { youden: "Youden's point", sensitivity95: "95 % sensitivity", specificity95: "95 % specificity" };
const NONE = "No Finding";

export const pointName = (key) => POINTS[key] || key;
export const spoken = (finding) => finding.replaceAll("_", " ");
const two = (share) => share.toFixed(2);

/** Fill the table. choose(finding) is called for a finding whose map is wanted. */
export function showFindings({ head, body, note }, findings, point, choose) {
  // A calibration of the kind "none" leaves the fusion's scores as they are: a column would say them twice.
  const calibrated = findings.some((one) => one.calibrated !== null && Math.abs(one.calibrated - one.fusion) > 1e-6);
  const columns = [["Finding", ""], ...(calibrated ? [["Calibrated", "number main"]] : []), ["Fusion", calibrated ? "number minor" : "number main"], ["Global", "number minor"], ["Local", "number minor"]];
  head.replaceChildren(...columns.map(([text, kind]) => element("th", { text, scope: "col", class: kind })));
  body.replaceChildren(...findings.map((one) => row(one, point, calibrated, choose)));
  note.textContent = notes(findings, point, calibrated, choose).join(" ");
}

function notes(findings, point, calibrated, choose) {
  const points = findings.some((one) => one.operating_points[point]);
  const rare = findings.filter((one) => one.uncalibrated && one.finding !== NONE).map((one) => spoken(one.finding));
  return [
    points ? `The mark on each bar, and the number after ≥ or <, is the operating point (${pointName(point)}, set on validation films); findings that reach it are bold.` : "This checkpoint holds no operating points, so a number by itself says little: compare it within one film.",
    calibrated ? "" : "Probabilities are not calibrated.",
    rare.length ? `Raw scores only, striped, and no call, where validation held too few films to calibrate: ${rare.join(", ")}.` : "",
    choose ? "Choose a finding to see where it is read." : "",
  ].filter(Boolean);
}

function row(one, point, calibrated, choose) {
  const at = one.operating_points[point], rest = one.finding === NONE;
  const share = one.calibrated ?? one.fusion, threshold = at && (one.calibrated === null ? at.threshold : at.calibrated);
  const line = element("div", { class: "line" }, nameOf(one, choose), bar(share, threshold));
  if (at) line.append(element("span", { class: "unseen", text: `${at.above ? "at or above" : "below"} the operating point ${two(threshold)}` }));
  if (one.uncalibrated) line.append(element("span", { class: "unseen", text: one.uncalibrated }));
  const minor = (value) => element("td", { class: "number minor", text: two(value) });
  const main = one.uncalibrated && calibrated
    ? element("td", { class: "number main minor", text: "raw", title: one.uncalibrated })
    : mainNumber(share, threshold, at);
  const made = element("tr", {}, element("th", { scope: "row" }, line), main, ...(calibrated ? [minor(one.fusion)] : []), minor(one.global), minor(one.local));
  made.classList.toggle("above", Boolean(at?.above) && !rest);
  made.classList.toggle("unjudged", !at && !one.uncalibrated);
  made.classList.toggle("raw", Boolean(one.uncalibrated));
  made.classList.toggle("rest", rest);
  return made;
}

function nameOf(one, choose) {
  const name = element("button", { type: "button", class: "finding", "aria-pressed": "false", text: spoken(one.finding), title: "Show where this is read" });
  name.dataset.finding = one.finding;
  name.disabled = !choose;
  if (choose) name.addEventListener("click", () => choose(one.finding));
  return name;
}

function bar(share, threshold) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * share}%`;
  const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
  if (threshold === undefined) return track;
  const tick = element("span", { class: "tick" });
  tick.style.left = `${100 * threshold}%`;
  track.append(tick);
  return track;
}

/** "0.41 ≥ 0.31": as many digits as tell the two apart. */
function mainNumber(share, threshold, at) {
  if (!at) return element("td", { class: "number main", text: two(share) });
  let digits = 2;
  while (digits < 4 && share !== threshold && share.toFixed(digits) === threshold.toFixed(digits)) digits++;
  const point = element("span", { class: "point", "aria-hidden": "true", text: ` ${at.above ? "≥" : "<"} ${threshold.toFixed(digits)}` });
  return element("td", { class: "number main", text: share.toFixed(digits) }, point);
}

/** Operating points that any finding has, in order. */
export function pointsOf(findings) {
  const present = new Set(findings.flatMap((one) => Object.keys(one.operating_points)));
  return Object.keys(POINTS).filter((key) => present.has(key));
}

/** Mark the finding whose map is on the film. */
export function markChosen(body, finding) {
  for (const button of body.querySelectorAll("button.finding")) {
    const chosen = button.dataset.finding === finding;
    button.setAttribute("aria-pressed", String(chosen));
    button.closest("tr").classList.toggle("chosen", chosen);
  }
}

/** Names of what is called at an operating point; null where there is none. A number by itself is no call. */
export function calledNames(findings, point = pointsOf(findings)[0]) {
  if (!point) return null;
  return findings.filter((one) => one.finding !== NONE && one.operating_points[point]?.above).map((one) => spoken(one.finding));
}

/** The same as a sentence, for the head of the panel and screen readers. */
export function callsOf(findings, point) {
  const names = calledNames(findings, point);
  return names === null ? "No operating point, so no call" : names.length ? `Called: ${names.join(", ")}` : "Nothing called";
}
