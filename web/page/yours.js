// The reader's device: kernels beside the reference, speeds, and the result to copy.

import { Computing } from "./computing.js";
import { number, percent } from "./chart.js";

const $ = (id) => document.getElementById(id);

function rows(table, lines) {
  table.tBodies[0].replaceChildren(...lines.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, style, title]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (style) cell.className = style;
      if (title) cell.title = title;
      return cell;
    }));
    return row;
  }));
  table.hidden = false;
}

export function yours({ opened, tell }) {
  let computing = null, result = null;
  // All kernels are in a module of their own, which is loaded when they are asked for.
  const start = async () => {
    if (!(await opened)) throw new Error("This needs a GPU, and this browser offers none.");
    if (!computing) {
      computing = new Computing("device");
      window.prflash.device = computing;
      await computing.call("open");
    }
    return computing;
  };
  const busy = (on) => { for (const id of ["check", "tune"]) $(id).disabled = on; };
  const told = ({ label, done, total }) => {
    $("check-progress").hidden = done === total;
    $("check-progress").max = total;
    $("check-progress").value = done;
    if (done < total) $("check-text").textContent = `${done + 1} of ${total}: ${label} …`;
  };

  $("check").addEventListener("click", async () => {
    busy(true);
    $("check-text").textContent = "Loading all kernels …";
    try {
      const from = performance.now();
      const device = await start();
      const report = JSON.parse(await device.call("report", ["progress"], { progress: told }));
      report.browser = navigator.userAgent;
      report.adapter = await device.call("described");
      report.seconds = Math.round((performance.now() - from) / 100) / 10;
      result = JSON.stringify(report, null, 1);
      const ran = report.checks.filter((check) => check.passed !== null), right = ran.filter((check) => check.passed);
      $("check-text").textContent = `${right.length} of ${ran.length} are right on this device; ${report.checks.length - ran.length} can't run here. It took ${number(report.seconds)} s.`;
      rows($("speeds"), report.speeds.map((speed) => [[speed.call, "", speed.kernel], [number(speed.gpu_ms ?? speed.wall_ms)], [number(speed.gflops)]]));
      rows($("checks"), report.checks.map((check) => [
        [check.name, "", check.detail],
        check.passed === null ? ["can't run", "skip", check.detail] : check.passed ? ["yes", "yes"] : ["no", "no", check.detail],
        [check.passed === null ? "" : check.used ? percent(check.used) : "same bits"],
      ]));
      $("json").textContent = result;
      $("json").hidden = false;
      $("copy").disabled = false;
      document.body.dataset.report = result;
    } catch (error) { $("check-text").textContent = ""; tell(error); }
    busy(false);
  });

  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(result);
      $("check-text").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren($("json"));
      $("check-text").textContent = "The browser lets nothing be copied here: the result is marked, copy it yourself.";
    }
  });

  $("tune").addEventListener("click", async () => {
    busy(true);
    $("check-text").textContent = "Trying up to 12 kernels for 256 tokens of 4 heads with 32 channels …";
    try {
      const device = await start();
      const { choices } = JSON.parse(await device.call("tune", [12]));
      $("check-text").textContent = choices.map(({ class: name, kernel, ratio, tried, candidates }) => `${name}: ${kernel}, in ${percent(ratio)} of the time of the rule's choice (${tried} of ${candidates} tried).`).join(" ");
      document.body.dataset.tuned = JSON.stringify(choices);
    } catch (error) { $("check-text").textContent = ""; tell(error); }
    busy(false);
  });
}
