//! The kernels that draw a schedule.

use super::params::{FLAG_CAUSAL, ScheduleParams, ScheduleSequence};
use super::random_numbers;
use crate::runtime::program::{Binds, INVOCATIONS, Program};
use crate::runtime::text::{self, Settings};
use crate::sampling::sampler::GpuRule;

/// One of the passes that draw a schedule. All have the same bindings, so that they share their
/// bind groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// `shaders/sampling/schedule_count.wgsl`.
    Count(GpuRule),
    /// `shaders/sampling/schedule_scan.wgsl`.
    Scan,
    /// `shaders/sampling/schedule_fill.wgsl`.
    Fill(GpuRule),
}

impl Draw {
    /// The group of the distance table and the lists, after that of the call.
    pub(crate) const TABLES_GROUP: usize = 1;

    /// Rows of a workgroup: one an invocation.
    pub(crate) const ROWS: usize = INVOCATIONS as usize;

    fn rule(&self) -> Option<GpuRule> {
        match *self {
            Draw::Count(rule) | Draw::Fill(rule) => Some(rule),
            Draw::Scan => None,
        }
    }
}

impl Program for Draw {
    fn label(&self) -> String {
        let rule = match self.rule() {
            Some(GpuRule::Systematic) => "_systematic",
            Some(GpuRule::Bernoulli) => "_bernoulli",
            None => "",
        };
        format!("{}{rule}", self.entry_point())
    }

    fn entry_point(&self) -> &'static str {
        match self {
            Draw::Count(_) => "schedule_count",
            Draw::Scan => "schedule_scan",
            Draw::Fill(_) => "schedule_fill",
        }
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[("ROWS", Self::ROWS)]);
        for (name, number) in
            [("FLAG_CAUSAL", FLAG_CAUSAL), ("PURPOSE", self.rule().map_or(0, GpuRule::purpose))]
        {
            settings.constant(name, number);
        }
        random_numbers(&mut settings);
        if let Some(rule) = self.rule() {
            let rule = match rule {
                GpuRule::Systematic => "systematic",
                GpuRule::Bernoulli => "bernoulli",
            };
            settings.word("RULE", rule);
        }
        text::kernel(&self.label(), "sampling", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![
            Binds::CallParams(size_of::<ScheduleParams>()),
            Binds::CallTable(size_of::<ScheduleSequence>()),
        ];
        vec![call, vec![Binds::Read, Binds::Write]]
    }
}

/// Every pass by every rule.
pub(crate) fn all() -> [Draw; 5] {
    let [systematic, bernoulli] = [GpuRule::Systematic, GpuRule::Bernoulli];
    [
        Draw::Count(systematic),
        Draw::Fill(systematic),
        Draw::Count(bernoulli),
        Draw::Fill(bernoulli),
        Draw::Scan,
    ]
}
