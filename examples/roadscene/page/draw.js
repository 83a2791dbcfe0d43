"use strict";
// Drawing: images, markers, maps, surfaces and charts. Places are pixels of the images;
// markers and lines are as large on a small screen as on a large one.

const FINE = 2; // pixels of a canvas per pixel of an image

/**
 * Make a canvas as large as the image and return its context, in the image's pixels;
 * its `unit` is one pixel of the screen, or of the image if that is larger.
 */
function begin(canvas, width, height) {
  canvas.width = FINE * width;
  canvas.height = FINE * height;
  const context = canvas.getContext("2d");
  context.scale(FINE, FINE);
  context.unit = Math.max(width / (canvas.clientWidth || width), 1);
  return context;
}

/** Turn rows of red, green and blue into something that can be drawn. */
function picture(width, height, colourOf) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colourOf(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draw a map so that cell (i, j) is centred on pixel first + pitch · (i, j). */
function drawMap(context, image, { first, pitch }, [left, top], smooth) {
  context.imageSmoothingEnabled = smooth;
  const start = first + 0.5 - pitch / 2;
  const [width, height] = [pitch * image.width, pitch * image.height];
  context.drawImage(image, left + start, top + start, width, height);
}

/** Hatch what the network did not get to see, and draw the rest inside a clip. */
function inFrame(context, { size: [width, height], offset: [left, top] }, inside) {
  context.save();
  context.strokeStyle = "rgb(128 128 128 / 45%)";
  context.beginPath();
  for (let x = -height; x < width; x += 6) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
  context.beginPath();
  context.rect(left, top, width - left, height - top);
  context.clip();
  inside();
  context.restore();
}

/** Stroke a path twice, dark below bright: it shows on any ground. */
function cased(context, colour, width, path) {
  for (const [style, wide] of [["rgb(0 0 0 / 75%)", width + 2.5], [colour, width]]) {
    context.strokeStyle = style;
    context.lineWidth = wide * context.unit;
    context.beginPath();
    path(context.unit);
    context.stroke();
  }
}

function ring(context, x, y, radius = 9) {
  cased(context, "#fff", 2, (unit) => context.arc(x, y, radius * unit, 0, 2 * Math.PI));
}

function cross(context, x, y) {
  context.lineCap = "round";
  cased(context, "#ff4d5e", 2.5, (unit) => {
    for (const side of [-6 * unit, 6 * unit]) {
      context.moveTo(x - 6 * unit, y - side);
      context.lineTo(x + 6 * unit, y + side);
    }
  });
}

/** A ring with hairs, for the place that is asked for. */
function target(context, x, y) {
  ring(context, x, y);
  cased(context, "#fff", 1.5, (unit) => {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * dx * unit, y + 5 * dy * unit);
      context.lineTo(x + 15 * dx * unit, y + 15 * dy * unit);
    }
  });
}

/**
 * Draw heights over a square as a surface.
 *
 * heightAt(u, v) with u, v in [-1, 1] is a height in [0, 1], or null; colourOf(height)
 * its colour. The middle is marked.
 */
function drawSurface(canvas, heightAt, colourOf, turn, ink) {
  const [width, height, count] = [300, 210, 28];
  const context = begin(canvas, width, height);
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  const project = (u, v, z) => [
    width / 2 + 100 * (u * cos - v * sin),
    height - 62 + 42 * (u * sin + v * cos) - 95 * z,
  ];
  const path = (points) => {
    context.beginPath();
    for (const point of points) context.lineTo(...point);
  };
  const floor = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([u, v]) => project(u, v, 0));
  path([...floor, floor[0]]);
  context.strokeStyle = ink;
  context.globalAlpha = 0.5;
  context.stroke();
  context.globalAlpha = 1;

  const at = (i) => -1 + (2 * i) / count;
  const grid = [];
  for (let j = 0; j <= count; j++) {
    for (let i = 0; i <= count; i++) grid.push(heightAt(at(i), at(j)));
  }
  const quads = [];
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < count; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const heights = corners.map(([x, y]) => grid[y * (count + 1) + x]);
      if (heights.includes(null)) continue;
      const points = corners.map(([x, y], k) => project(at(x), at(y), heights[k]));
      const mean = heights.reduce((a, b) => a + b) / 4;
      quads.push({ points, mean, depth: at(i) * sin + at(j) * cos });
    }
  }
  quads.sort((a, b) => a.depth - b.depth); // far ones first
  context.lineWidth = 0.4;
  for (const { points, mean } of quads) {
    path([...points, points[0]]);
    context.fillStyle = colourOf(mean);
    context.strokeStyle = "rgb(0 0 0 / 35%)";
    context.fill();
    context.stroke();
  }
  const middle = heightAt(0, 0);
  if (middle === null) return;
  const [x, y] = project(0, 0, middle);
  ring(context, x, y, 4);
}

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** Numbers at which an axis from low to high is labelled. */
function ticks(low, high, log) {
  const out = [];
  if (log) {
    const decades = Math.log10(high / low);
    const steps = decades < 1.5 ? [1, 2, 5] : [1];
    const first = Math.floor(Math.log10(low));
    for (let e = first; e <= Math.ceil(Math.log10(high)); e++) {
      for (const step of steps) out.push(step * 10 ** e);
    }
  } else {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
    for (let i = Math.ceil(low / step); i * step <= high + step / 1e6; i++) {
      out.push(i * step);
    }
  }
  return out.filter((one) => one >= low * (1 - 1e-9) && one <= high * (1 + 1e-9));
}

function label(number) {
  const size = Math.abs(number);
  if (size && size < 1e-3) return number.toExponential(0).replace("-", "−");
  return String(Number(number.toPrecision(6))).replace("-", "−");
}

/**
 * Put a line chart into a figure.
 *
 * lines: [{label, x, y, low?, high?, style}], style 0 to 3; values that are null are
 * left out.
 */
function chart(figure, { title, xLabel, yLabel, lines, log = false, floor, mark }) {
  const [width, height, left, right, top, bottom] = [480, 270, 76, 18, 10, 40];
  const shown = (y) => y !== null && (!log || y > 0);
  const xs = lines.flatMap(({ x }) => x);
  const ys = lines.flatMap(({ y, low = [], high = [] }) => [...y, ...low, ...high]);
  const real = ys.filter(shown);
  let [yLow, yHigh] = real.length ? [Math.min(...real), Math.max(...real)] : [0.1, 1];
  if (floor !== undefined) yLow = Math.min(floor, yLow);
  if (log) [yLow, yHigh] = [yLow / 1.15, yHigh * 1.15];
  else yHigh += 0.04 * (yHigh - yLow) || 1;
  const [xLow, xHigh] = [Math.min(...xs), Math.max(...xs)];
  const xAt = (x) => left + ((x - xLow) / (xHigh - xLow || 1)) * (width - left - right);
  const scaled = log ? Math.log10 : (y) => y;
  const share = (y) => (scaled(y) - scaled(yLow)) / (scaled(yHigh) - scaled(yLow));
  const yAt = (y) => height - bottom - share(y) * (height - top - bottom);

  const names = lines.map((one) => one.label).join(", ");
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${title}: ${names}; ${yLabel} against ${xLabel}`,
  });
  for (const y of ticks(yLow, yHigh, log)) {
    const place = yAt(y);
    drawing.append(
      svg("line", { class: "axis", x1: left, x2: width - right, y1: place, y2: place }),
      svg("text", { x: left - 6, y: place + 4, "text-anchor": "end" }, label(y)),
    );
  }
  for (const x of ticks(xLow, xHigh, false)) {
    const attributes = { x: xAt(x), y: height - bottom + 17, "text-anchor": "middle" };
    drawing.append(svg("text", attributes, label(x)));
  }
  drawing.append(
    svg("text", { x: (left + width) / 2, y: height - 5, "text-anchor": "middle" }, xLabel),
    svg("text", { transform: `translate(13 ${(height - bottom) / 2}) rotate(-90)`,
      "text-anchor": "middle" }, yLabel),
  );
  if (mark) {
    const [x1, x2] = [xAt(mark.x), xAt(mark.x)];
    drawing.append(svg("line", { class: "mark", x1, x2, y1: top, y2: height - bottom }));
  }
  const points = (x, y) => x.map((one, i) => [one, y[i]]).filter((one) => shown(one[1]))
    .map((one) => `${xAt(one[0]).toFixed(1)},${yAt(one[1]).toFixed(1)}`);
  for (const { x, y, low, high, style } of lines) {
    if (low) {
      const outline = [...points(x, low), ...points(x, high).reverse()].join(" ");
      drawing.append(svg("polygon", { class: `band f${style}`, points: outline }));
    }
    const kind = `curve s${style} d${style}`;
    drawing.append(svg("polyline", { class: kind, points: points(x, y).join(" ") }));
  }

  const heading = document.createElement("h3");
  heading.textContent = title;
  const legend = document.createElement("ul");
  legend.className = "legend";
  for (const line of lines) {
    const sample = svg("svg", { viewBox: "0 0 30 8", "aria-hidden": "true" });
    const kind = `curve s${line.style} d${line.style}`;
    sample.append(svg("path", { class: kind, d: "M0 4h30" }));
    const item = document.createElement("li");
    item.append(sample, line.label);
    legend.append(item);
  }
  const note = document.createElement("figcaption");
  note.textContent = mark ? mark.label : "";
  figure.replaceChildren(heading, legend, drawing, note);
}
