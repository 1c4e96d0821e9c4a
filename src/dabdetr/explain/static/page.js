// The state of the page, drawing from it, and setup.

const state = {
  picked: data.detections.length ? { query: data.detections[0].query, detection: 0 } : choiceOf(0),
  hovered: null,
  clicked: null, // screen position of the last click
  asked: null, // the click or box of the question: x, y or cxcywh, 0–1
  layer: layers,
  part: "all",
  head: 0,
};
const PART_NAMES = {
  all: "whole", content: "content", position: "position", unmodulated: "position without size", none: "off",
};
const checked = (id) => $(id).checked;
// The number of single heads stored for a query: all for locations; for maps, only of the best queries.
const headsOf = (query) => data.attention.queries[query]?.heads ?? 0;
const headShown = (query) => (headsOf(query) ? state.head : 0);

function draw() {
  drawHeat();
  drawBoxes();
  $("layer").value = state.layer;
  const text = state.layer ? `After layer ${state.layer} of ${layers}` : "Start: initial anchors";
  $("layer-name").textContent = text;
  $("layer").setAttribute("aria-valuetext", text);
  [...$("list").children].forEach((item, i) => {
    const selected = i === state.picked.detection;
    item.setAttribute("aria-selected", selected);
    if (selected) $("list").setAttribute("aria-activedescendant", item.id);
  });
  document.querySelectorAll("#parts input").forEach((i) => (i.checked = i.value === state.part));
  $("head").value = headShown(state.picked.query);
  $("head").disabled = !headsOf(state.picked.query);
  tellLimits();
  [...$("numbers").tBodies[0].rows].forEach((row) => {
    row.setAttribute("aria-current", Number(row.dataset.layer) === state.layer);
  });
}

function drawHeat() {
  const canvas = $("heat");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = $("stage").clientWidth * ratio;
  canvas.height = $("stage").clientHeight * ratio;
  $("scale").hidden = $("levels").hidden = true;
  const { query } = state.picked;
  if (state.part === "none" || state.layer < 1) return caption(null);
  const kept = keptOf(query, state.part);
  if (!kept) return caption(null);
  if (data.attention.kind === "locations") {
    drawPlaces(canvas, kept, state.layer, state.part, headShown(query));
    $("levels").hidden = false;
    return caption(null);
  }
  const map = attentionMap(kept, state.layer, state.part, headShown(query));
  drawMap(canvas, map);
  $("scale").hidden = false;
  $("top").textContent = percent(map.top) + " of the weight in one cell";
  caption(map);
}

function drawBoxes() {
  const svg = $("boxes");
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const { layer, picked, hovered } = state;
  if (checked("all")) {
    data.boxes[0].slice(0, own).forEach((_, query) => {
      const [x, y] = pixels(placeAt(query, layer));
      const sure = score(query, layer) >= data.conf;
      const look = { cx: x, cy: y, r: (sure ? 4.5 : 3) * unit, fill: sure ? "#fff" : "#bbb" };
      shape(svg, "circle", { ...look, stroke: "#000", "stroke-width": 1.2 * unit, class: "query" });
    });
  }
  if (data.truth && checked("truth")) {
    data.truth.forEach((t) => {
      outline(svg, t.box, "#fff", 1.5, { "stroke-dasharray": `${2 * unit} ${3 * unit}`, class: "truth" });
    });
  }
  const seen = new Set();
  for (const each of data.detections) {
    if (each.query === picked.query || seen.has(each.query)) continue;
    seen.add(each.query);
    const more = { class: "detection", "data-query": each.query, opacity: 0.75 };
    outline(svg, placeAt(each.query, layer), data.colours[each.label], 1.75, more);
  }
  if (checked("path")) drawPath(svg, picked.query);
  if (hovered && hovered.query !== picked.query) {
    outline(svg, placeAt(hovered.query, layer), "#fff", 1.5, { class: "hovered" });
  }
  if (state.asked && isQuestion(picked.query)) {
    outline(svg, state.asked, "#f0e442", 2, { class: "asked" });
  }
  drawPicked(svg, picked, layer);
  const truth = data.truth && checked("truth") && nearestTruth(placeAt(picked.query, layers));
  if (truth) tag(svg, truth.box, `truth: ${name(truth.label)}`, true);
}

function drawPicked(svg, choice, layer) {
  const { query } = choice;
  const colour = found(choice) ? data.colours[found(choice).label] : "#ffffff";
  const anchor = enters(query, layer);
  if (anchor) {
    const dashes = { "stroke-dasharray": `${7 * unit} ${5 * unit}`, class: "anchor" };
    outline(svg, anchor, "#fff", 1.75, dashes);
  }
  const place = placeAt(query, layer);
  const line = { class: "picked", "data-query": query };
  outline(svg, place, colour, 4, layer ? line : { ...line, "stroke-dasharray": `${7 * unit} ${5 * unit}` });
  tag(svg, place, layer ? said(choice, layer) : `anchor ${nameOf(query)}`);
}

function drawPath(svg, query) {
  const centres = [];
  for (let k = first; k <= layers; k++) centres.push(pixels(placeAt(query, k)).slice(0, 2));
  const line = { d: "M" + centres.map((c) => c.join(" ")).join("L"), fill: "none" };
  shape(svg, "path", { ...line, stroke: "#000", "stroke-width": 4 * unit });
  shape(svg, "path", { ...line, stroke: "#fff", "stroke-width": 2 * unit, class: "path" });
  centres.forEach(([x, y], i) => {
    const here = i + first === state.layer;
    const look = { cx: x, cy: y, r: (here ? 5.5 : 3.5) * unit, fill: i + first ? "#fff" : "#000" };
    shape(svg, "circle", { ...look, stroke: i + first ? "#000" : "#fff", "stroke-width": 1.5 * unit });
  });
}

// Choosing

function pick(choice) {
  state.picked = choice;
  tell();
  draw();
  if (!found(choice)) return;
  const [list, item] = [$("list"), $("list").children[choice.detection]];
  const top = item.offsetTop - list.offsetTop;
  if (top < list.scrollTop) list.scrollTop = top;
  const over = top + item.offsetHeight - list.clientHeight;
  if (over > list.scrollTop) list.scrollTop = over;
}

function step(by) {
  const last = data.detections.length - 1;
  if (last < 0) return;
  const detection = Math.max(0, Math.min(last, (state.picked.detection ?? -1) + by));
  pick({ query: data.detections[detection].query, detection });
}

function setLayer(layer) {
  state.layer = Math.max(first, Math.min(layers, layer));
  draw();
}

function cycle(values, value) {
  return values[(values.indexOf(value) + 1) % values.length];
}

let playing = null;
function play() {
  const stop = playing !== null || layers === first;
  clearInterval(playing);
  playing = null;
  if (!stop) {
    if (state.layer === layers) setLayer(first);
    playing = setInterval(() => {
      if (state.layer >= layers) return play();
      setLayer(state.layer + 1);
    }, 900);
  }
  $("play").textContent = playing === null ? "▶" : "❚❚";
  $("play").setAttribute("aria-label", playing === null ? "Play the layers" : "Stop");
}

// The page

function start() {
  const count = own;
  $("title").textContent = data.title;
  const many = data.found === 1 ? "1 detection" : `${data.found} detections`;
  const slots = count === 1 ? "1 query" : `${count} queries`;
  $("summary").textContent =
    `${data.model}, ${layers} decoder layer${layers > 1 ? "s" : ""}, ${slots}; ` +
    `${many} scoring ${Number(data.conf.toFixed(2))} or more.`;
  if (!data.found) $("list-title").textContent = "Nothing was found: best queries";
  $("image").src = data.image;
  $("image").style.imageRendering = Math.max(width, height) <= 48 ? "pixelated" : "auto";
  $("truth-field").hidden = !data.truth;
  for (const id of ["ask-field", "ask-key"]) $(id).hidden = !data.questions;
  $("all").checked = count <= 60;
  [$("layer").min, $("layer").max] = [first, layers];
  $("play").disabled = layers === first;
  fillList();
  fillChoices();
  fillNotes();
  listen();
  fitStage();
  fromAddress();
  tell();
  draw();
}

// "#query=12&layer=3" opens the page at a query and a layer.
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const query = Number(asked.get("query") ?? NaN);
  if (data.boxes[0][query]) state.picked = choiceOf(query);
  const layer = Number(asked.get("layer") ?? NaN);
  if (layer >= first && layer <= layers) state.layer = layer;
}

function fillList() {
  const items = data.detections.map((each, i) => {
    const item = document.createElement("li");
    item.id = `detection-${i}`;
    item.setAttribute("role", "option");
    item.dataset.query = each.query;
    const parts = ["number", "swatch", "", "number"].map((c) => {
      const part = document.createElement("span");
      part.className = c;
      item.append(part);
      return part;
    });
    parts[0].textContent = i + 1;
    parts[1].style.background = data.colours[each.label];
    parts[2].textContent = name(each.label);
    parts[3].textContent = each.score.toFixed(2);
    item.addEventListener("click", () => pick({ query: each.query, detection: i }));
    return item;
  });
  $("list").replaceChildren(...items);
}

function fillChoices() {
  for (const part of [...data.attention.parts, "none"]) {
    const field = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "part", value: part });
    input.addEventListener("change", () => setPart(part));
    field.append(input, PART_NAMES[part]);
    $("parts").append(field);
  }
  if (data.attention.levels) $("levels").replaceChildren(...levelKey());
  for (let head = 0; head <= data.attention.heads; head++) {
    $("head").append(new Option(head ? String(head) : "all", head));
  }
}

function fillNotes() {
  const notes = [
    "Select a detection in the image or the list; move the slider to see its box after every layer.",
    "A click selects the smallest box at that place, a second click the next larger one. Outside of boxes, or with Shift, it selects the query with the nearest centre.",
  ];
  if (data.anchors) {
    notes.push("Dashed: the layer's input anchor. Thick: its output box. Dots on the white line: centres from the start (black) to the last layer.");
  } else notes.push("Thick: the layer's output box. Dots on the white line: its centres, layer by layer.");
  if (data.attention.parts.includes("position")) {
    notes.push("“Whole” is the attention that the model uses. “Content” and “position” are the attention from each of them alone.");
  }
  if (data.questions) {
    notes.push(`With “Ask”, a click or a drawn box is a question: the answer shown is that of the nearest of ${data.questions} boxes that the model was asked about when the page was made. A question attends to the model's own queries; they do not attend to it.`);
  }
  if (data.truth) notes.push("Dotted: the labelled objects. “≠” and red: the class found differs from the object's label.");
  notes.push(...data.absent);
  for (const note of notes) {
    const item = document.createElement("li");
    item.textContent = note;
    $("notes").append(item);
  }
}

function listen() {
  $("layer").addEventListener("input", () => setLayer(Number($("layer").value)));
  $("play").addEventListener("click", play);
  $("head").addEventListener("change", () => setHead(Number($("head").value)));
  for (const id of ["path", "all", "truth"]) $(id).addEventListener("change", draw);
  $("stage").addEventListener("pointermove", hover);
  $("stage").addEventListener("pointerleave", () => {
    state.hovered = null;
    $("tip").hidden = true;
    drawBoxes();
  });
  $("ask").addEventListener("change", () => $("stage").classList.toggle("asking", checked("ask")));
  $("stage").addEventListener("pointerdown", beginBox);
  $("stage").addEventListener("pointermove", dragBox);
  $("stage").addEventListener("pointerup", endBox);
  $("stage").addEventListener("pointercancel", () => (drag = null));
  $("stage").addEventListener("click", (event) => {
    if (checked("ask")) return;
    const choice = choiceAt(event);
    state.clicked = [event.clientX, event.clientY];
    if (choice) pick(choice);
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    fromAddress();
    tell();
    draw();
  });
  window.addEventListener("resize", () => {
    fitStage();
    draw();
  });
}

start();
