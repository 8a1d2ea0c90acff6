//! The head of a request: what comes before the body.

/// Method, target, headers and size of a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// Names in lower case, in the order of sending. A value that is not UTF-8 is kept with replacement characters.
    pub headers: Vec<(String, String)>,
    /// Bytes on the wire, up to and with the empty line.
    pub bytes: usize,
    /// Whether the peer speaks HTTP/1.1 and does not ask for the connection's end.
    pub(crate) keep_alive: bool,
}

impl Head {
    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The first header of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn of(parsed: &httparse::Request<'_, '_>, bytes: usize) -> Self {
        let headers: Vec<(String, String)> = parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_ascii_lowercase(), value)
            })
            .collect();
        let mut head = Self {
            method: parsed.method.unwrap_or_default().to_owned(),
            target: parsed.path.unwrap_or_default().to_owned(),
            headers,
            bytes,
            keep_alive: parsed.version == Some(1),
        };
        head.keep_alive &= !head.has_word("connection", "close");
        head
    }

    /// Whether the header of that name lists the word.
    pub(crate) fn has_word(&self, name: &str, word: &str) -> bool {
        self.header(name).is_some_and(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(word))
        })
    }
}
