//! What of one window is still to be sent, and the search for datums that CloudWatch refuses. Pure.
//!
//! CloudWatch refuses a whole request for one bad datum. Where its message names the members, those are given up and
//! the rest is sent once more: two requests. Where it names none, halves are sent until the one that is at fault is
//! alone: with one bad datum among n that takes 1 + log2 n requests, rounded up, and one more for the rest. The rest is
//! not sent along with each half: where a limit of the whole request was missed, only smaller ones get through.
//!
//! Invariants: every datum of the plan arrives, is given up, or is still to be sent; the first two at most once. A
//! datum is given up only if CloudWatch named it, if it was refused alone, or if it was refused twice in the company of
//! datums that were accepted without it; except that from [`MAX_REFUSALS`] refusals on a request that is refused is given
//! up as a whole: nothing is retried for ever.

use std::collections::VecDeque;

/// Refusals of one window after which nobody searches any further: enough for four bad datums without a name
/// among 1000, or for 64 replies that name one each.
pub const MAX_REFUSALS: u32 = 64;

/// The datums of a window by position, in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pieces: VecDeque<Piece>,
    refusals: u32,
    arrived: bool,
    /// Whether any answer was about the datums.
    is_judged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// One request.
    Whole(Vec<usize>),
    /// Members that were refused together, at least two; the first half is the next request. `others` belong to
    /// the same refused request and are presumed innocent.
    Search {
        suspects: Vec<usize>,
        others: Vec<usize>,
    },
}

/// What an accepted request has settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Datums that arrived.
    pub arrived: Vec<usize>,
    /// Datums that are at fault, as everything around them has arrived.
    pub given_up: Vec<usize>,
}

impl Delivery {
    /// Everything is still to be sent.
    #[must_use]
    pub fn new(batches: &[Vec<usize>]) -> Self {
        Self {
            pieces: batches.iter().cloned().map(Piece::Whole).collect(),
            refusals: 0,
            arrived: false,
            is_judged: false,
        }
    }

    /// The datums of the next request; `None` when nothing is left.
    #[must_use]
    pub fn next(&self) -> Option<&[usize]> {
        self.pieces.front().map(Piece::request)
    }

    /// Whether any datum has arrived.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        self.arrived
    }

    /// Whether all is as it was at the beginning, however often it was tried.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.is_judged
    }

    /// The request was accepted.
    pub fn accepted(&mut self) -> Settled {
        self.is_judged = true;
        self.arrived = true;
        match self.pieces.pop_front() {
            None => Settled::default(),
            Some(Piece::Whole(members)) => Settled {
                arrived: members,
                given_up: Vec::new(),
            },
            Some(Piece::Search { mut suspects, others }) => {
                let guilty = suspects.split_off(half(&suspects));
                let given_up = if others.is_empty() && guilty.len() == 1 {
                    // Nothing but the first request was refused, and that may have been about the request.
                    self.first(guilty);
                    Vec::new()
                } else {
                    self.search(guilty, others)
                };
                Settled {
                    arrived: suspects,
                    given_up,
                }
            }
        }
    }

    /// The request was refused; `named` are the members that the reply blames, counted from 1. Returns the datums
    /// that are given up.
    pub fn refused(&mut self, named: &[usize]) -> Vec<usize> {
        self.is_judged = true;
        let Some(piece) = self.pieces.pop_front() else {
            return Vec::new();
        };
        self.refusals += 1;
        let request = piece.request();
        if self.refusals >= MAX_REFUSALS {
            let given_up = request.to_vec();
            let mut rest = piece.all();
            rest.retain(|member| !given_up.contains(member));
            self.first(rest);
            return given_up;
        }
        let mut blamed: Vec<usize> = named
            .iter()
            .filter_map(|member| request.get(member.checked_sub(1)?).copied())
            .collect();
        blamed.sort_unstable();
        blamed.dedup();
        if blamed.is_empty() {
            return self.refused_without_names(piece);
        }
        let mut rest = piece.all();
        rest.retain(|member| !blamed.contains(member));
        self.first(rest);
        blamed
    }

    /// The request was too large although its size was measured: it is halved. Returns a datum that is too large
    /// alone.
    pub fn too_large(&mut self) -> Vec<usize> {
        self.is_judged = true;
        let Some(piece) = self.pieces.pop_front() else {
            return Vec::new();
        };
        let mut first = piece.request().to_vec();
        let mut rest = piece.all();
        rest.retain(|member| !first.contains(member));
        self.first(rest);
        if first.len() < 2 {
            return first;
        }
        let second = first.split_off(half(&first));
        self.first(second);
        self.first(first);
        Vec::new()
    }

    fn refused_without_names(&mut self, piece: Piece) -> Vec<usize> {
        match piece {
            Piece::Whole(members) => self.search(members, Vec::new()),
            Piece::Search {
                mut suspects,
                mut others,
            } => {
                others.extend(suspects.split_off(half(&suspects)));
                self.search(suspects, others)
            }
        }
    }

    /// Goes on with members of which at least one is at fault; one alone is, and is returned.
    fn search(&mut self, suspects: Vec<usize>, others: Vec<usize>) -> Vec<usize> {
        if suspects.len() < 2 {
            self.first(others);
            return suspects;
        }
        self.pieces.push_front(Piece::Search { suspects, others });
        Vec::new()
    }

    fn first(&mut self, members: Vec<usize>) {
        if !members.is_empty() {
            self.pieces.push_front(Piece::Whole(members));
        }
    }
}

impl Piece {
    fn request(&self) -> &[usize] {
        match self {
            Self::Whole(members) => members,
            Self::Search { suspects, .. } => &suspects[..half(suspects)],
        }
    }

    fn all(self) -> Vec<usize> {
        match self {
            Self::Whole(members) => members,
            Self::Search { mut suspects, others } => {
                suspects.extend(others);
                suspects
            }
        }
    }
}

fn half(members: &[usize]) -> usize {
    members.len().div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Outcome {
        requests: usize,
        arrived: Vec<usize>,
        given_up: Vec<usize>,
    }

    /// Plays a CloudWatch that refuses requests with any of `bad` in them.
    fn play(batches: &[Vec<usize>], bad: &[usize], names_them: bool) -> Outcome {
        let mut delivery = Delivery::new(batches);
        let mut outcome = Outcome {
            requests: 0,
            arrived: Vec::new(),
            given_up: Vec::new(),
        };
        while let Some(request) = delivery.next().map(<[usize]>::to_vec) {
            outcome.requests += 1;
            assert!(outcome.requests < 10_000, "never ends");
            let guilty: Vec<usize> = (1..=request.len())
                .filter(|member| bad.contains(&request[member - 1]))
                .collect();
            if guilty.is_empty() {
                let settled = delivery.accepted();
                assert_eq!(settled.arrived, request);
                outcome.arrived.extend(settled.arrived);
                outcome.given_up.extend(settled.given_up);
            } else {
                let named = if names_them { guilty } else { Vec::new() };
                outcome.given_up.extend(delivery.refused(&named));
            }
        }
        outcome.arrived.sort_unstable();
        outcome.given_up.sort_unstable();
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        let mut settled = [outcome.arrived.clone(), outcome.given_up.clone()].concat();
        settled.sort_unstable();
        assert_eq!(settled, all, "every datum is settled once");
        outcome
    }

    fn batch(size: usize) -> Vec<Vec<usize>> {
        vec![(0..size).collect()]
    }

    #[test]
    fn what_is_accepted_takes_one_request_a_batch() {
        let outcome = play(&[vec![0, 1], vec![2]], &[], false);
        assert_eq!((outcome.requests, outcome.arrived.len()), (2, 3));
    }

    #[test]
    fn c06_named_members_are_given_up_and_the_rest_is_sent_once_more() {
        for bad in [vec![0], vec![999], vec![18, 19, 500]] {
            let outcome = play(&batch(1000), &bad, true);
            assert_eq!((outcome.requests, outcome.given_up), (2, bad));
        }
    }

    #[test]
    fn c06_an_unnamed_member_is_found_by_halving_wherever_it_is() {
        for (size, most) in [(1, 1), (2, 3), (64, 8), (500, 11), (512, 11), (1000, 12)] {
            for bad in 0..size {
                let outcome = play(&batch(size), &[bad], false);
                assert_eq!(outcome.given_up, [bad]);
                assert!(
                    outcome.requests <= most,
                    "{} requests for member {bad} of {size}",
                    outcome.requests
                );
            }
        }
    }

    #[test]
    fn c06_one_refusal_for_no_reason_costs_no_datum() {
        let mut delivery = Delivery::new(&batch(64));
        delivery.refused(&[]);
        let mut arrived = 0;
        while delivery.next().is_some() {
            let settled = delivery.accepted();
            assert_eq!(settled.given_up, [0; 0]);
            arrived += settled.arrived.len();
        }
        assert_eq!(arrived, 64);
    }

    #[test]
    fn c06_several_unnamed_members_cost_no_good_datum() {
        for bad in [vec![0, 1], vec![0, 999], vec![499, 500], vec![3, 300, 700]] {
            let outcome = play(&batch(1000), &bad, false);
            assert_eq!(outcome.given_up, bad);
        }
    }

    #[test]
    fn c06_a_batch_that_is_bad_all_through_ends() {
        let all: Vec<usize> = (0..1000).collect();
        let unnamed = play(&batch(1000), &all, false);
        assert_eq!(unnamed.arrived, [0; 0]);
        assert!(unnamed.requests <= 2 * MAX_REFUSALS as usize);
        assert_eq!(play(&batch(1000), &all, true).requests, 1);
    }

    #[test]
    fn names_that_make_no_sense_are_no_names() {
        let mut delivery = Delivery::new(&batch(4));
        assert_eq!(delivery.refused(&[0, 5, usize::MAX]), [0; 0]);
        assert_eq!(delivery.next(), Some([0, 1].as_slice()), "halved instead");
    }

    #[test]
    fn c08_what_is_too_large_is_halved_until_one_is_left() {
        let mut delivery = Delivery::new(&batch(3));
        assert_eq!(delivery.too_large(), [0; 0]);
        assert_eq!(delivery.next(), Some([0, 1].as_slice()));
        assert_eq!(delivery.accepted().arrived, [0, 1]);
        assert_eq!(delivery.too_large(), [2]);
        assert_eq!(delivery.next(), None);
    }

    #[test]
    fn too_large_in_the_middle_of_a_search_forgets_nothing() {
        let mut delivery = Delivery::new(&batch(8));
        delivery.refused(&[]);
        delivery.too_large();
        let mut left = Vec::new();
        while delivery.next().is_some() {
            left.extend(delivery.accepted().arrived);
        }
        left.sort_unstable();
        assert_eq!(left, (0..8).collect::<Vec<_>>());
    }
}
