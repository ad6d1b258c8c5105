// Biases against distance, and how far attention reaches with them.

import { newest } from "./computing.js";
import { chart, number, percent } from "./chart.js";

const $ = (id) => document.getElementById(id);

export function positions({ oracle, tell }) {
  let shown = false;
  const update = newest(async () => {
    try {
      const wanted = [Number($("context").value), Number($("heads").value), 2 ** $("length").value, 2 ** $("cap").value];
      const { lags, curves } = JSON.parse(await oracle.call("curves", wanted));
      const style = getComputedStyle(document.documentElement);
      const color = (at) => style.getPropertyValue(`--c${at}`).trim();
      const lines = (values, floor) => curves.map((curve, at) => ({
        points: lags.map((lag, i) => [lag, curve[values][i]]).filter(([, y]) => y >= floor), color: color(at), name: curve.name, dashed: at === 0,
      }));
      const x = { from: 1, to: wanted[0], log: true, title: "distance Δ, in tokens" };
      chart($("bias-chart"), { x, y: { from: 1e-3, to: 1e4, log: true, title: "subtracted from a score" }, lines: lines("bias", 1e-3) });
      chart($("beyond-chart"), { x, y: { from: 0, to: 1, title: "share at this distance or more", show: (v) => `${Math.round(100 * v)}%` }, lines: lines("beyond", 0) });
      $("positions-legend").replaceChildren(...curves.map((curve, at) => {
        const item = document.createElement("li"), line = document.createElement("i");
        line.style.background = color(at);
        item.append(line, curve.name);
        return item;
      }));
      const beyond = (curve, tokens) => {
        const at = lags.findIndex((lag) => lag >= tokens);
        return at < 0 ? 0 : curve.beyond[at];
      };
      $("reach").tBodies[0].replaceChildren(...curves.map((curve) => {
        const half = lags.findIndex((_, at) => curve.beyond[at] < 0.5), row = document.createElement("tr");
        const cells = [curve.name, half < 0 ? "–" : `${number(lags[half])} tokens`, percent(beyond(curve, 1024)), percent(beyond(curve, 8192))];
        row.append(...cells.map((text, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (!at) cell.scope = "row";
          cell.textContent = text;
          return cell;
        }));
        return row;
      }));
      document.body.dataset.positions = String(curves.length);
    } catch (error) { tell(error); }
  });
  $("positions-controls").addEventListener("input", update);
  $("positions-controls").addEventListener("submit", (event) => event.preventDefault());
  $("positions").addEventListener("shown", () => { if (!shown) update(); shown = true; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && update());
}
