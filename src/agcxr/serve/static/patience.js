// Asking again where that may help: a busy server after the pause that it names, a locked one once it has its token.

import { askToken } from "./dialogs.js";

const TRIES = 6;

/** The answer of ask(). waiting(words) is called before each pause. */
export async function patiently(ask, waiting = () => {}) {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (error.status === 401 && await askToken()) continue;
      if (error.status !== 503 || tries >= TRIES) throw error;
      const seconds = Math.max(error.retryAfter, 1);
      waiting(`The server is busy. Trying again in ${seconds} s.`);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    }
  }
}
