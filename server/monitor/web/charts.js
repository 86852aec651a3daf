// Curves as SVG, with a title and a description, and the same numbers as a table.
"use strict";

const SPACE = "http://www.w3.org/2000/svg";
const FEW = 12; // sites that get a line of their own in the legend
const ROWS = 60; // of the table beside a curve
let count = 0;

export function make(name, attributes = {}, ...children) {
  const svg = ["svg", "polyline", "line", "text", "title", "desc", "circle"].includes(name);
  const node = svg ? document.createElementNS(SPACE, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : String(value));
  }
  // text becomes a text node, whatever it holds: nothing that comes from a ledger is ever markup
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : Number(value.toPrecision(4)).toString();
}

function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) out.push(Number(t.toPrecision(12)));
  return out;
}

function tone(k, sites) {
  return sites > FEW ? "site" : `few s${k % 6}${k >= 6 ? " dashed" : ""}`;
}

// series: [{name, points: [[x, y], ...], all: bool}]
export function chart(title, unit, series) {
  const [width, height, left, right, top, bottom] = [560, 220, 52, 12, 10, 34];
  const points = series.flatMap((s) => s.points);
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  const bound = (of, values, start) => values.reduce((a, b) => of(a, b), start);
  let [x0, x1] = [bound(Math.min, xs, Infinity), bound(Math.max, xs, -Infinity)];
  let [y0, y1] = [bound(Math.min, ys, Infinity), bound(Math.max, ys, -Infinity)];
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  const room = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
  [y0, y1] = [y0 >= 0 && y0 - room < 0 ? 0 : y0 - room, y1 + room];
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
  const sites = series.filter((s) => !s.all);
  const main = series.find((s) => s.all);
  const [first, last] = main ? [main.points[0], main.points[main.points.length - 1]] : [points[0], points[points.length - 1]];
  const end = last[0] === first[0] ? "" : `, ${short(last[1])} at step ${last[0]}`;
  const told = `${main ? "All sites together: " : ""}${short(first[1])} at step ${first[0]}${end}` +
    (sites.length ? `; and a line for each of ${sites.length} sites.` : ".");
  const id = `chart${count++}`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": `${id}t ${id}d` },
    make("title", { id: `${id}t` }, title), make("desc", { id: `${id}d` }, told));
  for (const t of ticks(y0, y1, 4)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(t), y2: y(t) }),
      make("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, short(t)));
  }
  for (const t of ticks(x0, x1, 6).filter(Number.isInteger)) svg.append(make("text", { x: x(t), y: height - 16, "text-anchor": "middle" }, String(t)));
  svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    make("text", { x: width - right, y: height - 2, "text-anchor": "end" }, "exchange"));
  const draw = (s, kind) => svg.append(s.points.length === 1
    ? make("circle", { class: kind, cx: x(s.points[0][0]).toFixed(1), cy: y(s.points[0][1]).toFixed(1), r: s.all ? 4 : 2.5 })
    : make("polyline", { class: kind, points: s.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ") }));
  sites.forEach((s, k) => draw(s, tone(k, sites.length)));
  if (main) draw(main, "all");
  const figure = make("figure", {}, make("h3", {}, unit ? `${title} (${unit})` : title), svg, make("figcaption", {}, told));
  if (sites.length) figure.append(legend(main, sites));
  figure.append(table(title, series));
  return figure;
}

function key(kind) {
  return make("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, make("polyline", { class: kind, points: "1,4 23,4" }));
}

function legend(main, sites) {
  const list = make("ul", { class: "legend" });
  if (main) list.append(make("li", {}, key("all"), "all sites"));
  if (sites.length > FEW) list.append(make("li", {}, key("site"), `${sites.length} sites, one line each`));
  else sites.forEach((s, k) => list.append(make("li", {}, key(tone(k, sites.length)), s.name)));
  return list;
}

function table(title, series) {
  const shown = series.filter((s) => s.all).concat(series.filter((s) => !s.all).slice(0, FEW));
  const by = shown.map((s) => new Map(s.points));
  let steps = [...new Set(shown.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const every = Math.ceil(steps.length / ROWS);
  steps = steps.filter((step, k) => k % every === 0 || k === steps.length - 1);
  const details = make("details", {}, make("summary", {}, `${title}: as a table`));
  // made when it is opened: a page with many curves has many rows
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const head = make("tr", {}, make("th", { scope: "col" }, "exchange"), ...shown.map((s) => make("th", { scope: "col", class: "n" }, s.all ? "all sites" : s.name)));
    const rows = steps.map((step) => make("tr", {}, make("th", { scope: "row" }, String(step)), ...by.map((m) => make("td", { class: "n" }, short(m.get(step))))));
    const more = series.length - shown.length;
    details.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      make("table", {}, make("caption", {}, `${title}${more > 0 ? `, the first ${FEW} of ${more + FEW} sites` : ""}`), make("thead", {}, head), make("tbody", {}, ...rows))));
  });
  return details;
}
