//! Which rule of a script is in force for a request.
//!
//! Rules stand in order; the first that is in force decides. A rule can be limited to a number of requests, to a span of
//! time and to a percentage that depends on its seed and the request's number only: the same script treats the same
//! sequence of requests the same way. Pure but for the instant at which the schedule began.

use std::time::{Duration, Instant};

/// A fate, and for which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule<F> {
    /// What happens to the request.
    pub fate: F,
    /// How many requests it takes at most.
    pub times: Option<u32>,
    /// In force from then on, counted from the start of the schedule.
    pub from: Duration,
    /// In force until then.
    pub to: Option<Duration>,
    /// How many of a hundred requests it takes, by chance.
    pub percent: u8,
    /// Seed of that chance.
    pub seed: u64,
}

impl<F> Rule<F> {
    /// Every request, for ever.
    pub fn always(fate: F) -> Self {
        Self {
            fate,
            times: None,
            from: Duration::ZERO,
            to: None,
            percent: 100,
            seed: 0,
        }
    }

    /// The first `times` requests that no rule above it takes.
    pub fn first(times: u32, fate: F) -> Self {
        Self {
            times: Some(times),
            ..Self::always(fate)
        }
    }

    /// Every request until `span` after the schedule's start.
    pub fn during(span: Duration, fate: F) -> Self {
        Self {
            to: Some(span),
            ..Self::always(fate)
        }
    }

    /// The same rule for `percent` of a hundred requests only.
    #[must_use]
    pub fn percent(self, percent: u8, seed: u64) -> Self {
        Self {
            percent,
            seed,
            ..self
        }
    }

    /// The same rule, in force only from then on.
    #[must_use]
    pub fn starting(self, from: Duration) -> Self {
        Self { from, ..self }
    }

    /// The same rule with another fate.
    #[must_use]
    pub fn with<G>(self, fate: G) -> Rule<G> {
        Rule {
            fate,
            times: self.times,
            from: self.from,
            to: self.to,
            percent: self.percent,
            seed: self.seed,
        }
    }

    fn in_force(&self, used: u32, elapsed: Duration, request: u64) -> bool {
        let lasts = self.to.is_none_or(|to| elapsed < to);
        let left = self.times.is_none_or(|times| used < times);
        lasts && left && self.from <= elapsed && draw(self.seed, request) < u64::from(self.percent)
    }
}

/// The rules, how often each was used, and since when they run.
#[derive(Debug)]
pub struct Schedule<F> {
    rules: Vec<(Rule<F>, u32)>,
    began: Instant,
    requests: u64,
}

impl<F> Default for Schedule<F> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<F> Schedule<F> {
    /// Starts now.
    #[must_use]
    pub fn new(rules: Vec<Rule<F>>) -> Self {
        Self {
            rules: rules.into_iter().map(|rule| (rule, 0)).collect(),
            began: Instant::now(),
            requests: 0,
        }
    }

    /// The number of a new request, from 0.
    pub fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests - 1
    }

    /// The first rule in force whose fate suits the request.
    pub fn peek(&self, request: u64, suits: impl Fn(&F) -> bool) -> Option<&F> {
        self.position(request, suits)
            .map(|position| &self.rules[position].0.fate)
    }

    /// The same, and it counts as used.
    pub fn take(&mut self, request: u64, suits: impl Fn(&F) -> bool) -> Option<&F> {
        let position = self.position(request, suits)?;
        let (rule, used) = &mut self.rules[position];
        *used += 1;
        Some(&rule.fate)
    }

    fn position(&self, request: u64, suits: impl Fn(&F) -> bool) -> Option<usize> {
        let elapsed = self.began.elapsed();
        let decides =
            |(rule, used): &(Rule<F>, u32)| rule.in_force(*used, elapsed, request) && suits(&rule.fate);
        self.rules.iter().position(decides)
    }
}

/// 0 to 99, evenly: the output function of the `SplitMix64` generator at the request's place in the seed's sequence.
fn draw(seed: u64, request: u64) -> u64 {
    let mut state = seed.wrapping_add((request + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (state ^ (state >> 31)) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(schedule: &mut Schedule<char>, requests: usize) -> String {
        let one = |_| {
            let request = schedule.next_request();
            schedule.take(request, |_| true).copied().unwrap_or('-')
        };
        (0..requests).map(one).collect()
    }

    #[test]
    fn rules_are_used_up_in_order() {
        let mut schedule = Schedule::new(vec![Rule::first(2, 'a'), Rule::first(1, 'b')]);
        assert_eq!(play(&mut schedule, 5), "aab--");
    }

    #[test]
    fn a_rule_that_does_not_suit_is_passed_over_and_not_used() {
        let mut schedule = Schedule::new(vec![Rule::first(1, 'a'), Rule::always('b')]);
        let request = schedule.next_request();
        assert_eq!(schedule.take(request, |fate| *fate != 'a'), Some(&'b'));
        assert_eq!(schedule.peek(request, |_| true), Some(&'a'));
        assert_eq!(play(&mut schedule, 2), "ab");
    }

    #[test]
    fn a_span_of_time_begins_and_ends() {
        let far = Duration::from_hours(1);
        let late = Rule::always('l').starting(far);
        let mut schedule = Schedule::new(vec![
            late,
            Rule::during(Duration::ZERO, 'e'),
            Rule::during(far, 'n'),
        ]);
        assert_eq!(play(&mut schedule, 1), "n");
        schedule.began = Instant::now().checked_sub(far).unwrap();
        assert_eq!(play(&mut schedule, 1), "l");
    }

    #[test]
    fn a_percentage_is_kept_and_depends_on_the_seed_alone() {
        let half = |seed| Schedule::new(vec![Rule::always('x').percent(50, seed)]);
        let first = play(&mut half(7), 1000);
        assert_eq!(first, play(&mut half(7), 1000));
        assert_ne!(first, play(&mut half(8), 1000));
        let hit = first.matches('x').count();
        assert!((450..550).contains(&hit), "{hit} of 1000");
    }
}
