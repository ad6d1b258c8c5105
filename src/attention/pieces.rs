//! How a long line of work is cut into dispatches.

/// Work items in a row of the line that cost the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkRun {
    pub(super) items: u64,
    /// The cost of each item.
    pub(super) cost: u64,
}

/// The ends of pieces of a line, of which each costs at most `cap` or is a single item; the last is
/// the end of the line.
pub(super) fn cut(line: &[WorkRun], cap: u64) -> Vec<u64> {
    let mut ends = Vec::new();
    let (mut end, mut begun, mut cost) = (0u64, 0u64, 0u64);
    for run in line {
        let mut left = run.items;
        while left > 0 {
            let fit = (cap.saturating_sub(cost)).checked_div(run.cost).unwrap_or(left).min(left);
            // What is too large by itself has a piece of its own.
            let taken = if fit == 0 && begun == end { 1 } else { fit };
            if taken == 0 {
                ends.push(end);
                (begun, cost) = (end, 0);
                continue;
            }
            end += taken;
            cost = cost.saturating_add(taken.saturating_mul(run.cost));
            left -= taken;
        }
    }
    if begun < end {
        ends.push(end);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(items: u64, cost: u64) -> WorkRun {
        WorkRun { items, cost }
    }

    #[test]
    fn pieces_cover_the_line_within_the_cap() {
        assert_eq!(cut(&[run(4, 10)], 40), [4]);
        assert_eq!(cut(&[run(4, 10)], 39), [3, 4]);
        assert_eq!(cut(&[run(3, 10), run(3, 5)], 20), [2, 5, 6]);
        // Larger than the cap by itself; free; none.
        assert_eq!(cut(&[run(2, 50), run(3, 1)], 20), [1, 2, 5]);
        assert_eq!(cut(&[run(5, 0)], 0), [5]);
        assert_eq!(cut(&[run(2, 7), run(2, 0)], 0), [1, 4]);
        assert_eq!(cut(&[], 10), Vec::<u64>::new());
        assert_eq!(cut(&[run(3, u64::MAX)], u64::MAX), [1, 2, 3]);
    }
}
