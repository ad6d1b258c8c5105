// Words cut into pieces in two ways, by vocabularies that are trained here.

import { newest } from "./computing.js";
import { number } from "./chart.js";

const $ = (id) => document.getElementById(id);
const tile = (name) => document.querySelector(`[data-tile="${name}"]`);
const encoder = new TextEncoder();

/** Where each piece ends, in bytes; pieces within a character are given by `\xNN`. */
function ends(pieces) {
  let at = 0;
  return pieces.map((piece) => (at += /^(\\x[0-9a-f]{2})+$/.test(piece) ? piece.length / 4 : encoder.encode(piece).length));
}

export function subwords({ texts, tell }) {
  let trained = null;

  function draw({ bytes, bpe, swe }) {
    const borders = { bpe: new Set(ends(bpe.pieces)), swe: new Set(ends(swe.pieces)) };
    for (const [name, found, other] of [["bpe", bpe, borders.swe], ["swe", swe, borders.bpe]]) {
      let from = 0;
      const spans = ends(found.pieces).map((end, at) => {
        const span = document.createElement("span");
        span.textContent = found.pieces[at].replaceAll("\n", "⏎");
        span.title = `piece ${found.ids[at]}, ${end - from} bytes`;
        // The other one has no such piece here.
        if ((from && !other.has(from)) || !other.has(end)) span.className = "other";
        from = end;
        return span;
      });
      $(`${name}-cut`).replaceChildren(...spans);
      tile(`${name}-pieces`).textContent = number(found.pieces.length);
      tile(`${name}-bytes`).textContent = found.pieces.length ? `${number(bytes / found.pieces.length)} bytes a piece` : "\u00a0";
    }
    const few = Math.abs(bpe.pieces.length - swe.pieces.length);
    const fewer = bpe.pieces.length > swe.pieces.length ? "SWE" : "BPE";
    $("subwords-text").textContent = `${few === 0 ? "Both need as many pieces" : `${fewer} needs ${few} fewer ${few === 1 ? "piece" : "pieces"}`} for these ${number(bytes)} bytes. Underlined: a piece that the other doesn't have there.`;
  }

  const update = newest(async () => {
    const size = Number($("pieces").value), text = $("sentence").value;
    try {
      if (trained !== size) {
        trained = null;
        $("subwords-text").textContent = `Training two vocabularies of ${number(size)} pieces …`;
        const told = ({ done, total }) => { $("subwords-text").textContent = `Training two vocabularies of ${number(size)} pieces: round ${done} of ${total} at most …`; };
        await texts.call("train", [size, "progress"], { progress: told });
        trained = size;
      }
      const cut = await texts.call("cut", [text]);
      draw(JSON.parse(cut));
      document.body.dataset.cut = cut;
    } catch (error) { tell(error); }
  });

  $("subwords-controls").addEventListener("input", update);
  $("subwords-controls").addEventListener("submit", (event) => event.preventDefault());
  $("subwords").addEventListener("shown", () => trained ?? update());
}
