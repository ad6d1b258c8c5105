// All panels but the first.

import { staircase } from "./staircase.js";
import { positions } from "./positions.js";
import { subwords } from "./subwords.js";
import { generate } from "./generate.js";
import { yours } from "./yours.js";

export function panels({ oracle, texts, inputs, opened, tell }) {
  staircase({ oracle, inputs, tell });
  positions({ oracle, tell });
  subwords({ texts, tell });
  generate({ texts, opened, tell });
  yours({ opened, tell });
}
