// Tries an image: shows it, has it classified at once, and explained when asked.

import { post } from "./post.js";
import { wireSliders } from "./layers.js";
import { say } from "./words.js";

const LONGEST = 2048; // a phone's photo is made smaller before it is sent
const at = (id) => document.getElementById(id);
const form = at("try");
const model = at("model");

let image = null; // what is sent
let asking = null; // aborts the request under way

function choice() {
  return model.selectedOptions[0].dataset;
}

/** What the server is asked for, as a query. */
function query({ toExplain }) {
  const asked = new URLSearchParams({ model: choice().name, version: choice().version });
  if (at("faces").checked) asked.set("faces", "true");
  if (!toExplain) return asked;
  const face = form.elements.namedItem("face")?.value;
  if (at("faces").checked && face) asked.set("face", face);
  for (const id of ["label", "segments", "samples", "fill"]) {
    if (at(id).value) asked.set(id, at(id).value);
  }
  return asked;
}

/** The settings that the chosen model is explained with. */
function showModel() {
  const { labels, segments, samples, fill } = choice();
  at("label").replaceChildren(
    at("label").options[0],
    ...JSON.parse(labels).map((label) => new Option(label, label)),
  );
  at("label").value = "";
  showUsual(segments, samples, fill);
}

function showUsual(segments, samples, fill) {
  at("segments").value = segments;
  at("samples").value = samples;
  at("fill").value = "";
  at("own-fill").textContent = at("own-fill").dataset.words.replace("{fill}", fill);
  for (const id of ["segments", "samples"]) at(id).dispatchEvent(new Event("input"));
}

function complain(words) {
  at("problem").textContent = words;
  at("problem").hidden = !words;
}

/** Why a request was refused: a sentence, or a page that has one. */
async function refusal(response) {
  const text = await response.text();
  if (!response.headers.get("content-type")?.startsWith("text/html")) return text;
  const page = new DOMParser().parseFromString(text, "text/html");
  return page.querySelector(".message")?.textContent ?? say("failed");
}

/** A photo as it is sent: upright, not larger than needed, without its place and time. */
async function prepared(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { blob: file, shrunk: false }; // the server may know the format
  }
  const scale = LONGEST / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return { blob: file, shrunk: false };
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return { blob, shrunk: true };
}

async function choose(file, name = file?.name) {
  if (!file) return;
  complain("");
  const { blob, shrunk } = await prepared(file);
  if (blob.size > Number(form.dataset.most)) {
    complain(say("try_too_large", { most: Math.floor(form.dataset.most / 2 ** 20) }));
    return;
  }
  image = blob;
  at("chosen").textContent = shrunk ? say("try_shrunk", { name }) : name;
  const preview = at("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(blob);
  at("explained").replaceChildren();
  at("seen").hidden = false;
  at("explain").disabled = false;
  await classify();
}

/** Runs one request; a later one ends it. */
async function ask(path, read) {
  asking?.abort();
  const own = (asking = new AbortController());
  complain("");
  try {
    const response = await post(path, image, {
      signal: own.signal,
      headers: { "Content-Type": "application/octet-stream" },
    });
    if (response.ok) await read(response);
    else complain(await refusal(response));
  } catch (error) {
    if (error.name !== "AbortError") complain(say("failed"));
  } finally {
    if (asking === own) {
      asking = null;
      busy(false);
    }
  }
}

async function classify() {
  at("boxes").replaceChildren();
  await ask(`/try/classify?${query({ toExplain: false })}`, async (response) => {
    at("decision").innerHTML = await response.text();
    const boxes = at("new-boxes");
    if (boxes) at("boxes").replaceChildren(boxes.content.cloneNode(true));
  });
}

function busy(isBusy) {
  at("progress").hidden = !isBusy;
  at("cancel").hidden = !isBusy;
  at("explain").disabled = isBusy || !image;
  if (isBusy) at("cancel").focus();
  else if (document.activeElement === document.body) at("explain").focus();
}

/** The lines of a response, as they come. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function explain() {
  const bar = at("progress").querySelector("progress");
  bar.removeAttribute("value");
  at("done").textContent = "";
  busy(true);
  await ask(`/try/explain?${query({ toExplain: true })}`, async (response) => {
    for await (const news of lines(response)) {
      if (news.problem) complain(news.problem);
      if (news.words) {
        bar.max = news.most;
        bar.value = news.done;
        at("done").textContent = news.words;
      }
      if (news.part) {
        at("explained").innerHTML = news.part;
        wireSliders(at("explained"));
        at("why").focus({ preventScroll: true });
        at("explained").scrollIntoView({ block: "start" });
      }
    }
  });
}

for (const id of ["file", "photo"]) {
  at(id).addEventListener("change", () => choose(at(id).files[0]));
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
at("cancel").addEventListener("click", () => {
  asking?.abort();
  post("/try/cancel");
});
at("reset").addEventListener("click", () => {
  const { segments, samples, fill } = choice();
  showUsual(segments, samples, fill);
});
model.addEventListener("change", () => {
  showModel();
  if (image) classify();
});
at("faces").addEventListener("change", () => image && classify());

const drop = at("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop" || !event.relatedTarget) drop.classList.remove("over");
  });
}
document.addEventListener("drop", (event) => choose(event.dataTransfer.files[0]));
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));

/** The frame of an event, if the address names one. */
async function chooseEvent() {
  const asked = new URLSearchParams(location.search);
  const id = asked.get("event");
  if (!id) return;
  at("faces").checked = asked.get("faces") === "true";
  const response = await fetch(`/events/${encodeURIComponent(id)}/frame.jpg`);
  if (response.ok) await choose(await response.blob(), say("try_frame"));
  else complain(await refusal(response));
}

showModel();
chooseEvent();
