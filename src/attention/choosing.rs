//! Which kernel a plan gets: what was asked for, what was measured to be fastest, else the rule;
//! what needs a trial on the device only once it has passed.

use super::plan::Plan;
use super::prepared::Prepared;
use super::wanted::Wanted;
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::Kernel;
use crate::error::Result;

/// A plan for what is wanted.
pub(super) fn plan(wanted: &Wanted<'_>) -> Result<Plan> {
    let (kernel, reason) = match wanted.options.kernel() {
        Some(kernel) => (kernel, "PlanOptions::with_kernel asked for it".to_owned()),
        None => choose(wanted, &wanted.task()),
    };
    Prepared::new(wanted, kernel, reason).map(Plan::of)
}

/// The kernel for a task, and why.
fn choose(wanted: &Wanted<'_>, task: &Task) -> (Kernel, String) {
    let capabilities = wanted.context.capabilities();
    // Measurements are of rows.
    let tuning = wanted.options.tuning().filter(|_| !task.paged);
    let tuned = tuning.and_then(|tuning| tuning.choice(capabilities, task));
    let tuned =
        tuned.map(|kernel| (kernel, "measured to be the fastest: PlanOptions::with_tuning".to_owned()));
    let mut wrong = String::new();
    let mut last = (Kernel::Naive, String::new());
    for (kernel, reason) in tuned.into_iter().chain(Kernel::choices(capabilities, task)) {
        last = (kernel, format!("{wrong}{reason}"));
        if !kernel.needs_trial() {
            break;
        }
        #[cfg(not(target_arch = "wasm32"))]
        let found = super::trial::wrong_once(wanted.context, kernel, task);
        #[cfg(target_arch = "wasm32")]
        let found = Some(format!("a browser can't wait for the self-check of {kernel}"));
        match found {
            None => break,
            Some(found) => wrong.push_str(&format!("{found}; ")),
        }
    }
    last
}
