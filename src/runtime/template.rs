//! Kernels' texts, put together from the files of `shaders/`: pieces that others import, and the
//! few directives that WGSL lacks (`shaders/README.md` describes them, for who reads WGSL).
//! Kernels that live in registers need their loops written out, since an array that is indexed at
//! run time doesn't stay in registers on any device.

mod expression;
mod fault;
mod parse;
mod pieces;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use expression::Expression;
pub(crate) use fault::Fault;
use fault::{Place, Result};
use parse::{Block, Line, Node};
pub(crate) use pieces::{Library, PIECES};

/// What directives may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A size, or a condition.
    Number(usize),
    /// A part of a piece's name, as `f16`.
    Word(&'static str),
    /// Numbers that a loop goes through.
    List(Vec<usize>),
}

/// The values by name.
pub(crate) type Values = HashMap<&'static str, Value>;

/// A text without directives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assembled {
    /// The `enable` lines of all pieces, each once: they must stand before everything else.
    pub(crate) enables: String,
    pub(crate) body: String,
}

/// The text of the file `kernel` with everything that it imports, every directive carried out.
pub(crate) fn assemble(library: &Library, kernel: &str, values: &Values) -> Result<Assembled> {
    let mut assembler = Assembler {
        library,
        values,
        loops: Vec::new(),
        words: Vec::new(),
        definitions: HashMap::new(),
        open: Vec::new(),
        imported: HashSet::new(),
        output: Assembled::default(),
    };
    assembler.imported.insert(kernel.to_owned());
    assembler.piece(kernel, Place { file: kernel, number: 0 })?;
    Ok(assembler.output)
}

struct Assembler<'a> {
    library: &'a Library,
    values: &'a Values,
    /// The numbers of the loops around, the innermost last.
    loops: Vec<(String, usize)>,
    /// What the `#insert`s around have said, the innermost last.
    words: Vec<(String, String)>,
    /// The texts that `#let` has given names.
    definitions: HashMap<String, String>,
    /// Pieces that aren't at their end yet.
    open: Vec<String>,
    imported: HashSet<String>,
    output: Assembled,
}

impl Assembler<'_> {
    fn piece(&mut self, name: &str, from: Place<'_>) -> Result<()> {
        let Some((file, text)) = self.library.iter().copied().find(|&(known, _)| known == name) else {
            return from.fault(format_args!("no piece is named {name}"));
        };
        if self.open.iter().any(|open| open == name) {
            let way = self.open.join(" → ");
            return from.fault(format_args!("{name} takes itself in: {way} → {name}"));
        }
        self.open.push(name.to_owned());
        let nodes = parse::parse(file, text)?;
        self.nodes(file, &nodes)?;
        self.open.pop();
        Ok(())
    }

    fn nodes(&mut self, file: &str, nodes: &[Node<'_>]) -> Result<()> {
        nodes.iter().try_for_each(|node| self.node(file, node))
    }

    fn node(&mut self, file: &str, node: &Node<'_>) -> Result<()> {
        match node {
            Node::Text(line) => self.text(line.at(file), line),
            Node::For { loops, block } => self.repeat(file, loops, block),
            Node::If { condition, wanted, block } => {
                let place = Place { file, number: block.line };
                let holds = self.number(condition, place)? != 0;
                self.nodes(file, if holds == *wanted { &block.body } else { &block.otherwise })
            }
            Node::Import(line) => {
                let name = self.substituted(line.text, line.at(file))?;
                if !self.imported.insert(name.clone()) && !self.open.contains(&name) {
                    return Ok(());
                }
                self.output.body.push_str(&format!("\n// {name}.wgsl\n"));
                self.piece(&name, line.at(file))
            }
            Node::Insert { line, words } => {
                let place = line.at(file);
                let name = self.substituted(line.text, place)?;
                let outside = self.words.len();
                let mut said = Vec::with_capacity(words.len());
                for (word, text) in words {
                    said.push(((*word).to_owned(), self.substituted(text, place)?));
                }
                self.words.extend(said);
                self.piece(&name, place)?;
                self.words.truncate(outside);
                Ok(())
            }
            Node::Let { line, name } => {
                self.definitions.insert((*name).to_owned(), line.text.to_owned());
                Ok(())
            }
        }
    }

    fn repeat(&mut self, file: &str, loops: &[(&str, &str)], block: &Block<'_>) -> Result<()> {
        let Some((&(variable, over), inner)) = loops.split_first() else {
            return self.nodes(file, &block.body);
        };
        let numbers = match self.values.get(over) {
            Some(Value::List(list)) => list.clone(),
            _ => (0..self.number(over, Place { file, number: block.line })?).collect(),
        };
        for number in numbers {
            self.loops.push((variable.to_owned(), number));
            self.repeat(file, inner, block)?;
            self.loops.pop();
        }
        Ok(())
    }

    fn text(&mut self, place: Place<'_>, line: &Line<'_>) -> Result<()> {
        let &Line { indent, text, .. } = line;
        let start = text.trim_start();
        if start.starts_with("enable ") {
            if !self.output.enables.lines().any(|line| line == start) {
                self.output.enables.push_str(start);
                self.output.enables.push('\n');
            }
            return Ok(());
        }
        let line = if start.starts_with("//") { text.to_owned() } else { self.substituted(text, place)? };
        self.output.body.push_str(indent);
        self.output.body.push_str(&line);
        self.output.body.push('\n');
        Ok(())
    }

    /// A line with what its `$` stand for.
    fn substituted(&self, text: &str, place: Place<'_>) -> Result<String> {
        let mut output = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            output.push_str(before);
            if let Some(inside) = after.strip_prefix('(') {
                let Some((inside, behind)) = inside.split_once(')') else {
                    return place.fault(format_args!("$({inside} isn't closed"));
                };
                output.push_str(&self.meaning(inside.trim(), place)?);
                rest = behind;
            } else {
                let letter = after.get(..1).unwrap_or_default();
                let Some((_, number)) = self.loops.iter().rev().find(|(name, _)| name == letter) else {
                    return place.fault(format_args!("${letter} is the number of no loop around it"));
                };
                output.push_str(&number.to_string());
                rest = &after[1..];
            }
        }
        output.push_str(rest);
        Ok(output)
    }

    /// What `$(inside)` stands for.
    fn meaning(&self, inside: &str, place: Place<'_>) -> Result<String> {
        if let Some((_, word)) = self.words.iter().rev().find(|(name, _)| name == inside) {
            return Ok(word.clone());
        }
        if let Some(definition) = self.definitions.get(inside) {
            return self.substituted(definition, place);
        }
        if let Some(Value::Word(word)) = self.values.get(inside) {
            return Ok((*word).to_owned());
        }
        Ok(self.number(inside, place)?.to_string())
    }

    /// The value of an expression, as `KEYS`, `c/4` or `GROUP/32*bits`.
    fn number(&self, text: &str, place: Place<'_>) -> Result<usize> {
        let known = |name: &str| {
            let number = self.loops.iter().rev().find(|(variable, _)| variable == name);
            number.map(|&(_, number)| number).or_else(|| match self.values.get(name) {
                Some(Value::Number(number)) => Some(*number),
                _ => None,
            })
        };
        Expression { rest: text, known: &known }.value().or_else(|message| place.fault(message))
    }
}

impl Line<'_> {
    fn at<'a>(&self, file: &'a str) -> Place<'a> {
        Place { file, number: self.number }
    }
}
