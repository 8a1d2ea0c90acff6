//! What the metadata service may say about an instance: the identity document, and the shape of every value.
//!
//! Pure. Whatever answers at the service's address may be a captive portal, a proxy or a mistake, and a value that
//! is taken becomes a billed dimension of every metric; so a value is taken only in the shape that EC2 gives it.

use serde::Deserialize;

use super::facts::{Machine, Service};

/// The longest id, type or region that is taken. EC2's own have at most 25 characters.
const LONGEST: usize = 64;
/// Characters of the name of an Auto Scaling group.
const LONGEST_GROUP: usize = 255;

/// Whether a text looks like one that EC2 gives.
pub(super) type Shape = fn(&str) -> bool;

/// The instance identity document, as far as it is of interest. Every value that is there has its proper shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `i-0123456789abcdef0`.
    pub instance_id: String,
    /// `ami-0123456789abcdef0`.
    pub image_id: Option<String>,
    /// `g5.12xlarge`.
    pub instance_type: Option<String>,
    /// `eu-west-1`.
    pub region: Option<String>,
}

/// Why an answer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not JSON, or without an instance id.
    #[error("the answer is not an instance identity document, it starts with {start:?}")]
    NotADocument {
        /// Its first characters.
        start: String,
    },
    /// A value of another shape than EC2's.
    #[error("{what} {value:?} is not one that EC2 gives")]
    Shape {
        /// Which value.
        what: &'static str,
        /// Its first characters.
        value: String,
    },
    /// Of another instance than the one that the firmware names.
    #[error("the answer is about instance {answered}, but this is instance {machine}")]
    OtherInstance {
        /// Whom the answer is about.
        answered: String,
        /// What the firmware says.
        machine: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    instance_id: String,
    image_id: Option<String>,
    instance_type: Option<String>,
    region: Option<String>,
}

impl Document {
    /// Reads the answer to `/latest/dynamic/instance-identity/document`.
    ///
    /// # Errors
    /// It is no such document, or one of the values has the wrong shape.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|_| Refused::NotADocument { start: start(text) })?;
        Ok(Self {
            instance_id: shaped("the instance id", raw.instance_id, is_instance_id)?,
            image_id: optional("the image id", raw.image_id, is_image_id)?,
            instance_type: optional("the instance type", raw.instance_type, is_instance_type)?,
            region: optional("the region", raw.region, is_region)?,
        })
    }
}

/// Checks that a document is about this machine. An address that the environment gives is believed.
///
/// # Errors
/// The firmware names another instance.
pub fn check(document: &Document, machine: &Machine, service: Service) -> Result<(), Refused> {
    match machine {
        Machine::Instance(id) if service != Service::Expected && *id != document.instance_id => {
            Err(Refused::OtherInstance {
                answered: document.instance_id.clone(),
                machine: id.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// Reads the answer to the path of the tag `aws:autoscaling:groupName`.
///
/// # Errors
/// It is not a name that may be a dimension.
pub fn group_name(text: &str) -> Result<String, Refused> {
    shaped("the Auto Scaling group", text.to_owned(), is_group_name)
}

/// `i-` and hexadecimal digits.
#[must_use]
pub fn is_instance_id(text: &str) -> bool {
    is_id(text, "i-")
}

/// `ami-` and hexadecimal digits.
#[must_use]
pub fn is_image_id(text: &str) -> bool {
    is_id(text, "ami-")
}

/// Family and size around one full stop: `g5.12xlarge`, `c7i-flex.large`, `p5.metal`.
#[must_use]
pub fn is_instance_type(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= LONGEST
        && text
            .split_once('.')
            .is_some_and(|(family, size)| part(family) && part(size))
}

/// Words and a number, joined by hyphens: `eu-west-1`, `us-gov-east-1`.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let Some((words, number)) = text.rsplit_once('-') else {
        return false;
    };
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    text.len() <= LONGEST
        && words.contains('-')
        && words.split('-').all(word)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Printable ASCII, which is what a CloudWatch dimension takes, and not the beginning of a web page.
#[must_use]
pub fn is_group_name(text: &str) -> bool {
    (1..=LONGEST_GROUP).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && text.trim() == text
        && !text.starts_with('<')
}

fn is_id(text: &str, prefix: &str) -> bool {
    text.len() <= LONGEST
        && text.strip_prefix(prefix).is_some_and(|digits| {
            !digits.is_empty()
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
}

fn shaped(what: &'static str, value: String, is: Shape) -> Result<String, Refused> {
    if is(&value) {
        return Ok(value);
    }
    let value = start(&value);
    Err(Refused::Shape { what, value })
}

fn optional(what: &'static str, value: Option<String>, is: Shape) -> Result<Option<String>, Refused> {
    value.map(|value| shaped(what, value, is)).transpose()
}

/// Enough of an answer to recognise it by.
fn start(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec2s_own_document_is_read() {
        let text = r#"{"accountId": "123456789012", "architecture": "x86_64", "availabilityZone": "eu-west-1b",
            "billingProducts": null, "imageId": "ami-0fedcba9876543210", "instanceId": "i-0123456789abcdef0",
            "instanceType": "g5.12xlarge", "kernelId": null, "region": "eu-west-1", "version": "2017-09-30"}"#;
        let expected = Document {
            instance_id: "i-0123456789abcdef0".into(),
            image_id: Some("ami-0fedcba9876543210".into()),
            instance_type: Some("g5.12xlarge".into()),
            region: Some("eu-west-1".into()),
        };
        assert_eq!(Document::parse(text), Ok(expected));
    }

    #[test]
    fn a_document_may_lack_everything_but_the_id() {
        let document = Document::parse(r#"{"instanceId": "i-1", "imageId": null}"#).unwrap();
        assert_eq!((document.image_id, document.region), (None, None));
    }

    #[test]
    fn hostile_answers_are_refused_with_a_reason() {
        let page = Document::parse("<!DOCTYPE html><html><body>Please log in</body></html>").unwrap_err();
        assert!(page.to_string().contains("\"<!DOCTYPE html>"), "{page}");
        for (text, named) in [
            (r#"{"instanceId": "i-XYZ"}"#, "the instance id \"i-XYZ\""),
            (r#"{"instanceId": "i-"}"#, "the instance id"),
            (r#"{"instanceId": "i-1", "imageId": "<b>"}"#, "the image id"),
            (
                r#"{"instanceId": "i-1", "instanceType": "big one"}"#,
                "the instance type",
            ),
            (r#"{"instanceId": "i-1", "region": "Ireland"}"#, "the region"),
            (r"{}", "identity document"),
            ("[]", "identity document"),
            ("", "identity document"),
        ] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let endless = format!(r#"{{"instanceId": "i-{}"}}"#, "0".repeat(10_000));
        assert!(Document::parse(&endless).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_document_of_another_instance_is_refused_unless_the_environment_sent_us_there() {
        let document = Document::parse(r#"{"instanceId": "i-1"}"#).unwrap();
        let machine = Machine::Instance("i-2".into());
        let refused = check(&document, &machine, Service::Standard).unwrap_err();
        assert!(refused.to_string().contains("i-1") && refused.to_string().contains("i-2"));
        assert!(check(&document, &machine, Service::Expected).is_ok());
        assert!(check(&document, &Machine::Instance("i-1".into()), Service::Standard).is_ok());
        assert!(check(&document, &Machine::Ec2, Service::Standard).is_ok());
    }

    #[test]
    fn shapes() {
        let table: [(Shape, &[&str], &[&str]); 4] = [
            (
                is_region,
                &["eu-west-1", "us-gov-east-1", "cn-northwest-1", "ap-southeast-12"],
                &["", "eu", "eu-1", "eu-west-", "EU-WEST-1", "eu--1", "eu-west-1b"],
            ),
            (
                is_instance_type,
                &["p5.48xlarge", "c7i-flex.large", "u-6tb1.metal", "g6e.xlarge"],
                &["", "p5", ".large", "p5.", "p5.48.x", "P5.large", "p5.48xlarge\n"],
            ),
            (
                is_instance_id,
                &["i-0", "i-0123456789abcdef0"],
                &["", "i-", "ami-0", "i-0G", "i-0 "],
            ),
            (
                is_group_name,
                &["eks-gpu-1a2b", "with space", "a"],
                &["", " ", " a", "gr\u{fc}n", "a\nb", "<html>"],
            ),
        ];
        for (is, good, bad) in table {
            for text in good {
                assert!(is(text), "{text:?}");
            }
            for text in bad {
                assert!(!is(text), "{text:?}");
            }
        }
    }
}
