//! One thing wrong at a time: comparison with the oracle has to find each (`mutants`).

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Queries aren't scaled.
    QueriesUnscaled,
    /// The gradient of the log-sum-exp is left out of δ.
    LogSumExpLeftOut,
    /// δ is left out.
    DeltaLeftOut,
    /// Scores have slope 1 whatever their soft-cap and factor.
    NoGains,
    /// The gradient of a slope has the gains of the product.
    SlopeGained,
    /// Rows see the keys that are hidden from them.
    RowsSeeAll,
    /// Keys are seen by the queries that they are hidden from.
    KeysSeenByAll,
    /// Rows don't know their blocks' corrections.
    RowsUncorrected,
    /// Keys don't.
    KeysUncorrected,
    /// Heads have the first one's mask tensor.
    MaskOfFirstHead,
    /// The gradient of a query is turned on instead of back.
    QueryTurnedOn,
    /// That of a key is.
    KeyTurnedOn,
    /// The gradient of a query isn't scaled.
    GradientUnscaled,
    /// The first query that sees a key has no part in its gradient.
    FirstQueryLost,
    /// Of the heads that share a key only the first has a part.
    FirstHeadAlone,
    /// Lists by key block are the next block's.
    NextColumn,
    /// Half the keys of a tile have no gradient.
    HalfTiles,
    /// The gradient of a sink is turned round.
    SinkTurned,
    /// Heads have the first one's rows in the gradient of their slope.
    SlopeOfFirstHead,
}

/// `right`; in the test of mutants `wrong`, where this is what the caller's thread does wrong.
#[inline(always)]
pub(super) fn or<T>(what: Wrong, right: T, wrong: T) -> T {
    if is(what) { wrong } else { right }
}

#[cfg(not(test))]
#[inline(always)]
fn is(_: Wrong) -> bool {
    false
}

#[cfg(test)]
pub(super) use testing::doing;
#[cfg(test)]
use testing::is;

#[cfg(test)]
mod testing {
    use std::cell::Cell;

    use super::Wrong;

    thread_local! {
        static NOW: Cell<Option<Wrong>> = const { Cell::new(None) };
    }

    pub(super) fn is(what: Wrong) -> bool {
        NOW.get() == Some(what)
    }

    /// What `run` gives in a thread that does this wrong.
    pub(in super::super) fn doing<T>(what: Wrong, run: impl FnOnce() -> T) -> T {
        NOW.set(Some(what));
        let got = run();
        NOW.set(None);
        got
    }
}
