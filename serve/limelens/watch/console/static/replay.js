// Decides an event again while the sliders of its rule move.

import { showValue } from "./layers.js";

const form = document.getElementById("rule");
const shown = document.getElementById("replayed");
const { threshold, window: span, required, required_to_alert: toAlert } = form.elements;
let asking = null;

document.getElementById("decide").hidden = true;

/** Keeps the numbers possible: more than half of the window, and no more to alert than that. */
function bound() {
  required.min = Math.floor(span.value / 2) + 1;
  required.max = span.value;
  toAlert.max = required.value;
  for (const slider of [required, toAlert]) showValue(slider);
}

async function decide() {
  asking?.abort();
  asking = new AbortController();
  const asked = new URLSearchParams(new FormData(form));
  // What was recorded may be a threshold for each label; only a moved slider replaces it.
  if (!threshold.dataset.moved) asked.delete("threshold");
  try {
    const response = await fetch(`${form.dataset.part}?${asked}`, { signal: asking.signal });
    if (response.ok) shown.innerHTML = await response.text();
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

form.addEventListener("input", (event) => {
  event.target.dataset.moved = "yes";
  bound();
  decide();
});
form.addEventListener("submit", (event) => event.preventDefault());
bound();
