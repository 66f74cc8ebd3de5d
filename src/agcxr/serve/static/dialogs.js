// What lies over the page: keys, the model, the token, the crop at full size; and light or dark.

import * as api from "./api.js";
import { $, element } from "./dom.js";

for (const [opener, dialog] of [["help-open", "help"], ["about-open", "about"], ["crop-open", "crop-large"]]) {
  $(opener).onclick = () => $(dialog).showModal();
}
for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();

const scheme = matchMedia("(prefers-color-scheme: light)");
$("theme").onclick = () => {
  const now = document.documentElement.dataset.theme || (scheme.matches ? "light" : "dark");
  document.documentElement.dataset.theme = now === "light" ? "dark" : "light";
};

let asking = null;

/** Whether there is a token now that the server takes. However many ask, there is one dialog. */
export function askToken() {
  asking ||= new Promise((done) => {
    const finish = async () => {
      api.setToken($("token-input").value);
      try {
        await api.model();
        $("token-input").value = "";
        $("token").close();
        asking = null;
        done(true);
      } catch (error) {
        $("token-problem").textContent = error.status === 401 ? "That is not the token." : error.message;
        $("token-input").select();
      }
    };
    $("token-problem").textContent = "";
    $("token-send").onclick = finish;
    $("token-input").onkeydown = (event) => { if (event.key === "Enter") finish(); };
    $("token").oncancel = () => { asking = null; done(false); };
    $("token").showModal();
  });
  return asking;
}

/** "fusion 0.81, global 0.80, local 0.74": means over findings, as the model's card has them. */
function aurocs(metrics) {
  const known = ["fusion", "global", "local"].filter((branch) => typeof metrics[`${branch}_val_auc`] === "number");
  return known.length ? `${known.map((branch) => `${branch} ${metrics[`${branch}_val_auc`].toFixed(3)}`).join(", ")} (mean over findings)` : "not known";
}

export function showModel(model) {
  $("notice").textContent = model.research_only;
  const rows = [
    ["Model", model.model],
    ["Trained on", `${model.trained_on || "films that its card does not name"}${model.synthetic ? ": synthetic films only" : ""}`],
    ["Backbone", `${model.backbone}, ${model.image_size} pixels`], ["Films prepared at", `${model.prepared_size} pixels`],
    ["Attention", Object.entries(model.attention).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")],
    ["Validation AUROC", aurocs(model.metrics)], ["Calibration", model.calibration || "none"], ["Intake check", model.intake ? "yes" : "none"],
    ["Runs on", `${model.device}, ${model.precision}`], ["agcxr", model.version],
    ["Limits", `${Math.round(model.limits.file_bytes / 2 ** 20)} MiB and ${model.limits.pixels / 1e6} megapixels a film`],
  ];
  $("about-list").replaceChildren(...rows.map(([name, value]) =>
    element("div", {}, element("dt", { text: name }), element("dd", { text: value }))));
}
