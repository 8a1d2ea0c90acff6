//! The way of one request: authorise, decode, check, commit, answer; or what the script makes of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_stub::clock::{http_date, shift};
use http_stub::{BodyError, Clock, Exchange, Handler, Head, Response, Rule, Schedule, lock};

use crate::datum::{AcceptedDatum, Key, Series, StatisticSet};
use crate::decode::{Datum, DecodeError, Input, Statistics, decode, unpack};
use crate::fate::Fate;
use crate::gate::{authorise, in_time, protocol};
use crate::limits::{MAX_BODY_BYTES, check};
use crate::refusal::Refusal;
use crate::store::Store;
use crate::views;

/// The path of the operation in Smithy RPC v2 CBOR.
const OPERATION: &str = "/service/GraniteServiceVersion20100801/operation/PutMetricData";
/// What is read of a body at most: more than any request that could be accepted, packed or not.
const MAX_WIRE_BYTES: usize = 8 * 1024 * 1024;
/// Between the chunks of an answer without end; 100 KB a second.
const ENDLESS_PAUSE: Duration = Duration::from_millis(10);

/// The state of the fake behind its listener.
pub(crate) struct Desk {
    pub(crate) store: Store,
    schedule: Mutex<Schedule<Fate>>,
    clock: Mutex<Clock>,
    signature_required: AtomicBool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            store: Store::default(),
            schedule: Mutex::default(),
            clock: Mutex::default(),
            signature_required: AtomicBool::new(true),
        }
    }
}

impl Handler for Desk {
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let head = exchange.head();
        let response = match (head.method.as_str(), head.path()) {
            ("POST", OPERATION) => return self.put_metric_data(exchange),
            ("GET", "/") => self.store.read(views::summary),
            ("GET", "/accepted") => self.store.read(views::accepted),
            ("GET", "/attempts") => self.store.read(views::attempts),
            _ => {
                let message = format!("There is no {} {} here.", head.method, head.path());
                Refusal::sender(404, "UnknownOperationException", message).response()
            }
        };
        exchange.send(&response)
    }
}

/// A request whose body was read.
struct Case {
    number: u64,
    head: Head,
    /// The fake's clock, and what the script added to it.
    now: SystemTime,
    content: Result<Input, Refusal>,
}

impl Case {
    fn metrics(&self) -> impl Iterator<Item = &str> {
        let data = self.content.iter().flat_map(|input| &input.data);
        data.filter_map(|datum| datum.metric.as_deref())
    }
}

impl Desk {
    pub(crate) fn play(&self, rules: Vec<Rule<Fate>>) {
        *lock(&self.schedule) = Schedule::new(rules);
    }

    pub(crate) fn set_clock(&self, clock: Clock) {
        *lock(&self.clock) = clock;
    }

    pub(crate) fn require_signature(&self, required: bool) {
        self.signature_required.store(required, Ordering::Relaxed);
    }

    fn put_metric_data(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let number = self.store.begin(exchange);
        let request = lock(&self.schedule).next_request();
        if self.resets_before_body(request) {
            self.store.note(number, |attempt| {
                attempt.fate = Some(Fate::ResetBeforeBody.name());
            });
            return exchange.reset();
        }
        let content = self.receive(number, exchange)?;
        let mut case = Case {
            number,
            head: exchange.head().clone(),
            now: lock(&self.clock).now(),
            content,
        };
        let fate = lock(&self.schedule)
            .take(request, |fate| fate.suits(case.metrics()))
            .cloned();
        let Some(fate) = fate else {
            return self.settle(&case, exchange);
        };
        self.store
            .note(number, |attempt| attempt.fate = Some(fate.name()));
        self.befall(&fate, &mut case, exchange)
    }

    /// A reset before the body cannot wait for a poison rule above it, which would need the body to know if it suits.
    fn resets_before_body(&self, request: u64) -> bool {
        let mut schedule = lock(&self.schedule);
        let early = schedule.peek(request, |fate| !fate.is_poison()) == Some(&Fate::ResetBeforeBody);
        if early {
            schedule.take(request, |fate| *fate == Fate::ResetBeforeBody);
        }
        early
    }

    /// Reads and decodes the body. An error is a connection that ended; a body that means nothing is a refusal.
    fn receive(&self, number: u64, exchange: &mut Exchange<'_>) -> io::Result<Result<Input, Refusal>> {
        let encoding = exchange.head().header("content-encoding").map(str::to_owned);
        let unpacked = match exchange.read_body(MAX_WIRE_BYTES) {
            Ok(body) => unpack(encoding.as_deref(), body),
            Err(BodyError::TooLong { .. }) => Err(DecodeError::Bomb),
            Err(BodyError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(DecodeError::Framing(error.to_string()))
            }
            Err(BodyError::Io(error)) => return Err(error),
        };
        let wire_bytes = exchange.wire_bytes();
        let body_bytes = unpacked.as_ref().ok().map(Vec::len);
        let content = unpacked.and_then(|body| decode(&body));
        let datums = content.as_ref().ok().map(|input| input.data.len());
        self.store.note(number, |attempt| {
            (attempt.wire_bytes, attempt.body_bytes, attempt.datums) = (wire_bytes, body_bytes, datums);
        });
        // The service measures before it parses, so a long body is not said to be a wrong one.
        if body_bytes.is_some_and(|bytes| bytes > MAX_BODY_BYTES) {
            return Ok(Err(Refusal::bare(413)));
        }
        Ok(content.map_err(DecodeError::refusal))
    }

    fn befall(&self, fate: &Fate, case: &mut Case, exchange: &mut Exchange<'_>) -> io::Result<()> {
        match fate {
            Fate::Hang => exchange.hold(None).map(|_| ()),
            Fate::Delay(time) if exchange.hold(Some(*time))? => {
                case.now = lock(&self.clock).now();
                self.settle(case, exchange)
            }
            Fate::Delay(_) => Ok(()),
            Fate::Skew { seconds, code } => {
                case.now = shift(case.now, *seconds);
                match in_time(&case.head, case.now, *code) {
                    Err(refusal) => self.refuse(&refusal, case, exchange),
                    Ok(()) => self.settle(case, exchange),
                }
            }
            Fate::ResetAfterCommit | Fate::Trickle(_) | Fate::Endless => match self.commit(case) {
                Ok(()) => self.spoil(fate, case, exchange),
                Err(refusal) => self.refuse(&refusal, case, exchange),
            },
            Fate::EmptyOk => self.answer(&Response::empty(200), case, exchange),
            Fate::ProxyHtml { status } => {
                let page = format!(
                    "<html><head><title>{status}</title></head><body><h1>{status} from a proxy</h1></body></html>\n"
                );
                self.answer(&Response::with_body(*status, "text/html", page), case, exchange)
            }
            Fate::ProxyXml { status } => {
                let error = "<?xml version=\"1.0\"?>\n<Error><Code>PolicyDenied</Code><Message>denied by a proxy</Message></Error>\n";
                self.answer(
                    &Response::with_body(*status, "application/xml", error),
                    case,
                    exchange,
                )
            }
            _ => self.refuse(&scripted(fate, case), case, exchange),
        }
    }

    /// The answer of a request that was accepted, spoilt on its way.
    fn spoil(&self, fate: &Fate, case: &Case, exchange: &mut Exchange<'_>) -> io::Result<()> {
        match fate {
            Fate::ResetAfterCommit => exchange.reset(),
            Fate::Trickle(pause) => {
                self.noted(200, case);
                exchange.trickle(&success(case), *pause)
            }
            _ => {
                self.noted(200, case);
                exchange.send_without_end(&success(case), ENDLESS_PAUSE)
            }
        }
    }

    /// What the service does when nothing goes wrong.
    fn settle(&self, case: &Case, exchange: &mut Exchange<'_>) -> io::Result<()> {
        match self.commit(case) {
            Ok(()) => self.answer(&success(case), case, exchange),
            Err(refusal) => self.refuse(&refusal, case, exchange),
        }
    }

    fn commit(&self, case: &Case) -> Result<(), Refusal> {
        if self.signature_required.load(Ordering::Relaxed) {
            authorise(&case.head)?;
        }
        protocol(&case.head)?;
        let input = case.content.as_ref().map_err(Clone::clone)?;
        check(input, case.now)?;
        let datums = input.data.iter().map(|datum| accepted(input, datum, case));
        self.store.accept(case.number, datums.collect());
        Ok(())
    }

    fn refuse(&self, refusal: &Refusal, case: &Case, exchange: &mut Exchange<'_>) -> io::Result<()> {
        self.store.note(case.number, |attempt| {
            attempt.code = refusal.code().map(str::to_owned);
            attempt.message = refusal.error.as_ref().map(|error| error.message.clone());
        });
        self.answer(&stamped(refusal.response(), case), case, exchange)
    }

    fn answer(&self, response: &Response, case: &Case, exchange: &mut Exchange<'_>) -> io::Result<()> {
        self.noted(response.status, case);
        exchange.send(response)
    }

    /// Before the answer goes out, so that whoever has it finds it in the log.
    fn noted(&self, status: u16, case: &Case) {
        self.store
            .note(case.number, |attempt| attempt.status = Some(status));
    }
}

/// The operation has no output, and Smithy RPC v2 CBOR gives the answers of such operations no body.
fn success(case: &Case) -> Response {
    stamped(
        Response::empty(200).header("smithy-protocol", "rpc-v2-cbor"),
        case,
    )
}

fn stamped(response: Response, case: &Case) -> Response {
    response
        .header(
            "x-amzn-requestid",
            format!("00000000-0000-4000-8000-{:012x}", case.number),
        )
        .header("date", http_date(case.now))
}

/// The refusal that a script asks for.
fn scripted(fate: &Fate, case: &Case) -> Refusal {
    match fate {
        Fate::Throttle => Refusal::sender(400, "Throttling", "Rate exceeded"),
        Fate::ServerError { status, body: true } => {
            let code = if *status == 503 {
                "ServiceUnavailable"
            } else {
                "InternalServiceError"
            };
            Refusal::receiver(*status, code, "The service could not process the request.")
        }
        Fate::ServerError { status, body: false } => Refusal::bare(*status),
        Fate::ExpiredToken => Refusal::sender(
            403,
            "ExpiredToken",
            "The security token included in the request is expired",
        ),
        Fate::InvalidClientToken => Refusal::sender(
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
        ),
        Fate::AccessDenied => Refusal::sender(403, "AccessDenied", denial(case)),
        Fate::NamedPoison { metric } => Refusal::sender(400, "InvalidParameterValue", named(metric, case)),
        Fate::UnnamedPoison { .. } => Refusal::sender(
            400,
            "InvalidParameterValue",
            "The request has a parameter that is not valid.",
        ),
        // 413, and nothing else that `befall` leaves to this function.
        _ => Refusal::bare(413),
    }
}

fn denial(case: &Case) -> String {
    let namespace = case
        .content
        .as_ref()
        .ok()
        .and_then(|input| input.namespace.as_deref());
    format!(
        "User: arn:aws:sts::123456789012:assumed-role/node/i-0123456789abcdef0 is not authorized to perform: \
         cloudwatch:PutMetricData on namespace {} because no identity-based policy allows the \
         cloudwatch:PutMetricData action",
        namespace.unwrap_or("(unknown)")
    )
}

fn named(metric: &str, case: &Case) -> String {
    let guilty = case.metrics().enumerate().filter(|(_, name)| *name == metric);
    let lines = guilty.map(|(index, _)| {
        format!(
            "The value {metric} for parameter MetricData.member.{}.MetricName is invalid.",
            index + 1
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is stored of a datum that passed all checks.
fn accepted(input: &Input, datum: &Datum, case: &Case) -> AcceptedDatum {
    let values = datum
        .values
        .clone()
        .or_else(|| datum.value.map(|value| vec![value]));
    let values = values.unwrap_or_default();
    let dimensions: BTreeMap<String, String> = datum
        .dimensions
        .iter()
        .map(|dimension| {
            (
                dimension.name.clone().unwrap_or_default(),
                dimension.value.clone().unwrap_or_default(),
            )
        })
        .collect();
    let series = Series {
        namespace: input.namespace.clone().unwrap_or_default(),
        metric: datum.metric.clone().unwrap_or_default(),
        dimensions,
    };
    AcceptedDatum {
        key: Key {
            series,
            timestamp: datum.timestamp.map_or(case.now, instant),
        },
        arrived: case.now,
        attempt: case.number,
        counts: datum.counts.clone().unwrap_or_else(|| vec![1.0; values.len()]),
        values,
        statistics: datum.statistics.as_ref().map(statistics),
        unit: datum.unit.clone(),
        storage_resolution: if datum.resolution == Some(1) { 1 } else { 60 },
    }
}

fn statistics(set: &Statistics) -> StatisticSet {
    StatisticSet {
        sample_count: set.sample_count.unwrap_or_default(),
        sum: set.sum.unwrap_or_default(),
        minimum: set.minimum.unwrap_or_default(),
        maximum: set.maximum.unwrap_or_default(),
    }
}

/// To the millisecond: a double's last bits would keep equal instants apart.
fn instant(seconds: f64) -> SystemTime {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let millis = (since + Duration::from_micros(500)).as_millis();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
