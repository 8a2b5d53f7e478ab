// Calls a function now and again until the page is left; a failure is told once, not every time.
import { notice } from "./dom.js";

export async function every(milliseconds, signal, task) {
  let told = null;
  while (!signal.aborted) {
    try {
      await task();
      told = null;
    } catch (error) {
      if (signal.aborted) return;
      if (error.message !== told) notice(error.message, true);
      told = error.message;
    }
    await new Promise((done) => setTimeout(done, milliseconds));
  }
}
