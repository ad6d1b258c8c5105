// A model of the reader's that goes on with a text.

import { bytes, chart, number, percent } from "./chart.js";

const $ = (id) => document.getElementById(id);
const tile = (name) => document.querySelector(`[data-tile="${name}"]`);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function generate({ texts, opened, tell }) {
  let computing = null, ready = false, memory = null;

  // The module has a device of its own.
  const start = async () => {
    if (!(await opened)) throw new Error("This needs a GPU, and this browser offers none.");
    computing ??= texts.call("open").catch((error) => { computing = null; throw error; });
    await computing;
    return texts;
  };
  const busy = (on) => {
    if (on) texts.call("go");
    $("model").disabled = on;
    $("write").disabled = on || !ready;
    $("stop").disabled = !on;
    $("generate-progress").hidden = !on;
    $("generate-progress").value = 0;
  };
  const say = (text) => { $("generate-text").textContent = text; };
  const advance = ({ done, total }) => {
    $("generate-progress").max = total;
    $("generate-progress").value = done;
  };

  function draw() {
    if (!memory) return;
    tile("held").textContent = number(memory.tokens);
    tile("kv").textContent = bytes(memory.total);
    tile("kv-sub").textContent = `${percent(memory.total / memory.f16)} of what f16 takes, all layers`;
    const parts = [
      ...memory.keys.map(([bits, n]) => ({ name: `K ${bits}`, n, color: color("--c0") })),
      ...memory.values.map(([bits, n]) => ({ name: `V ${bits}`, n, color: color("--c1") })),
      { name: "new", n: memory.residual, color: color("--c2") },
      { name: "sinks", n: memory.sinks, color: color("--c3") },
      { name: "f16", n: memory.f16, color: color("--line") },
    ];
    const most = Math.max(...parts.map((part) => part.n), 1) / 1024;
    chart($("rungs-chart"), {
      x: { from: 0, to: parts.length, title: "keys and values by their bits; what is in 16; all in f16", ticks: parts.map((_, at) => at + 0.5), show: (v) => parts[Math.floor(v)].name },
      y: { from: 0, to: most * 1.08, title: "KiB" },
      bars: parts.map((part, at) => ({ from: at + 0.12, to: at + 0.88, y: part.n / 1024, color: part.color, name: `${part.name}: ${bytes(part.n)}` })),
      height: 230,
    });
  }

  $("model").addEventListener("change", async () => {
    const [file] = $("model").files;
    if (!file) return;
    ready = false;
    busy(true);
    say(`Reading ${file.name} …`);
    try {
      const device = await start();
      const told = (now) => { advance(now); say(now.done < now.total ? `Reading ${file.name}: ${percent(now.done / now.total)} …` : "Compiling its kernels …"); };
      ready = await device.call("model", [file, "progress"], { progress: told });
      say(ready ? `${file.name} is ready: ${bytes(file.size)} of weights.` : "Stopped: no model is loaded.");
    } catch (error) {
      say(`${file.name}: ${error.message}.`);
      if (error.name === "DeviceLost") tell(error);
      document.body.dataset.refused = error.name;
    }
    // A file that was refused can be given again.
    if (!ready) $("model").value = "";
    busy(false);
    document.body.dataset.model = ready ? file.name : "";
  });

  $("generate-controls").addEventListener("submit", async (event) => {
    event.preventDefault();
    if ($("write").disabled) return;
    const text = $("prompt").value, most = Number($("most").value);
    busy(true);
    delete document.body.dataset.written;
    const given = document.createElement("span"), decoder = new TextDecoder();
    given.className = "given";
    given.textContent = text;
    $("written").replaceChildren(given);
    tile("rate").textContent = "–";
    const told = (now) => {
      advance(now);
      memory = JSON.parse(now.memory);
      draw();
      if (now.label === "reading") return say(`Reading the text: token ${now.done} of ${now.total} …`);
      // A letter may take several tokens, and comes with its last one.
      $("written").append(decoder.decode(now.bytes, { stream: true }));
      $("written").scrollTop = $("written").scrollHeight;
      tile("rate").textContent = number(now.done / now.seconds, 2);
      say(`Writing: token ${now.done} of ${now.total} at most …`);
    };
    try {
      const device = await start();
      const found = await device.call("write", [text, most, "progress"], { progress: told });
      const count = found.tokens.length;
      const end = found.stopped ? "Stopped" : found.ended ? "The text ended" : "Done";
      say(`${end}: ${number(count)} tokens${count ? ` in ${number(found.seconds)} s` : ""}, behind ${number(found.prompt)} that were read in ${number(found.readSeconds)} s.`);
      document.body.dataset.written = JSON.stringify(found);
    } catch (error) {
      if (/^(DeviceLost|OutOfMemory)$/.test(error.name)) ready = false;
      say(`${error.message}.`);
      document.body.dataset.refused = error.name;
    }
    busy(false);
  });

  $("stop").addEventListener("click", () => texts.call("stop"));
  $("generate").addEventListener("shown", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
