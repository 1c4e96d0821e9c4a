"use strict";
// Shows what the service finds in an image; clicks and drawn boxes are asked about.
const $ = (id) => document.getElementById(id);
// Okabe and Ito's colours, in the order of `structures.drawing`: apart for everyone.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
const LOWEST = 0.05;
const CLICK = 6; // CSS pixels that a pointer may move and still click
let model = null, file = null, found = [], answer = null, drawn = null, turn = 0;

const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const rect = ([x0, y0, x1, y1], attributes) =>
  svg("rect", { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), ...attributes });

const percent = (score) => `${Math.round(100 * score)} %`;

function say(text, error = false) {
  $("state").textContent = text;
  $("state").classList.toggle("error", error);
}

async function post(address, body) {
  const response = await fetch(address, { method: "POST", body });
  const document = await response.json();
  if (!response.ok) throw new Error(document.error);
  return document;
}

const shown = () => {
  const conf = Number($("conf").value);
  return found.filter((each) => each.score >= conf);
};

function draw(marked = -1) {
  const boxes = shown(), image = $("image"), layer = $("boxes");
  layer.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  layer.replaceChildren(...boxes.map((each, row) => rect(each.box, {
    stroke: COLOURS[each.label % COLOURS.length],
    class: (marked >= 0 && row !== marked) || answer ? "quiet" : "",
  })));
  if (drawn) layer.append(rect(drawn, { class: "asked" }));
  if (answer) {
    layer.append(rect(answer.asked, { class: "asked" }));
    for (const step of answer.layers.slice(0, -1)) layer.append(rect(step, { class: "step" }));
    layer.append(rect(answer.box, { class: "answer" }));
  }
  return boxes;
}

function list() {
  const boxes = draw(), body = $("table").tBodies[0];
  $("value").textContent = percent(Number($("conf").value));
  say(`${boxes.length} ${boxes.length === 1 ? "object" : "objects"} in ${file.name || "the image"}`);
  $("table").hidden = boxes.length === 0;
  body.replaceChildren(...boxes.slice(0, 200).map((each, row) => {
    const line = document.createElement("tr");
    line.tabIndex = 0;
    const name = line.insertCell(), key = document.createElement("span");
    key.className = "key";
    key.style.background = COLOURS[each.label % COLOURS.length];
    name.append(key, each.name);
    line.insertCell().textContent = percent(each.score);
    for (const side of each.box) line.insertCell().textContent = Math.round(side);
    for (const event of ["mouseenter", "focus"]) line.addEventListener(event, () => draw(row));
    for (const event of ["mouseleave", "blur"]) line.addEventListener(event, () => draw());
    return line;
  }));
}

function form(fields = {}) {
  const made = new FormData();
  made.append("image", file, file.name || "image");
  for (const [key, value] of Object.entries(fields)) made.append(key, JSON.stringify(value));
  return made;
}

async function detect(chosen) {
  const own = ++turn;
  file = chosen;
  [found, answer, drawn] = [[], null, null];
  $("answer").textContent = "";
  say("detecting …");
  const image = $("image");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(chosen);
  $("stage").hidden = false;
  const ready = image.decode().then(() => true, () => false);
  try {
    const document = await post(`detect?conf=${LOWEST}`, form());
    if (own !== turn) return; // another image was chosen meanwhile
    found = document.images[0].detections;
    $("stage").hidden = !(await ready);
    $("hint").hidden = !model.questions || $("stage").hidden;
    $("threshold").hidden = false;
    list();
    if ($("stage").hidden) say(`${$("state").textContent}; this browser cannot show such an image`);
  } catch (error) {
    if (own !== turn) return;
    $("stage").hidden = $("hint").hidden = $("threshold").hidden = $("table").hidden = true;
    say(error.message, true);
  }
}

async function ask(box) {
  const own = ++turn;
  $("answer").textContent = "asking …";
  try {
    const { answers } = await post("ask", form({ boxes: [box] }));
    if (own !== turn) return;
    answer = answers[0];
    const moved = box.length === 4 ? `, IoU ${answer.moved.toFixed(2)} with the drawn box` : "";
    const same = answer.detection;
    const known = same ? `: the ${same.name} that is detected with ${percent(same.score)}` : "";
    const told = `${answer.name}, ${percent(answer.score)}${moved}${known}`;
    const nothing = !same && answer.score < model.conf;
    $("answer").textContent = nothing ? `Nothing is there (${told})` : told;
  } catch (error) {
    if (own !== turn) return;
    $("answer").textContent = error.message;
  }
  draw();
}

function place(event) {
  const image = $("image"), frame = image.getBoundingClientRect();
  const inside = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    inside((event.clientX - frame.left) / frame.width, 1) * image.naturalWidth,
    inside((event.clientY - frame.top) / frame.height, 1) * image.naturalHeight,
  ];
}

function pointers(stage) {
  let start = null, from = null;
  const corners = (a, b) => [0, 1].map((i) => Math.min(a[i], b[i])).concat([0, 1].map((i) => Math.max(a[i], b[i])));
  const far = (event) => Math.hypot(event.clientX - from[0], event.clientY - from[1]) > CLICK;
  stage.addEventListener("pointerdown", (event) => {
    if (!model.questions || event.button) return;
    event.preventDefault();
    [start, from, answer, drawn] = [place(event), [event.clientX, event.clientY], null, null];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!start) return;
    drawn = far(event) ? corners(start, place(event)) : null;
    draw();
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = far(event) ? corners(start, place(event)) : start;
    start = drawn = null;
    ask(box);
  });
  stage.addEventListener("pointercancel", () => { start = drawn = null; draw(); });
}

async function begin() {
  model = await (await fetch("model")).json();
  document.title = model.model;
  $("model").textContent = model.model;
  const some = model.classes.slice(0, 12).join(", ");
  const more = model.classes.length > 12 ? ` and ${model.classes.length - 12} more` : "";
  $("about").textContent = `finds ${some}${more}`;
  $("conf").value = model.conf;
  $("stage").classList.toggle("asking", model.questions);
  $("curl").textContent = `curl --data-binary @photo.jpg '${new URL("detect", location.href)}?conf=${model.conf}'`;
  pointers($("stage"));
  $("conf").addEventListener("input", () => { answer = null; list(); });
  $("file").addEventListener("change", (event) => { if (event.target.files[0]) detect(event.target.files[0]); });
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) detect(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => { if (event.clipboardData.files[0]) detect(event.clipboardData.files[0]); });
}

begin().catch((error) => say(`the service does not answer: ${error.message}`, true));
