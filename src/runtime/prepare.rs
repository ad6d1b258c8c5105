//! Waiting for pipelines that are being compiled.

use std::sync::Arc;

use super::context::Context;
use super::program::Pipeline;
use crate::error::Result;

/// How far the compiling of a plan's pipelines is: [`Plan::prepare`](crate::Plan::prepare).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compiling<'a> {
    /// Pipelines that are ready.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// The name of the one that is waited for; empty once all are ready.
    pub waiting_for: &'a str,
}

impl Context {
    /// Ready once these pipelines are; tells before the first, and after each.
    pub(crate) async fn prepare(
        &self,
        pipelines: impl IntoIterator<Item = &Arc<Pipeline>>,
        mut progress: impl FnMut(Compiling<'_>),
    ) -> Result<()> {
        let mut distinct: Vec<&Arc<Pipeline>> = Vec::new();
        for pipeline in pipelines {
            if !distinct.iter().any(|other| Arc::ptr_eq(other, pipeline)) {
                distinct.push(pipeline);
            }
        }
        let total = distinct.len();
        for (done, pipeline) in distinct.into_iter().enumerate() {
            progress(Compiling { done, total, waiting_for: &pipeline.label });
            self.late().settled(pipeline.ticket).await;
        }
        self.known_errors()?;
        progress(Compiling { done: total, total, waiting_for: "" });
        Ok(())
    }
}
