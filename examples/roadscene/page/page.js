"use strict";
// What the page shows, and what it does when it is used.

const content = JSON.parse(document.getElementById("content").textContent);
const STATES = Object.keys(content.states);
const COLOURS = bytesOf(content.colours);
const DRAWN = 250; // matches, at most
const HALF = 56; // pixels from the middle of a surface to its edge
const byId = (id) => document.getElementById(id);
const shown = { wanted: null, pair: null, x: 0, y: 0, query: 0, measured: null };

/** Text with a real minus sign. */
const number = (value, digits) => value.toFixed(digits).replace("-", "−");
const inRange = (value) => {
  const [low, high] = content.range;
  return Math.min(Math.max((value - low) / (high - low), 0), 1);
};
const colourOf = (share) => {
  const at = 3 * Math.round(255 * share);
  return COLOURS.subarray(at, at + 3);
};

/** Read a pair's images and features, once. */
async function open(item) {
  if (!item.ready) {
    const load = async (source) => {
      const image = new Image();
      image.src = source;
      await image.decode();
      return image;
    };
    item.ready = Promise.all([load(item.rgb), load(item.ir)]).then((images) => {
      item.images = images;
      for (const state of Object.values(item.states)) {
        state.maps = [mapOf(state.rgb, state.scale), mapOf(state.ir, state.scale)];
      }
    });
  }
  await item.ready;
}

async function choose(index) {
  const item = content.pairs[index];
  shown.wanted = item;
  await open(item);
  if (shown.wanted !== item) return; // another one was chosen meanwhile
  shown.pair = item;
  shown.query = 0;
  [shown.x, shown.y] = item.queries[0];
  drawMatches();
  drawColours();
  drawPlace();
}

/** Everything that follows from the chosen place. */
function measure(state) {
  const { pitch, first } = content.states[state];
  const { pair, x, y } = shown;
  const [rgb, ir] = pair.states[state].maps;
  const map = similarities(rgb, ir, (x - first) / pitch, (y - first) / pitch);
  const peak = peakOf(map);
  const [left, top] = pair.offset;
  const truth = [x - left, y - top];
  const inside = truth.every((one) => one >= 0);
  const cell = truth.map((one) => (one - first) / pitch);
  const atTruth = inside ? scoreAt(map, ...cell) : null;
  const found = [first + pitch * peak.column, first + pitch * peak.row];
  return {
    map,
    found,
    cell,
    truth,
    inside,
    height: peak.value,
    ratio: sidelobeRatio(map, peak, content.lobe / pitch),
    error: inside ? Math.hypot(found[0] - truth[0], found[1] - truth[1]) : null,
    atTruth,
    rank: atTruth === null ? null : rankOf(map, atTruth),
  };
}

function drawPlace() {
  const { pair, x, y } = shown;
  const [width, height] = pair.size, [left, top] = pair.offset;
  const [rgb, ir] = pair.images;
  // Pixel centres are on whole numbers; of a canvas, on halves.
  const [atX, atY] = [x + 0.5, y + 0.5];
  const visible = begin(byId("visible"), width, height);
  visible.drawImage(rgb, 0, 0);
  target(visible, atX, atY);
  byId("visible").setAttribute(
    "aria-label", `Visible image of ${pair.name}, place ${Math.round(x)}, ${Math.round(y)}`,
  );
  const infrared = begin(byId("infrared"), width, height);
  inFrame(infrared, pair, () => infrared.drawImage(ir, left, top));
  const measured = Object.fromEntries(STATES.map((state) => [state, measure(state)]));
  const { inside } = measured[STATES[0]];
  if (inside) ring(infrared, atX, atY);
  byId("infrared").setAttribute("aria-label", `Infrared image of ${pair.name}`);

  const beneath = Number(byId("beneath").value);
  for (const state of STATES) {
    const { map, found } = measured[state];
    const canvas = byId(`map-${state}`), context = begin(canvas, width, height);
    const image = picture(map.width, map.height, (i) => colourOf(inRange(map.scores[i])));
    inFrame(context, pair, () => {
      if (beneath) context.drawImage(ir, left, top);
      context.globalAlpha = 1 - beneath;
      drawMap(context, image, content.states[state], pair.offset, true);
      context.globalAlpha = 1;
    });
    if (inside) ring(context, atX, atY);
    cross(context, left + found[0] + 0.5, top + found[1] + 0.5);
    canvas.setAttribute("aria-label", `Similarity ${state} training: ${inWords(measured[state])}`);
  }
  readOut(measured);
  shown.measured = measured;
  drawSurfaces();
}

function inWords({ error }) {
  return error === null ? "the place was cut off" : `peak ${number(error, 0)} px off`;
}

function readOut(measured) {
  const all = measured[STATES[0]].map.scores.length;
  const lines = [
    ["distance of the peak from the true place", ({ error }) => error, 1, " px"],
    ["similarity at the peak", ({ height }) => height, 2, ""],
    ["similarity at the true place", ({ atTruth }) => atTruth, 2, ""],
    [`rank of the true place, of ${all}`, ({ rank }) => rank, 0, ""],
    ["peak-to-sidelobe ratio, whole image", ({ ratio }) => ratio, 1, ""],
  ];
  byId("readout").tBodies[0].replaceChildren(...lines.map(([name, of, digits, unit]) => {
    const cells = STATES.map((state) => {
      const value = of(measured[state]);
      return value === null ? "–" : number(value, digits) + unit;
    });
    return row([name, ...cells]);
  }));
  const said = STATES.map((state) => `${inWords(measured[state])} ${state}`).join(", ");
  byId("said").textContent = `Place ${Math.round(shown.x)}, ${Math.round(shown.y)}: ${said}.`;
}

function drawSurfaces() {
  const turn = (Number(byId("turn").value) * Math.PI) / 180;
  const ink = getComputedStyle(document.body).color;
  for (const state of STATES) {
    const { map, cell, inside } = shown.measured[state];
    const reach = HALF / content.states[state].pitch;
    const heightAt = (u, v) => {
      const score = inside ? scoreAt(map, cell[0] + reach * u, cell[1] + reach * v) : null;
      return score === null ? null : inRange(score);
    };
    const canvas = byId(`surface-${state}`);
    drawSurface(canvas, heightAt, (share) => `rgb(${colourOf(share).join()})`, turn, ink);
    canvas.setAttribute("aria-label", `Similarity around the true place, ${state} training`);
  }
}

const KINDS = {
  good: { most: 3, dash: [], colour: "#27c46b" },
  near: { most: 8, dash: [8, 3], colour: "#ffb300" },
  wrong: { most: Infinity, dash: [2, 3], colour: "#ff3d55" },
};

function drawMatches() {
  const { pair } = shown;
  const [width, height] = pair.size, [left, top] = pair.offset;
  const below = height + 8;
  const wanted = new Set(
    [...document.querySelectorAll("#kinds input:checked")].map((box) => box.value),
  );
  for (const state of STATES) {
    const all = pair.states[state].matches;
    const canvas = byId(`matches-${state}`);
    const context = begin(canvas, width, below + height);
    context.drawImage(pair.images[0], 0, 0);
    context.save();
    context.translate(0, below);
    inFrame(context, pair, () => context.drawImage(pair.images[1], left, top));
    context.restore();
    const kindOf = (off) => Object.keys(KINDS).find((kind) => off <= KINDS[kind].most);
    const counts = { good: 0, near: 0, wrong: 0 };
    for (const match of all) counts[kindOf(match[4])] += 1;
    // Every so many-th, so that what is drawn has the shares of all.
    const every = Math.ceil(all.length / DRAWN) || 1;
    const drawn = all.filter((_, i) => i % every === 0);
    for (const kind of ["wrong", "near", "good"]) {
      if (!wanted.has(kind)) continue;
      context.strokeStyle = KINDS[kind].colour;
      context.setLineDash(KINDS[kind].dash.map((one) => one * context.unit));
      context.lineWidth = (kind === "wrong" ? 0.8 : 1.2) * context.unit;
      for (const [x, y, otherX, otherY, off] of drawn) {
        if (kindOf(off) !== kind) continue;
        context.beginPath();
        context.moveTo(x + 0.5, y + 0.5);
        context.lineTo(left + otherX + 0.5, below + top + otherY + 0.5);
        context.stroke();
      }
    }
    const share = all.length ? ` (${number((100 * counts.good) / all.length, 1)} %)` : "";
    const text = `${state}: ${all.length} matches, ${counts.good} within 3 px${share}, `
      + `${counts.near} more within 8 px, ${counts.wrong} farther off`;
    canvas.setAttribute("aria-label", `Matches ${text}`);
    canvas.nextElementSibling.textContent =
      text[0].toUpperCase() + text.slice(1) + (every > 1 ? `; one in ${every} drawn.` : ".");
  }
}

function drawColours() {
  const { pair } = shown;
  const figures = STATES.flatMap((state) => ["rgb", "ir"].map((half) => {
    const packed = pair.states[state][`colours_${half}`];
    const [height, width] = packed.shape, bytes = bytesOf(packed);
    const image = picture(width, height, (i) => bytes.subarray(3 * i, 3 * i + 3));
    const canvas = document.createElement("canvas");
    const context = begin(canvas, ...pair.size);
    const geometry = content.states[state];
    if (half === "rgb") drawMap(context, image, geometry, [0, 0], false);
    else {
      inFrame(context, pair, () => drawMap(context, image, geometry, pair.offset, false));
    }
    const name = `${half === "rgb" ? "Visible" : "Infrared"}, ${state}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Features as colours: ${name}`);
    return figure(canvas, name);
  }));
  byId("painted").replaceChildren(...figures);
}

function figure(element, text) {
  const out = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = text;
  out.append(element, caption);
  return out;
}

/** A table's row; a cell is a text, or [text, small text]. */
function row(cells) {
  const out = document.createElement("tr");
  cells.forEach((cell, i) => {
    const element = document.createElement(i ? "td" : "th");
    if (!i) element.scope = "row";
    const [text, small] = [cell].flat();
    element.append(text);
    if (small) {
      const below = document.createElement("small");
      below.textContent = small;
      element.append(below);
    }
    out.append(element);
  });
  return out;
}

function showNumbers() {
  const { table, facts } = content;
  byId("metrics").tBodies[0].replaceChildren(...table.map((line) => {
    const { digits } = line;
    const cell = (name, sign = "") => {
      const range = line[`${name}_interval`].map((one) => number(one, digits)).join(", ");
      return [(line[name] > 0 ? sign : "") + number(line[name], digits), `[${range}]`];
    };
    const chance = line.chance === null ? "" : number(line.chance, digits);
    return row([line.label, chance, cell("before"), cell("after"), cell("change", "+")]);
  }));
  byId("of").textContent = `Means over ${facts.Data.evaluated} of ${facts.Data["data set"]}; `
    + "in brackets, 95 % intervals from resampling the pairs.";
  const first = table[0];
  byId("summary").textContent = `On test pairs of ${facts.Data["data set"]}, which the `
    + `network was not trained on, ${first.label} went from ${number(first.before, 1)} before `
    + `training to ${number(first.after, 1)} after.`;
  const kept = STATES.map((state) => {
    const { correlation, same_peak: same } = content.states[state].kept;
    return `${state}, the correlation with the full similarity is ${number(correlation, 3)} `
      + `and ${number(100 * same, 0)} % of the peaks are in the same cell or next to it`;
  }).join("; ");
  const [low, high] = content.range;
  byId("low").textContent = `≤ ${number(low, 1)}`;
  byId("high").textContent = `≥ ${number(high, 1)}`;
  byId("kept").textContent = `This page holds ${content.dims} of `
    + `${content.states[STATES[0]].full_dims} dimensions of the features, as bytes: ${kept}. `
    + `${content.pairs.length} of ${content.pairs_available} test pairs are in it.`;
  const bar = byId("bar").getContext("2d");
  bar.drawImage(picture(256, 1, (i) => colourOf(i / 255)), 0, 0);

  chart(byId("profile"), {
    title: "Similarity around the true place",
    xLabel: "distance from the true place (px)",
    yLabel: "cosine similarity",
    lines: STATES.map((state, style) => {
      const { distance, low, middle, high } = content.states[state].profile;
      return { label: `${state}: median, quartiles`, x: distance, y: middle, low, high, style };
    }),
  });
}

function showTraining() {
  const { terms, shares, validation, labels, selected_step: step } = content.training;
  const names = Object.keys(terms);
  const style = (name) => Math.max(names.indexOf(name), 0) % 4;
  const lines = (curves) => Object.entries(curves).map(([name, curve]) => (
    { label: labels[name] ?? name, ...curve, style: style(name) }
  ));
  const percent = (values) => values.map((one) => 100 * one);
  chart(byId("terms"), {
    title: "Weighted terms of the loss",
    xLabel: "step", yLabel: "weighted value", log: true, lines: lines(terms),
  });
  chart(byId("shares"), {
    title: "Shares of the gradient's norm",
    xLabel: "step", yLabel: "share", log: true, lines: lines(shares),
  });
  const found = [["top1", "top-1", 1], ["top5", "top-5", 0], ["within", "localised", 2]];
  chart(byId("validation"), {
    title: "Retrieval on the validation pairs",
    xLabel: "step", yLabel: "found within 8 px (%)", floor: 0,
    mark: { x: step, label: `Dotted: the step whose weights were kept, ${step}.` },
    lines: found.map(([name, label, kind]) => (
      { label, x: validation.step, y: percent(validation[name]), style: kind }
    )),
  });
}

function showRun() {
  for (const { name, states } of content.registered) {
    byId("registered").append(...STATES.map((state) => {
      const image = new Image();
      image.src = states[state].image;
      image.alt = `${name} registered with features ${state} training`;
      return figure(image, `${name}, ${state}: ${states[state].label}`);
    }));
  }
  for (const [title, entries] of Object.entries(content.facts)) {
    const part = document.createElement("section");
    part.className = Object.keys(entries).length > 12 ? "wide" : "";
    const heading = document.createElement("h3");
    heading.textContent = title;
    const list = document.createElement("dl");
    for (const [name, value] of Object.entries(entries)) {
      const line = document.createElement("div");
      const [term, text] = ["dt", "dd"].map((tag) => document.createElement(tag));
      term.textContent = name.replaceAll("_", " ");
      text.textContent = value;
      line.append(term, text);
      list.append(line);
    }
    part.append(heading, list);
    byId("facts").append(part);
  }
}

/** Draw once per frame, however often it is asked for. */
const waiting = new Set();
function later(draw) {
  if (!waiting.size) {
    requestAnimationFrame(() => {
      const all = [...waiting];
      waiting.clear();
      for (const one of all) one();
    });
  }
  waiting.add(draw);
}

function move(x, y) {
  const [width, height] = shown.pair.size;
  shown.x = Math.min(Math.max(x, 0), width - 1);
  shown.y = Math.min(Math.max(y, 0), height - 1);
  later(drawPlace);
}

function nextQuery() {
  const { queries } = shown.pair;
  shown.query = (shown.query + 1) % queries.length;
  move(...queries[shown.query]);
}

function listen() {
  const visible = byId("visible");
  const point = (event) => {
    const box = visible.getBoundingClientRect();
    const [width, height] = shown.pair.size;
    move(
      ((event.clientX - box.left) / box.width) * width - 0.5,
      ((event.clientY - box.top) / box.height) * height - 0.5,
    );
  };
  visible.addEventListener("pointerdown", (event) => {
    visible.setPointerCapture(event.pointerId);
    point(event);
  });
  visible.addEventListener("pointermove", (event) => {
    if (event.buttons) point(event);
  });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  visible.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "n") return nextQuery();
    const step = steps[event.key];
    if (!step) return undefined;
    event.preventDefault();
    const far = event.shiftKey ? 16 : 4;
    return move(shown.x + far * step[0], shown.y + far * step[1]);
  });
  byId("next").addEventListener("click", nextQuery);
  byId("beneath").addEventListener("input", () => later(drawPlace));
  byId("turn").addEventListener("input", () => later(drawSurfaces));
  byId("kinds").addEventListener("change", drawMatches);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSurfaces);
  addEventListener("resize", () => {
    later(drawMatches);
    later(drawPlace);
  });
}

function offerPairs() {
  content.pairs.forEach(({ name, rgb }, index) => {
    const option = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "pair", value: index, checked: !index });
    input.addEventListener("change", () => choose(index));
    const image = new Image();
    image.src = rgb;
    image.alt = name;
    option.title = name;
    option.append(input, image);
    byId("chooser").append(option);
  });
}

offerPairs();
showNumbers();
showTraining();
showRun();
choose(0).then(listen);
