//! torch's attention on the CPU, in a process of its own: `torch_attention.py`, which says how long
//! its calls took. It takes part where a Python has torch.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::measure::{Spent, Work};
use crate::problem::{Input, Problem};

/// How query heads that share keys are given to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By its own `enable_gqa`.
    Gqa,
    /// Keys and values are repeated for every query head, before the call.
    Repeated,
    /// The query heads of a KV head are rows of one head, which works for one query.
    Rows,
}

impl Way {
    /// The ways for a problem.
    pub fn of(problem: &Problem) -> &'static [Self] {
        match problem.is_decode() {
            true => &[Self::Gqa, Self::Repeated, Self::Rows],
            false => &[Self::Gqa, Self::Repeated],
        }
    }

    /// The name of it in tables.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Gqa => "SDPA, enable_gqa",
            Self::Repeated => "SDPA, K and V heads repeated beforehand",
            Self::Rows => "SDPA, the query heads of a group as rows of one head",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gqa => "gqa",
            Self::Repeated => "repeated",
            Self::Rows => "rows",
        }
    }
}

/// The version of torch that a Python has; the error says why it has none.
pub fn version(python: &OsStr) -> Result<String> {
    let told = Command::new(python).args(["-c", "import torch; print(torch.__version__)"]).output();
    let told = told.with_context(|| format!("starting {}", python.display()))?;
    let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().last().unwrap_or("").to_owned();
    ensure!(told.status.success(), "{} says: {}", python.display(), last(&told.stderr));
    Ok(last(&told.stdout))
}

/// torch on the CPU.
pub struct Torch {
    child: Child,
    asks: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
    numbers: usize,
}

impl Torch {
    /// Starts a process with the problem's inputs.
    pub fn new(python: &OsStr, problem: &Problem, way: Way, threads: usize) -> Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", include_str!("torch_attention.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let asks = BufWriter::new(child.stdin.take().context("no pipe")?);
        let answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let Problem { heads, kv_heads, q_len, kv_len, dim, .. } = *problem;
        let mut torch = Self { child, asks, answers, numbers: heads * q_len * dim };
        let ask = json!({
            "heads": heads, "kv_heads": kv_heads, "q_len": q_len, "kv_len": kv_len, "dim": dim,
            "threads": threads, "way": way.name(),
        });
        writeln!(torch.asks, "{ask}")?;
        for input in [Input::Queries, Input::Keys, Input::Values] {
            for number in problem.values(input) {
                torch.asks.write_all(&number.to_le_bytes())?;
            }
        }
        torch.asks.flush()?;
        let ready = torch.answer()?;
        ensure!(ready["threads"] == threads, "expected {threads} threads, got {ready}");
        Ok(torch)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("torch's process ended: {}", self.child.wait()?);
        }
        Ok(line)
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("torch's process says {line:?}"))
    }

    fn ask(&mut self, what: &str) -> Result<()> {
        writeln!(self.asks, "{what}")?;
        Ok(self.asks.flush()?)
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Work for Torch {
    fn call(&mut self) -> Result<()> {
        self.timed().map(|_| ())
    }

    /// As it says itself: the way to the other process and back is no part of it.
    fn timed(&mut self) -> Result<Spent> {
        self.ask("call")?;
        let spent = self.answer()?;
        let seconds = |key: &str| spent[key].as_f64().with_context(|| format!("no {key} in {spent}"));
        Ok(Spent { wall: seconds("wall")?, cpu: seconds("cpu")? })
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        self.ask("result")?;
        let line = self.line()?;
        ensure!(line == "ok\n", "torch's process says {line:?}");
        let mut bytes = vec![0; 4 * self.numbers];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is missing is told.
    #[test]
    fn absence_is_named() {
        let none = version(OsStr::new("no-such-python")).unwrap_err();
        assert!(format!("{none:#}").contains("no-such-python"), "{none:#}");
        let problem = Problem::prompt("small", 2, 1, 4, 4);
        assert!(Torch::new(OsStr::new("no-such-python"), &problem, Way::Gqa, 1).is_err());
        // A program that answers nothing.
        assert!(Torch::new(OsStr::new("false"), &problem, Way::Gqa, 1).is_err());
    }
}
