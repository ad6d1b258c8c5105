// Charts in SVG: lines and bars over two axes, each with a title.

const NAME = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(NAME, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A number with its thousands in groups. (`Intl` takes tens of milliseconds to begin with.) */
export function grouped(x) {
  const [whole, ...rest] = String(x).split(".");
  return [whole.replace(/\B(?=(\d{3})+$)/g, ","), ...rest].join(".");
}

/** A number for people: three digits, with thousands in groups. */
export function number(x, digits = 3) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-3) return x.toExponential(digits - 2).replace("e-", "·10⁻").replace(/⁻(\d+)$/, (_, d) => "⁻" + [...d].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join(""));
  if (size >= 1000) return grouped(Math.round(x));
  return Number(x.toPrecision(digits)).toString();
}

/** A share in percent. */
export function percent(x) {
  if (!Number.isFinite(x)) return "–";
  const value = 100 * x;
  return value === 0 ? "0%" : value < 0.01 ? `${number(value, 3)}%` : `${value < 10 ? value.toFixed(2) : value.toFixed(1)}%`;
}

/** Bytes in KiB and MiB. */
export function bytes(x) {
  return x < 1 << 20 ? `${number(x / 1024)} KiB` : `${number(x / (1 << 20))} MiB`;
}

function ticks(from, to, log) {
  if (log) {
    const all = [];
    for (let power = Math.ceil(Math.log10(from) - 1e-9); power <= Math.log10(to) + 1e-9; power++) all.push(10 ** power);
    const step = Math.max(1, Math.ceil(all.length / 6));
    return all.filter((_, at) => at % step === 0);
  }
  const rough = (to - from) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((step) => step >= rough) ?? rough;
  const all = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-9 * step; at += step) all.push(Math.abs(at) < 1e-12 ? 0 : at);
  return all;
}

const shown = (x, log) => (log && x < 1e-2 ? "10" + [...String(Math.round(Math.log10(x)))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("") : number(x));

/** Draws `lines` (`{ points: [[x, y]], color, step, dashed, name }`) and `bars` (`{ from, to, y, color, name }`) into a place. */
export function chart(place, drawing) {
  // As wide as its place, so that letters have one size everywhere.
  if (!place.drawing) {
    new ResizeObserver(() => {
      if (place.clientWidth && Math.abs(place.clientWidth - place.drawn) > 1) draw(place);
    }).observe(place);
  }
  place.drawing = drawing;
  draw(place);
}

function draw(place) {
  const { x, y, lines = [], bars = [], height = 300, label } = place.drawing;
  place.drawn = place.clientWidth;
  const width = Math.max(300, place.clientWidth || 460), left = 58, right = 12, top = 8, bottom = 40;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label ?? `${y.title} over ${x.title}` });
  const at = (axis, begin, end) => (value) => {
    const of = axis.log ? Math.log : (v) => v;
    const share = (of(value) - of(axis.from)) / (of(axis.to) - of(axis.from));
    return begin + (end - begin) * Math.min(1, Math.max(0, share));
  };
  const px = at(x, left, width - right), py = at(y, height - bottom, top);
  for (const value of y.ticks ?? ticks(y.from, y.to, y.log)) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: py(value), y2: py(value) }));
    svg.append(element("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, y.show?.(value) ?? shown(value, y.log)));
  }
  for (const value of x.ticks ?? ticks(x.from, x.to, x.log)) {
    svg.append(element("line", { class: "axis", x1: px(value), x2: px(value), y1: height - bottom, y2: height - bottom + 4 }));
    svg.append(element("text", { x: px(value), y: height - bottom + 16, "text-anchor": "middle" }, x.show?.(value) ?? shown(value, x.log)));
  }
  svg.append(element("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  svg.append(element("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.title));
  svg.append(element("text", { transform: `translate(12 ${(height - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.title));
  for (const { from, to, y: value, color, name } of bars) {
    const bar = element("rect", { x: px(from) + 0.5, width: Math.max(1, px(to) - px(from) - 1), y: py(value), height: Math.max(0, height - bottom - py(value)), fill: color, rx: 1.5 });
    bar.append(element("title", {}, name));
    svg.append(bar);
  }
  for (const { points, color, step, dashed, name } of lines) {
    let path = "", last = null;
    for (const [a, b] of points) {
      if (!Number.isFinite(b) || (y.log && b <= 0)) { last = null; continue; }
      path += last === null ? `M${px(a).toFixed(1)} ${py(b).toFixed(1)}` : step ? `L${px(a).toFixed(1)} ${last}L${px(a).toFixed(1)} ${py(b).toFixed(1)}` : `L${px(a).toFixed(1)} ${py(b).toFixed(1)}`;
      last = py(b).toFixed(1);
    }
    const line = element("path", { d: path || "M0 0", fill: "none", stroke: color, "stroke-width": 1.8, "stroke-linejoin": "round", ...(dashed ? { "stroke-dasharray": "5 4" } : {}) });
    if (name) line.append(element("title", {}, name));
    svg.append(line);
  }
  place.replaceChildren(svg);
}
