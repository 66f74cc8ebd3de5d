// The server's answers, or an error whose words people can read. Addresses are relative to the page, which a proxy may
// have put under a path of its own.

let token = "";

export function setToken(value) { token = value; }

export class ServerError extends Error {
  constructor(message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
  } catch {
    throw new ServerError("The server does not answer. Is it still running?");
  }
  if (response.ok || (response.status === 422 && path.startsWith("v1/predict"))) return response;
  let words = `The server answered with status ${response.status}.`;
  try {
    words = sentence((await response.json()).error.message);
  } catch { /* not our JSON: the status must do */ }
  throw new ServerError(words, { status: response.status, retryAfter: Number(response.headers.get("retry-after")) || 0 });
}

function form(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  return { method: "POST", body };
}

export const predict = async (file) => (await ask("v1/predict?pictures=true&identity=true", form(file))).json();
export const film = async (file) => new Uint8Array(await (await ask("v1/film", form(file))).arrayBuffer());
export const picture = async (file) => (await ask("v1/picture", form(file))).blob();
export const dicom = async (file) => (await ask("v1/dicom", form(file))).blob();
export const model = async () => (await ask("v1/model")).json();
export const examples = async () => (await ask("v1/examples")).json();
export const example = async (id) => (await ask(`v1/examples/${id}`)).blob();
export const map = async (file, finding, branch) =>
  (await ask(`v1/map?finding=${encodeURIComponent(finding)}&branch=${branch}`, form(file))).json();

/** "a JPEG of 4 channels" -> "A JPEG of 4 channels." */
export function sentence(text) {
  const words = String(text || "").trim();
  return words ? words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".") : "";
}
