//! A table of real scores: points of a space, each with what a training gave.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use prflash::search::{Parameter, Point, Scale, Space, Value};

/// A space and the scores of some of its points, as `scripts/search-tables` writes them.
#[derive(Clone, Debug)]
pub struct Table {
    /// The table's name.
    pub name: String,
    /// The space that is searched.
    pub space: Space,
    /// Points with their scores, the larger the better.
    pub scored: Vec<(Point, f64)>,
    /// Seconds of the processor that all trainings took together.
    pub cpu_seconds: f64,
}

#[derive(serde::Deserialize)]
struct Description {
    parameters: Vec<Listed>,
}

#[derive(serde::Deserialize)]
struct Listed {
    name: String,
    scale: Scale,
    values: Vec<Value>,
}

impl Table {
    /// Reads NAME.json and NAME.csv of a folder.
    ///
    /// # Errors
    /// Files that can't be read, parameters that can't be, a row whose values the space doesn't
    /// have or whose score is no finite number.
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.json"));
        let context = || format!("reading {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(context)?;
        let described: Description = serde_json::from_str(&text).with_context(context)?;
        let parameters = described.parameters.into_iter().map(|listed| match listed.scale {
            Scale::Nominal => Parameter::nominal(&listed.name, listed.values),
            Scale::Ordinal => Parameter::ordinal(&listed.name, listed.values),
        });
        let space = Space::new(parameters.collect::<Result<Vec<_>, _>>().with_context(context)?)?;

        let path = folder.join(format!("{name}.csv"));
        let context = || format!("reading {}", path.display());
        let mut reader = csv::Reader::from_path(&path).with_context(context)?;
        let columns = reader.headers().with_context(context)?.clone();
        let mut table = Self { name: name.into(), space, scored: Vec::new(), cpu_seconds: 0.0 };
        for (line, row) in reader.records().enumerate() {
            let row = row.with_context(context)?;
            table.add(&columns, &row).with_context(|| format!("{}, row {}", path.display(), line + 1))?;
        }
        Ok(table)
    }

    fn add(&mut self, columns: &csv::StringRecord, row: &csv::StringRecord) -> Result<()> {
        let cell = |name: &str| {
            let cell = columns.iter().position(|column| column == name).and_then(|at| row.get(at));
            cell.with_context(|| format!("{name}: there is no such column"))
        };
        let number = |name: &str| -> Result<f64> {
            let text = cell(name)?;
            text.parse().with_context(|| format!("{name}: expected a number, got {text:?}"))
        };
        let mut values = Vec::new();
        for parameter in self.space.parameters() {
            let text = cell(parameter.name())?;
            let value = text.parse().map_or_else(|_| Value::from(text), |number: f64| Value::from(number));
            values.push((parameter.name(), value));
        }
        let point = self.space.point(values)?;
        let score = number("score")?;
        ensure!(score.is_finite(), "score: expected a finite number, got {score}");
        self.cpu_seconds += number("cpu_seconds")?;
        self.scored.push((point, score));
        Ok(())
    }
}

/// The places of the values of each parameter in the order of points, the last parameter the
/// fastest: that of `Grid`.
pub fn all_indices(space: &Space) -> impl Iterator<Item = Vec<usize>> + use<> {
    let counts: Vec<usize> = space.parameters().iter().map(|parameter| parameter.values().len()).collect();
    (0..counts.iter().product()).map(move |number: usize| {
        let mut left = number;
        let mut indices: Vec<usize> = counts
            .iter()
            .rev()
            .map(|count| {
                let index = left % count;
                left /= count;
                index
            })
            .collect();
        indices.reverse();
        indices
    })
}

/// The number of a point in that order.
pub fn number_of(space: &Space, point: &Point) -> usize {
    let places = space.parameters().iter().zip(point.indices());
    places.fold(0, |number, (parameter, &at)| number * parameter.values().len() + at as usize)
}
