//! Workgroup arithmetic, pure.

use crate::error::{Error, Result};

/// Folds a line of `workgroups` into (x, y, 1) with x and y at most `limit`; the kernel recovers
/// the line as `y·x_count + x` (`shaders/shared/line.wgsl`) and drops what is beyond it.
pub(crate) fn fold(workgroups: u64, limit: u32) -> Result<(u32, u32)> {
    let limit = u64::from(limit);
    if workgroups <= limit {
        return Ok((workgroups as u32, 1));
    }
    let y = workgroups.div_ceil(limit);
    if y > limit || workgroups > u64::from(u32::MAX) {
        return Err(Error::too_large(
            "shape",
            format!("{workgroups} workgroups are past this device's {limit} × {limit}"),
        ));
    }
    // The fewest columns that do with y rows, so that less than one row of workgroups has nothing
    // to do.
    Ok((workgroups.div_ceil(y) as u32, y as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_covers_every_workgroup() {
        for limit in [1u32, 7, 65_535] {
            for n in [0u64, 1, 6, 7, 8, 48, 49, 65_535, 65_536, 1 << 20] {
                match fold(n, limit) {
                    Ok((x, y)) => {
                        assert!(x <= limit && y <= limit && u64::from(x) * u64::from(y) >= n);
                        assert!(n == 0 || u64::from(x) * u64::from(y) < n + u64::from(y));
                    }
                    Err(error) => assert!(error.is_too_large() && n > u64::from(limit).pow(2)),
                }
            }
        }
    }
}
