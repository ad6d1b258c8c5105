//! Parameters with their values, and the points that they make.

use std::fmt;

use super::keyed;
use crate::error::{Error, Result, ensure};
use crate::limits::{MAX_VALUES, at_most};

/// Whether the values of a parameter have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scale {
    /// They have none.
    Nominal,
    /// They are listed in it, so that neighbours are alike.
    Ordinal,
}

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(untagged))]
pub enum Value {
    /// A number.
    Number(f64),
    /// A name.
    Text(String),
}

impl Value {
    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// A name with the values that it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    name: String,
    scale: Scale,
    values: Vec<Value>,
    /// Of each value a number of its name and the parameter's: all that draws know of it.
    keys: Vec<u32>,
}

impl Parameter {
    /// A parameter of values without an order.
    ///
    /// # Errors
    /// Invalid argument (`values`) if there are none, one is no finite number, or two read the
    /// same; too large past [`MAX_VALUES`](crate::limits::MAX_VALUES).
    pub fn nominal<V: Into<Value>>(name: &str, values: impl IntoIterator<Item = V>) -> Result<Self> {
        Self::new(name, Scale::Nominal, values.into_iter().map(Into::into).collect())
    }

    /// A parameter of values that are listed in their order.
    ///
    /// # Errors
    /// As [`nominal`](Parameter::nominal).
    pub fn ordinal<V: Into<Value>>(name: &str, values: impl IntoIterator<Item = V>) -> Result<Self> {
        Self::new(name, Scale::Ordinal, values.into_iter().map(Into::into).collect())
    }

    fn new(name: &str, scale: Scale, values: Vec<Value>) -> Result<Self> {
        at_most("values", values.len(), MAX_VALUES)?;
        ensure!(!values.is_empty(), "values", "{name}: expected at least one value, got none");
        for (index, value) in values.iter().enumerate() {
            let finite = value.number().is_none_or(f64::is_finite);
            ensure!(finite, "values", "{name}: expected finite numbers, got {value}");
            let text = value.to_string();
            let twice = values[..index].iter().any(|other| other.to_string() == text);
            ensure!(!twice, "values", "{name}: expected each value once, got {text} twice");
        }
        let keys = values.iter().map(|value| keyed::name(&format!("{name} = {value}"))).collect();
        Ok(Self { name: name.into(), scale, values, keys })
    }

    /// The parameter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its values have an order.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    pub(super) fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// The parameter's values, as they were listed.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

/// Parameters, each with a value of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    parameters: Vec<Parameter>,
}

/// A value for each parameter of a space, by its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Point(pub(super) Vec<u32>);

impl Point {
    /// The place of each parameter's value in its list, in the order of the parameters.
    pub fn indices(&self) -> &[u32] {
        &self.0
    }
}

impl Space {
    /// Of these parameters.
    ///
    /// # Errors
    /// Invalid argument (`parameters`) if there are none, or two of a name.
    pub fn new(parameters: impl IntoIterator<Item = Parameter>) -> Result<Self> {
        let parameters: Vec<Parameter> = parameters.into_iter().collect();
        ensure!(!parameters.is_empty(), "parameters", "expected at least one, got none");
        for (index, Parameter { name, .. }) in parameters.iter().enumerate() {
            let twice = parameters[..index].iter().any(|other| other.name == *name);
            ensure!(!twice, "parameters", "expected each name once, got {name:?} twice");
        }
        Ok(Self { parameters })
    }

    /// The parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// How many points it has; 2¹²⁸ − 1 if there are more.
    pub fn points(&self) -> u128 {
        self.parameters
            .iter()
            .fold(1u128, |points, parameter| points.saturating_mul(parameter.values.len() as u128))
    }

    /// The value of a parameter at a point; none if there is no such parameter, or the point is of
    /// another space.
    pub fn value(&self, point: &Point, name: &str) -> Option<&Value> {
        let index = self.parameters.iter().position(|parameter| parameter.name == name)?;
        self.parameters[index].values.get(*point.0.get(index)? as usize)
    }

    /// The point of these values by name, in any order.
    ///
    /// # Errors
    /// Invalid argument (`values`) for a parameter or value that isn't there, or a parameter
    /// without one.
    pub fn point<'v>(&self, values: impl IntoIterator<Item = (&'v str, Value)>) -> Result<Point> {
        let mut indices = vec![None; self.parameters.len()];
        let refused = |message: String| Error::argument_error("values", message);
        for (name, value) in values {
            let index = self.parameters.iter().position(|parameter| parameter.name == name);
            let index = index.ok_or_else(|| refused(format!("there is no parameter {name:?}")))?;
            let listed = self.parameters[index].values.iter().position(|other| *other == value);
            let listed = listed.ok_or_else(|| refused(format!("{name}: {value} is not among its values")))?;
            indices[index] = Some(listed as u32);
        }
        let all = indices.into_iter().zip(&self.parameters);
        let all = all.map(|(index, Parameter { name, .. })| {
            index.ok_or_else(|| refused(format!("{name}: expected a value, got none")))
        });
        Ok(Point(all.collect::<Result<_>>()?))
    }

    /// A point in words: `name = value, …`.
    pub fn describe(&self, point: &Point) -> String {
        let described = |parameter: &Parameter| {
            let value = self.value(point, &parameter.name).map_or("?".to_owned(), Value::to_string);
            format!("{} = {value}", parameter.name)
        };
        self.parameters.iter().map(described).collect::<Vec<_>>().join(", ")
    }

    /// Whether a point is one of this space.
    pub(super) fn has(&self, point: &Point) -> bool {
        point.0.len() == self.parameters.len()
            && point
                .0
                .iter()
                .zip(&self.parameters)
                .all(|(&at, parameter)| (at as usize) < parameter.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let refused = |parameter: Result<Parameter>| {
            let error = parameter.unwrap_err();
            assert_eq!(error.argument(), Some("values"));
            error.to_string()
        };
        assert_eq!(
            refused(Parameter::nominal("a", [""; 0])),
            "values: a: expected at least one value, got none"
        );
        assert_eq!(
            refused(Parameter::ordinal("a", [1, 2, 1])),
            "values: a: expected each value once, got 1 twice"
        );
        assert_eq!(
            refused(Parameter::ordinal("a", [1.0, f64::NAN])),
            "values: a: expected finite numbers, got NaN"
        );
        let a = || Parameter::nominal("a", ["x", "y"]).unwrap();
        for (parameters, reason) in [(vec![], "expected at least one"), (vec![a(), a()], "got \"a\" twice")] {
            let error = Space::new(parameters).unwrap_err();
            assert_eq!(error.argument(), Some("parameters"));
            assert!(error.to_string().contains(reason), "{error}");
        }
        let space = Space::new([a()]).unwrap();
        for (values, reason) in [
            (vec![("b", Value::from("x"))], "there is no parameter \"b\""),
            (vec![("a", Value::from("z"))], "a: z is not among its values"),
            (vec![], "a: expected a value, got none"),
        ] {
            assert_eq!(space.point(values).unwrap_err().to_string(), format!("values: {reason}"));
        }
    }

    #[test]
    fn points_and_their_values() {
        let space = Space::new([
            Parameter::ordinal("size", [10, 20, 40]).unwrap(),
            Parameter::nominal("kind", ["a", "b"]).unwrap(),
        ])
        .unwrap();
        assert_eq!(space.points(), 6);
        let point = space.point([("kind", Value::from("b")), ("size", Value::from(40))]).unwrap();
        assert_eq!(point.indices(), [2, 1]);
        assert_eq!(space.describe(&point), "size = 40, kind = b");
        assert_eq!(space.value(&point, "size").unwrap().number(), Some(40.0));
        assert_eq!((space.value(&point, "kind").unwrap().number(), space.value(&point, "x")), (None, None));
        assert!(space.has(&point) && !space.has(&Point(vec![3, 0])) && !space.has(&Point(vec![0])));
    }
}
