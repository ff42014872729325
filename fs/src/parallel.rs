//! The same work for many things, several at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Does the same for all, at most `at_once` at a time, and returns what came out in their order.
/// After a failure nothing more is begun.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    all: &[T],
    at_once: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if all.len() <= 1 {
        return all.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<R>>> = Mutex::new(all.iter().map(|_| None).collect());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(all.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    let Some(one) = all.get(place) else { break };
                    match work(one) {
                        Ok(result) => done.lock().expect(NO_PANIC)[place] = Some(result),
                        Err(error) => {
                            next.store(all.len(), Relaxed);
                            failed.lock().expect(NO_PANIC).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().expect(NO_PANIC) {
        return Err(error);
    }
    let done = done.into_inner().expect(NO_PANIC);
    Ok(done.into_iter().map(|result| result.expect("all is done")).collect())
}

const NO_PANIC: &str = "nobody panics with this lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_a_failure_ends_it() {
        let numbers: Vec<u32> = (0..100).collect();
        let doubled = in_parallel(&numbers, 4, |n| Ok::<_, u32>(n * 2)).unwrap();
        assert_eq!(doubled, numbers.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(in_parallel(&[] as &[u32], 4, |n| Ok::<_, u32>(*n)).unwrap(), [0; 0]);
        let begun = AtomicUsize::new(0);
        let failed = in_parallel(&numbers, 2, |n| {
            begun.fetch_add(1, Relaxed);
            if *n == 3 { Err(*n) } else { Ok(()) }
        });
        assert_eq!(failed, Err(3));
        assert!(begun.into_inner() < numbers.len(), "the rest is not begun");
    }
}
