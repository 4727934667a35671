// Looks again every few seconds, and says when that fails.

import { localTimes } from "./base.js";
import { clockTime } from "./times.js";
import { say } from "./words.js";

const EVERY_MS = 5000;
const now = document.getElementById("now");
const trouble = document.getElementById("trouble");
let seen = new Date();

setInterval(async () => {
  if (document.hidden) return;
  try {
    const found = await fetch("/health/now", { signal: AbortSignal.timeout(EVERY_MS - 500) });
    if (found.status === 401) location.reload();
    if (!found.ok) throw new Error(found.statusText);
    // The console's own page, in which everything is escaped.
    now.innerHTML = await found.text();
    localTimes(now);
    seen = new Date();
    trouble.hidden = true;
  } catch {
    trouble.textContent = say("old", { time: clockTime(seen) });
    trouble.hidden = false;
  }
  now.toggleAttribute("data-is-old", !trouble.hidden);
}, EVERY_MS);
