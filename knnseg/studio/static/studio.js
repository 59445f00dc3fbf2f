// The page of knnseg studio. Whatever a person has typed is put into the page as text, never as HTML.

const $ = (id) => document.getElementById(id);

/** An element with attributes, handlers (on…) and children. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "colour") element.style.backgroundColor = value;
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// -- asking the server ----------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("The server does not answer. Is knnseg studio still running?");
  }
  const said = await answer.json().catch(() => ({ error: `unexpected answer, status ${answer.status}` }));
  if (!answer.ok) throw new Error(said.error);
  return said;
}

const tell = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const running = []; // what is being done
let last = ""; // what was done last

/** Do something while the page says so; what goes wrong is shown. Returns undefined then. */
async function busy(text, work) {
  running.push(text);
  last = "";
  showStatus();
  try {
    return await work();
  } catch (error) {
    complain(error.message);
  } finally {
    running.splice(running.indexOf(text), 1);
    showStatus();
  }
}

function showStatus() {
  document.body.toggleAttribute("aria-busy", running.length > 0);
  if (running.length) document.body.setAttribute("aria-busy", "true");
  $("status").textContent = running.length ? `${running[running.length - 1]} …` : last;
  refresh();
}

function complain(text) {
  $("trouble").hidden = false;
  $("trouble").querySelector("p").textContent = text;
}

function done(text) {
  last = text;
  showStatus();
}

// -- what is known ---------------------------------------------------------------------------------------------------

let state = { readOnly: true, concepts: [], classes: [], undo: "" };
let listed = [];
let photo = null; // {id, name, picture, width, height, layers, places, outlines, now, earlier}
let chosen = null; // Uint8Array, what is selected
let hover = 0; // the proposal under the pointer
let marked = 0; // the segment whose evidence is shown
let pointer = null; // {x, y} in pixels of the picture
let cross = false; // the pointer is the cross of the keyboard
let stroke = null; // {x, y} where a box or a stroke began

/** Runs of numbers as a map. */
function decoded(runs, length) {
  const map = new Uint32Array(length);
  for (let i = 0, at = 0; i < runs.length; i += 2) map.fill(runs[i], at, (at += runs[i + 1]));
  return map;
}

/** A mask as runs. */
function encoded(mask) {
  const runs = [];
  for (let start = 0, i = 1; i <= mask.length; i++)
    if (i === mask.length || mask[i] !== mask[start]) {
      runs.push(mask[start], i - start);
      start = i;
    }
  return runs;
}

/** The borders between pixels that `of` says different things of, as a path in pixels of the picture; inside a box. */
function borders(of, width, height, [left, top, right, bottom] = [0, 0, width, height]) {
  const path = new Path2D();
  const at = (x, y) => (x < left || y < top || x >= right || y >= bottom ? 0 : Number(of(y * width + x)));
  for (let y = top; y <= bottom; y++)
    for (let x = left, start = -1; x <= right; x++) {
      const edge = x < right && at(x, y) !== at(x, y - 1);
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) {
        path.moveTo(start, y);
        path.lineTo(x, y);
        start = -1;
      }
    }
  for (let x = left; x <= right; x++)
    for (let y = top, start = -1; y <= bottom; y++) {
      const edge = y < bottom && at(x, y) !== at(x - 1, y);
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) {
        path.moveTo(x, start);
        path.lineTo(x, y);
        start = -1;
      }
    }
  return path;
}

/** A canvas with a colour for each pixel, as 0xAABBGGRR. */
function coloured(width, height, colour) {
  const canvas = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = colour(i);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** A segmentation as the page draws it. */
function painted(answer) {
  const [height, width] = answer.size;
  const map = decoded(answer.runs, width * height);
  const colours = new Uint32Array(answer.segments.reduce((most, s) => Math.max(most, s.id), 0) + 1);
  for (const { id, colour } of answer.segments) {
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    colours[id] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  return { ...answer, map, canvas: coloured(width, height, (i) => colours[map[i]]), lines: borders((i) => map[i], width, height) };
}

// -- drawing ---------------------------------------------------------------------------------------------------------

const canvas = $("canvas");
let asked = 0;

/** Draw in the next frame. */
function draw() {
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(drawn);
}

function drawn() {
  if (!photo) return;
  const frame = $("frame").clientWidth;
  const tallest = Math.max(240, innerHeight * (innerWidth < 736 ? 0.6 : 0.72));
  const shown = Math.min(frame, (tallest * photo.width) / photo.height);
  const scale = (shown * devicePixelRatio) / photo.width;
  canvas.style.width = `${shown}px`;
  canvas.width = Math.round(photo.width * scale);
  canvas.height = Math.round(photo.height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const thick = devicePixelRatio / scale; // a pixel of the screen
  pen.drawImage(photo.picture, 0, 0, photo.width, photo.height);
  const line = ($("slider").value / 100) * photo.width;
  if (photo.now) drawSegments(pen, photo.now, line, photo.width, thick);
  if (photo.earlier && $("before").value === "earlier") drawSegments(pen, photo.earlier, 0, line, thick);
  if (line > 0 && line < photo.width) {
    stroked(pen, new Path2D(`M${line} 0V${photo.height}`), "#fff", 2 * thick, thick);
  }
  if (chosen && photo.selection) {
    pen.globalAlpha = 0.45;
    pen.drawImage(photo.selection, 0, 0);
    pen.globalAlpha = 1;
    if (photo.selected) stroked(pen, photo.selected, "#ffd400", 2 * thick, thick);
  }
  if (hover && tool() === "regions") stroked(pen, outlineOf(hover), "#fff", 2 * thick, thick);
  if (marked && photo.now) stroked(pen, segmentOutline(marked), "#fff", 3 * thick, thick);
  drawPointer(pen, thick);
}

function drawSegments(pen, segments, from, to, thick) {
  pen.save();
  pen.beginPath();
  pen.rect(from, 0, to - from, photo.height);
  pen.clip();
  pen.globalAlpha = $("alpha").value / 100;
  pen.drawImage(segments.canvas, 0, 0);
  pen.globalAlpha = 0.9;
  pen.lineWidth = thick;
  pen.strokeStyle = "#fff";
  pen.stroke(segments.lines);
  pen.restore();
}

/** A line that shows on any ground. */
function stroked(pen, path, colour, width, edge) {
  pen.lineJoin = "round";
  pen.strokeStyle = "#000c";
  pen.lineWidth = width + 2 * edge;
  pen.stroke(path);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.stroke(path);
}

function drawPointer(pen, thick) {
  if (!pointer) return;
  const { x, y } = pointer;
  if (tool() === "box" && stroke) {
    const box = new Path2D();
    box.rect(Math.min(x, stroke.x), Math.min(y, stroke.y), Math.abs(x - stroke.x), Math.abs(y - stroke.y));
    stroked(pen, box, "#ffd400", 2 * thick, thick);
  }
  if (tool() === "brush" || tool() === "eraser") {
    const circle = new Path2D();
    circle.arc(x, y, radius(), 0, 7);
    stroked(pen, circle, "#fff", thick, thick);
  }
  if (cross) {
    const arm = 9 * thick;
    stroked(pen, new Path2D(`M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`), "#fff", 2 * thick, thick);
  }
}

function outlineOf(proposal) {
  if (!photo.outlines.has(proposal)) {
    const { layer, box } = photo.places.get(proposal);
    photo.outlines.set(proposal, borders((i) => layer[i] === proposal, photo.width, photo.height, box));
  }
  return photo.outlines.get(proposal);
}

function segmentOutline(number) {
  const map = photo.now.map;
  return borders((i) => map[i] === number, photo.width, photo.height);
}

// -- selecting -------------------------------------------------------------------------------------------------------

const tool = () => document.querySelector("[name=tool]:checked").value;
const radius = () => Math.max(0.5, (Number($("width").value) / 2) * (photo.width / 640));
const inside = ({ x, y }) => x >= 0 && y >= 0 && x < photo.width && y < photo.height;
const pixel = ({ x, y }) => Math.floor(y) * photo.width + Math.floor(x);

/** The proposal at a point, of the size that is asked for. */
function proposalAt(point) {
  if (!photo.layers || !inside(point)) return 0;
  const found = photo.layers.map((map) => map[pixel(point)]).filter(Boolean);
  found.sort((a, b) => photo.places.get(a).area - photo.places.get(b).area);
  return found.length ? found[Math.round(Number($("size").value) * (found.length - 1))] : 0;
}

function selectProposal(point, adding) {
  const proposal = proposalAt(point);
  if (!proposal) return;
  const { layer } = photo.places.get(proposal);
  const was = chosen;
  const next = adding && was ? was.slice() : new Uint8Array(layer.length);
  const all = adding && was && layer.every((n, i) => n !== proposal || was[i]);
  layer.forEach((n, i) => n === proposal && (next[i] = all ? 0 : 1));
  select(next);
}

/** Select a mask; the line around it comes when a stroke ends. */
function select(mask) {
  chosen = mask && mask.includes(1) ? mask : null;
  if (chosen) {
    photo.selection = coloured(photo.width, photo.height, (i) => (mask[i] ? 0xff00d4ff : 0));
    photo.selected = stroke ? null : borders((i) => mask[i], photo.width, photo.height);
  }
  refresh();
  draw();
}

async function selectBox(from, to, adding) {
  const box = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
  if (box[2] - box[0] < 2 || box[3] - box[1] < 2) return;
  const of = photo;
  const found = await busy("finding the outline", () => tell(`images/${of.id}/outline`, { box }));
  if (!found || of !== photo) return;
  const mask = Uint8Array.from(decoded(found.runs, photo.width * photo.height));
  if (adding && chosen) chosen.forEach((n, i) => n && (mask[i] = 1));
  select(mask);
}

/** Paint, or wipe out, along a line. */
function brushed(from, to) {
  const mask = chosen ? chosen.slice() : new Uint8Array(photo.width * photo.height);
  const value = tool() === "brush" ? 1 : 0;
  const steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius() / 2)) || 1;
  for (let step = 0; step <= steps; step++) {
    const cx = from.x + ((to.x - from.x) * step) / steps;
    const cy = from.y + ((to.y - from.y) * step) / steps;
    const r = radius();
    for (let y = Math.max(0, Math.floor(cy - r)); y <= Math.min(photo.height - 1, cy + r); y++)
      for (let x = Math.max(0, Math.floor(cx - r)); x <= Math.min(photo.width - 1, cx + r); x++)
        if (Math.hypot(x + 0.5 - cx, y + 0.5 - cy) <= r) mask[y * photo.width + x] = value;
  }
  select(mask);
}

function pressed(point, adding) {
  if (!photo) return;
  if (tool() === "regions") selectProposal(point, adding);
  else if (tool() === "why") askWhy(photo.now && inside(point) ? photo.now.map[pixel(point)] : 0);
  else {
    stroke = point;
    if (tool() !== "box") brushed(point, point);
  }
}

function moved(point) {
  if (stroke && (tool() === "brush" || tool() === "eraser")) {
    brushed(stroke, point);
    stroke = point;
  }
  pointer = point;
  hover = photo && !state.readOnly && tool() === "regions" ? proposalAt(point) : 0;
  const number = photo && photo.now && inside(point) ? photo.now.map[pixel(point)] : 0;
  const segment = number && photo.now.segments.find((s) => s.id === number);
  $("here").textContent = segment ? `${segment.label}, ${percent(segment.score)}` : "\u00a0";
  draw();
}

function released(point, adding) {
  const from = stroke;
  stroke = null;
  if (from && tool() === "box") selectBox(from, point, adding);
  else if (from) select(chosen);
  draw();
}

const adding = (event) => event.shiftKey || $("adding").checked;

function place(event) {
  const box = canvas.getBoundingClientRect();
  const within = (share) => Math.min(1, Math.max(0, share));
  return {
    x: within((event.clientX - box.left) / box.width) * (photo.width - 0.01),
    y: within((event.clientY - box.top) / box.height) * (photo.height - 0.01),
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!photo || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  cross = false;
  pressed(place(event), adding(event));
});
canvas.addEventListener("pointermove", (event) => {
  cross = false;
  if (photo) moved(place(event));
});
canvas.addEventListener("pointerup", (event) => photo && released(place(event), adding(event)));
canvas.addEventListener("pointerleave", () => {
  if (stroke || cross) return;
  pointer = null;
  hover = 0;
  draw();
});
canvas.addEventListener("keydown", (event) => {
  if (!photo) return;
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step && event.key !== "Enter" && event.key !== " " && event.key !== "Escape") return;
  event.preventDefault();
  const point = pointer || { x: photo.width / 2, y: photo.height / 2 };
  const far = event.shiftKey ? 1 : photo.width / 50;
  cross = true;
  if (event.key === "Escape") {
    stroke = null;
    select(null);
  } else if (step) {
    const held = (value, most) => Math.min(most - 0.01, Math.max(0, value));
    const next = { x: held(point.x + step[0] * far, photo.width), y: held(point.y + step[1] * far, photo.height) };
    moved(next);
  } else {
    pointer = point;
    if (tool() === "box" && stroke) released(point, adding(event));
    else pressed(point, adding(event));
    if (tool() !== "box") released(point, false);
    draw();
  }
});

// -- photographs -----------------------------------------------------------------------------------------------------

async function list() {
  listed = (await ask("images")) || [];
  showList();
}

function showList() {
  const wanted = $("find").value.trim().toLowerCase();
  const some = listed.filter((one) => one.name.toLowerCase().includes(wanted));
  const items = some.slice(0, 500).map((one) =>
    h("li", {}, h("button", { title: one.name, "data-id": one.id, onclick: () => choose(one) },
      h("img", {
        src: `api/images/${one.id}/thumbnail`, alt: "", loading: "lazy",
        onerror: (event) => event.target.replaceWith(h("span", { class: "soft" }, "cannot be read")),
      }),
      h("span", {}, one.name)))
  );
  if (some.length > 500) items.push(h("li", { class: "soft" }, `and ${some.length - 500} more; find them by a part of their name`));
  if (!some.length) items.push(h("li", { class: "soft" }, listed.length ? "no such name" : "no photographs yet"));
  $("photographs").replaceChildren(...items);
  showCurrent();
}

/** Mark the photograph that is open, and bring it into view. */
function showCurrent() {
  for (const button of $("photographs").querySelectorAll("button")) {
    const current = photo && button.dataset.id === photo.id;
    button.setAttribute("aria-current", String(Boolean(current)));
    if (current) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** What somebody has chosen; what was wrong with another photograph is over then. */
async function choose(one) {
  $("trouble").hidden = true;
  await open(one);
}

async function open(one) {
  await busy(`opening ${one.name}`, async () => {
    const picture = new Image();
    picture.src = `api/images/${one.id}/picture`;
    await picture.decode().catch(async () => {
      await ask(`images/${one.id}/proposals`); // says why
      throw new Error(`${one.name}: the browser cannot show it.`);
    });
    photo = { ...one, picture, width: picture.naturalWidth, height: picture.naturalHeight, layers: null, places: new Map(), outlines: new Map(), now: null, earlier: null };
    location.hash = `photograph=${one.id}`;
    $("frame").classList.remove("empty");
    canvas.setAttribute("aria-label", `Photograph ${one.name}`);
    hover = marked = 0;
    pointer = stroke = null;
    $("slider").value = 0;
    hideWhy();
    select(null);
    showCurrent();
  });
  if (photo && photo.id === one.id) await Promise.all([propose(photo), segment(photo)]);
}

async function propose(of) {
  if (state.readOnly) return;
  const found = await busy("looking for regions", () => ask(`images/${of.id}/proposals`));
  if (!found) return;
  of.layers = found.layers.map((runs) => decoded(runs, of.width * of.height));
  of.places = new Map();
  for (const layer of of.layers) placed(layer, of);
  draw();
}

/** Where each proposal of a layer is, and how large. */
function placed(layer, of) {
  for (let y = 0, i = 0; y < of.height; y++)
    for (let x = 0; x < of.width; x++, i++) {
      if (!layer[i]) continue;
      let place = of.places.get(layer[i]);
      if (!place) of.places.set(layer[i], (place = { layer, area: 0, box: [x, y, x + 1, y + 1] }));
      place.area += 1;
      if (x < place.box[0]) place.box[0] = x;
      if (x >= place.box[2]) place.box[2] = x + 1;
      if (y >= place.box[3]) place.box[3] = y + 1;
    }
}

async function segment(of) {
  const found = await busy("segmenting", () => ask(`images/${of.id}/segmentation`));
  if (!found || of !== photo) return;
  if (found.degraded) complain(`Base prediction only: ${found.degraded}`);
  if (of.now && of.now.seen !== found.seen) of.earlier = of.now;
  of.now = painted(found);
  marked = 0;
  hideWhy();
  showSegments();
  refresh();
  draw();
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

function showSegments() {
  const segments = photo && photo.now ? [...photo.now.segments].sort((a, b) => b.area - a.area) : [];
  const items = segments.map((s) =>
    h("li", {}, h("button", { "aria-pressed": String(s.id === marked), title: "Why?", onclick: () => askWhy(s.id) },
      h("i", { class: "swatch", colour: s.colour }), h("span", { class: "name" }, s.label), h("span", { class: "number" }, percent(s.score))))
  );
  if (!items.length) items.push(h("li", { class: "soft" }, photo ? "Nothing is taught yet. Select something, name it, and teach it." : "No photograph is open."));
  $("segments").replaceChildren(...items);
}

async function drop(file) {
  const added = await busy(`reading ${file.name}`, () =>
    ask("images", { method: "POST", headers: { "Content-Type": "application/octet-stream", "X-Name": encodeURIComponent(file.name) }, body: file })
  );
  if (!added) return;
  await list();
  await open(added);
}

$("file").addEventListener("change", async () => {
  for (const file of $("file").files) await drop(file);
  $("file").value = "";
});
for (const kind of ["dragover", "drop", "dragleave"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.querySelector(".drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") for (const file of event.dataTransfer.files) drop(file);
  });
$("find").addEventListener("input", showList);

// -- evidence --------------------------------------------------------------------------------------------------------

function hideWhy() {
  $("evidence").hidden = true;
}

async function askWhy(number) {
  if (!number) return;
  marked = number;
  const of = photo;
  showSegments();
  draw();
  const why = await busy("looking up who voted", () => ask(`images/${of.id}/segments/${number}?seen=${of.now.seen}`));
  if (!why || of !== photo || marked !== number) return;
  showWhy(why);
  $("evidence").focus({ preventScroll: innerWidth >= 736 });
}

function showWhy(why) {
  const number = (value) => (value === null ? "–" : value.toFixed(2));
  const rows = why.rows.map((row) =>
    h("tr", { class: row.name === why.label ? "chosen" : null }, h("th", { scope: "row" }, row.name), h("td", {}, number(row.base)), h("td", {}, number(row.retrieved)), h("td", {}, number(row.final)))
  );
  const head = ["class", "base", "retrieved", "final"].map((title) => h("th", { scope: "col" }, title));
  const input = h("input", { list: "names", maxlength: "200", required: true, "aria-label": "What it is instead" });
  const form = h("form", { id: "correct", autocomplete: "off", onsubmit: (event) => { event.preventDefault(); correct(why.segment, input.value); } },
    h("label", {}, "No, this is ", input), h("button", {}, "Correct"));
  $("why").replaceChildren(
    h("h3", {}, `${why.label}, ${percent(why.score)}`),
    h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)),
    ...(state.readOnly ? [] : [form]),
    h("h3", {}, why.voters.length ? "Examples that voted" : "No example voted."),
    h("div", { class: "cards" }, ...why.voters.map((voter) => exampleCard(voter, [
      h("span", {}, `similarity ${voter.similarity.toFixed(2)}, ${percent(voter.weight)} of the votes`),
    ])))
  );
  $("evidence").hidden = false;
}

/** An example: its picture, its name, who added it and when, and what can be done with it. */
function exampleCard(example, more = [], named = true) {
  const picture = h("img", { src: `api/examples/${example.id}/picture`, alt: `an example of ${example.label}`, loading: "lazy" });
  picture.addEventListener("error", () => picture.replaceWith(h("div", { class: "lost" }, "its photograph is not where it was")));
  const when = example.added ? new Date(1000 * example.added).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";
  const actions = [
    h("button", { class: "small", "aria-label": `Rename this example of ${example.label}`, onclick: () => renameExample(example) }, "Rename"),
    h("button", { class: "small bad", "aria-label": `Remove this example of ${example.label}`, onclick: () => removeExample(example) }, "Remove"),
  ];
  return h("div", { class: "card" }, picture, named ? h("b", {}, example.label) : null, ...more,
    h("span", { class: "soft" }, [example.writer ? `by ${example.writer}` : "", when, example.image].filter(Boolean).join(", ")),
    state.readOnly ? null : h("div", { class: "row" }, ...actions));
}

async function renameExample(example) {
  const name = await dialog({ title: "What is it?", text: `An example of ${example.label}.`, label: "Name", value: example.label, ok: "Rename" });
  if (name && name !== example.label) await change("examples/relabel", { ids: [example.id], name }, `now an example of ${name}`);
}

const removeExample = (example) => change("examples/delete", { ids: [example.id] }, `an example of ${example.label} was removed`);

/** Change something, and show what follows from it. */
async function change(path, body, text) {
  const answer = await busy("changing", async () => after(await tell(path, body)));
  if (answer) done(text);
  return answer;
}

/** Ask for a name, or for leave; null where it was cancelled. */
function dialog({ title, text, label = "", value = "", ok }) {
  $("dialog-title").textContent = title;
  $("dialog-text").textContent = text;
  $("dialog-label").hidden = !label;
  $("dialog-label").querySelector("span").textContent = label;
  $("dialog-input").value = value;
  $("dialog-input").required = Boolean(label);
  $("dialog-ok").textContent = ok;
  $("dialog").returnValue = "";
  $("dialog").showModal();
  (label ? $("dialog-input") : $("dialog-ok")).focus();
  if (label) $("dialog-input").select();
  return new Promise((resolve) =>
    $("dialog").addEventListener("close", () => resolve($("dialog").returnValue === "ok" ? $("dialog-input").value.trim() || ok : null), { once: true })
  );
}

// -- teaching --------------------------------------------------------------------------------------------------------

async function after(answer) {
  await look();
  if (!$("concepts").hidden) await showConcepts();
  if (photo) {
    const of = photo;
    await segment(of);
    if (of.earlier) {
      $("before").value = "earlier";
      $("slider").value = 50;
    }
    refresh();
    draw();
  }
  return answer;
}

$("naming").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!photo || !chosen) return;
  const thing = document.querySelector("[name=kind]:checked").value === "thing";
  const asked = { image: photo.id, mask: { runs: encoded(chosen) }, name: $("name").value, thing };
  const answer = await busy("teaching", async () => after(await tell("teach", asked)));
  if (!answer) return;
  select(null);
  done(answer.added ? `taught: ${answer.name}` : `that was an example of ${answer.name} already`);
  list();
});

async function correct(number, name) {
  const answer = await busy("correcting", async () =>
    after(await tell("teach", { image: photo.id, mask: { segment: number, seen: photo.now.seen }, name }))
  );
  if (answer) done(`corrected: ${answer.name}`);
}

/** A known name says itself whether it is a thing. */
$("name").addEventListener("input", () => {
  const known = state.concepts.find((concept) => concept.name === $("name").value.trim());
  if (known) document.querySelector(`[name=kind][value=${known.thing ? "thing" : "stuff"}]`).checked = true;
  refresh();
});
$("clear").addEventListener("click", () => select(null));
$("undo").addEventListener("click", async () => {
  const answer = await busy("undoing", async () => after(await tell("undo", {})));
  if (answer) done(`undone: ${answer.undone}`);
});

// -- concepts --------------------------------------------------------------------------------------------------------

async function showConcepts() {
  const concepts = await ask("concepts");
  $("concept-list").replaceChildren(...concepts.map(conceptItem));
  if (!concepts.length) $("concept-list").append(h("li", { class: "soft" }, "Nothing is taught yet."));
}

function conceptItem(concept) {
  const kind = concept.thing ? "things" : "stuff";
  const mixed = concept.things && concept.things < concept.count ? `, ${concept.things} of ${concept.count} examples say thing` : "";
  const colour = (state.concepts.find((one) => one.name === concept.name) || {}).colour;
  const strip = h("div", { class: "strip" }, ...concept.examples.map((example) => exampleCard(example, [], false)));
  const all = concept.count > concept.examples.length && h("button", { class: "small", onclick: async () => {
    const examples = await busy("looking up examples", () => ask(`examples?concept=${encodeURIComponent(concept.name)}`));
    if (!examples) return;
    strip.replaceChildren(...examples.map((example) => exampleCard(example, [], false)));
    all.replaceWith(h("span", { class: "soft" }, examples.length < concept.count ? `the newest ${examples.length}` : "all of them"));
  } }, `Show all ${concept.count}`);
  const actions = state.readOnly ? [] : [
    h("button", { class: "small", "aria-label": `Rename ${concept.name}`, onclick: () => renameConcept(concept) }, "Rename"),
    h("button", { class: "small", "aria-label": `Merge ${concept.name} into another`, onclick: () => mergeConcept(concept) }, "Merge"),
    h("button", { class: "small", "aria-label": `Make ${concept.name} ${concept.thing ? "stuff" : "a thing"}`, onclick: () => change("concepts/kind", { name: concept.name, thing: !concept.thing }, `${concept.name} is ${concept.thing ? "stuff" : "a thing"} now`) }, concept.thing ? "Make stuff" : "Make thing"),
    h("button", { class: "small bad", "aria-label": `Remove ${concept.name}`, onclick: () => removeConcept(concept) }, "Remove"),
  ];
  return h("li", { class: "concept" },
    h("div", { class: "row" },
      h("h3", { class: "row" }, h("i", { class: "swatch", colour }), h("span", { class: "name" }, concept.name), h("span", { class: "number" }, `${concept.count} ${concept.count === 1 ? "example" : "examples"}, ${kind}${mixed}`)),
      h("div", { class: "row" }, ...actions)),
    strip, all ? h("div", { class: "row" }, all) : null);
}

async function renameConcept({ name }) {
  const to = await dialog({ title: `Rename ${name}`, text: "A name that another concept has makes one of both.", label: "New name", value: name, ok: "Rename" });
  if (to && to !== name) await change("concepts/rename", { name, to }, `${name} is ${to} now`);
}

async function mergeConcept({ name }) {
  const to = await dialog({ title: `Merge ${name}`, text: "Its examples become examples of the other concept.", label: "Into", ok: "Merge" });
  if (!to || to === name) return;
  if (!state.concepts.some((concept) => concept.name === to)) return complain(`Merge: expected one of ${state.concepts.map((c) => c.name).join(", ")}, got ${to}.`);
  await change("concepts/rename", { name, to }, `${name} is part of ${to} now`);
}

async function removeConcept({ name, count }) {
  if (await dialog({ title: `Remove ${name}?`, text: `All ${count} examples are removed.`, ok: "Remove" }))
    await change("concepts/remove", { name }, `${name} was removed`);
}

$("look-for").addEventListener("click", async () => {
  const found = await busy("asking every example for its neighbours", () => ask("review"));
  if (found) showFound(found);
});

function showFound({ asked, twins, odd }) {
  const merge = (from, to) => h("button", { class: "small", onclick: async () => (await change("concepts/rename", { name: from, to }, `${from} is part of ${to} now`)) && $("look-for").click() }, `Merge into ${to}`);
  const pairs = twins.map(({ names: [first, second], why }) =>
    h("li", { class: "concept" }, h("p", {}, h("b", {}, first), " and ", h("b", {}, second), `: ${why}.`),
      state.readOnly ? null : h("div", { class: "row" }, merge(second, first), merge(first, second))));
  const cards = odd.map((example) => exampleCard(example, [
    h("span", {}, `${percent(example.share)} of its neighbours are ${example.rather}`),
    state.readOnly ? null : h("button", { class: "small", onclick: async (event) => {
      const card = event.target.closest(".card");
      if (await change("examples/relabel", { ids: [example.id], name: example.rather }, `now an example of ${example.rather}`)) card.remove();
    } }, `It is ${example.rather}`),
  ]));
  $("found").replaceChildren(
    h("p", { class: "soft" }, `${asked} examples were asked.`),
    h("h3", {}, twins.length ? "Concepts that may be one" : "No two concepts are alike."),
    h("ul", { class: "list" }, ...pairs),
    h("h3", {}, odd.length ? "Examples that disagree with their neighbours" : "No example disagrees with its neighbours."),
    h("div", { class: "strip" }, ...cards));
}

// -- the page --------------------------------------------------------------------------------------------------------

async function look() {
  state = await ask("state");
  for (const element of document.querySelectorAll(".writes")) element.hidden = state.readOnly;
  $("read-only").hidden = !state.readOnly;
  const names = [...new Set([...state.concepts.map((c) => c.name), ...state.classes])];
  $("names").replaceChildren(...names.map((name) => h("option", { value: name })));
  refresh();
}

/** What can be done now. */
function refresh() {
  const free = !running.length;
  $("teach-it").disabled = !(free && chosen && $("name").value.trim());
  $("clear").disabled = !chosen;
  $("undo").disabled = !(free && state.undo);
  $("undo").title = state.undo ? `Undo: ${state.undo}` : "Nothing to undo";
  $("before").options[1].disabled = !(photo && photo.earlier);
  if (!(photo && photo.earlier)) $("before").value = "photograph";
  const now = tool();
  document.querySelector(".for-regions").hidden = state.readOnly || now !== "regions";
  document.querySelector(".for-brush").hidden = state.readOnly || (now !== "brush" && now !== "eraser");
  document.querySelector(".for-adding").hidden = state.readOnly || (now !== "regions" && now !== "box");
}

for (const input of document.querySelectorAll("[name=tool]")) input.addEventListener("change", () => { hover = 0; stroke = null; refresh(); draw(); });
for (const id of ["slider", "alpha", "before", "size", "width"]) $(id).addEventListener("input", draw);
addEventListener("resize", draw);
$("trouble").querySelector("button").addEventListener("click", () => ($("trouble").hidden = true));

const tabs = ["teach", "concepts"];
function showTab(name) {
  for (const one of tabs) {
    $(one).hidden = one !== name;
    $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "teach") draw();
  else busy("looking up concepts", showConcepts);
}
for (const name of tabs) {
  $(`tab-${name}`).addEventListener("click", () => showTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[1 - tabs.indexOf(name)];
    showTab(other);
    $(`tab-${other}`).focus();
  });
}

/** The token of the link becomes a cookie, and leaves the address. */
async function enter(token) {
  history.replaceState(null, "", location.pathname);
  await tell("login", { token });
}

await busy("starting", async () => {
  $("frame").classList.add("empty");
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) await enter(given.get("token"));
  await look();
  if (state.readOnly) document.querySelector("[name=tool][value=why]").checked = true;
  await list();
  showSegments();
  const last = listed.find((one) => one.id === given.get("photograph"));
  if (last) await open(last);
});
refresh();
document.body.dataset.ready = "true";
