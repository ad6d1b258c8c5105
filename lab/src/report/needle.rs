//! A passkey by depth.

use anyhow::Result;
use testkit::chart::{Panel, Series};

use super::page::Page;
use super::{Chosen, Data, chosen, even, point, windows};
use crate::needle::Found;
use crate::plots::{Cell, CellRow, Cells, draw_cells};
use crate::results::mean_and_error;
use crate::study::Experiment;

pub fn needle(data: &Data, page: &mut Page<'_>, part: &[&Experiment]) -> Result<()> {
    page.answer("needle", "A passkey by depth")?;
    let (mut have, mut asked) = (0, 0);
    let (mut blocks, mut cost, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for experiment in part {
        let all = chosen(&data.needle, experiment, |measured: &Found| measured.window)?;
        asked += experiment.places.len() * experiment.choices.len() * experiment.depths.len();
        have += all.iter().map(|chosen| windows(&chosen.rows)).sum::<usize>();
        if all.is_empty() {
            continue;
        }
        let texts = experiment.places.len();
        let title = format!("{}, {} tokens, {texts} texts", experiment.model.title(), experiment.width);
        let (mut lines, mut cells, mut nats) = (Vec::new(), Vec::new(), Vec::new());
        for Chosen { choice, rows } in &all {
            let found = |depth: Option<usize>| {
                let here = rows.iter().filter(|row| depth.is_none_or(|depth| row.measured.depth == depth));
                let right: Vec<&Found> = here.map(|row| &row.measured).collect();
                (right.iter().filter(|found| found.right).count(), right)
            };
            let mut line = vec![choice.name.clone()];
            let (mut by_right, mut by_nats) = (Vec::new(), Vec::new());
            for &depth in &experiment.depths {
                let (right, of) = found(Some(depth));
                line.push(format!("{right}/{}", of.len()));
                let share = right as f64 / of.len().max(1) as f64;
                let text = format!("{right}/{}", of.len());
                by_right.push((!of.is_empty()).then_some(Cell { share, text }));
                let nats: Vec<f64> = of.iter().map(|found| found.nll).collect();
                by_nats.push(point(depth as f64, mean_and_error(&nats)));
            }
            let (right, of) = found(None);
            let count = of.len() as f64;
            let mean = |number: fn(&Found) -> f64| of.iter().map(|&found| number(found)).sum::<f64>() / count;
            line.push(format!("{right}/{}", of.len()));
            line.push(format!("{:.2}", mean(|found| found.nll)));
            // Of 64 tokens, whatever the setting's are.
            let size = choice.setting()?.block_size().unwrap_or(64) as f64;
            line.push(format!("{:.1}", mean(|found| found.answer_blocks) * size / 64.0));
            let bytes = mean(|found| found.kv_bytes[0] as f64) / mean(|found| found.kv_bytes[1] as f64);
            line.push(format!("{:.0}%", 100.0 * bytes));
            lines.push(line);
            cells.push(CellRow { name: choice.name.clone(), cells: by_right });
            nats.push(Series { name: choice.name.clone(), points: by_nats, joined: true });
        }
        let columns = experiment.depths.iter().map(|depth| format!("{depth}%")).collect();
        blocks.push(Cells { title: format!("{title}: passkeys found, by depth"), rows: cells, columns });
        cost.push(Panel { title: title.clone(), series: nats });
        tables.push((title, experiment.depths.clone(), lines));
    }
    if !blocks.is_empty() {
        let path = page.picture_at("needle", "Passkeys found, by depth (100%: right before the question)")?;
        draw_cells(&path, &blocks)?;
    }
    let axes =
        [even("depth, percent (100: right before the question)"), even("nats of the passkey's digits")];
    page.picture(
        "needle_nats",
        "How unlikely the model finds the passkey, by depth: 11.5 is a guess",
        axes,
        &cost,
    )?;
    for (title, depths, lines) in tables {
        page.line(&format!("### {title}\n"));
        let depths: Vec<String> = depths.iter().map(|depth| format!("{depth}%")).collect();
        let mut header = vec!["setting"];
        header.extend(depths.iter().map(String::as_str));
        header.extend(["all", "nats", "blocks of the answer", "bytes of f16"]);
        page.table(&header, &lines);
    }
    page.coverage(part, have, asked);
    Ok(())
}
