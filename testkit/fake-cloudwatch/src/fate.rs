//! Everything that can go wrong, and its keys in a script.
//!
//! A fate says what happens to one request; the rule around it says to which. `README.md` lists the names and keys.

use std::time::Duration;

use http_stub::script::{Refusal, refusals, rules};
use http_stub::{Keys, Rule, ScriptError};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// 400 `Throttling`.
    Throttle,
    /// A 5xx status; with or without the service's error body.
    ServerError {
        /// 500 to 599.
        status: u16,
        /// False: no body and no error code, as from a load balancer.
        body: bool,
    },
    /// The request is read and never answered. Nothing is accepted.
    Hang,
    /// It is treated as usual, but only after this time. If the client has left by then, nothing is accepted.
    Delay(Duration),
    /// RST as soon as the head is there.
    ResetBeforeBody,
    /// It is accepted, then RST: the client cannot know.
    ResetAfterCommit,
    /// It is accepted; the answer comes a byte at a time with this pause before each.
    Trickle(Duration),
    /// It is accepted, says a 200 whose body never ends.
    Endless,
    /// 413 without an error code.
    TooLarge,
    /// 403 `ExpiredToken`.
    ExpiredToken,
    /// 403 `AccessDenied`, naming the action and the namespace.
    AccessDenied,
    /// 403 `InvalidClientTokenId`.
    InvalidClientToken,
    /// The service's clock is so many seconds ahead, behind when negative: in the `Date` header, in judging time stamps,
    /// and against `X-Amz-Date`, which may differ by 5 minutes.
    Skew {
        /// Seconds.
        seconds: i64,
        /// Which refusal an `X-Amz-Date` gets that differs by more.
        code: SkewCode,
    },
    /// Datums of this metric are refused by naming their members. Suits only requests that have one.
    NamedPoison {
        /// The metric's name.
        metric: String,
    },
    /// A request with this metric is refused without saying why. Suits only requests that have one.
    UnnamedPoison {
        /// The metric's name.
        metric: String,
    },
    /// An HTML page of a proxy.
    ProxyHtml {
        /// The status, usually 403 or 502.
        status: u16,
    },
    /// An XML error of a proxy or of another service.
    ProxyXml {
        /// The status.
        status: u16,
    },
    /// 200 without the service's headers, as from a captive portal. Nothing is accepted.
    EmptyOk,
}

/// How a signature from the wrong time is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SkewCode {
    /// 403 `RequestTimeTooSkewed`.
    #[default]
    RequestTimeTooSkewed,
    /// 403 `SignatureDoesNotMatch`.
    SignatureDoesNotMatch,
}

impl Fate {
    /// Its name in a script and in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Throttle => "throttle",
            Self::ServerError { .. } => "server_error",
            Self::Hang => "hang",
            Self::Delay(_) => "delay",
            Self::ResetBeforeBody => "reset_before_body",
            Self::ResetAfterCommit => "reset_after_commit",
            Self::Trickle(_) => "trickle",
            Self::Endless => "endless",
            Self::TooLarge => "too_large",
            Self::ExpiredToken => "expired_token",
            Self::AccessDenied => "access_denied",
            Self::InvalidClientToken => "invalid_client_token",
            Self::Skew { .. } => "skew",
            Self::NamedPoison { .. } => "named_poison",
            Self::UnnamedPoison { .. } => "unnamed_poison",
            Self::ProxyHtml { .. } => "proxy_html",
            Self::ProxyXml { .. } => "proxy_xml",
            Self::EmptyOk => "empty_ok",
        }
    }

    /// Whether it can befall a request with these metrics.
    pub(crate) fn suits<'m>(&self, mut metrics: impl Iterator<Item = &'m str>) -> bool {
        match self {
            Self::NamedPoison { metric } | Self::UnnamedPoison { metric } => {
                metrics.any(|name| name == metric)
            }
            _ => true,
        }
    }

    /// Whether the body decides if it suits.
    pub(crate) fn is_poison(&self) -> bool {
        matches!(self, Self::NamedPoison { .. } | Self::UnnamedPoison { .. })
    }

    fn read(name: &str, keys: &mut Keys) -> Option<Self> {
        Some(match name {
            "throttle" => Self::Throttle,
            "server_error" => Self::ServerError {
                status: status(keys, 500, 500),
                body: keys.flag("body").unwrap_or(true),
            },
            "hang" => Self::Hang,
            "delay" => Self::Delay(required(keys, "ms", Keys::millis)),
            "reset_before_body" => Self::ResetBeforeBody,
            "reset_after_commit" => Self::ResetAfterCommit,
            "trickle" => Self::Trickle(keys.millis("ms").unwrap_or(Duration::from_millis(100))),
            "endless" => Self::Endless,
            "too_large" => Self::TooLarge,
            "expired_token" => Self::ExpiredToken,
            "access_denied" => Self::AccessDenied,
            "invalid_client_token" => Self::InvalidClientToken,
            "skew" => Self::Skew {
                seconds: required(keys, "seconds", |keys, key| keys.whole(key, -YEAR, YEAR)),
                code: SkewCode::read(keys),
            },
            "named_poison" => Self::NamedPoison {
                metric: required(keys, "metric", Keys::text),
            },
            "unnamed_poison" => Self::UnnamedPoison {
                metric: required(keys, "metric", Keys::text),
            },
            "proxy_html" => Self::ProxyHtml {
                status: status(keys, 400, 502),
            },
            "proxy_xml" => Self::ProxyXml {
                status: status(keys, 400, 403),
            },
            "empty_ok" => Self::EmptyOk,
            _ => return None,
        })
    }
}

/// Seconds; no clock that anybody wants to try is farther off.
const YEAR: i64 = 366 * 86_400;

impl SkewCode {
    /// The error code.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::RequestTimeTooSkewed => "RequestTimeTooSkewed",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
        }
    }

    fn read(keys: &mut Keys) -> Self {
        match keys.text("code").as_deref() {
            None | Some("RequestTimeTooSkewed") => Self::RequestTimeTooSkewed,
            Some("SignatureDoesNotMatch") => Self::SignatureDoesNotMatch,
            Some(_) => {
                keys.complain("`code` must be \"RequestTimeTooSkewed\" or \"SignatureDoesNotMatch\"");
                Self::default()
            }
        }
    }
}

fn status(keys: &mut Keys, least: i64, default: u16) -> u16 {
    let status = keys.whole("status", least, 599);
    status
        .and_then(|status| u16::try_from(status).ok())
        .unwrap_or(default)
}

/// A key without a default. The value that stands in for a missing one is never played: the script is refused.
fn required<T: Default>(keys: &mut Keys, key: &str, read: impl Fn(&mut Keys, &str) -> Option<T>) -> T {
    if !keys.names().iter().any(|name| name == key) {
        keys.complain(&format!("`{key}` is missing"));
    }
    read(keys, key).unwrap_or_default()
}

/// Rules in order, and when connections are refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// The first that is in force and suits decides.
    pub rules: Vec<Rule<Fate>>,
    /// Spans without a listener, counted from the script's start.
    pub refuse: Vec<Refusal>,
}

impl Script {
    /// Reads a script file.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut document = Keys::document(text)?;
        let script = Self {
            rules: rules(&mut document, Fate::read),
            refuse: refusals(&mut document),
        };
        document.finish().map(|()| script)
    }
}

impl<const N: usize> From<[Rule<Fate>; N]> for Script {
    fn from(rules: [Rule<Fate>; N]) -> Self {
        Self {
            rules: rules.into(),
            refuse: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_is_read_by_its_name() {
        let fates = [
            ("", Fate::Throttle),
            (
                "status = 503\nbody = false",
                Fate::ServerError {
                    status: 503,
                    body: false,
                },
            ),
            ("", Fate::Hang),
            ("ms = 20", Fate::Delay(Duration::from_millis(20))),
            ("", Fate::ResetBeforeBody),
            ("", Fate::ResetAfterCommit),
            ("ms = 5", Fate::Trickle(Duration::from_millis(5))),
            ("", Fate::Endless),
            ("", Fate::TooLarge),
            ("", Fate::ExpiredToken),
            ("", Fate::AccessDenied),
            ("", Fate::InvalidClientToken),
            (
                "seconds = -3600\ncode = \"SignatureDoesNotMatch\"",
                Fate::Skew {
                    seconds: -3600,
                    code: SkewCode::SignatureDoesNotMatch,
                },
            ),
            (
                "metric = \"a\"",
                Fate::NamedPoison {
                    metric: "a".to_owned(),
                },
            ),
            (
                "metric = \"b\"",
                Fate::UnnamedPoison {
                    metric: "b".to_owned(),
                },
            ),
            ("status = 403", Fate::ProxyHtml { status: 403 }),
            ("", Fate::ProxyXml { status: 403 }),
            ("", Fate::EmptyOk),
        ];
        for (keys, fate) in fates {
            let text = format!("[[rule]]\nfate = \"{}\"\n{keys}", fate.name());
            let script = Script::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(script.rules, [Rule::always(fate)]);
        }
    }

    #[test]
    fn missing_wrong_and_foreign_keys_are_refused() {
        for (keys, complaint) in [
            ("fate = \"delay\"", "`ms` is missing"),
            ("fate = \"named_poison\"", "`metric` is missing"),
            ("fate = \"skew\"\nseconds = 1\ncode = \"x\"", "`code` must be"),
            (
                "fate = \"server_error\"\nstatus = 404",
                "`status` must be a whole number from 500 to 599",
            ),
            ("fate = \"throttle\"\nms = 5", "`ms` means nothing here"),
        ] {
            let error = Script::parse(&format!("[[rule]]\n{keys}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("rule 1: {complaint}")), "{error}");
        }
    }

    #[test]
    fn a_script_refuses_connections_for_a_span() {
        let script = Script::parse("[[refuse]]\nfrom_ms = 10\nto_ms = 20\n[[refuse]]\nfrom_ms = 30").unwrap();
        let ms = Duration::from_millis;
        assert_eq!(script.refuse, [(ms(10), Some(ms(20))), (ms(30), None)]);
    }
}
