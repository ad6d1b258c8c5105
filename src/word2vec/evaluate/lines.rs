//! Files of judgements, line by line.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{Error, Result};

/// Calls `take` with each line that is not empty, without white space at its end; its error is
/// that of the line.
pub(super) fn each(
    mut reader: impl BufRead,
    what: &str,
    mut take: impl FnMut(&str) -> Result<(), String>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        if read.map_err(|error| Error::io(format!("reading {what}"), error))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|error| corrupt(number, error))?.trim_end();
        if !text.is_empty() {
            take(text).map_err(|reason| corrupt(number, reason))?;
        }
    }
    Ok(())
}

fn corrupt(line: u64, reason: impl Display) -> Error {
    Error::corrupt(format!("line {line}: {reason}"))
}

pub(super) fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path);
    file.map(BufReader::new).map_err(|error| Error::io(format!("opening {}", path.display()), error))
}
