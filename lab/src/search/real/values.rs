//! A point as names and values, which stays what it is when a space gets other parameters or
//! values.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use prflash::search::{Point, Space, Value};
use serde::{Deserialize, Serialize};

/// Values by the names of their parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    /// The values of a point.
    pub fn of(space: &Space, point: &Point) -> Self {
        let named = space.parameters().iter().map(|parameter| parameter.name());
        named.filter_map(|name| Some((name.to_owned(), space.value(point, name)?.clone()))).collect()
    }

    /// The point of a space that has them.
    ///
    /// # Errors
    /// Names or values that it doesn't have.
    pub fn point(&self, space: &Space) -> Result<Point> {
        Ok(space.point(self.0.iter().map(|(name, value)| (name.as_str(), value.clone())))?)
    }

    /// Whether there is a value of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The number of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.0.get(name).and_then(Value::number).with_context(|| format!("{name}: expected a number"))
    }

    /// The whole number of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn whole(&self, name: &str) -> Result<u32> {
        let number = self.number(name)?;
        let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        ensure!(whole, "{name}: expected a whole number, got {number}");
        Ok(number as u32)
    }

    /// The text of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(anyhow::anyhow!("{name}: expected a text")),
        }
    }

    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// A part that isn't `name = value`.
    pub fn parse(text: &str) -> Result<Self> {
        let each = text.split(", ").map(|part| {
            let (name, value) =
                part.split_once(" = ").with_context(|| format!("expected name = value, got {part:?}"))?;
            let value = value.parse().map_or_else(|_| Value::from(value), |number: f64| Value::from(number));
            Ok((name.to_owned(), value))
        });
        each.collect()
    }
}

impl FromIterator<(String, Value)> for Values {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl fmt::Display for Values {
    /// `name = value, …` in the order of the names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name} = {value}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prflash::search::Parameter;

    use super::*;

    #[test]
    fn points_are_read_as_they_are_written() {
        let space = Space::new([
            Parameter::ordinal("size", [1e-5, 0.5, 32.0]).unwrap(),
            Parameter::nominal("kind", ["skip-gram", "b"]).unwrap(),
        ])
        .unwrap();
        let point = space.point([("size", Value::from(1e-5)), ("kind", Value::from("skip-gram"))]).unwrap();
        let values = Values::of(&space, &point);
        assert_eq!(values.to_string(), "kind = skip-gram, size = 0.00001");
        let again = Values::parse(&values.to_string()).unwrap();
        assert_eq!((again.point(&space).unwrap(), &again), (point, &values));
        let json = serde_json::to_string(&values).unwrap();
        assert_eq!(serde_json::from_str::<Values>(&json).unwrap(), values);
        assert_eq!((values.number("size").unwrap(), values.text("kind").unwrap()), (1e-5, "skip-gram"));
        for (error, want) in [
            (values.whole("size").unwrap_err(), "size: expected a whole number, got 0.00001"),
            (values.number("kind").unwrap_err(), "kind: expected a number"),
            (values.text("size").unwrap_err(), "size: expected a text"),
            (Values::parse("size 3").unwrap_err(), "expected name = value, got \"size 3\""),
        ] {
            assert_eq!(error.to_string(), want);
        }
    }
}
