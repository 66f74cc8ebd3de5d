// The table of findings.

const POINTS = { youden: "Youden's point", sensitivity95: "95 % sensitivity", specificity95: "95 % specificity" };
const NONE = "No Finding";

export const pointName = (key) => POINTS[key] || key;
export const spoken = (finding) => finding.replaceAll("_", " ");
const two = (share) => share.toFixed(2);

function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Fill the table. choose(finding) is called for a finding whose map is wanted. */
export function showFindings({ head, body, note }, findings, point, choose) {
  const calibrated = findings.some((one) => one.calibrated !== null);
  const columns = [["Finding", ""], ...(calibrated ? [["Calibrated", "number"]] : []), ["Fusion", calibrated ? "number minor" : "number"], ["Global", "number minor"], ["Local", "number minor"]];
  head.replaceChildren(...columns.map(([text, kind]) => element("th", { text, scope: "col", class: kind })));
  body.replaceChildren(...findings.map((one) => row(one, point, calibrated, choose)));
  const points = findings.some((one) => one.operating_points[point]);
  const rare = findings.filter((one) => one.uncalibrated && one.finding !== NONE).map((one) => spoken(one.finding));
  note.textContent = [
    points ? `The mark on each bar is the operating point (${pointName(point)}, set on validation films); bars that pass it are lit.` : "This checkpoint holds no operating points, so a number by itself says little: compare it within one film.",
    calibrated ? "" : "Probabilities are not calibrated.",
    rare.length ? `Raw scores only, and no call, where validation held too few films to calibrate: ${rare.join(", ")}.` : "",
    choose ? "Choose a finding to see where it is read." : "",
  ].filter(Boolean).join(" ");
}

function row(one, point, calibrated, choose) {
  const at = one.operating_points[point];
  const rest = one.finding === NONE;
  const name = element("button", { type: "button", class: "finding", "aria-pressed": "false", text: spoken(one.finding), title: "Show where this is read" });
  name.dataset.finding = one.finding;
  name.disabled = !choose;
  if (choose) name.addEventListener("click", () => choose(one.finding));
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * one.fusion}%`;
  const bar = element("span", { class: "track", "aria-hidden": "true" }, fill);
  if (at) {
    const tick = element("span", { class: "tick" });
    tick.style.left = `${100 * at.threshold}%`;
    bar.append(tick);
  }
  const line = element("div", { class: "line" }, name, bar), cell = element("th", { scope: "row" }, line);
  if (at) line.append(element("span", { class: "unseen", text: at.above ? `above the operating point ${two(at.threshold)}` : `below the operating point ${two(at.threshold)}` }));
  if (one.uncalibrated) line.append(element("span", { class: "unseen", text: one.uncalibrated }));
  const numbers = [...(calibrated ? [[one.calibrated, ""]] : []), [one.fusion, calibrated ? " minor" : ""], [one.global, " minor"], [one.local, " minor"]];
  const made = element("tr", {}, cell, ...numbers.map(([share, kind]) => share === null
    ? element("td", { class: "number minor", text: "raw", title: one.uncalibrated || "" })
    : element("td", { class: `number${kind}`, text: two(share) })));
  made.classList.toggle("above", Boolean(at && at.above) && !rest);
  made.classList.toggle("unjudged", !at && !one.uncalibrated);
  made.classList.toggle("rest", rest);
  return made;
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

/** The most probable finding as [words, number], for the list of films and for screen readers. */
export function first(findings) {
  const [one] = findings.filter((each) => each.finding !== NONE);
  return one ? [spoken(one.finding), two(one.calibrated ?? one.fusion)] : ["", ""];
}
