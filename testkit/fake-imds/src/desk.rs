//! The way of one request: what the script makes of it, or a token, or a page for a token.

use std::fmt::Write as _;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use http_stub::clock::rfc3339_millis;
use http_stub::{Clock, Exchange, Handler, Head, Response, Schedule, lock};
use serde_json::json;

use crate::node::Node;
use crate::pages;
use crate::request::{Request, TokenUse};
use crate::tokens::Tokens;
use crate::trouble::{Fate, Trouble};

const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Between the chunks of an answer without end; 100 KB a second.
const ENDLESS_PAUSE: Duration = Duration::from_millis(10);

/// The state of the fake behind its listener.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) node: Mutex<Node>,
    pub(crate) schedule: Mutex<Schedule<Trouble>>,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) clock: Mutex<Clock>,
    pub(crate) log: Mutex<Vec<Request>>,
}

impl Handler for Desk {
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()> {
        match (exchange.head().method.as_str(), exchange.head().path()) {
            ("GET", "/") => return exchange.send(&self.summary()),
            ("GET", "/requests") => return exchange.send(&self.requests()),
            _ => {}
        }
        let path = decoded(exchange.head().path());
        let entry = self.begin(exchange, &path);
        let fate = self.fate(&path);
        let Some(fate) = fate else {
            return self.settle(entry, &path, exchange);
        };
        self.note(entry, |request| request.fate = Some(fate.name()));
        self.befall(&fate, entry, &path, exchange)
    }
}

impl Desk {
    pub(crate) fn now(&self) -> SystemTime {
        lock(&self.clock).now()
    }

    /// Opens the log entry of a request and returns its place.
    fn begin(&self, exchange: &Exchange<'_>, path: &str) -> usize {
        let head = exchange.head();
        let token = lock(&self.tokens).judge(head.header(TOKEN), self.now());
        let mut log = lock(&self.log);
        log.push(Request {
            at: exchange.arrived(),
            method: head.method.clone(),
            path: path.to_owned(),
            token,
            fate: None,
            status: None,
            user_agent: head.header("user-agent").map(str::to_owned),
        });
        log.len() - 1
    }

    fn note(&self, entry: usize, note: impl FnOnce(&mut Request)) {
        if let Some(request) = lock(&self.log).get_mut(entry) {
            note(request);
        }
    }

    fn fate(&self, path: &str) -> Option<Fate> {
        let mut schedule = lock(&self.schedule);
        let request = schedule.next_request();
        let trouble = schedule.take(request, |trouble| path.starts_with(&trouble.path));
        trouble.map(|trouble| trouble.fate.clone())
    }

    fn befall(&self, fate: &Fate, entry: usize, path: &str, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let text = |status, body: Vec<u8>| Response::with_body(status, "text/plain", body);
        let response = match fate {
            Fate::Hang => return exchange.hold(None).map(|_| ()),
            Fate::Delay(time) if exchange.hold(Some(*time))? => return self.settle(entry, path, exchange),
            Fate::Delay(_) => return Ok(()),
            Fate::Reset => return exchange.reset(),
            Fate::Endless => {
                self.note(entry, |request| request.status = Some(200));
                return exchange.send_without_end(&text(200, Vec::new()), ENDLESS_PAUSE);
            }
            Fate::Error { status } => text(*status, b"scripted\n".to_vec()),
            Fate::Html { status } => {
                let page = "<!DOCTYPE html>\n<html><body><h1>Please sign in</h1></body></html>\n";
                Response::with_body(*status, "text/html", page)
            }
            Fate::Huge { bytes } => text(200, vec![b'x'; *bytes]),
            Fate::NotUtf8 => text(200, vec![0xff, 0xfe, b'i', b'-', 0x80]),
            // A token that is wrong by its text alone has its time to live.
            Fate::Wrong { text: wrong } if path == TOKEN_PATH => {
                text(200, wrong.clone().into_bytes()).header(TOKEN_TTL, "21600")
            }
            Fate::Wrong { text: wrong } => text(200, wrong.clone().into_bytes()),
        };
        self.answer(entry, &response, exchange)
    }

    /// What the service does when nothing goes wrong.
    fn settle(&self, entry: usize, path: &str, exchange: &mut Exchange<'_>) -> io::Result<()> {
        let head = exchange.head();
        let response = match (head.method.as_str(), path) {
            ("PUT", TOKEN_PATH) => self.token(head),
            ("GET", _) => self.page(head, path),
            _ => failure(405, "Method Not Allowed"),
        };
        self.answer(entry, &response, exchange)
    }

    fn answer(&self, entry: usize, response: &Response, exchange: &mut Exchange<'_>) -> io::Result<()> {
        // Before the answer goes out, so that whoever has it finds it in the log.
        self.note(entry, |request| request.status = Some(response.status));
        exchange.send(response)
    }

    fn token(&self, head: &Head) -> Response {
        // EC2 gives no token through a proxy, lest an open one gives the world the instance's credentials.
        if head.header("x-forwarded-for").is_some() {
            return failure(403, "Forbidden");
        }
        let ttl = head.header(TOKEN_TTL);
        match lock(&self.tokens).give(ttl, self.now()) {
            None => failure(400, "Bad Request"),
            Some(token) => plain(token).header(TOKEN_TTL, ttl.unwrap_or_default()),
        }
    }

    fn page(&self, head: &Head, path: &str) -> Response {
        let now = self.now();
        // The clock may have moved since the log entry was made: a delayed request can come too late.
        if lock(&self.tokens).judge(head.header(TOKEN), now) != TokenUse::Good {
            return failure(401, "Unauthorized");
        }
        let found = pages::find(&lock(&self.node), now, path);
        found.map_or_else(|| failure(404, "Not Found"), plain)
    }

    /// Readable: the node in a line, then the log.
    fn summary(&self) -> Response {
        let node = lock(&self.node).clone();
        let mut text = format!(
            "fake-imds: {} {} in {}\n\n",
            node.instance_type, node.instance_id, node.region
        );
        for request in lock(&self.log).iter() {
            let status = request
                .status
                .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            let _ = writeln!(
                text,
                "{} {:<9} {:<7} {} {} {}",
                rfc3339_millis(request.at),
                status,
                token_word(request.token),
                request.method,
                request.path,
                request.fate.unwrap_or_default(),
            );
        }
        Response::with_body(200, "text/plain; charset=utf-8", text)
    }

    /// The log as JSON, one row a line.
    fn requests(&self) -> Response {
        let log = lock(&self.log);
        let row = |request: &Request| {
            let row = json!({
                "at": rfc3339_millis(request.at),
                "method": request.method,
                "path": request.path,
                "token": token_word(request.token),
                "fate": request.fate,
                "status": request.status,
                "user_agent": request.user_agent,
            });
            row.to_string()
        };
        let rows: Vec<String> = log.iter().map(row).collect();
        Response::with_body(200, "application/json", format!("[{}]\n", rows.join(",\n")))
    }
}

fn token_word(token: TokenUse) -> &'static str {
    match token {
        TokenUse::Absent => "absent",
        TokenUse::Good => "good",
        TokenUse::Expired => "expired",
        TokenUse::Unknown => "unknown",
    }
}

fn plain(text: String) -> Response {
    Response::with_body(200, "text/plain", text).header("server", "EC2ws")
}

/// EC2 answers errors with a small HTML page.
fn failure(status: u16, title: &str) -> Response {
    let page = format!(
        "<html><head><title>{status} - {title}</title></head><body>{status} - {title}</body></html>\n"
    );
    Response::with_body(status, "text/html", page).header("server", "EC2ws")
}

/// Undoes percent-encoding: tag keys have colons, which some clients encode. What is no encoding stays as it is.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let byte = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let (b'%', Some(byte)) = (first, byte) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_oddities_left_alone() {
        assert_eq!(
            decoded("/tags/aws%3Aautoscaling%3agroupName"),
            "/tags/aws:autoscaling:groupName"
        );
        assert_eq!(decoded("/%/%2/%zz/%ff"), "/%/%2/%zz/\u{fffd}");
    }
}
