// Where each lane has whole rows: they begin with its own quads.
const own_head: u32 = 0u;
const own_value: u32 = 0u;
