//! The few directives that WGSL lacks: kernels that live in registers need their loops written out,
//! since an array that is indexed at run time doesn't stay in registers on any device.
//!
//! ```text
//! #for t in KEYS      the lines up to #end once for each t in 0..KEYS; `$t` becomes the number
//! #if STAGED          the lines up to #else or #end if STAGED isn't 0
//! $(t/4) $(t%4)       quotient and remainder of a loop's number; the divisor may be a name
//! ```
//!
//! Names of loop variables are one letter, so that `s$r_$t` needs no braces. Anything else is
//! copied as it is.

use std::collections::HashMap;

/// The numbers that directives may name.
pub(crate) type Numbers = HashMap<&'static str, usize>;

/// Expands every directive of `text`. A directive that isn't understood is copied, and then no WGSL
/// compiler accepts the result.
pub(crate) fn expand(text: &str, numbers: &Numbers) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut output = String::with_capacity(4 * text.len());
    expand_lines(&lines, numbers, &mut Vec::new(), &mut output);
    output
}

fn expand_lines(lines: &[&str], numbers: &Numbers, bound: &mut Vec<(char, usize)>, output: &mut String) {
    let mut at = 0;
    while let Some(&line) = lines.get(at) {
        at += 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#for", variable, "in", count] if variable.len() == 1 && numbers.contains_key(count) => {
                let (body, _, next) = block(lines, at);
                for value in 0..numbers[count] {
                    bound.push((variable.chars().next().unwrap_or_default(), value));
                    expand_lines(body, numbers, bound, output);
                    bound.pop();
                }
                at = next;
            }
            ["#if", condition] if numbers.contains_key(condition) => {
                let (body, otherwise, next) = block(lines, at);
                let taken = if numbers[condition] != 0 { body } else { otherwise };
                expand_lines(taken, numbers, bound, output);
                at = next;
            }
            _ => {
                let mut line = line.to_owned();
                for (variable, value) in bound.iter() {
                    line = line.replace(&format!("${variable}"), &value.to_string());
                    line = divided(line, *variable, *value, numbers);
                }
                output.push_str(&line);
                output.push('\n');
            }
        }
    }
}

/// `$(t/4)` and `$(t%4)` as numbers.
fn divided(mut line: String, variable: char, value: usize, numbers: &Numbers) -> String {
    for (sign, of) in [('/', usize::div_euclid as fn(usize, usize) -> usize), ('%', usize::rem_euclid)] {
        let opening = format!("$({variable}{sign}");
        while let Some((start, length, divisor)) = line.find(&opening).and_then(|start| {
            let number = &line[start + opening.len()..];
            let (number, _) = number.split_once(')')?;
            let divisor = number.parse().ok().or_else(|| numbers.get(number).copied());
            let divisor = divisor.filter(|&divisor| divisor > 0)?;
            Some((start, opening.len() + number.len() + 1, divisor))
        }) {
            line.replace_range(start..start + length, &of(value, divisor).to_string());
        }
    }
    line
}

/// The lines of a block that begins at `start`, those after its `#else`, and where to go on after
/// its `#end`.
fn block<'a, 'b>(lines: &'a [&'b str], start: usize) -> (&'a [&'b str], &'a [&'b str], usize) {
    let mut depth = 0;
    let mut otherwise = None;
    for (at, line) in lines.iter().enumerate().skip(start) {
        match line.split_whitespace().next() {
            Some("#for" | "#if") => depth += 1,
            Some("#else") if depth == 0 => otherwise = Some(at),
            Some("#end") if depth == 0 => {
                let body = &lines[start..otherwise.unwrap_or(at)];
                let rest = otherwise.map_or(&lines[0..0], |other| &lines[other + 1..at]);
                return (body, rest, at + 1);
            }
            Some("#end") => depth -= 1,
            _ => {}
        }
    }
    (&lines[start..], &lines[0..0], lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_nest_and_conditions_choose() {
        let text = "a\n#for r in R\n#for t in T\ns$r_$t\n#end\n#if ON\nyes $r\n#else\nno\n#end\n#end\n#if OFF\nx\n#else\ny\n#end\nb";
        let numbers = Numbers::from([("R", 2), ("T", 2), ("ON", 1), ("OFF", 0)]);
        assert_eq!(expand(text, &numbers), "a\ns0_0\ns0_1\nyes 0\ns1_0\ns1_1\nyes 1\ny\nb\n");
    }

    #[test]
    fn numbers_divide() {
        let numbers = Numbers::from([("T", 6)]);
        let expanded = expand("#for t in T\n$(t/4).$(t%4)\n#end\n", &numbers);
        assert_eq!(expanded, "0.0\n0.1\n0.2\n0.3\n1.0\n1.1\n");
        let numbers = Numbers::from([("T", 3), ("TWO", 2)]);
        assert_eq!(expand("#for t in T\n$(t/TWO)$(t%TWO)\n#end\n", &numbers), "00\n01\n10\n");
        assert_eq!(expand("#for t in T\n$(t/0)\n#end\n", &Numbers::from([("T", 1)])), "$(t/0)\n");
    }

    #[test]
    fn what_is_not_understood_stays_and_breaks_the_shader() {
        assert_eq!(expand("#for t in NOBODY\n", &Numbers::new()), "#for t in NOBODY\n");
    }
}
