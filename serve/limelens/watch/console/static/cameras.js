// The page of tiles: follows the states, and shows none that is not certain.

import { Alarms } from "./alarms.js";
import { follow } from "./following.js";
import { Frames } from "./frames.js";
import { Tile } from "./tile.js";
import { clockTime } from "./times.js";
import { say } from "./words.js";

const watch = document.getElementById("watch");
const place = document.getElementById("tiles");
const trouble = document.getElementById("trouble");
const news = document.getElementById("news");
const alarm = document.getElementById("alarm");
const counts = [...document.querySelectorAll("#summary .count")];
const title = document.title;

const tiles = new Map();
const alarms = new Alarms(document.getElementById("sound"), document.getElementById("notify"));
const frames = new Frames(tiles, Number(watch.dataset.intervalMs));
let viewer = null;

follow("/cameras/stream", {
  hello(value) {
    viewer = value.viewer;
  },
  cameras(value) {
    trouble.hidden = true;
    frames.start(viewer);
    arrange(value.ids);
    for (const camera of value.cameras) {
      const tile = tiles.get(camera.id);
      const before = tile.state;
      const event = tile.camera?.event;
      const isFirst = tile.camera === null;
      tile.show(camera);
      // While one person alerts, another may: that is an event of its own.
      const isAnother = tile.state === "alert" && camera.event !== event;
      if (tile.state !== before || isFirst || isAnother) tell(tile, isFirst);
    }
    // A tile that was lost gets its state back though nothing changed.
    for (const tile of tiles.values()) tile.hold();
    count();
  },
  full(value) {
    lose(say("full", value));
  },
  lost() {
    lose(say("lost", { time: clockTime(new Date()) }));
  },
  over() {
    lose(say("over"));
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  },
});

setInterval(() => {
  for (const tile of tiles.values()) tile.tick();
}, 500);

function arrange(ids) {
  for (const [id, tile] of tiles) {
    if (!ids.includes(id)) {
      tile.node.remove();
      tiles.delete(id);
    }
  }
  ids.forEach((id, index) => {
    if (!tiles.has(id)) tiles.set(id, new Tile(id, "hasEvents" in watch.dataset));
    const node = tiles.get(id).node;
    if (place.children[index] !== node) place.insertBefore(node, place.children[index] ?? null);
  });
  document.getElementById("none").hidden = ids.length > 0;
}

function lose(why) {
  frames.stop();
  trouble.textContent = why;
  trouble.hidden = false;
  const wasHeld = [...tiles.values()].some((tile) => tile.isHeld);
  for (const tile of tiles.values()) tile.lose();
  if (wasHeld) alarms.lost();
  count();
}

function tell(tile, isFirst) {
  const sentence = say(`is_${tile.state}`, { camera: tile.id });
  if (tile.state === "alert") {
    alarm.textContent = sentence;
    alarms.alert(tile.camera, sentence);
  } else if (!isFirst) {
    news.textContent = sentence;
  }
}

function count() {
  const states = [...tiles.values()].map((tile) => tile.state);
  for (const node of counts) {
    const number = states.filter((state) => state === node.dataset.state).length;
    node.querySelector("b").textContent = number;
    node.toggleAttribute("data-none", number === 0);
  }
  const numAlerts = states.filter((state) => state === "alert").length;
  document.title = numAlerts ? `${say("count_title", { count: numAlerts })} · ${title}` : title;
}
