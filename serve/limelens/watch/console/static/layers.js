// Sliders: each shows its value, and may set a property of the figure around it.

/** Wires the sliders below a node. */
export function wireSliders(node) {
  for (const slider of node.querySelectorAll('input[type="range"]')) {
    const shown = slider.closest("label").querySelector("output");
    const apply = () => {
      shown.textContent = `${slider.value}${slider.dataset.unit ?? ""}`;
      if (slider.dataset.sets) {
        // A style attribute would be refused by the page's policy; this is not one.
        slider.closest("figure").style.setProperty(slider.dataset.sets, slider.value / 100);
      }
    };
    slider.addEventListener("input", apply);
    apply();
  }
}

wireSliders(document);
