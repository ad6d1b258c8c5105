//! Arguments that no caller should give, to every public constructor and query: a typed error or an
//! answer, never a panic, an abort or a hang.
//!
//! `host` and `device` start this program again, as a child with bounds on time and memory that
//! makes up numbers and tells every step before it is taken (`runner.rs`). A failure prints the
//! steps of its case; `PRFLASH_SEED` and `PRFLASH_FIRST_CASE` start there again. `PRFLASH_CASES=10`
//! runs ten times as many.
//!
//! Work that is proportional to what was asked for is asked for in small amounts only: what is
//! tested of large amounts is that they are refused, or cost nothing.

mod caches;
mod content;
mod device;
mod known;
#[cfg(feature = "native")]
mod native;
mod numbers;
mod positions;
mod runner;
mod sampling;
mod sizes;
mod weights;

#[path = "../common/mod.rs"]
mod common;

use runner::{Case, Suite};

/// Without a device.
const HOST: Suite = Suite { name: "host", cases: 10_000, bytes: 4 << 30, runner: false, run: host_case };

/// On the device, whose driver is a compiler too.
const DEVICE: Suite = Suite { name: "device", cases: 400, bytes: 24 << 30, runner: true, run: device::case };

fn host_case(case: &mut Case) {
    const AREAS: &[fn(&mut Case)] = &[
        sizes::shapes,
        sizes::layouts,
        sizes::types,
        sizes::grids,
        sizes::attention,
        sizes::documents,
        sizes::masks,
        sizes::pages,
        sizes::tables,
        sizes::calls,
        sizes::kernels,
        sampling::profiles,
        sampling::rows,
        sampling::schedules,
        sampling::schedules,
        sampling::lists,
        sampling::rounds,
        sampling::reshaping,
        sampling::frequencies,
        content::summaries,
        content::probes,
        content::scores,
        content::scores,
        content::grids_too_large,
        content::estimates,
        positions::ropes,
        positions::long_ropes,
        positions::biases,
        positions::positions,
        caches::ladders,
        caches::layer_plans,
        caches::balances,
        caches::standings,
        caches::standings,
        caches::standings,
        caches::codes,
        caches::operations,
        caches::operations,
        caches::files,
        weights::calibrations,
        weights::references,
        #[cfg(feature = "native")]
        native::calls,
        #[cfg(feature = "native")]
        native::merges,
    ];
    let area = case.numbers.below(AREAS.len());
    AREAS[area](case);
}

#[test]
fn host() {
    HOST.check();
}

#[test]
fn device() {
    if common::gpu("bad arguments on the device").is_some() {
        DEVICE.check();
    }
}

#[test]
#[ignore = "what the other tests start as a process of its own"]
fn child() {
    HOST.run_if_child();
    DEVICE.run_if_child();
}
