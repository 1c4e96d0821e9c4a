// Texts about the selected query: the caption below the image, its story, its table of numbers.

function caption(map) {
  const { layer, part } = state;
  const { query } = state.picked;
  const head = headShown(query);
  const together = data.attention.kind === "maps" ? "mean of all heads" : "all heads";
  const whose = head ? `head ${head}` : together;
  let text = "";
  if (layer < 1) text = "Before layer 1 a query has only its anchor; attention begins with layer 1.";
  else if (isQuestion(query) && part !== "none" && !keptOf(query, part)) {
    text = "For questions, the page keeps the whole attention over all heads only, if there is room.";
  } else if (!data.attention.queries[query]) {
    text = "The page keeps attention for the best queries only; for this one it has boxes and numbers.";
  } else if (data.attention.kind === "locations" && part !== "none") {
    const chosen = {
      all: "samples",
      content: "would sample if content alone chose them",
      position: "would sample if the anchor's position alone chose them",
    }[part];
    text = `Locations that ${nameOf(query)} ${chosen}, layer ${layer}, ${whose}; larger marks have larger weights. `;
    text += "Levels from fine to coarse:";
  } else if (map) {
    text = `${isQuestion(query) ? "Question" : `Query ${query}`}, layer ${layer}, ${whose}: `;
    text += {
      all: "its attention.",
      content: "attention from content alone.",
      position: "attention from position alone.",
      unmodulated: "attention from position alone, without the anchor's width and height.",
    }[part];
    const ref = data.references && data.references[layer - 1][query];
    if (ref && (part === "position" || part === "unmodulated")) {
      const anchor = pixels(enters(query, layer)).map(Math.round);
      const size = pixels(ref).map(Math.round);
      const ratio = (k) => (size[k] / Math.max(anchor[k + 2], 1)).toFixed(2);
      text += ` The anchor is w × h = ${anchor[2]} × ${anchor[3]} px; the content gives w_ref × h_ref = ${size[0]} × ${size[1]} px.`;
      text += ` Size modulation scales the x product by w_ref / w = ${ratio(0)} and the y product by h_ref / h = ${ratio(1)}; a smaller factor makes attention wider.`;
    }
  }
  $("caption").textContent = text;
}

// Notes on the selected query's attention: no single heads, or no clean split in this layer.
function tellLimits() {
  const { query } = state.picked;
  const lines = [];
  if (data.attention.queries[query] && !headsOf(query) && !isQuestion(query)) {
    lines.push("To keep the page small, single heads are kept for the best queries only; this one has their mean.");
  }
  const split = state.part === "content" || state.part === "position";
  if (split && state.layer) lines.push(data.attention.caveats[state.layer - 1]);
  $("limits").textContent = lines.join(" ");
}

// Class and score in a layer; if the layer's best class is another one, that one too.
function said(choice, layer) {
  if (!layer) return "anchor";
  const best = label(choice.query, layer);
  const text = `${name(classOf(choice, layer))} ${scoreOf(choice, layer).toFixed(2)}`;
  if (best === classOf(choice, layer)) return text;
  return `${text}, best ${name(best)} ${score(choice.query, layer).toFixed(2)}`;
}

function tell() {
  const choice = state.picked;
  const { query } = choice;
  const end = placeAt(query, layers);
  const last = classOf(choice, layers);
  const listed = found(choice) && data.found;
  $("story-title").textContent =
    `${name(last)}, score ${scoreOf(choice, layers).toFixed(2)}, ${nameOf(query)}` +
    (listed || isQuestion(query) ? "" : " (no detection)");
  const parts = [];
  if (isQuestion(query)) parts.push(tellAnswer(query, end));
  else if (data.anchors) {
    const start = distance(placeAt(query, 0), end);
    parts.push(`Its anchor started ${start.toFixed(0)} px from where the box ended.`);
    const left = distance(placeAt(query, 1), end);
    if (start > 2 && layers > 1) parts.push(`After the first layer ${left.toFixed(0)} px were left.`);
  }
  const best = label(query, layers);
  let since = layers;
  while (since > 1 && label(query, since - 1) === best) since--;
  if (best === last) parts.push(`Its class is “${name(best)}” from layer ${since} on.`);
  else parts.push(`The query's best class is “${name(best)}” from layer ${since} on.`);
  $("story").textContent = parts.join(" ");
  tellTruth(last, end);
  tabulate(choice, end);
}

const nameOf = (query) => (isQuestion(query) ? "a question" : `query ${query}`);

// A text on the answer to a question.
function tellAnswer(query, end) {
  const [, , w, h] = pixels(placeAt(query, 0)).map(Math.round);
  let text = `The box asked about there is ${w} × ${h} px. `;
  const same = data.found ? data.detections.findIndex((d) => iou(placeAt(d.query, layers), end) >= 0.5) : -1;
  if (same >= 0) text += `Its answer coincides with detection ${same + 1}, which scores ${data.detections[same].score.toFixed(2)}.`;
  else if (score(query, layers) < data.conf) text += `Its score is below ${data.conf}: the model predicts nothing there.`;
  else text += "No detection coincides with its answer.";
  const [other, share] = data.attended[query - own];
  const at = data.found ? data.detections.findIndex((d) => d.query === other) : -1;
  const whose = at >= 0 ? `that of detection ${at + 1}` : "which is no detection";
  text += ` Of the model's queries it attends most to query ${other}, ${whose} (${Math.round(100 * share)} % of its attention).`;
  return text;
}

function tellTruth(last, end) {
  $("real").hidden = !data.truth;
  if (!data.truth) return;
  const truth = nearestTruth(end);
  const differs = truth && truth.label !== last;
  $("real").textContent = truth
    ? `The truth there is “${name(truth.label)}”${differs ? " ≠ " + `“${name(last)}”` : ""}.`
    : "There is no labelled object there.";
  $("real").classList.toggle("differs", !truth || differs);
}

function tabulate(choice, end) {
  const { query } = choice;
  const truth = data.truth && nearestTruth(end); // null: none overlaps
  const titles = ["layer", "score", "best class", "centre x,\u00a0y", "size", "moved", "IoU¹"];
  if (truth) titles.push("IoU²");
  const table = $("numbers");
  table.tHead.replaceChildren(cells("th", titles));
  const rows = [];
  for (let k = first; k <= layers; k++) {
    const box = placeAt(query, k);
    const [x, y, w, h] = pixels(box).map((v) => v.toFixed(0));
    const size = w ? `${w} × ${h}` : "";
    const before = k > first ? distance(box, placeAt(query, k - 1)).toFixed(0) : "";
    const values = [k || "start", k ? scoreOf(choice, k).toFixed(2) : "", k ? name(label(query, k)) : ""];
    values.push(`${x}, ${y}`, size, before, w ? iou(box, end).toFixed(2) : "");
    if (truth) values.push(w ? iou(box, truth.box).toFixed(2) : "");
    const row = cells("td", values);
    row.children[2].className = "name";
    row.children[3].className = "place"; // allows a line break on narrow screens
    if (Math.max(width, height) > 999) row.children[4].className = "place";
    row.children[2].title = values[2];
    if (truth && k) row.children[2].classList.toggle("differs", label(query, k) !== truth.label);
    row.dataset.layer = k;
    row.addEventListener("click", () => setLayer(k));
    rows.push(row);
  }
  table.tBodies[0].replaceChildren(...rows);
  $("legend").textContent =
    `Score of ${found(choice) ? `“${name(found(choice).label)}”` : "the best class"}. Centre x, y, ` +
    "width, height and the distance moved in pixels. ¹ with the last box" + (truth ? " ² with the truth" : "");
}

function cells(kind, values) {
  const row = document.createElement("tr");
  for (const value of values) {
    const cell = document.createElement(kind);
    cell.textContent = value;
    row.append(cell);
  }
  return row;
}

// The labelled object that a box overlaps most; null if its IoU is below 0.1 with all, as on background.
function nearestTruth(box) {
  const best = (a, b) => (iou(b.box, box) >= (a ? iou(a.box, box) : 0.1) ? b : a);
  return data.truth.reduce(best, null);
}
