// Drawings: lines over time and bars, in SVG whose colours are the style sheet's.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150, BOTTOM = 22, TOP = 8, LEFT = 58, RIGHT = 6;

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// A round number that is at least the value: 1, 2 or 5 times a power of ten.
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const factor of [1, 2, 5, 10]) if (factor * power >= value * 0.9999) return factor * power;
  return 10 * power;
}

// Lines over the last `span` seconds. series: [{name, values}], a value for each of `times` (seconds before now,
// negative), null where there is none. `text` writes a value of the axis.
export function lines(svg, times, series, span, text) {
  const present = series.flatMap(({ values }) => values.filter((value) => value !== null));
  const top = roundUp(Math.max(0, ...present));
  const width = Math.max(240, svg.clientWidth);  // so that text keeps its size
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const x = (time) => LEFT + (1 + time / span) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(share * top);
    parts.push(element("line", { x1: LEFT, x2: width - RIGHT, y1: at, y2: at, class: "grid" }));
    const label = { x: LEFT - 6, y: at + 4, class: "axis", "text-anchor": "end" };
    parts.push(element("text", label, share === 0 ? "0" : text(share * top)));
  }
  for (const share of [0, 0.5, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    const label = share === 1 ? "now" : `${Math.round(span * (1 - share))} s ago`;
    parts.push(element("text",
      { x: x(-span * (1 - share)), y: HEIGHT - 5, class: "axis", "text-anchor": anchor }, label));
  }
  series.forEach(({ values }, number) => {
    let path = "";
    let drawing = false;
    values.forEach((value, i) => {
      if (value === null || times[i] < -span) {
        drawing = false;
        return;
      }
      path += `${drawing ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
      drawing = true;
    });
    if (path) parts.push(element("path", { d: path, class: `line series-${number}` }));
  });
  svg.replaceChildren(...parts);
}

// A bar of parts, whose widths are their shares: [{kind, share}].
export function bar(parts) {
  const svg = element("svg", {
    viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true", focusable: "false",
  });
  let at = 0;
  for (const { kind, share } of parts) {
    if (share <= 0) continue;
    svg.append(element("rect", { x: 100 * at, y: 0, width: 100 * share, height: 10, class: `fill ${kind}` }));
    at += share;
  }
  return svg;
}
