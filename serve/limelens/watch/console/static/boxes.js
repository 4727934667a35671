// Draws a frame's region, and its faces with what was decided about each, over the image.

import { say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const TEXT_PX = 13;

/** Fills an <svg> that lies over an image of the same size, of which it shows all. */
export function drawBoxes(svg, image, { region, faces }) {
  const width = image.naturalWidth;
  const height = image.naturalHeight;
  if (!width || !svg.clientWidth) return;
  // An image pixel is so many of the screen's; lines and words keep their size on the screen.
  const unit = Math.max(width / svg.clientWidth, height / svg.clientHeight);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  if (region) svg.append(rectangle(region, width, height, { class: "region", "stroke-width": 2 * unit }));
  // The worst last, so that it lies on top.
  const order = ["clear", "unknown", "alert"];
  const sorted = [...faces].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  for (const face of sorted) svg.append(...drawFace(face, width, height, unit));
  for (const group of svg.querySelectorAll(".tag")) back(group, unit, width);
}

function drawFace(face, width, height, unit) {
  const box = rectangle(face.box, width, height, {
    class: "face",
    "data-state": face.state,
    "stroke-width": (face.state === "alert" ? 3.5 : 2) * unit,
  });
  if (face.state === "unknown" || !face.seen) box.setAttribute("stroke-dasharray", `${6 * unit} ${4 * unit}`);
  const group = node("g", { class: "tag", "data-state": face.state });
  const size = TEXT_PX * unit;
  const left = face.box[0] * width;
  const isBelow = face.box[1] * height < 1.7 * size;
  const base = isBelow ? face.box[3] * height + 1.35 * size : face.box[1] * height - 0.5 * size;
  const mark = node("use", {
    href: `/static/shapes.svg#${face.state}`,
    x: left + 0.3 * size,
    y: base - 0.85 * size,
    width: size,
    height: size,
  });
  const text = node("text", { x: left + 1.55 * size, y: base, "font-size": size });
  text.textContent = face.issue ? say(face.issue) : (face.label ?? say("no_label"));
  group.append(mark, text);
  return [box, group];
}

/** Puts a ground behind the words, within the image. */
function back(group, unit, width) {
  const size = TEXT_PX * unit;
  const text = group.querySelector("text");
  const length = text.getComputedTextLength() + 2 * size;
  const left = Number(text.getAttribute("x")) - 1.55 * size;
  const over = Math.max(0, left + length - width);
  group.prepend(
    node("rect", { x: left, y: Number(text.getAttribute("y")) - 1.1 * size, width: length, height: 1.5 * size }),
  );
  if (over) group.setAttribute("transform", `translate(${-Math.min(over, left)} 0)`);
}

function rectangle([left, top, right, bottom], width, height, attributes) {
  return node("rect", {
    x: left * width,
    y: top * height,
    width: (right - left) * width,
    height: (bottom - top) * height,
    ...attributes,
  });
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
