use super::*;
use crate::publish::retry::Pace;

fn reply(status: u16, code: &str, message: &str) -> Outcome {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Outcome::Answered(Reply {
        status,
        code: some(code),
        message: some(message),
        from_aws: !code.is_empty(),
        ..Reply::default()
    })
}

fn failure(outcome: &Outcome) -> Failure {
    match judge(outcome) {
        Fate::Failed(failure) => failure,
        other => panic!("{outcome:?} -> {other:?}"),
    }
}

#[test]
fn every_code_and_status_has_its_class() {
    let table = [
        (400, "Throttling", Class::Throttled),
        (400, "ThrottlingException", Class::Throttled),
        (400, "RequestLimitExceeded", Class::Throttled),
        (429, "", Class::Throttled),
        (500, "InternalServiceError", Class::ServerError),
        (500, "InternalServiceFault", Class::ServerError),
        (503, "", Class::ServerError),
        (502, "", Class::ServerError),
        (504, "ServiceUnavailable", Class::ServerError),
        (408, "", Class::ServerError),
        (403, "AccessDenied", Class::Denied),
        (403, "AccessDeniedException", Class::Denied),
        (403, "InvalidClientTokenId", Class::CredentialsRejected),
        (403, "UnrecognizedClientException", Class::CredentialsRejected),
        (403, "MissingAuthenticationToken", Class::CredentialsRejected),
        (403, "ExpiredToken", Class::CredentialsExpired),
        (403, "ExpiredTokenException", Class::CredentialsExpired),
        (403, "RequestTimeTooSkewed", Class::ClockSkewed),
        (403, "InvalidSignatureException", Class::CredentialsRejected),
        (400, "SomethingNew", Class::Unknown),
        (403, "", Class::NotCloudWatch),
        (404, "", Class::NotCloudWatch),
        (407, "", Class::NotCloudWatch),
        (302, "", Class::NotCloudWatch),
        (200, "", Class::NotCloudWatch),
    ];
    for (status, code, class) in table {
        assert_eq!(
            failure(&reply(status, code, "text")).class,
            class,
            "{status} {code}"
        );
    }
}

#[test]
fn what_never_was_an_answer_has_its_class() {
    let table = [
        (Outcome::NoRegion, Class::NoRegion),
        (Outcome::NoCredentials("not loaded".into()), Class::NoCredentials),
        (Outcome::Unreachable("refused".into()), Class::Unreachable),
        (Outcome::TimedOut("10 s".into()), Class::TimedOut),
        (Outcome::Unsendable("no host".into()), Class::Misconfigured),
    ];
    for (outcome, class) in table {
        let failure = failure(&outcome);
        assert_eq!(failure.class, class);
        assert!(!failure.mend.is_empty());
    }
}

#[test]
fn a_certificate_that_is_refused_sends_nobody_to_the_network() {
    let mend = |why: &str| failure(&Outcome::Unreachable(why.into())).mend;
    let certificate = mend("monitoring.eu-west-1.amazonaws.com: invalid peer certificate: UnknownIssuer");
    assert!(
        certificate.contains("SSL_CERT_FILE") && certificate.contains("clock"),
        "{certificate}"
    );
    let network = mend("monitoring.eu-west-1.amazonaws.com: Connection refused (os error 111)");
    assert!(
        network.contains("network") && !network.contains("SSL_CERT_FILE"),
        "{network}"
    );
}

#[test]
fn accepted_is_what_aws_itself_accepts() {
    let accepted = Outcome::Answered(Reply {
        status: 200,
        from_aws: true,
        ..Reply::default()
    });
    assert_eq!(judge(&accepted), Fate::Accepted);
}

#[test]
fn a_page_of_a_proxy_is_not_cloudwatch_whatever_its_status() {
    for status in [200, 302, 403, 404] {
        let page = Outcome::Answered(Reply {
            status,
            content_type: Some("text/html".into()),
            ..Reply::default()
        });
        let failure = failure(&page);
        assert_eq!(failure.class, Class::NotCloudWatch);
        assert!(failure.what.contains("text/html"), "{}", failure.what);
        assert!(failure.mend.contains("publish.endpoint_url"), "{}", failure.mend);
    }
}

#[test]
fn c06_poison_names_its_members() {
    let table = [
        (
            "The parameter MetricData.member.19.Timestamp must specify a time within the past two weeks.",
            vec![19],
        ),
        (
            "The collection MetricData.member.2.Values must not have a size greater than 150.\n\
             The parameter MetricData.member.3.Dimensions.member.1.Value is required.",
            vec![2, 3],
        ),
        ("The value NaN for parameter Value is invalid.", vec![]),
        ("MetricData.member.x MetricData.member.", vec![]),
        ("MetricData.member.99999999999999999999999", vec![]),
    ];
    for (message, expected) in table {
        match judge(&reply(400, "InvalidParameterValue", message)) {
            Fate::Poison { members, .. } => assert_eq!(members, expected, "{message}"),
            other => panic!("{message} -> {other:?}"),
        }
    }
    for code in [
        "InvalidParameterCombination",
        "MissingParameter",
        "InvalidParameterValueException",
    ] {
        assert!(
            matches!(judge(&reply(400, code, "")), Fate::Poison { .. }),
            "{code}"
        );
    }
}

#[test]
fn a_bad_namespace_is_no_fault_of_a_datum() {
    let bad = reply(
        400,
        "InvalidParameterValue",
        "The value AWS/x for parameter Namespace is invalid.",
    );
    let failure = failure(&bad);
    assert_eq!(failure.class, Class::Misconfigured);
    assert_eq!(failure.mend, "set publish.namespace");
}

#[test]
fn c08_too_large_is_cut() {
    assert_eq!(
        judge(&reply(400, "RequestEntityTooLarge", "")),
        Fate::TooLarge(None)
    );
    let Fate::TooLarge(Some(failure)) = judge(&reply(413, "", "")) else {
        panic!("nothing says that this is AWS's answer");
    };
    assert_eq!(failure.class, Class::NotCloudWatch);
}

#[test]
fn c10_refused_time_stamps_are_told_from_other_faults() {
    let message =
        "The parameter MetricData.member.19.Timestamp must specify a time within the past two weeks.";
    let Fate::Poison { blames_time, .. } = judge(&reply(400, "InvalidParameterValue", message)) else {
        panic!("CloudWatch refuses the data");
    };
    assert!(blames_time);
    let other = "The value x for parameter MetricData.member.19.MetricName is invalid.";
    let Fate::Poison { blames_time, .. } = judge(&reply(400, "InvalidParameterValue", other)) else {
        panic!("CloudWatch refuses the data");
    };
    assert!(!blames_time);
}

#[test]
fn c13_a_missing_permission_names_the_action_and_the_role() {
    let message = "User: arn:aws:sts::111122223333:assumed-role/node/i-1 is not authorized to perform: \
                   cloudwatch:PutMetricData because no identity-based policy allows it";
    let failure = failure(&reply(403, "AccessDenied", message));
    assert!(
        failure
            .what
            .contains("permission cloudwatch:PutMetricData is missing")
    );
    assert!(
        failure.mend.starts_with(
            "allow cloudwatch:PutMetricData for arn:aws:sts::111122223333:assumed-role/node/i-1;"
        ),
        "{}",
        failure.mend
    );
    let silent = self::failure(&reply(403, "AccessDenied", ""));
    assert!(
        silent.mend.contains("cloudwatch:PutMetricData"),
        "{}",
        silent.mend
    );
    assert_eq!(failure.class.pace(), Pace::Slow);
}

#[test]
fn c10_a_refused_signature_is_the_clocks_fault_only_where_the_clock_is_wrong() {
    let signature = |skew: f64| {
        Outcome::Answered(Reply {
            status: 403,
            code: Some("SignatureDoesNotMatch".into()),
            from_aws: true,
            clock_skew_seconds: Some(skew),
            ..Reply::default()
        })
    };
    assert_eq!(failure(&signature(3.0)).class, Class::CredentialsRejected);
    let behind = failure(&signature(3600.0));
    assert_eq!(behind.class, Class::ClockSkewed);
    assert!(behind.what.contains("3600 s behind"), "{}", behind.what);
    assert_eq!(failure(&signature(-3600.0)).class, Class::ClockSkewed);
}

#[test]
fn hostile_text_is_one_bounded_line() {
    let hostile = format!("a\nb\u{1b}[31m{}", "é".repeat(5000));
    let failure = failure(&reply(403, "AccessDenied", &hostile));
    assert!(!failure.what.contains(['\n', '\u{1b}']));
    assert!(failure.what.chars().count() < 500);
}

#[test]
fn codes_are_known_in_every_dress() {
    assert_eq!(
        bare("com.amazon.coral.availability#ThrottlingException:http://x"),
        "Throttling"
    );
    assert_eq!(bare("Exception"), "Exception");
    assert_eq!(bare("AccessDenied"), "AccessDenied");
}
