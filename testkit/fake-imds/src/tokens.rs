//! Session tokens: given, checked, expired. The instants are handed in.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::request::TokenUse;

/// Seconds that a token may live: EC2 allows six hours.
const MAX_TTL: u64 = 21_600;

/// All tokens that were given.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    given: HashMap<String, SystemTime>,
    count: u64,
}

impl Tokens {
    /// A new token for the value of the TTL header, or `None` for a value that EC2 refuses.
    pub(crate) fn give(&mut self, ttl: Option<&str>, now: SystemTime) -> Option<String> {
        let seconds: u64 = ttl?.trim().parse().ok()?;
        if !(1..=MAX_TTL).contains(&seconds) {
            return None;
        }
        self.count += 1;
        // 56 characters, as EC2's: a client that stores it in too small a place is found out.
        let token = format!("FAKE{:0>50}==", self.count);
        self.given
            .insert(token.clone(), now + Duration::from_secs(seconds));
        Some(token)
    }

    pub(crate) fn judge(&self, token: Option<&str>, now: SystemTime) -> TokenUse {
        let Some(token) = token else {
            return TokenUse::Absent;
        };
        match self.given.get(token) {
            None => TokenUse::Unknown,
            Some(end) if now < *end => TokenUse::Good,
            Some(_) => TokenUse::Expired,
        }
    }

    /// As after a restart of the service.
    pub(crate) fn forget(&mut self) {
        self.given.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_token_is_good_until_its_time_is_over() {
        let mut tokens = Tokens::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let token = tokens.give(Some("60"), at(0)).unwrap();
        assert_eq!(token.len(), 56);
        assert_ne!(tokens.give(Some("60"), at(0)).unwrap(), token);
        assert_eq!(tokens.judge(Some(&token), at(59)), TokenUse::Good);
        assert_eq!(tokens.judge(Some(&token), at(60)), TokenUse::Expired);
        assert_eq!(tokens.judge(Some("x"), at(0)), TokenUse::Unknown);
        assert_eq!(tokens.judge(None, at(0)), TokenUse::Absent);
        tokens.forget();
        assert_eq!(tokens.judge(Some(&token), at(0)), TokenUse::Unknown);
    }

    #[test]
    fn only_times_that_ec2_allows_are_taken() {
        let mut tokens = Tokens::default();
        for good in ["1", "21600"] {
            assert!(tokens.give(Some(good), UNIX_EPOCH).is_some(), "{good}");
        }
        for bad in [None, Some("0"), Some("21601"), Some("-1"), Some("x"), Some("")] {
            assert_eq!(tokens.give(bad, UNIX_EPOCH), None, "{bad:?}");
        }
    }
}
