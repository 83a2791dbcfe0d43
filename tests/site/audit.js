// What is wrong with the page, as it is shown now. Each check returns a list of texts.
(() => {
  const show = (node) => {
    const name = node.tagName.toLowerCase() + (node.id ? `#${node.id}` : "");
    const kind = (node.getAttribute("class") || "").trim().replace(/\s+/g, ".");
    return kind ? `${name}.${kind}` : name;
  };
  const visible = (node) => node.checkVisibility({ visibilityProperty: true });

  const overflow = () => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const wide = [...document.querySelectorAll("article *")].filter(
      (node) => visible(node) && node.getBoundingClientRect().right > width + 1,
    );
    return [`${document.documentElement.scrollWidth} px: ${wide.slice(0, 3).map(show)}`];
  };

  const maths = () => {
    const wrong = [];
    for (const node of document.querySelectorAll("math")) {
      const box = node.getBoundingClientRect();
      if (visible(node) && !(box.width > 0 && box.height > 0)) wrong.push(show(node));
      if (node.querySelector("merror")) wrong.push(node.textContent);
    }
    for (const node of document.querySelectorAll(".math"))
      if (!node.querySelector("math > *")) wrong.push(node.textContent);
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const parent = walk.currentNode.parentElement;
      if (parent.closest("script, style, pre, code, annotation, textarea")) continue;
      const raw = walk.currentNode.data.match(/\\[()[\]]|\$\$|\\[a-z]{3,}|\$[^$]+\$/);
      if (raw) wrong.push(`${raw[0]} in "${walk.currentNode.data.trim()}"`);
    }
    return wrong;
  };

  const images = () => {
    const wrong = [];
    for (const image of document.images) {
      if (!visible(image) || !image.getClientRects().length) continue;
      const drawn = /\.svg$/.test(new URL(image.currentSrc || image.src).pathname);
      const { width } = image.getBoundingClientRect();
      if (!image.naturalWidth) wrong.push(`${image.src} is not there`);
      else if (!drawn && image.naturalWidth + 1 < width)
        wrong.push(`${image.src}: ${image.naturalWidth} px shown as ${width}`);
      // What leads to an example is named right below.
      if (!image.alt.trim() && !image.closest(".sphx-glr-thumbcontainer"))
        wrong.push(`${image.src} has no alternative text`);
    }
    return wrong;
  };

  // Colours as the page has them, over what is behind them.
  const channels = (colour) => {
    const found = colour.match(/[\d.]+/g).map(Number);
    if (colour.startsWith("color(")) found.splice(0, 3, ...found.slice(0, 3).map((x) => 255 * x));
    return found.length > 3 ? found : [...found, 1];
  };
  const over = ([r, g, b, a], under) =>
    [r, g, b].map((x, i) => a * x + (1 - a) * under[i]);
  const ground = (node) => {
    if (!node) return [255, 255, 255];
    const own = channels(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(node.parentElement));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((x) =>
      x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = () => {
    const seen = new Map();
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const node = walk.currentNode.parentElement;
      if (!walk.currentNode.data.trim() || !visible(node)) continue;
      if (node.closest("script, style, noscript, .visually-hidden, .headerlink")) continue;
      const style = getComputedStyle(node);
      const key = [style.color, style.fontSize, style.fontWeight, show(node), show(node.parentElement)].join();
      if (seen.has(key)) continue;
      const under = ground(node);
      const ink = over(channels(style.color), under);
      const [low, high] = [luminance(ink), luminance(under)].sort((x, y) => x - y);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const ratio = (high + 0.05) / (low + 0.05);
      const text = walk.currentNode.data.trim().slice(0, 30);
      seen.set(
        key,
        ratio >= (large ? 3 : 4.5)
          ? null
          : `${ratio.toFixed(2)}: ${style.color} on ${under.map(Math.round)}, "${text}" in ${show(node.parentElement)} > ${show(node)}`,
      );
    }
    return [...seen.values()].filter(Boolean);
  };

  const buttons = () =>
    [...document.querySelectorAll("div.highlight pre")]
      .filter((pre) => visible(pre) && !pre.closest(".linenos, .sphx-glr-script-out, .viewcode-block, .copybtn-less"))
      .filter((pre) => !pre.parentElement.querySelector("button.copybtn"))
      .map((pre) => pre.textContent.slice(0, 40));

  return { overflow, maths, images, contrast, buttons };
})()
