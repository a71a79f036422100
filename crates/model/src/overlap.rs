//! Preparing the next block of inputs while the present one is computed.
//!
//! In:  blocks, how one is prepared, what is done with it. Out: the results, in order.
//! Both run on the threads of `rayon` and share them: whatever is idle helps the other. At most two prepared
//! blocks exist at a time. Not here: what a block is (`model`).

/// Calls `work` with every prepared block in turn and ends with its first error.
pub(crate) fn overlapped<B: Send, P: Send, R: Send, E: Send>(
    mut blocks: impl Iterator<Item = B>,
    prepare: impl Fn(B) -> P + Sync,
    mut work: impl FnMut(P) -> Result<R, E> + Send,
) -> Result<Vec<R>, E> {
    let mut results = Vec::with_capacity(blocks.size_hint().0);
    let mut ready = blocks.next().map(&prepare);
    while let Some(present) = ready {
        let next = blocks.next();
        let (result, prepared) = rayon::join(|| work(present), || next.map(&prepare));
        results.push(result?);
        ready = prepared;
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A prepared block that counts how many of its kind there are.
    struct Counted<'a>(usize, &'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn results_keep_their_order_and_two_blocks_are_held() {
        for n in 0..20 {
            let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let prepare = |i| {
                most.fetch_max(1 + alive.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                Counted(i, &alive)
            };
            let found = overlapped(0..n, prepare, |block| Ok::<_, ()>(block.0 * 2));
            assert_eq!(found, Ok((0..n).map(|i| i * 2).collect::<Vec<_>>()));
            assert!(most.into_inner() <= 2);
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let seen = AtomicUsize::new(0);
        let work = |i| {
            seen.fetch_add(1, Ordering::SeqCst);
            if i < 3 { Ok(i) } else { Err(i) }
        };
        assert_eq!(overlapped(0..9, |i| i, work), Err(3));
        assert_eq!(seen.into_inner(), 4);
    }
}
