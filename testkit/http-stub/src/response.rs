//! An answer: status, headers, body.

/// An answer as it goes out. `Content-Length` and `Connection` are added when it is sent, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names and values, in the order of sending.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without headers or body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An answer of that content type.
    #[must_use]
    pub fn with_body(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut response = Self::empty(status).header("content-type", content_type);
        response.body = body.into();
        response
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Head and body in one piece.
    pub(crate) fn whole(&self, keep_alive: bool) -> Vec<u8> {
        let length = format!("content-length: {}", self.body.len());
        let mut bytes = self.head(&length, keep_alive);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The head alone; `framing` is the header line that says where the body ends.
    pub(crate) fn head(&self, framing: &str, keep_alive: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text += framing;
        text += if keep_alive {
            "\r\n\r\n"
        } else {
            "\r\nconnection: close\r\n\r\n"
        };
        text.into_bytes()
    }
}

/// The reason phrase. Clients ignore it; people who read a dump do not.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
