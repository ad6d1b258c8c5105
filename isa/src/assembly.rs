//! The driver's machine code as text: blocks, loops, and what is counted on a loop's hot path.
//!
//! Blocks are what lies between labels (`BB7:`); edges are branches and falling through. The
//! compiler's code is structured, so an edge to an earlier block closes a loop, and the loop's body
//! is what reaches that edge without passing its head.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How many instructions of each class, and the bytes that they load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Multiply-adds of vectors: `v_fma…`, `v_mac…`, `v_mad_f…`, `v_pk_fma…`, `v_dot…`. Each half
    /// of a dual-issue instruction is one.
    pub fma: f64,
    /// Matrix instructions.
    pub wmma: f64,
    /// exp, log, reciprocals and roots: a quarter of the others' rate.
    pub transcendental: f64,
    /// Everything else on vectors.
    pub valu: f64,
    /// Instructions on scalars.
    pub salu: f64,
    /// Loads of scalars.
    pub smem: f64,
    /// Loads and stores of vectors.
    pub vmem: f64,
    /// Instructions on workgroup memory.
    pub lds: f64,
    /// Branches and barriers.
    pub branches: f64,
    /// What only orders the others: waits, `s_delay_alu`, `s_clause`, `s_nop`.
    pub waits: f64,
    /// Pairs issued at once: what is above counts both halves, the issue slots are fewer by this.
    pub duals: f64,
    /// Those of `salu` and `valu` that only move: selects, `v_mov` and `s_mov`.
    pub moves: f64,
    /// Reciprocals, which `transcendental` counts too.
    pub reciprocals: f64,
    /// Multiply-adds of one lane: as `fma`, with 2 for packed ones and those of matrix instructions
    /// per lane of a wave of 32.
    pub multiply_adds: f64,
    /// Bytes loaded per wave by scalar loads.
    pub scalar_bytes: f64,
    /// Bytes loaded per lane by vector loads.
    pub vector_bytes: f64,
    /// Bytes per lane read from workgroup memory.
    pub lds_bytes: f64,
    /// Stores to workgroup memory.
    pub lds_stores: f64,
}

impl Counts {
    /// All instructions, with dual issue counted as two.
    pub fn instructions(&self) -> f64 {
        self.fma
            + self.wmma
            + self.transcendental
            + self.valu
            + self.salu
            + self.smem
            + self.vmem
            + self.lds
            + self.branches
            + self.waits
    }

    /// Multiply-adds among all instructions.
    pub fn fma_share(&self) -> f64 {
        share(self.fma + self.wmma, self.instructions())
    }

    /// Multiply-adds among the vector unit's time.
    pub fn vector_share(&self) -> f64 {
        let vector = self.fma + self.wmma + self.valu + 4.0 * self.transcendental;
        share(self.fma + self.wmma, vector)
    }

    fn scaled(self, by: f64) -> Self {
        let mut sum = Self::default();
        sum.add(self, by);
        sum
    }

    fn add(&mut self, other: Self, times: f64) {
        let Self {
            fma,
            wmma,
            transcendental,
            valu,
            salu,
            smem,
            vmem,
            lds,
            branches,
            waits,
            duals,
            moves,
            reciprocals,
            multiply_adds,
            scalar_bytes,
            vector_bytes,
            lds_bytes,
            lds_stores,
        } = other;
        for (sum, term) in [
            (&mut self.fma, fma),
            (&mut self.wmma, wmma),
            (&mut self.transcendental, transcendental),
            (&mut self.valu, valu),
            (&mut self.salu, salu),
            (&mut self.smem, smem),
            (&mut self.vmem, vmem),
            (&mut self.lds, lds),
            (&mut self.branches, branches),
            (&mut self.waits, waits),
            (&mut self.duals, duals),
            (&mut self.moves, moves),
            (&mut self.reciprocals, reciprocals),
            (&mut self.multiply_adds, multiply_adds),
            (&mut self.scalar_bytes, scalar_bytes),
            (&mut self.vector_bytes, vector_bytes),
            (&mut self.lds_bytes, lds_bytes),
            (&mut self.lds_stores, lds_stores),
        ] {
            *sum += times * term;
        }
    }

    /// One instruction: a line without its label, its encoding and the space around.
    fn of(line: &str) -> Self {
        if let Some((first, second)) = line.split_once(" :: ") {
            let mut both = Self::of(first.trim());
            both += Self::of(second.trim());
            both.duals = 1.0;
            return both;
        }
        let name = line.split_whitespace().next().unwrap_or_default();
        let one = Self::default();
        let name = name.strip_suffix("_e32").or_else(|| name.strip_suffix("_e64")).unwrap_or(name);
        let has = |parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
        if let Some(op) = name.strip_prefix("v_").map(|op| op.strip_prefix("dual_").unwrap_or(op)) {
            let is = |parts: &[&str]| parts.iter().any(|part| op.starts_with(part));
            return match () {
                // 16 × 16 × 16 over 32 lanes.
                () if is(&["wmma", "swmmac", "mfma"]) => Self { wmma: 1.0, multiply_adds: 128.0, ..one },
                () if is(&["pk_fma", "dot2"]) => Self { fma: 1.0, multiply_adds: 2.0, ..one },
                () if is(&["dot4"]) => Self { fma: 1.0, multiply_adds: 4.0, ..one },
                () if is(&["fma", "mac_f", "mad_f", "madmk", "madak", "mad_mix"]) => {
                    Self { fma: 1.0, multiply_adds: 1.0, ..one }
                }
                () if is(&["rcp_"]) => Self { transcendental: 1.0, reciprocals: 1.0, ..one },
                () if is(&["exp_", "log_", "rsq_", "sqrt_", "sin_", "cos_"]) => {
                    Self { transcendental: 1.0, ..one }
                }
                () if is(&["mov_b", "cndmask"]) => Self { valu: 1.0, moves: 1.0, ..one },
                () => Self { valu: 1.0, ..one },
            };
        }
        match () {
            () if has(&["s_waitcnt", "s_wait_", "s_delay_alu", "s_clause", "s_nop", "s_sleep"]) => {
                Self { waits: 1.0, ..one }
            }
            () if has(&["s_branch", "s_cbranch", "s_barrier", "s_endpgm", "s_setpc"]) => {
                Self { branches: 1.0, ..one }
            }
            () if has(&["s_load", "s_buffer_load"]) => Self { smem: 1.0, scalar_bytes: bytes(name), ..one },
            () if has(&["s_mov", "s_cselect"]) => Self { salu: 1.0, moves: 1.0, ..one },
            () if has(&["s_"]) => Self { salu: 1.0, ..one },
            () if has(&["ds_load", "ds_read"]) => {
                let pair = if name.contains("read2") || name.contains("2addr") { 2.0 } else { 1.0 };
                Self { lds: 1.0, lds_bytes: pair * bytes(name), ..one }
            }
            () if has(&["ds_store", "ds_write"]) => {
                let pair = if name.contains("write2") || name.contains("2addr") { 2.0 } else { 1.0 };
                Self { lds: 1.0, lds_stores: pair * bytes(name) / 16.0, ..one }
            }
            () if has(&["ds_"]) => Self { lds: 1.0, ..one },
            () if has(&["buffer_", "global_", "scratch_", "flat_", "tbuffer_", "image_"]) => {
                let loaded = if name.contains("load") { bytes(name) } else { 0.0 };
                Self { vmem: 1.0, vector_bytes: loaded, ..one }
            }
            () => one,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.add(other, 1.0);
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The width of a load or store, by its name: `…_b128`, `…_dwordx4`, `…_u16`, `…_ushort`.
fn bytes(name: &str) -> f64 {
    if let Some((_, words)) = name.split_once("dword") {
        let words = words.trim_start_matches('x');
        return 4.0 * words.split('_').next().and_then(|n| n.parse().ok()).unwrap_or(1.0);
    }
    for part in name.split('_').rev() {
        match part {
            "ushort" | "sshort" | "short" => return 2.0,
            "ubyte" | "sbyte" | "byte" => return 1.0,
            _ => {}
        }
        let digits = part.trim_start_matches(['b', 'u', 'i', 'f']);
        if digits.len() < part.len()
            && let Ok(bits) = digits.parse::<f64>()
        {
            return bits / 8.0;
        }
    }
    0.0
}

#[derive(Clone, Debug, Default)]
struct Block {
    counts: Counts,
    next: Vec<usize>,
}

/// A loop: the block where it begins, and all of its blocks, inner loops' too.
#[derive(Clone, Debug)]
struct Loop {
    head: usize,
    body: BTreeSet<usize>,
}

/// A program's blocks and loops.
#[derive(Clone, Debug)]
pub struct Program {
    blocks: Vec<Block>,
    loops: Vec<Loop>,
}

/// What the counts of a key loop assume about the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Keys of a key block that one pass of the step loop takes.
    pub keys: usize,
    /// Keys of a block.
    pub block: usize,
    /// How often inner loops turn that have multiply-adds.
    pub turns: usize,
    /// Quads that each lane writes into workgroup memory per step, for each of keys and values.
    pub staged_quads: usize,
}

/// What was counted of a program's key loop.
#[derive(Clone, Copy, Debug)]
pub struct KeyLoop {
    /// One step without masks.
    pub step: Counts,
    /// All of a key block: its steps, and once what comes around them.
    pub block: Counts,
}

impl Program {
    /// Reads what the driver printed.
    pub fn parse(text: &str) -> Self {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        let mut lines: Vec<Vec<&str>> = vec![Vec::new()];
        for line in text.lines() {
            let line = line.split(';').next().unwrap_or_default();
            if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("BB")) {
                names.insert(name, lines.len());
                lines.push(Vec::new());
            } else if line.starts_with(char::is_whitespace)
                && !line.trim().is_empty()
                && let Some(block) = lines.last_mut()
            {
                block.push(line.trim());
            }
        }
        let count = lines.len();
        let mut blocks = Vec::with_capacity(count);
        for (at, lines) in lines.iter().enumerate() {
            let mut block = Block::default();
            let mut falls = at + 1 < count;
            for line in lines {
                block.counts += Counts::of(line);
                let mut words = line.split_whitespace();
                let name = words.next().unwrap_or_default();
                if name.starts_with("s_branch") || name.starts_with("s_cbranch") {
                    block.next.extend(words.next().and_then(|name| names.get(name)));
                }
                falls &= !(name == "s_branch" || name == "s_endpgm");
            }
            if falls {
                block.next.push(at + 1);
            }
            blocks.push(block);
        }
        let loops = find_loops(&blocks);
        Self { blocks, loops }
    }

    /// All instructions, each counted once.
    pub fn whole(&self) -> Counts {
        let mut sum = Counts::default();
        for block in &self.blocks {
            sum += block.counts;
        }
        sum
    }

    /// The loop over keys, or nothing where no loop has multiply-adds.
    ///
    /// The *step loop* is the one with the most multiply-adds on its hot path, inner loops left
    /// out. A hot path is, of all paths through a loop, the one with the most multiply-adds, then
    /// the one with the fewest instructions. A soft-cap, which has a few besides its division, is
    /// no part of it.
    pub fn key_loop(&self, steps: &Steps) -> Option<KeyLoop> {
        let own = |at: &usize| {
            let path = self.hot_path(*at, &|_| Some(0.0));
            (path.fma + path.wmma) as u64
        };
        let step = (0..self.loops.len()).max_by_key(|at| (own(at), usize::MAX - at))?;
        if own(&step) == 0 {
            return None;
        }
        // Inner loops that fill workgroup memory turn as often as that takes; of those without
        // multiply-adds nothing is known but that they turn.
        let inner = |at: usize| {
            let turn = self.hot_path(at, &|_| Some(1.0));
            Some(match () {
                () if turn.lds_stores > 0.0 && steps.staged_quads > 0 => {
                    (steps.staged_quads as f64 / turn.lds_stores).ceil()
                }
                () if turn.fma > 0.0 => steps.turns as f64,
                () => 1.0,
            })
        };
        let one = self.hot_path(step, &inner);
        let outer = (0..self.loops.len())
            .filter(|&at| self.loops[at].body.contains(&self.loops[step].head))
            .max_by_key(|&at| self.loops[at].body.len())?;
        let times = steps.block as f64 / steps.keys as f64;
        let block = if outer == step {
            one.scaled(times)
        } else {
            let around = |at: usize| {
                if at == step {
                    return Some(times);
                }
                if self.loops[step].body.contains(&self.loops[at].head) {
                    return inner(at);
                }
                Some(1.0)
            };
            self.hot_path(outer, &around)
        };
        Some(KeyLoop { step: one, block })
    }

    /// The innermost loop below `of` that `block` lies in, seen from `of`: its direct child.
    fn child(&self, of: usize, block: usize) -> Option<usize> {
        (0..self.loops.len())
            .filter(|&at| {
                at != of
                    && self.loops[at].body.contains(&block)
                    && self.loops[at].body.is_subset(&self.loops[of].body)
                    && self.loops[at].body.len() < self.loops[of].body.len()
            })
            .max_by_key(|&at| self.loops[at].body.len())
    }

    /// One turn of a loop; inner ones count as often as `times` says.
    fn hot_path(&self, of: usize, times: &dyn Fn(usize) -> Option<f64>) -> Counts {
        let mut known = BTreeMap::new();
        self.best_from(of, self.loops[of].head, times, &mut known).unwrap_or_default()
    }

    /// The best path from a block to the end of a turn; nothing where it only leaves the loop.
    fn best_from(
        &self,
        of: usize,
        from: usize,
        times: &dyn Fn(usize) -> Option<f64>,
        known: &mut BTreeMap<usize, Option<Counts>>,
    ) -> Option<Counts> {
        if let Some(found) = known.get(&from) {
            return *found;
        }
        let Loop { head, body } = &self.loops[of];
        let (own, exits) = match self.child(of, from) {
            Some(inner) => {
                let turn = match times(inner) {
                    Some(0.0) | None => Counts::default(),
                    Some(times_) => self.hot_path(inner, times).scaled(times_),
                };
                let inside = &self.loops[inner].body;
                let exits: BTreeSet<usize> = inside
                    .iter()
                    .flat_map(|&block| &self.blocks[block].next)
                    .copied()
                    .filter(|to| !inside.contains(to))
                    .collect();
                (turn, exits)
            }
            None => (self.blocks[from].counts, self.blocks[from].next.iter().copied().collect()),
        };
        let mut best: Option<Counts> = None;
        for to in exits {
            let rest = match to {
                to if to == *head => Some(Counts::default()),
                to if body.contains(&to) => self.best_from(of, to, times, known),
                _ => None,
            };
            if let Some(rest) = rest
                && best.is_none_or(|best| hotter(&rest, &best))
            {
                best = Some(rest);
            }
        }
        let path = best.map(|mut rest| {
            rest += own;
            rest
        });
        known.insert(from, path);
        path
    }
}

/// Whether a path is taken rather than another one.
fn hotter(this: &Counts, other: &Counts) -> bool {
    // No softmax divides in its loop, so this outweighs what a soft-cap has of multiply-adds and
    // nothing else.
    let key = |counts: &Counts| (counts.fma + counts.wmma - 8.0 * counts.reciprocals, -counts.instructions());
    key(this) > key(other)
}

fn find_loops(blocks: &[Block]) -> Vec<Loop> {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
    for (at, block) in blocks.iter().enumerate() {
        for &to in &block.next {
            before[to].push(at);
        }
    }
    let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, block) in blocks.iter().enumerate() {
        for &head in block.next.iter().filter(|&&to| to <= at) {
            let body = loops.entry(head).or_insert_with(|| BTreeSet::from([head]));
            let mut open = vec![at];
            while let Some(block) = open.pop() {
                if body.insert(block) {
                    open.extend(&before[block]);
                }
            }
        }
    }
    loops.into_iter().map(|(head, body)| Loop { head, body }).collect()
}

#[cfg(test)]
mod tests;
