"use strict";
// Draws the page from the object in #data, which hemnet/explore/writing.py makes. In what follows t = 1..T is an
// iteration, k a component, and a cell one position of the feature map, counted row by row.

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const VIEWS = {
  photograph: "photograph", components: "components", component: "one component", entropy: "undecided",
  features: "features", reconstruction: "reconstruction", prediction: "prediction", truth: "truth", errors: "errors",
};
const SAME = "not defined: the features are the same in all cells";
const MOST = 6; // components that a list or a chart names
const SHARE = Float64Array.from({ length: 256 }, (_, code) => (code / 255) ** 2); // see hemnet/explore/packing.py
const state = { photograph: 0, x: 0, y: 0, t: 1, component: 0, view: "components", opacity: 0.75, order: "mass", scale: "own" };
let shown = null; // the photograph that is drawn: its entry in DATA, and the arrays unpacked from it
let player = null;

// ---- data

async function unpacked({ shape, bytes }) {
  const compressed = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Uint8Array(await new Response(stream).arrayBuffer());
  const step = values.length / shape[0];
  for (let i = step; i < values.length; i++) values[i] += values[i - step]; // modulo 256
  return values;
}

async function load(index) {
  const entry = DATA.photographs[index];
  const [iterations, components, rows, columns] = entry.z.shape;
  const found = { entry, iterations, components, rows, columns, cells: rows * columns, image: new Image() };
  for (const name of ["z", "entropy", "features", "reconstruction", "prediction", "truth"])
    found[name] = entry[name] && await unpacked(entry[name]);
  found.image.src = entry.image;
  await found.image.decode();
  return { ...found, ...named(found) };
}

// Colours and names of the components: the largest after the last iteration have the most distinct colours.
function named(found) {
  const final = found.entry.occupancy[found.iterations - 1];
  const ranked = final.map((_, k) => k).sort((a, b) => final[b] - final[a]);
  const colours = [], names = [];
  ranked.forEach((k, rank) => { colours[k] = colourOf(rank); });
  const classes = Array.from({ length: found.cells }, (_, cell) => classAt(found, "prediction", ...centre(found, cell)));
  for (let k = 0; k < found.components; k++) {
    const held = new Float64Array(DATA.classes.length);
    classes.forEach((name, cell) => { held[name] += SHARE[code(found, found.iterations, k, cell)]; });
    const most = held.indexOf(Math.max(...held));
    names[k] = held[most] > held.reduce((a, b) => a + b) / 2 ? `mostly ${DATA.classes[most].name}` : "mixed";
  }
  return { colours, names, ranked };
}

const code = (found, t, k, cell) => found.z[((t - 1) * found.components + k) * found.cells + cell];
const mapOf = (t, k) => shown.z.subarray(((t - 1) * shown.components + k) * shown.cells).subarray(0, shown.cells);
const at = (name, t, size) => shown[name].subarray((t - 1) * size, t * size);
const sharesAt = (t, cell) => Array.from({ length: shown.components }, (_, k) => SHARE[code(shown, t, k, cell)]);

function centre({ entry, columns }, cell) {
  return [(cell % columns + 0.5) * entry.width / entry.cells[1], (Math.floor(cell / columns) + 0.5) * entry.height / entry.cells[0]];
}

function cellAt(x, y) {
  const { entry, rows, columns } = shown;
  const row = Math.min(rows - 1, Math.floor(y / entry.height * entry.cells[0]));
  return row * columns + Math.min(columns - 1, Math.floor(x / entry.width * entry.cells[1]));
}

function classAt(found, name, x, y) {
  const { width, height } = found.entry;
  return found[name][Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x))];
}

// ---- colours

const FIRST = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#0072b2"]; // of Okabe and Ito
const HEAT = ["#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"].map(channels); // magma

function channels(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function colourOf(rank) {
  if (rank < FIRST.length) return channels(FIRST[rank]);
  const hue = (rank * 137.508) % 360, light = [0.62, 0.45, 0.75][rank % 3]; // the golden angle: neighbours differ
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
const tableOf = (colour) => Uint32Array.from({ length: 256 }, (_, i) => {
  const [r, g, b, a = 255] = colour(i);
  return (a << 24 | b << 16 | g << 8 | r) >>> 0;
});

function heat(part) {
  const place = Math.min(1, Math.max(0, part)) * (HEAT.length - 1), low = Math.min(HEAT.length - 2, Math.floor(place));
  return HEAT[low].map((from, c) => Math.round(from + (HEAT[low + 1][c] - from) * (place - low)));
}

const HEATS = tableOf((i) => heat(i / 255));

// ---- pictures

function picture(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colour(i);
  context.putImageData(image, 0, 0);
  return canvas;
}

const rgb = (values) => (i) => (255 << 24 | values[3 * i + 2] << 16 | values[3 * i + 1] << 8 | values[3 * i]) >>> 0;

// The map that a view draws over the photograph: a function from its pixels to colours; and whether it is of cells.
function overlay() {
  const { t, view, component } = state, { components, cells } = shown;
  if (view === "components") {
    const table = shown.colours.map((colour) => tableOf(() => colour)[0]);
    return { cells: true, colour: (cell) => {
      let most = 0;
      for (let k = 1; k < components; k++) if (code(shown, t, k, cell) > code(shown, t, most, cell)) most = k;
      return table[most];
    } };
  }
  if (view === "component") {
    const map = mapOf(t, component), top = brightest(map), table = tableOf((i) => [...shown.colours[component], i]);
    return { cells: true, colour: (cell) => table[Math.min(255, Math.round(255 * map[cell] / top))] };
  }
  if (view === "entropy") { const map = at("entropy", t, cells); return { cells: true, colour: (cell) => HEATS[map[cell]] }; }
  if (view === "features") return { cells: true, colour: rgb(shown.features) };
  if (view === "reconstruction") return { cells: true, colour: rgb(at("reconstruction", t, 3 * cells)) };
  if (view === "errors") {
    const wrong = tableOf(() => [213, 0, 50])[0];
    return { cells: false, colour: (i) => isWrong(i) ? wrong : 0 };
  }
  const table = tableOf((i) => i < DATA.classes.length ? DATA.classes[i].color : DATA.ignored), map = shown[view];
  return { cells: false, colour: (i) => table[map[i]] };
}

const isLabelled = (i) => shown.truth[i] < DATA.classes.length;
const isWrong = (i) => isLabelled(i) && shown.truth[i] !== shown.prediction[i];
const brightest = (map) => state.scale === "one" ? 255 : Math.max(1, map.reduce((a, b) => Math.max(a, b)));

function drawPhoto() {
  const { entry, image, rows, columns } = shown, { width, height } = entry, canvas = byId("photo");
  const zoom = Math.max(1, Math.round(900 / Math.max(width, height))); // so that the frame of a cell is thin
  canvas.width = width * zoom;
  canvas.height = height * zoom;
  canvas.style.maxWidth = `calc(70vh * ${(width / height).toFixed(4)})`;
  canvas.setAttribute("aria-label", `Photograph ${entry.name}: arrow keys move the pixel, Enter shows the component that holds it`);
  const context = canvas.getContext("2d");
  context.scale(zoom, zoom);
  context.imageSmoothingEnabled = zoom === 1;
  context.filter = state.view === "component" ? "grayscale(1)" : "none";
  context.drawImage(image, 0, 0);
  context.filter = "none";
  const cellWidth = width / entry.cells[1], cellHeight = height / entry.cells[0];
  if (state.view !== "photograph") {
    const { cells, colour } = overlay();
    const map = picture(document.createElement("canvas"), cells ? columns : width, cells ? rows : height, colour);
    context.globalAlpha = state.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(map, 0, 0, cells ? columns * cellWidth : width, cells ? rows * cellHeight : height);
    context.globalAlpha = 1;
  }
  const cell = cellAt(state.x, state.y), left = cell % columns * cellWidth, top = Math.floor(cell / columns) * cellHeight;
  const thin = Math.max(width, height) / 450;
  for (const [colour, line] of [["#000", 3 * thin], ["#fff", thin]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(left - thin, top - thin, cellWidth + 2 * thin, cellHeight + 2 * thin);
  }
}

// ---- elements

function element(name, attributes = {}, ...children) {
  const made = name.includes(":") ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const swatch = (colour) => element("span", { class: "swatch", style: `background:${css(colour)}` });
const percent = (part) => `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`;
const called = (k) => `component ${k}`;

function componentButton(k) {
  return element("button", { type: "button", onclick: () => set({ component: k, view: "component" }) },
    swatch(shown.colours[k]), `${called(k)}, ${shown.names[k]}`);
}

// ---- the pixel

function drawPixel() {
  const { x, y, t } = state, { iterations } = shown, cell = cellAt(x, y), now = sharesAt(t, cell);
  const byIteration = Array.from({ length: iterations }, (_, i) => sharesAt(i + 1, cell));
  const peak = now.map((_, k) => Math.max(...byIteration.map((shares) => shares[k])));
  const largest = (values) => values.map((_, k) => k).sort((a, b) => values[b] - values[a]).slice(0, MOST);
  const holders = largest(now).filter((k, i) => i === 0 || now[k] >= 0.0005), drawn = largest(peak);
  const classes = ["prediction", "truth"].filter((name) => shown[name]).map((name) => {
    const found = DATA.classes[classAt(shown, name, x, y)];
    return `${name} ${found ? found.name : "ignored"}`;
  });
  byId("where").textContent = [`x ${Math.floor(x)}, y ${Math.floor(y)}`, ...classes].join(" · ");
  byId("holders").replaceChildren(...holders.map((k) =>
    element("li", { "data-component": k }, componentButton(k), element("span", {}, percent(now[k])))));
  const entropy = at("entropy", t, shown.cells)[cell] / 255 * Math.log(shown.components);
  byId("holders").append(element("li", { class: "note" }, element("span", {}, "entropy of all components"),
    element("span", { id: "entropy" }, `${entropy.toFixed(2)} of ${Math.log(shown.components).toFixed(2)} nats`)));
  drawHold(byIteration, drawn);
  byId("spoken").textContent = `Pixel ${Math.floor(x)}, ${Math.floor(y)}, iteration ${t} of ${iterations}: ` +
    `${called(holders[0])}, ${shown.names[holders[0]]}, holds ${percent(now[holders[0]])}`;
}

// A column for each iteration, whose parts are the components; the grey part is all that are not drawn.
function drawHold(byIteration, drawn) {
  const chart = byId("hold"), left = 4, width = 352, height = 128, step = Math.min(60, width / byIteration.length);
  chart.replaceChildren();
  byIteration.forEach((shares, i) => {
    const t = i + 1, x = left + i * step, wide = Math.max(1, step - Math.min(4, step / 4));
    let top = height;
    const part = (share, attributes) => {
      top -= share * height;
      chart.append(element("svg:rect", { x, y: top, width: wide, height: share * height, ...attributes }));
    };
    for (const k of drawn) part(shares[k], { style: `fill:${css(shown.colours[k])}`, "data-component": k, "data-t": t });
    chart.append(element("svg:rect", { x, y: 0, width: wide, height: Math.max(0, top), class: "rest" }));
    if (t === state.t) chart.append(element("svg:rect", { x: x - 1, y: -1, width: wide + 2, height: height + 2, class: "mark" }));
    if (isLabel(t, 1, byIteration.length)) label(chart, x + wide / 2, 144, t);
    const column = element("svg:rect", { x, y: 0, width: step, height: 150, class: "column", onclick: () => set({ t }) });
    column.append(element("svg:title", {}, `iteration ${t}`));
    chart.append(column);
  });
  const [first, last] = [byIteration[0], byIteration[byIteration.length - 1]].map((shares) => shares[drawn[0]]);
  chart.setAttribute("aria-label", `Parts of the components in the pixel by iteration: ${called(drawn[0])} has ` +
    `${percent(first)} at t = 1 and ${percent(last)} at t = ${byIteration.length}`);
}

// Whether an axis from `first` to `last` says t: the chosen one, both ends, and others where there is room.
function isLabel(t, first, last) {
  const room = (last - first + 1) / 15, near = (other) => t !== other && Math.abs(t - other) < room;
  if (t === state.t || near(state.t)) return t === state.t;
  if (t === first || t === last) return true;
  return t % Math.ceil(room) === 0 && !near(first) && !near(last);
}

function label(chart, x, y, t) {
  chart.append(element("svg:text", { x, y, class: t === state.t ? "now" : "", "text-anchor": "middle" }, String(t)));
}

// ---- the fit

const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

// A line over iterations from `first` on.
function drawLine(chart, values, first, name, said) {
  const low = Math.min(...values), span = Math.max(...values) - low || 1, count = values.length;
  const x = (i) => count > 1 ? 8 + i * 344 / (count - 1) : 180, y = (value) => 64 - (value - low) / span * 52;
  chart.replaceChildren(element("svg:line", { x1: 4, x2: 356, y1: 74, y2: 74, class: "axis" }),
    element("svg:polyline", { class: "line", points: values.map((value, i) => `${x(i)},${y(value)}`).join(" ") }));
  values.forEach((value, i) => {
    const t = i + first, chosen = t === state.t;
    chart.append(element("svg:circle", { cx: x(i), cy: y(value), r: chosen ? 5 : count > 20 ? 1.5 : 3, class: chosen ? "dot chosen" : "dot" }));
    if (isLabel(t, first, first + count - 1)) label(chart, x(i), 88, t);
    if (t > 0) chart.append(element("svg:rect", { x: x(i) - 172 / count, y: 0, width: 344 / count, height: 92, class: "column",
      onclick: () => set({ t }) }, element("svg:title", {}, `iteration ${t}: ${said(value)}`)));
  });
  chart.setAttribute("aria-label", `${name} by iteration: ${said(values[0])} at t = ${first}, ${said(values[count - 1])} at t = ${first + count - 1}`);
}

function drawFit() {
  const { entry, rows, columns, cells } = shown, { t } = state;
  const nats = (value) => `${short.format(value).replace("-", "−")} nats`;
  drawLine(byId("likelihood"), entry.likelihood, 0, "Log-likelihood", nats);
  byId("likelihood-now").textContent = `${nats(entry.likelihood[t])} after iteration ${t}`;
  byId("falls").hidden = DATA.rises;
  const varies = entry.explained !== null;
  if (varies) drawLine(byId("error"), entry.error, 1, "Reconstruction error", percent);
  byId("error").style.display = varies ? "" : "none";
  byId("error-now").textContent = varies ? `${percent(entry.error[t - 1])} of the features’ variance` : SAME;
  picture(byId("features"), columns, rows, rgb(shown.features));
  picture(byId("reconstruction"), columns, rows, rgb(at("reconstruction", t, 3 * cells)));
  byId("explained").textContent = !varies ? "" : `Red, green and blue are the first three principal components of the features, ` +
    `with ${percent(entry.explained)} of their variance.`;
}

// ---- the components

let tiles = []; // the button of each component

function makeTiles() {
  tiles = Array.from({ length: shown.components }, (_, k) =>
    element("button", { type: "button", "data-component": k, onclick: () => set({ component: k, view: "component" }) },
      element("canvas"), element("span", { class: "row" }, element("span", {}, swatch(shown.colours[k]), String(k)), element("span", { class: "mass" })),
      element("span", { class: "class", title: shown.names[k] }, shown.names[k])));
}

function drawTiles() {
  const { t, order, component } = state, { rows, columns, entry } = shown, cell = cellAt(state.x, state.y);
  tiles.forEach((tile, k) => {
    const map = mapOf(t, k), top = brightest(map), mass = entry.occupancy[t - 1][k];
    picture(tile.querySelector("canvas"), columns, rows, (i) => HEATS[Math.min(255, Math.round(255 * map[i] / top))]);
    tile.querySelector(".mass").textContent = percent(mass);
    tile.setAttribute("aria-pressed", String(k === component));
    tile.setAttribute("aria-label", `${called(k)}, ${shown.names[k]}, holds ${percent(mass)} of the photograph`);
  });
  const shares = sharesAt(t, cell);
  const sorted = order === "mass" ? shown.ranked : shown.ranked.slice().sort((a, b) => shares[b] - shares[a]);
  const grid = byId("grid"), wanted = sorted.map((k) => tiles[k]);
  if (wanted.some((tile, i) => grid.children[i] !== tile)) {
    const focused = document.activeElement;
    grid.replaceChildren(...wanted);
    if (grid.contains(focused)) focused.focus({ preventScroll: true });
  }
}

// ---- the legend

function drawLegend() {
  const { view, t, component } = state, legend = byId("legend"), parts = [];
  const ramp = (colour) => element("span", { class: "ramp", style: `background:linear-gradient(to right, ${colour})` });
  if (view === "components") {
    const mass = shown.entry.occupancy[t - 1];
    parts.push(...mass.map((_, k) => k).sort((a, b) => mass[b] - mass[a]).slice(0, MOST).map(componentButton));
    if (shown.components > MOST) parts.push(`and ${shown.components - MOST} more`);
  } else if (view === "component") {
    const most = state.scale === "one" ? 1 : SHARE[brightest(mapOf(t, component))];
    parts.push(element("span", {}, swatch(shown.colours[component]), `${called(component)}, ${shown.names[component]}: 0 `,
      ramp(`transparent, ${css(shown.colours[component])}`), ` ${percent(most)}`));
  } else if (view === "entropy") {
    parts.push(element("span", {}, "held by one component ", ramp(HEAT.map(css).join(", ")), " by all alike"));
  } else if (view === "errors") {
    let wrong = 0, labelled = 0;
    shown.truth.forEach((_, i) => { labelled += isLabelled(i); wrong += isWrong(i); });
    parts.push(element("span", {}, swatch([213, 0, 50]), `prediction is not the truth: ${percent(wrong / Math.max(1, labelled))} of the labelled pixels`));
  } else if (view === "prediction" || view === "truth") {
    const counts = new Map();
    for (const k of shown[view]) counts.set(k, (counts.get(k) || 0) + 1);
    for (const [k, count] of [...counts].sort((a, b) => b[1] - a[1])) {
      const { name, color } = DATA.classes[k] || { name: "ignored", color: DATA.ignored };
      parts.push(element("span", {}, swatch(color), `${name} ${percent(count / shown[view].length)}`));
    }
  } else if (view !== "photograph") {
    parts.push("principal components of the features as red, green and blue");
  }
  legend.replaceChildren(...parts);
}

// ---- what a user does

function set(changes) {
  Object.assign(state, changes);
  const { t, view } = state, { entry, iterations } = shown;
  byId("name").textContent = entry.name;
  byId("t").value = t;
  byId("when").textContent = `t = ${t} of ${iterations}`;
  byId(`view-${view}`).checked = true;
  document.querySelectorAll("#photographs button").forEach((button, i) =>
    button.setAttribute("aria-pressed", String(i === state.photograph)));
  for (const name of ["truth", "errors"]) byId(`view-${name}`).parentElement.hidden = !shown.truth;
  drawPhoto();
  drawPixel();
  drawFit();
  drawTiles();
  drawLegend();
}

async function choose(index) {
  const found = await load(index);
  const place = shown ? [state.x / shown.entry.width, state.y / shown.entry.height] : [0.5, 0.5];
  shown = found;
  makeTiles();
  const [x, y] = [place[0] * found.entry.width, place[1] * found.entry.height];
  const view = !found.truth && ["truth", "errors"].includes(state.view) ? "prediction" : state.view;
  set({ photograph: index, x, y, view });
}

function moveTo(x, y) {
  const { width, height } = shown.entry;
  set({ x: Math.min(width - 1, Math.max(0, x)), y: Math.min(height - 1, Math.max(0, y)) });
}

function goTo(t) {
  set({ t: Math.min(shown.iterations, Math.max(1, t)) });
}

function play(on) {
  clearInterval(player);
  player = on ? setInterval(() => goTo(state.t % shown.iterations + 1), 700) : null;
  byId("play").textContent = on ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(on));
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressedOnPhoto(event) {
  if (STEPS[event.key]) {
    const { entry } = shown, [across, down] = STEPS[event.key], cells = event.shiftKey ? 5 : 1;
    const [x, y] = centre(shown, cellAt(state.x, state.y)); // so that each step is to the middle of a cell
    moveTo(x + across * cells * entry.width / entry.cells[1], y + down * cells * entry.height / entry.cells[0]);
  } else if (event.key === "Enter") {
    const shares = sharesAt(state.t, cellAt(state.x, state.y));
    set({ component: shares.indexOf(Math.max(...shares)), view: "component" });
  } else if (event.key === " ") play(player === null);
  else return;
  event.preventDefault();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (/^[1-9]$/.test(event.key)) goTo(Number(event.key));
  else if (event.key === "," || event.key === ".") goTo(state.t + (event.key === "." ? 1 : -1));
}

function listen() {
  const photo = byId("photo");
  const pointed = (event) => {
    const box = photo.getBoundingClientRect();
    moveTo((event.clientX - box.left) / box.width * shown.entry.width, (event.clientY - box.top) / box.height * shown.entry.height);
  };
  photo.addEventListener("click", pointed);
  photo.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse" && event.buttons === 1) pointed(event); });
  photo.addEventListener("keydown", pressedOnPhoto);
  document.addEventListener("keydown", pressed);
  byId("t").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("play").addEventListener("click", () => play(player === null));
  byId("opacity").addEventListener("input", (event) => set({ opacity: event.target.value / 100 }));
  for (const name of ["order", "scale"]) byId(name).addEventListener("change", (event) => set({ [name]: event.target.value }));
  for (const [name, title] of Object.entries(VIEWS))
    byId("views").append(element("label", {}, element("input", { type: "radio", name: "view", id: `view-${name}`, onchange: () => set({ view: name }) }),
      element("span", {}, title)));
  DATA.photographs.forEach((entry, i) => byId("photographs").append(
    element("button", { type: "button", "aria-label": entry.name, title: entry.name, onclick: () => choose(i) },
      element("img", { src: entry.image, alt: "" }))));
  byId("photographs").hidden = DATA.photographs.length < 2;
}

async function begin() {
  listen();
  state.t = DATA.photographs[0].z.shape[0];
  byId("t").max = state.t;
  byId("play").disabled = state.t < 2;
  await choose(0);
  const shares = sharesAt(state.t, cellAt(state.x, state.y));
  set({ component: shares.indexOf(Math.max(...shares)) });
  document.body.dataset.ready = "true";
}

begin().catch((error) => {
  byId("trouble").hidden = false;
  byId("trouble").textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old to unpack the page: take Chrome 87, Firefox 113, Safari 16.4 or a later one."
    : `The page cannot be drawn: ${error}`;
  throw error;
});
