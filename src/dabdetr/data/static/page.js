"use strict";
for (const box of document.querySelectorAll("input[data-label]")) {
  box.addEventListener("change", () => {
    const found = document.querySelectorAll(`rect[data-label="${box.dataset.label}"]`);
    for (const each of found) each.toggleAttribute("hidden", !box.checked);
  });
}
