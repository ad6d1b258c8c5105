//! Numbers that a text computes: names and numbers with `*`, `/` and `%` between them, from left to
//! right.

/// An expression, and what its names mean.
pub(super) struct Expression<'a> {
    pub(super) rest: &'a str,
    pub(super) known: &'a dyn Fn(&str) -> Option<usize>,
}

impl Expression<'_> {
    /// The number, or what is wrong.
    pub(super) fn value(mut self) -> Result<usize, String> {
        let mut value = self.operand()?;
        while let Some(sign) = self.rest.chars().next() {
            self.rest = &self.rest[sign.len_utf8()..];
            let operand = self.operand()?;
            let next = match sign {
                '*' => value.checked_mul(operand),
                '/' => value.checked_div(operand),
                '%' => value.checked_rem(operand),
                _ => return Err(format!("{sign} is no sign between numbers")),
            };
            value = next.ok_or_else(|| format!("{value}{sign}{operand} is no number"))?;
        }
        Ok(value)
    }

    fn operand(&mut self) -> Result<usize, String> {
        let text = self.rest.trim_start();
        let length = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(length);
        self.rest = rest.trim_start();
        if name.is_empty() {
            return Err("a number is missing".to_owned());
        }
        let number = name.parse().ok().or_else(|| (self.known)(name));
        number.ok_or_else(|| format!("{name} is no number that is known here"))
    }
}
