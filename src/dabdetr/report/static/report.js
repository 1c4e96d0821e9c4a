"use strict";
// A click, Enter or space enlarges a figure or an image.
const zoom = document.getElementById("zoom");
const inside = zoom.querySelector("div");

function enlarge(element) {
  const copy = element.cloneNode(true);
  for (const name of ["class", "tabindex", "role", "loading"]) copy.removeAttribute(name);
  inside.replaceChildren(copy);
  zoom.showModal();
}

for (const element of document.querySelectorAll(".zoomable")) {
  element.addEventListener("click", () => enlarge(element));
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(element);
  });
}
zoom.addEventListener("click", (event) => {
  if (event.target === zoom || event.target.tagName === "BUTTON") zoom.close();
});
