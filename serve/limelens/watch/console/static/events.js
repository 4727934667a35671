// The log of events: days as the reader's calendar has them, and a word when there are new events.

import { say } from "./words.js";

const EVERY_MS = 10_000;
const form = document.getElementById("filter");

/** A midnight's distance from UTC, such as +01:00. */
function offset(day, later) {
  const [year, month, date] = day.split("-").map(Number);
  const minutes = -new Date(year, month - 1, date + later).getTimezoneOffset();
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  return `${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

form.addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) {
    if (!value) formData.delete(name);
    // The last day ends at the next one's midnight, which summer time may have moved.
    else if (name === "from" || name === "to") {
      formData.set(name, value + offset(value, name === "to" ? 1 : 0));
    }
  }
});

const link = document.getElementById("new");
if (link?.dataset.count) {
  setInterval(async () => {
    if (document.hidden) return;
    const response = await fetch(link.dataset.count).catch(() => null);
    if (!response?.ok) return;
    const { count } = await response.json();
    link.hidden = !count;
    const words = count ? say("events_new", { count }) : "";
    if (link.textContent !== words) link.textContent = words;
  }, EVERY_MS);
}
