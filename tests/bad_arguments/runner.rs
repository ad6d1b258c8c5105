//! Cases run in a process of their own, with bounds on time and memory: an abort, a hang or running
//! out of memory ends that process, and this one tells in which case.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::numbers::Numbers;

/// Tells the child what to run.
const CHILD: &str = "PRFLASH_BAD_ARGUMENTS_CHILD";
/// A step that takes longer hangs. Machines of a CI are slow, and busy.
const STEP: Duration = Duration::from_secs(30);

/// A group of cases.
pub struct Suite {
    pub name: &'static str,
    /// Cases of a run, unless `PRFLASH_CASES` says how many times as many.
    pub cases: usize,
    /// The bytes of address space.
    pub bytes: u64,
    /// Starts the child by cargo's runner, where there is one (scripts/with-vulkan has one that
    /// finds the device).
    pub runner: bool,
    pub run: fn(&mut Case),
}

/// One case: its numbers, and the record of what is done with them.
pub struct Case {
    pub numbers: Numbers,
}

impl Case {
    /// Written out before it is done, so that it is known if nothing comes after it.
    pub fn tell(&self, step: fmt::Arguments<'_>) {
        let mut out = std::io::stdout().lock();
        // Without a reader there is nobody to tell.
        let _ = writeln!(out, "{step}");
        let _ = out.flush();
    }
}

/// Says what comes next in a case.
macro_rules! tell {
    ($case:expr, $($text:tt)+) => { $case.tell(format_args!($($text)+)) };
}
pub(crate) use tell;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is '{text}'; expected a number")),
        Err(_) => otherwise,
    }
}

impl Suite {
    /// In this process: all cases if it is the child that [`check`](Suite::check) has started,
    /// nothing otherwise.
    pub fn run_if_child(&self) {
        let Ok(text) = std::env::var(CHILD) else { return };
        let mut words = text.split(' ');
        if words.next() != Some(self.name) {
            return;
        }
        let [seed, first, end] = [(); 3].map(|()| words.next().unwrap().parse::<u64>().unwrap());
        limit_memory(self.bytes);
        for index in first..end {
            println!("case {index}");
            let numbers = Numbers::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index));
            (self.run)(&mut Case { numbers });
        }
        println!("done");
    }

    /// Starts the child and watches it.
    ///
    /// # Panics
    /// If a case panicked, aborted, hung, or took more memory than it may; the message has its
    /// steps.
    pub fn check(&self) {
        let seed = number("PRFLASH_SEED", 1);
        let first = number("PRFLASH_FIRST_CASE", 0);
        let end = first + self.cases as u64 * number("PRFLASH_CASES", 1);
        println!("{}: cases {first} to {end} of seed {seed}", self.name);
        // `current_exe` is a loader under scripts/with-vulkan.
        let program = std::env::args_os().next().unwrap();
        let mut runner = if self.runner { runner() } else { Vec::new() }.into_iter();
        let mut command = match runner.next() {
            Some(first) => Command::new(first),
            None => Command::new(&program),
        };
        if self.runner && command.get_program() != program {
            command.args(runner).arg(&program);
        }
        let mut child = command
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
            .env(CHILD, format!("{} {seed} {first} {end}", self.name))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?}: {error}"));
        let (sender, steps) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            // What a case prints need not be text.
            out.split(b'\n').map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let mut errors = child.stderr.take().unwrap();
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut told: VecDeque<String> = VecDeque::new();
        let (mut done, mut hung, mut slowest) = (false, false, (Duration::ZERO, String::new()));
        let started = Instant::now();
        let mut last = started;
        loop {
            match steps.recv_timeout(STEP) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if last.elapsed() > slowest.0 {
                        slowest = (last.elapsed(), told.back().cloned().unwrap_or_default());
                    }
                    last = Instant::now();
                    if line.starts_with("case ") {
                        told.clear();
                    }
                    done |= line == "done";
                    told.push_back(line);
                    // A case with many steps: its last ones.
                    if told.len() > 200 {
                        told.remove(1);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    hung = true;
                    let _ = child.kill();
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().unwrap();
        let _ = reader.join();
        let complaints = complaints.join().unwrap_or_default();
        if done && status.success() {
            println!(
                "{}: {:?}; the slowest step, {:?}: {}",
                self.name,
                started.elapsed(),
                slowest.0,
                slowest.1
            );
            return;
        }
        let how = if hung { format!("a step took more than {STEP:?}") } else { format!("{status}") };
        let steps = told.into_iter().collect::<Vec<_>>().join("\n  ");
        panic!("{}, seed {seed}: {how}\n  {steps}\n{complaints}", self.name);
    }
}

/// The words of cargo's runner, if one is set by an environment variable.
fn runner() -> Vec<String> {
    let triple = format!("CARGO_TARGET_{}_", std::env::consts::ARCH.to_uppercase());
    let runner = std::env::vars().find(|(name, _)| name.starts_with(&triple) && name.ends_with("_RUNNER"));
    runner.map_or(Vec::new(), |(_, words)| words.split_whitespace().map(str::to_owned).collect())
}

/// Where memory can be bounded (macOS takes the bound and doesn't keep it): past it allocations
/// fail, which aborts.
#[cfg(unix)]
fn limit_memory(bytes: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::As).maximum;
    let current = Some(maximum.map_or(bytes, |maximum| bytes.min(maximum)));
    setrlimit(Resource::As, Rlimit { current, maximum }).unwrap();
}

/// Elsewhere it isn't.
#[cfg(not(unix))]
fn limit_memory(_: u64) {}
