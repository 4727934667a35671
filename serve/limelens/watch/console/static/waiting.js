// Shows an event's explanation once it is there: it comes some seconds after the event.

const EVERY_MS = 2000;
const LONGEST_MS = 120_000;
const began = performance.now();

async function look() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (response?.ok && !(await response.text()).includes('id="waiting"')) {
    location.reload();
  } else if (performance.now() - began < LONGEST_MS) {
    setTimeout(look, EVERY_MS);
  }
}

setTimeout(look, EVERY_MS);
