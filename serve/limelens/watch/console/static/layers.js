// Sliders: each shows its value, and may set a property of the figure around it.

/** Shows a slider's value beside its name, and to readers of the screen. */
export function showValue(slider) {
  const words = `${slider.value}${slider.dataset.unit ?? ""}`;
  slider.closest("label").querySelector(".value").textContent = words;
  slider.setAttribute("aria-valuetext", words);
  if (slider.dataset.sets) {
    // A style attribute would be refused by the page's policy; this is not one.
    slider.closest("figure").style.setProperty(slider.dataset.sets, slider.value / 100);
  }
}

/** Wires the sliders below a node. */
export function wireSliders(node) {
  for (const slider of node.querySelectorAll('input[type="range"]')) {
    slider.addEventListener("input", () => showValue(slider));
    showValue(slider);
  }
}

wireSliders(document);
