//! Problems whose keys and values lie in pages.

use prflash::attention::PageTable;
use prflash::{Layout, Tables};

use super::{Problem, numbers};

/// How the pages of keys and of values lie in memory.
#[derive(Clone, Copy, Debug)]
pub enum Pages {
    /// `[pages, page_size, kv_heads, D]`.
    TokensFirst,
    /// `[pages, kv_heads, page_size, D]`.
    HeadsFirst,
    /// `[pages, 2, page_size, kv_heads, D]`: keys and values in one buffer.
    Together,
}

/// A pool with the keys and values of a problem's sequences, and NaN elsewhere.
pub struct Pooled {
    pub layouts: [Layout; 2],
    pub numbers: [Vec<f32>; 2],
    pub tables: Vec<PageTable>,
}

impl Pooled {
    /// Pages in an order that is a function of `seed`; with 0, that of the tokens.
    pub fn new(problem: &Problem, pages: Pages, page_size: usize, seed: u64) -> Self {
        let shape = &problem.shape;
        let (batch, heads, tokens) = (shape.batch(), shape.kv_heads(), shape.kv_len());
        let each = tokens.div_ceil(page_size);
        // Some that no sequence has.
        let count = batch * each + 3;
        let layout = |part: usize, dim: usize| match pages {
            Pages::TokensFirst => Layout::tokens_first(count, page_size, heads, dim).unwrap(),
            Pages::HeadsFirst => Layout::heads_first(count, heads, page_size, dim).unwrap(),
            Pages::Together => {
                let page = page_size * heads * dim;
                let strides = [2 * page, dim, heads * dim];
                Layout::with_strides([count, heads, page_size, dim], part * page, strides).unwrap()
            }
        };
        let layouts = [layout(0, shape.head_dim()), layout(1, shape.value_dim())];
        let mut order: Vec<u32> = (0..count as u32).collect();
        if seed > 0 {
            let keys = numbers(seed, count);
            order.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
        }
        let tables: Vec<PageTable> =
            (0..batch).map(|b| PageTable::new(&order[b * each..(b + 1) * each]).unwrap()).collect();
        let sources = [(&problem.k, shape.head_dim()), (&problem.v, shape.value_dim())];
        let numbers = std::array::from_fn(|part| {
            let ((values, dim), layout) = (sources[part], &layouts[part]);
            let mut pool = vec![f32::NAN; layouts[0].extent().max(layouts[1].extent())];
            for row in 0..batch * heads * tokens {
                let (b, head, token) = (row / (heads * tokens), row / tokens % heads, row % tokens);
                let page = tables[b].pages()[token / page_size] as usize;
                let at = layout.index(page, head, token % page_size, 0);
                pool[at..at + dim].copy_from_slice(&values[row * dim..][..dim]);
            }
            pool
        });
        Self { layouts, numbers, tables }
    }

    /// The tables of a problem, with these pages.
    pub fn among<'a>(&'a self, tables: Tables<'a>) -> Tables<'a> {
        self.tables.iter().fold(tables, Tables::with_pages)
    }
}
