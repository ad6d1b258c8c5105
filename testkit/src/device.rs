//! The device that tests run on.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use prflash::{Context, ContextOptions};

/// The device under test. `None` only where a run without one was asked for by name; no adapter is
/// a failure.
///
/// Each test that runs has a context to itself, and hands it with all its pipelines to one that
/// comes later: a device compiles and computes in one thread of its driver, so that tests on one
/// would leave the other cores idle.
pub fn gpu(test: &str) -> Option<Context> {
    if std::env::var_os("PRFLASH_NO_GPU").is_some_and(|value| value != "0") {
        // Past the test harness, which swallows what println! says in a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: PRFLASH_NO_GPU is set");
        return None;
    }
    LEASE.with_borrow_mut(|lease| lease.get_or_insert_with(Lease::new).0.clone())
}

static IDLE: Mutex<Vec<Context>> = Mutex::new(Vec::new());

thread_local! {
    /// A test's thread is its own.
    static LEASE: RefCell<Option<Lease>> = const { RefCell::new(None) };
}

/// A context that is given back when the thread ends.
struct Lease(Option<Context>);

impl Lease {
    fn new() -> Self {
        let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // One that a test left in ruins is of no use to others.
        let alive = std::iter::from_fn(idle).find(|context| context.check_alive().is_ok());
        Self(Some(alive.unwrap_or_else(open)))
    }
}

impl Drop for Lease {
    /// Moved as it is: wgpu's own thread-locals may be gone by now.
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

fn open() -> Context {
    // scripts/test runs some suites again in the other mode.
    let trusted = std::env::var_os("PRFLASH_TRUSTED").is_some_and(|value| value != "0");
    let context = Context::with_options_blocking(&ContextOptions::new().trusted_shaders(trusted)).expect(
        "tests need an adapter: run them through scripts/with-vulkan, or ask for a run without one with PRFLASH_NO_GPU=1",
    );
    println!("device: {}, shaders trusted: {}", context.capabilities(), context.trusts_shaders());
    context
}
