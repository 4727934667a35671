// One camera's tile. Its state is unknown until the console says otherwise, and when it falls silent.

import { drawBoxes } from "./boxes.js";
import { age, clockTime, number, percent, rate } from "./times.js";
import { say } from "./words.js";

const WIDEST = 16 / 9;
const TALLEST = 4 / 3;

/** Sets a node's text; what follows it may be in another language. */
function write(node, text, more = "", language = "") {
  node.textContent = more && text ? `${text}: ` : text;
  if (!more) return;
  const part = document.createElement("span");
  part.textContent = more;
  if (language) part.lang = language;
  node.append(part);
}

const template = document.getElementById("tile");

export class Tile {
  constructor(id, hasEvents) {
    this.id = id;
    this.hasEvents = hasEvents;
    this.node = template.content.firstElementChild.cloneNode(true);
    this.camera = null;
    this.isHeld = false;
    this.state = "unknown";
    this.toldAt = 0;
    this.frame = "";
    this.isFetching = false;
    this.fetchedAt = -Infinity;
    this.image = this.find("img");
    this.faces = null;
    const heading = this.find("h2");
    heading.textContent = id;
    heading.id = `camera-${encodeURIComponent(id)}`;
    this.node.setAttribute("aria-labelledby", heading.id);
    new ResizeObserver(() => this.redraw()).observe(this.find(".live"));
  }

  find(selector) {
    return this.node.querySelector(selector);
  }

  get wantsFrame() {
    return this.camera?.frame != null && this.camera.frame !== this.frame;
  }

  /** The camera as the console says it is. */
  show(camera) {
    this.camera = camera;
    this.toldAt = performance.now();
    this.isHeld = true;
    this.render();
  }

  /** The console is there: what it said last holds. */
  hold() {
    if (this.isHeld) return;
    this.isHeld = true;
    this.render();
  }

  /** The console is silent: whatever it said no longer holds. */
  lose() {
    this.isHeld = false;
    this.render();
  }

  render() {
    const camera = this.camera;
    this.state = this.isHeld && camera ? camera.state : "unknown";
    this.node.dataset.state = this.state;
    this.node.toggleAttribute("data-is-stale", !this.isHeld || !camera || camera.is_stale);
    this.find(".shape use").setAttribute("href", `/static/shapes.svg#${this.state}`);
    this.find(".word").textContent = say(`state_${this.state}`);
    if (this.isHeld && camera?.state === "unknown")
      write(this.find(".what"), camera.reason, camera.detail, camera.detail_language);
    else write(this.find(".what"), camera ? this.what(camera) : "");
    this.find(".since").textContent =
      this.isHeld && camera ? say("since", { time: clockTime(new Date(camera.since)) }) : "";
    if (!camera) return;
    this.fact("rate", this.isHeld ? rate(camera.fps) : say("nothing"));
    this.fact("people", camera.people === null ? say("nothing") : number(camera.people));
    this.fact("dropped", number(camera.dropped));
    this.fact("alerts", number(camera.alerts));
    const error = this.find(".error");
    write(error, "", camera.error, camera.error_language);
    error.hidden = !camera.error || camera.error === camera.detail;
    this.link(camera);
    this.nameImage();
    this.tick();
  }

  what(camera) {
    if (!this.isHeld) return say("connecting");
    if (camera.label === null) return "";
    return camera.probability === null
      ? camera.label
      : say("decided", { label: camera.label, percent: percent(camera.probability) });
  }

  link(camera) {
    this.find(".links").hidden = !this.hasEvents;
    const why = this.find(".why");
    why.hidden = !camera.event;
    if (camera.event) why.href = `/events/${encodeURIComponent(camera.event)}`;
    this.find(".log").href = `/events?${new URLSearchParams({ camera: camera.id })}`;
  }

  /** What changes by itself. */
  tick() {
    const known = this.camera?.age_s ?? null;
    const seconds = known === null ? null : known + (performance.now() - this.toldAt) / 1000;
    this.fact("age", seconds === null ? say("nothing") : age(seconds));
  }

  fact(name, text) {
    const node = this.find(`[data-fact="${name}"]`);
    if (node.textContent !== text) node.textContent = text;
  }

  /** Shows a frame and the faces that were found in it. */
  async draw(blob, about) {
    const source = URL.createObjectURL(blob);
    const before = this.image.src;
    this.image.src = source;
    try {
      await this.image.decode();
    } finally {
      if (before) URL.revokeObjectURL(before);
    }
    this.frame = about.number;
    this.faces = about;
    const live = this.find(".live");
    live.toggleAttribute("data-is-empty", false);
    const ratio = this.image.naturalWidth / this.image.naturalHeight;
    live.style.aspectRatio = Math.min(WIDEST, Math.max(TALLEST, ratio));
    this.find("figcaption").textContent = clockTime(new Date(about.time));
    this.nameImage();
    this.redraw();
  }

  nameImage() {
    if (!this.faces) return;
    const key = this.node.hasAttribute("data-is-stale") ? "last_image" : "live_image";
    const time = clockTime(new Date(this.faces.time));
    const name = say(key, { camera: this.id, time });
    if (this.image.alt !== name) this.image.alt = name;
  }

  redraw() {
    if (this.faces) drawBoxes(this.find(".boxes"), this.image, this.faces);
  }
}
