"use strict";
// What the page computes. Nothing here touches the document: it runs anywhere.

/** Bytes of {shape, data}, seen as `View`. */
function bytesOf(packed, View = Uint8Array) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new View(bytes.buffer);
}

/** A map of features: cells of `dims` bytes, which `scale` turns into numbers. */
function mapOf(packed, scale) {
  const [height, width, dims] = packed.shape;
  return { height, width, dims, scale, bytes: bytesOf(packed, Int8Array) };
}

/**
 * Cosines of one place of the map `from`, (column, row) in cells, with all cells of
 * `to`. The place is read between four cells. Of each of them a part was dropped when
 * the page was made; it counts in the length, as if the four had nothing in common
 * in it.
 */
function similarities(from, to, column, row) {
  const { width, height, dims, scale } = from;
  const x = Math.min(Math.max(column, 0), width - 1);
  const y = Math.min(Math.max(row, 0), height - 1);
  const left = Math.floor(x), top = Math.floor(y);
  const read = new Float64Array(dims);
  let square = 0;
  for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
    const share = (dx ? x - left : 1 - x + left) * (dy ? y - top : 1 - y + top);
    const cell = Math.min(top + dy, height - 1) * width + Math.min(left + dx, width - 1);
    let kept = 0;
    for (let k = 0; k < dims; k++) {
      const value = scale[k] * from.bytes[cell * dims + k];
      read[k] += share * value;
      kept += value * value;
    }
    square += share * share * Math.max(1 - kept, 0);
  }
  for (const value of read) square += value * value;
  const length = Math.max(Math.sqrt(square), 1e-12);
  for (let k = 0; k < dims; k++) read[k] *= scale[k] / length;

  const scores = new Float32Array(to.width * to.height);
  for (let cell = 0, at = 0; cell < scores.length; cell++) {
    let sum = 0;
    for (let k = 0; k < dims; k++) sum += read[k] * to.bytes[at++];
    scores[cell] = sum;
  }
  return { width: to.width, height: to.height, scores };
}

/** The place of the maximum, in cells, refined by one parabola per axis. */
function peakOf({ width, height, scores }) {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  const column = best % width, row = Math.floor(best / width);
  const shift = (place, length, step) => {
    if (place === 0 || place === length - 1) return 0;
    const before = scores[best - step], after = scores[best + step];
    const curvature = before - 2 * scores[best] + after;
    if (curvature >= 0) return 0;
    return Math.min(Math.max((before - after) / (2 * curvature), -0.5), 0.5);
  };
  return {
    column: column + shift(column, width, 1),
    row: row + shift(row, height, width),
    cell: best,
    value: scores[best],
  };
}

/** Standard deviations by which the peak stands above what is `lobe` cells away. */
function sidelobeRatio({ width, scores }, peak, lobe) {
  const column = peak.cell % width, row = Math.floor(peak.cell / width);
  let count = 0, sum = 0, squares = 0;
  scores.forEach((score, cell) => {
    const across = (cell % width) - column, down = Math.floor(cell / width) - row;
    if (across * across + down * down <= lobe * lobe) return;
    count += 1;
    sum += score;
    squares += score * score;
  });
  const mean = sum / count;
  return (peak.value - mean) / Math.sqrt(squares / count - mean * mean);
}

/** The score at a place between cells, or null outside the map. */
function scoreAt({ width, height, scores }, column, row) {
  const inside = column >= -0.5 && row >= -0.5
    && column <= width - 0.5 && row <= height - 0.5;
  if (!inside) return null;
  const x = Math.min(Math.max(column, 0), width - 1);
  const y = Math.min(Math.max(row, 0), height - 1);
  const left = Math.floor(x), top = Math.floor(y);
  const right = Math.min(left + 1, width - 1), bottom = Math.min(top + 1, height - 1);
  const mix = (a, b, share) => a + (b - a) * share;
  return mix(
    mix(scores[top * width + left], scores[top * width + right], x - left),
    mix(scores[bottom * width + left], scores[bottom * width + right], x - left),
    y - top,
  );
}

/** How many cells are more similar than the place of the truth. */
function rankOf({ scores }, value) {
  let above = 0;
  for (const score of scores) if (score > value) above += 1;
  return above + 1;
}
