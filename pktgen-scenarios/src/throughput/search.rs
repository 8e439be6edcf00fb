//! The search for the highest rate without loss (RFC 2544 26.1), apart from how a trial is made.

/// Limits of a search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    /// It ends when the highest rate that passed and the lowest that failed are no further apart than this part of the
    /// latter, such as 0.01.
    pub resolution: f64,
    /// How often a rate must pass, one after the other, to be the result.
    pub repeats: u32,
    /// Trials at most.
    pub max_trials: u32,
}

impl Search {
    /// The highest rate that passes, from 0 to `max`: `max` itself first, then the middle between the highest that passed
    /// and the lowest that failed. A rate that passes once and fails when repeated has failed. None if no rate passed as
    /// often as it must within the number of trials.
    ///
    /// # Errors
    /// Those of `trial`.
    pub fn highest<E>(&self, max: f64, mut trial: impl FnMut(f64) -> Result<bool, E>) -> Result<Option<f64>, E> {
        let mut left = self.max_trials;
        let mut passed = vec![0.0];
        let mut failed: Option<f64> = None;
        let mut rate = max;
        while left > 0 && rate > 0.0 {
            left -= 1;
            if trial(rate)? {
                passed.push(rate);
            } else {
                failed = Some(rate);
            }
            loop {
                let best = passed.last().copied().unwrap_or_default();
                let ceiling = failed.unwrap_or(max);
                if ceiling - best > self.resolution * ceiling {
                    rate = best + (ceiling - best) / 2.0;
                    break;
                }
                if best <= 0.0 {
                    return Ok(None);
                }
                // Close enough. Once more, as often as it takes.
                let mut repeats = 1;
                while repeats < self.repeats && left > 0 && failed != Some(best) {
                    left -= 1;
                    if trial(best)? {
                        repeats += 1;
                    } else {
                        failed = Some(best);
                    }
                }
                if failed != Some(best) {
                    return Ok((repeats >= self.repeats).then_some(best));
                }
                passed.pop();
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const SEARCH: Search = Search { resolution: 0.01, repeats: 3, max_trials: 40 };

    fn highest(search: Search, max: f64, mut trial: impl FnMut(f64) -> bool) -> (Option<f64>, Vec<f64>) {
        let mut rates = Vec::new();
        let found = search.highest(max, |rate| {
            rates.push(rate);
            Ok::<_, Infallible>(trial(rate))
        });
        (found.unwrap(), rates)
    }

    #[test]
    fn the_highest_of_all_is_tried_first() {
        assert_eq!(highest(SEARCH, 1e6, |_| true), (Some(1e6), vec![1e6; 3]));
    }

    #[test]
    fn what_always_loses_has_no_rate() {
        let (found, rates) = highest(SEARCH, 1e6, |_| false);
        assert_eq!(found, None);
        assert!(rates.len() <= 40);
    }

    #[test]
    fn a_rate_that_fails_when_repeated_is_not_the_result() {
        let mut tried = 0;
        let (found, _) = highest(SEARCH, 1e6, |rate| {
            tried += u32::from(rate == 1e6);
            rate < 9e5 || (rate == 1e6 && tried < 2)
        });
        let found = found.unwrap();
        assert!(found < 9e5 && found > 8.8e5, "{found}");
    }

    proptest! {
        #[test]
        fn the_limit_is_found_within_the_resolution(
            limit in 1.0f64..1e7, max in 1.0f64..1e7, resolution in 0.001f64..0.3, repeats in 1u32..4
        ) {
            let search = Search { resolution, repeats, max_trials: 100 };
            let (found, rates) = highest(search, max, |rate| rate <= limit);
            prop_assert!(rates.len() <= 100);
            let found = found.unwrap();
            prop_assert!(found <= limit);
            prop_assert!(found >= limit.min(max) * (1.0 - resolution) - f64::EPSILON, "{found} of {limit}, at most {max}");
            prop_assert_eq!(rates.iter().filter(|rate| **rate == found).count(), repeats as usize);
        }

        #[test]
        fn whatever_trials_say_it_ends_within_its_bound(answers: Vec<bool>, max in 1.0f64..1e7, max_trials in 1u32..50) {
            let mut answers = answers.into_iter().cycle();
            let search = Search { max_trials, ..SEARCH };
            let (found, rates) = highest(search, max, |_| answers.next().unwrap_or_default());
            prop_assert!(rates.len() <= max_trials as usize);
            if let Some(found) = found {
                let last: Vec<f64> = rates.iter().rev().take_while(|rate| **rate == found).copied().collect();
                prop_assert!(!last.is_empty() && rates.iter().all(|rate| *rate <= max));
            }
        }
    }
}
