// Follows a stream of events, and notices at once when it is silent.

const SILENCE_MS = 2500; // the console speaks once a second
const GIVE_UP_MS = 10000;
const AGAIN_MS = 2000;

/** Calls `on.NAME(value)` for each event, and `on.lost()` as soon as the stream may have ended. */
export function follow(path, on) {
  let source = null;
  let heard = now();
  let isLost = false;
  let timer = 0;

  function open() {
    clearTimeout(timer);
    timer = 0;
    source?.close();
    source = new EventSource(path);
    for (const name of ["hello", "cameras", "full", "over"]) {
      source.addEventListener(name, (event) => {
        heard = now();
        isLost = name !== "cameras" && isLost;
        if (name === "full" || name === "over") source.close();
        on[name](JSON.parse(event.data));
        if (name === "full") again(GIVE_UP_MS);
      });
    }
    source.onerror = () => {
      lose();
      // Anything but a broken connection ends an EventSource for good.
      if (source.readyState === EventSource.CLOSED) again(AGAIN_MS);
    };
  }

  function again(ms) {
    if (timer) return;
    timer = setTimeout(async () => {
      try {
        const found = await fetch("/session", { signal: AbortSignal.timeout(5000) });
        if (!(await found.json()).may_see) return on.over({});
      } catch {
        // Still no connection: the next try tells.
      }
      open();
    }, ms);
  }

  function lose() {
    if (isLost) return;
    isLost = true;
    on.lost();
  }

  function look() {
    const silence = since(heard);
    if (silence > SILENCE_MS && source.readyState !== EventSource.CLOSED) lose();
    if (silence > GIVE_UP_MS && !timer) {
      heard = now();
      source.close();
      again(0);
    }
  }

  setInterval(look, 250);
  // Whoever comes back to a page that slept must not see what was true before.
  for (const name of ["visibilitychange", "resume"]) document.addEventListener(name, look);
  for (const name of ["pageshow", "focus", "online"]) addEventListener(name, look);
  for (const name of ["pagehide", "offline"]) addEventListener(name, lose);
  document.addEventListener("freeze", lose);
  open();
}

// One clock stops while the device sleeps, and the other may be set: the longer time counts.
function now() {
  return { steady: performance.now(), wall: Date.now() };
}

function since(moment) {
  return Math.max(performance.now() - moment.steady, Date.now() - moment.wall);
}
