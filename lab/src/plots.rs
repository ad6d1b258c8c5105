//! Pictures of the report that are no charts: shares in cells.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use testkit::picture::{COLORS, svg};

/// Shares in cells: a row for each name, a column for each heading.
#[derive(Clone, Debug)]
pub struct Cells {
    /// The title above the cells.
    pub title: String,
    /// The first one uppermost.
    pub rows: Vec<CellRow>,
    /// What stands above the columns.
    pub columns: Vec<String>,
}

/// A row of cells.
#[derive(Clone, Debug)]
pub struct CellRow {
    /// The name in front of the row.
    pub name: String,
    /// A cell for each column; none where nothing is known.
    pub cells: Vec<Option<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    /// How dark it is, from 0 to 1.
    pub share: f64,
    /// The text within the cell.
    pub text: String,
}

/// Draws cells, a block of them below the other, the fuller the darker.
///
/// # Errors
/// The file can't be written.
pub fn draw_cells(path: &Path, blocks: &[Cells]) -> Result<()> {
    const NAMES: i32 = 250;
    const CELL: (i32, i32) = (70, 24);
    let heights: Vec<i32> = blocks.iter().map(|block| 62 + CELL.1 * block.rows.len() as i32).collect();
    let columns = blocks.iter().map(|block| block.columns.len()).max().unwrap_or(0) as i32;
    let size = (NAMES + CELL.0 * columns + 20, heights.iter().sum::<i32>() + 10);
    svg(path, (size.0 as u32, size.1 as u32), |area| {
        let font = |size: i32, color: &RGBColor| ("sans-serif", size).into_font().color(color);
        let mut top = 0;
        for (block, height) in blocks.iter().zip(&heights) {
            area.draw(&Text::new(block.title.clone(), (10, top + 10), font(16, &BLACK)))?;
            for (index, column) in block.columns.iter().enumerate() {
                let at = (NAMES + CELL.0 * index as i32 + 22, top + 38);
                area.draw(&Text::new(column.clone(), at, font(13, &BLACK)))?;
            }
            for (row, CellRow { name, cells }) in block.rows.iter().enumerate() {
                let y = top + 58 + CELL.1 * row as i32;
                area.draw(&Text::new(name.clone(), (10, y + 6), font(13, &BLACK)))?;
                for (column, cell) in cells.iter().enumerate() {
                    let Some(Cell { share, text }) = cell else { continue };
                    let x = NAMES + CELL.0 * column as i32;
                    let mix = |full: u8| (255.0 - share * (255.0 - f64::from(full))) as u8;
                    let color = RGBColor(mix(COLORS[0].0), mix(COLORS[0].1), mix(COLORS[0].2));
                    let corners = [(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)];
                    area.draw(&Rectangle::new(corners, color.filled()))?;
                    area.draw(&Rectangle::new(corners, RGBColor(200, 200, 200)))?;
                    let ink = if *share > 0.6 { WHITE } else { BLACK };
                    area.draw(&Text::new(text.clone(), (x + 22, y + 6), font(13, &ink)))?;
                }
            }
            top += height;
        }
        Ok(())
    })
}
