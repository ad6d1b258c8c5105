//! The lines of a file as what they say: text, directives, and what is between a directive and its
//! end.

use super::fault::{Place, Result};

/// A line, or what a directive says behind its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) number: usize,
    /// What stands before a text that follows a colon.
    pub(super) indent: &'a str,
    pub(super) text: &'a str,
}

/// What stands between a directive and its end.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// The line of the directive.
    pub(super) line: usize,
    pub(super) body: Vec<Node<'a>>,
    /// The nodes after `#else`.
    pub(super) otherwise: Vec<Node<'a>>,
}

#[derive(Debug)]
pub(super) enum Node<'a> {
    Text(Line<'a>),
    /// `#for r in ROWS, t in KEYS`: variables and what they go through.
    For {
        loops: Vec<(&'a str, &'a str)>,
        block: Block<'a>,
    },
    /// `#if` and `#unless`.
    If {
        condition: &'a str,
        wanted: bool,
        block: Block<'a>,
    },
    /// `#import name`
    Import(Line<'a>),
    /// `#insert name with word = text, word = text`
    Insert {
        line: Line<'a>,
        words: Vec<(&'a str, &'a str)>,
    },
    /// `#let name = text`
    Let {
        line: Line<'a>,
        name: &'a str,
    },
}

/// A directive whose end hasn't come.
struct Open<'a> {
    /// The directive as it stands in the file.
    head: &'a str,
    node: Node<'a>,
    in_otherwise: bool,
}

impl<'a> Open<'a> {
    fn block(&mut self) -> Option<&mut Block<'a>> {
        match &mut self.node {
            Node::For { block, .. } | Node::If { block, .. } => Some(block),
            _ => None,
        }
    }

    fn line(&self) -> usize {
        match &self.node {
            Node::For { block, .. } | Node::If { block, .. } => block.line,
            _ => 0,
        }
    }

    /// The names in the directive's head, by which its end may be called: of a condition, or of
    /// loops and what they go through.
    fn is_called(&self, name: &str) -> bool {
        self.head.split([' ', ',']).skip(1).any(|word| word == name)
    }
}

/// The nodes of a file.
pub(super) fn parse<'a>(file: &str, text: &'a str) -> Result<Vec<Node<'a>>> {
    let mut top = Vec::new();
    let mut open: Vec<Open<'a>> = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let place = Place { file, number };
        let start = text.trim();
        let node = if !start.starts_with('#') {
            Node::Text(Line { number, indent: "", text })
        } else if let Some(name) = word_after(start, "#end") {
            let Some(closed) = open.pop() else {
                return place.fault("#end closes nothing");
            };
            if !name.is_empty() && !closed.is_called(name) {
                let line = closed.line();
                return place.fault(format_args!("#end {name} closes {} of line {line}", closed.head));
            }
            closed.node
        } else if let Some(rest) = word_after(start, "#else") {
            match open.last_mut() {
                Some(open)
                    if rest.is_empty() && !open.in_otherwise && matches!(open.node, Node::If { .. }) =>
                {
                    open.in_otherwise = true;
                    continue;
                }
                _ => return place.fault(format_args!("{start} belongs to no #if")),
            }
        } else {
            match directive(place, text)? {
                Parsed::Whole(node) => node,
                Parsed::Opens(head, node) => {
                    open.push(Open { head, node, in_otherwise: false });
                    continue;
                }
            }
        };
        push(&mut top, &mut open, node);
    }
    match open.last() {
        Some(last) => Place { file, number: last.line() }.fault(format_args!("{} has no #end", last.head)),
        None => Ok(top),
    }
}

fn push<'a>(top: &mut Vec<Node<'a>>, open: &mut [Open<'a>], node: Node<'a>) {
    let Some(last) = open.last_mut() else {
        top.push(node);
        return;
    };
    let in_otherwise = last.in_otherwise;
    if let Some(block) = last.block() {
        if in_otherwise { block.otherwise.push(node) } else { block.body.push(node) }
    }
}

/// What follows a directive's name, if it is that one.
fn word_after<'a>(line: &'a str, directive: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(directive)?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim())
}

enum Parsed<'a> {
    Whole(Node<'a>),
    /// With the directive as it stands there.
    Opens(&'a str, Node<'a>),
}

/// Every directive but `#else` and `#end`.
fn directive<'a>(place: Place<'_>, text: &'a str) -> Result<Parsed<'a>> {
    let line = text.trim();
    let indent = &text[..text.len() - text.trim_start().len()];
    let whole = |node| Ok(Parsed::Whole(node));
    let at = |text| Line { number: place.number, indent, text };
    if let Some(name) = word_after(line, "#import") {
        return whole(Node::Import(at(name)));
    }
    if let Some(rest) = word_after(line, "#insert") {
        let (name, words) = rest.split_once(" with ").unwrap_or((rest, ""));
        let words = words.split(", ").filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('='));
        let words = words.map(|pair| pair.map(|(word, text)| (word.trim(), text.trim())));
        return match words.collect() {
            Some(words) => whole(Node::Insert { line: at(name.trim()), words }),
            None => place.fault(format_args!("{line}: expected #insert name with word = text, …")),
        };
    }
    if let Some(rest) = word_after(line, "#let") {
        return match rest.split_once('=') {
            Some((name, text)) => whole(Node::Let { line: at(text.trim()), name: name.trim() }),
            None => place.fault(format_args!("{line}: expected #let name = text")),
        };
    }
    // A line behind a colon is all of the block.
    let (head, only) = match line.split_once(':') {
        Some((head, only)) => (head.trim(), Some(only.trim())),
        None => (line, None),
    };
    let body = match only {
        None => Vec::new(),
        Some(text) if !text.starts_with('#') => vec![Node::Text(at(text))],
        Some(text) => match directive(place, text)? {
            Parsed::Whole(node) => vec![node],
            Parsed::Opens(head, _) => return place.fault(format_args!("{head} stands in a line's middle")),
        },
    };
    let block = Block { line: place.number, body, otherwise: Vec::new() };
    let node = if let Some(loops) = word_after(head, "#for") {
        let loops = loops.split(',').map(|each| each.split_once(" in "));
        let loops = loops.map(|each| each.map(|(name, over)| (name.trim(), over.trim())));
        match loops.collect() {
            Some(loops) => Node::For { loops, block },
            None => return place.fault(format_args!("{line}: expected #for name in NUMBER, …")),
        }
    } else if let Some(condition) = word_after(head, "#if") {
        Node::If { condition, wanted: true, block }
    } else if let Some(condition) = word_after(head, "#unless") {
        Node::If { condition, wanted: false, block }
    } else {
        return place.fault(format_args!("{line} is no directive"));
    };
    if only.is_some() { whole(node) } else { Ok(Parsed::Opens(head, node)) }
}
