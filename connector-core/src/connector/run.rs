//! The leading run of a batch: an engine can use the chunks of a prompt up to the first one that is missing.

use crate::Result;
use crate::key::CacheKey;

/// The values before the first one that is missing or an error.
///
/// # Errors
/// The first answer's error. A later one ends the run.
pub fn leading_run<T>(answers: impl IntoIterator<Item = Result<Option<T>>>) -> Result<Vec<T>> {
    let answers = answers.into_iter();
    let mut run = Vec::with_capacity(answers.size_hint().0);
    for answer in answers {
        match answer {
            Ok(Some(value)) => run.push(value),
            Err(e) if run.is_empty() => return Err(e),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(run)
}

/// The number of keys in [`count_run`]'s first call. Each further call asks for twice as many, up to [`MOST_ASKED`].
const FIRST_ASKED: usize = 256;
/// The most keys of one call. A longer call saves few round trips, and asks for more answers that the run may not need.
const MOST_ASKED: usize = 4096;

/// The length of the leading run of keys that exist. `exists` answers a part of the keys, in order: 256 first, and then
/// twice as many each time. So a prompt of 256 chunks takes one call, and a long batch stops soon after its first miss.
///
/// # Errors
/// The first key's error. A later one ends the run.
pub async fn count_run<'k, F>(keys: &'k [CacheKey], mut exists: impl FnMut(&'k [CacheKey]) -> F) -> Result<usize>
where
    F: Future<Output = Vec<Result<bool>>>,
{
    let (mut run, mut asked) = (0, FIRST_ASKED);
    while run < keys.len() {
        let part = &keys[run..keys.len().min(run + asked)];
        let answers = exists(part).await.into_iter();
        let found = match leading_run(answers.map(|answer| answer.map(|exists| exists.then_some(())))) {
            Err(e) if run == 0 => return Err(e),
            found => found.map_or(0, |found| found.len()),
        };
        run += found.min(part.len());
        if found < part.len() {
            break;
        }
        asked = (asked * 2).min(MOST_ASKED);
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    fn keys(n: usize) -> Vec<CacheKey> {
        (0..n).map(|n| format!("m@1@0@{n:x}@half").parse().unwrap()).collect()
    }

    fn no() -> Error {
        Error::new(ErrorKind::Corrupt, "short")
    }

    #[test]
    fn a_run_ends_at_a_hole_or_at_a_later_error() {
        assert_eq!(leading_run([Ok(Some(1)), Ok(Some(2)), Ok(None), Ok(Some(3))]).unwrap(), [1, 2]);
        assert_eq!(leading_run([Ok(Some(1)), Err(no()), Ok(Some(3))]).unwrap(), [1]);
        assert_eq!(leading_run([Err(no()), Ok(Some(1))]).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(leading_run::<()>([]).unwrap(), []);
    }

    /// Counts a run whose first `stored` keys exist. Gives the count, and how many keys each call asked for.
    async fn count(n: usize, stored: usize) -> (usize, Vec<usize>) {
        let (keys, mut asked, mut from) = (keys(n), Vec::new(), 0);
        let run = count_run(&keys, |part| {
            let answers: Vec<_> = (from..from + part.len()).map(|at| Ok(at < stored)).collect();
            asked.push(part.len());
            from += part.len();
            async { answers }
        });
        let run = run.await.unwrap();
        (run, asked)
    }

    #[tokio::test]
    async fn a_long_batch_is_asked_for_in_growing_parts_that_stop_after_a_miss() {
        assert_eq!(count(0, 0).await, (0, vec![]));
        assert_eq!(count(64, 64).await, (64, vec![64]));
        assert_eq!(count(10_000, 5).await, (5, vec![256]));
        assert_eq!(count(10_000, 256).await, (256, vec![256, 512]));
        assert_eq!(count(10_000, 300).await, (300, vec![256, 512]));
        assert_eq!(count(10_000, 10_000).await, (10_000, vec![256, 512, 1024, 2048, 4096, 2064]));
    }

    #[tokio::test]
    async fn only_the_first_keys_error_is_the_answer() {
        let keys = keys(300);
        let failed = |at: usize| {
            let mut from = 0;
            count_run(&keys, move |part| {
                let answers = (from..from + part.len()).map(|n| if n == at { Err(no()) } else { Ok(true) }).collect();
                from += part.len();
                async { answers }
            })
        };
        assert_eq!(failed(0).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!((failed(7).await.unwrap(), failed(256).await.unwrap()), (7, 256));
    }
}
