// Caches whose precision steps down with age.

import { newest } from "./computing.js";
import { bytes, chart, number, percent } from "./chart.js";

const $ = (id) => document.getElementById(id);
const tile = (name) => document.querySelector(`[data-tile="${name}"]`);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function staircase({ oracle, inputs, tell }) {
  let playing = null, shown = false;
  const values = () => ({ cache: Number($("cache").value), tokens: Number($("time").value), layer: Number($("cache-layer").value) });

  function draw(standing) {
    const { tokens, stretches } = standing;
    tile("bytes").textContent = bytes(standing.total);
    tile("bytes-sub").textContent = `of keys and values of ${number(tokens)} tokens, one head`;
    tile("share").textContent = percent(standing.total / standing.f16);
    // By age: the newest at the left.
    const steps = (at) => stretches.slice().reverse().flatMap((s) => [[tokens - s[1], s[at]], [tokens - s[0], s[at]]]);
    const bits = [0, 2, 3, 4, 8, 16], place = (b) => (b === 0 ? 0 : Math.log2(b));
    const points = (at, shift) => steps(at).map(([age, b]) => [age, place(b) + shift]);
    chart($("bits-chart"), {
      x: { from: 0, to: 1536, title: "age in tokens, the newest at the left" },
      y: { from: -0.15, to: 4.3, title: "bits", ticks: bits.map(place), show: (v) => (v === 0 ? "0" : String(Math.round(2 ** v))) },
      lines: [{ points: points(2, 0.05), color: color("--c0"), step: true, name: "keys" }, { points: points(3, -0.05), color: color("--c1"), step: true, name: "values" }],
      height: 200,
    });
    const parts = [
      ...standing.keys.map(([b, n]) => ({ name: `keys ${b}`, n, color: color("--c0") })),
      ...standing.values.map(([b, n]) => ({ name: `values ${b}`, n, color: color("--c1") })),
      { name: "newest, 16", n: standing.residual, color: color("--c2") },
      { name: "sinks, 16", n: standing.sinks, color: color("--c3") },
      { name: "all in f16", n: standing.f16, color: color("--line") },
    ];
    const most = Math.max(...parts.map((part) => part.n), 1) / 1024;
    chart($("bytes-chart"), {
      x: { from: 0, to: parts.length, title: "part, with its bits", ticks: parts.map((_, at) => at + 0.5), show: (v) => parts[Math.floor(v)].name.replace("keys ", "K ").replace("values ", "V ").replace("newest, 16", "new").replace("sinks, 16", "sinks").replace("all in f16", "f16") },
      y: { from: 0, to: most * 1.08, title: "KiB" },
      bars: parts.map((part, at) => ({ from: at + 0.12, to: at + 0.88, y: part.n / 1024, color: part.color, name: `${part.name}: ${bytes(part.n)}` })),
      height: 250,
    });
  }

  const loss = newest(async () => {
    const { cache, tokens, layer } = values();
    try {
      const found = JSON.parse(await inputs.call(oracle, layer, "cache_loss", [layer, cache, tokens]));
      tile("loss").textContent = percent(found.output_error);
      tile("loss").classList.remove("waiting");
      chart($("age-chart"), {
        x: { from: 0, to: 1536, title: "age in tokens" }, y: { from: 1e-6, to: 1, log: true, title: "error of the output, relative" },
        bars: found.ages.filter((age) => age.output_error > 1e-6).map((age) => ({ from: age.from, to: age.to, y: age.output_error, color: color("--c0"), name: `${age.from}–${age.to} tokens old: error ${number(age.output_error)}, ${percent(age.mass)} of the attention` })),
        height: 250,
      });
      document.body.dataset.loss = JSON.stringify(found);
    } catch (error) { tell(error); }
  });
  const update = newest(async () => {
    const { cache, tokens } = values();
    try {
      draw(JSON.parse(await oracle.call("standing", [cache, tokens])));
    } catch (error) { tell(error); }
  });
  const changed = () => { tile("loss").classList.add("waiting"); update(); if (!playing) loss(); };

  function play() {
    const slider = $("time"), stop = () => {
      clearInterval(playing);
      playing = null;
      $("play").setAttribute("aria-pressed", "false");
      $("play").textContent = "▶ Let tokens arrive";
      loss();
    };
    if (playing) return stop();
    if (Number(slider.value) >= Number(slider.max)) slider.value = slider.min;
    $("play").setAttribute("aria-pressed", "true");
    $("play").textContent = "■ Stop";
    playing = setInterval(() => {
      if (Number(slider.value) >= Number(slider.max)) return stop();
      slider.value = Number(slider.value) + Number(slider.step);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    }, 120);
  }

  $("play").addEventListener("click", play);
  $("staircase-controls").addEventListener("input", changed);
  $("staircase-controls").addEventListener("submit", (event) => event.preventDefault());
  $("staircase").addEventListener("shown", async () => {
    if (shown) return;
    shown = true;
    try {
      for (const [at, name] of (await oracle.call("caches")).entries()) $("cache").add(new Option(name, at));
      changed();
    } catch (error) { tell(error); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && changed());
}
