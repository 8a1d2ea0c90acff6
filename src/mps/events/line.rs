//! What a line of the control daemon's log means. Pure.
//!
//! A line is `[2026-11-26 12:32:15.073 Control  6861] text`; servers write theirs into the same log. What programs
//! print before their log works has no head.

use super::Event;

/// What one line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// How much it matters.
    pub weight: Weight,
    /// What happened, where the line tells of something that happened.
    pub event: Option<Event>,
}

/// How much a line matters to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Every question of ours leaves it, or every client that is well.
    Noise,
    /// Comes with every client.
    Detail,
    /// Worth a line in the journal.
    Notable,
    /// Somebody should look.
    Trouble,
}

/// Reads the lines of one daemon, in their order.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogReader {
    /// Whether the daemon is answering a question: it writes its answers into the log as well.
    answering: bool,
}

impl LogReader {
    /// What the next line means. `None` where nothing stands in it.
    pub fn read(&mut self, line: &str) -> Option<Meaning> {
        let (head, text) = split(line.trim_end());
        if text.is_empty() {
            return None;
        }
        if let Some(event) = event(text) {
            let weight = weight_of(&event);
            return Some(Meaning {
                weight,
                event: Some(event),
            });
        }
        let weight = self.weight(head, text);
        Some(Meaning { weight, event: None })
    }

    /// The weight of a line that tells of no event.
    fn weight(&mut self, head: &str, text: &str) -> Weight {
        if let Some(command) = text.strip_prefix("Cmd:") {
            let weight = weight_of_command(command);
            self.answering = weight == Weight::Noise;
            return weight;
        }
        if begins_with(text, &AROUND_QUESTIONS) {
            self.answering = false;
            return Weight::Noise;
        }
        if begins_with(text, &TROUBLE) {
            Weight::Trouble
        } else if self.answering && (head.is_empty() || head.contains("Control")) {
            Weight::Noise
        } else if head.is_empty() {
            Weight::Trouble
        } else if begins_with(text, &NOISE) {
            Weight::Noise
        } else if begins_with(text, &DETAIL) {
            Weight::Detail
        } else {
            Weight::Notable
        }
    }
}

fn begins_with(text: &str, known: &[&str]) -> bool {
    known.iter().any(|known| text.starts_with(known))
}

/// The line without its time and the brackets, for a log that has its own time.
#[must_use]
pub fn without_time(line: &str) -> String {
    let (head, text) = split(line.trim_end());
    match head.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')) {
        Some((_, speaker)) => format!("{}: {text}", speaker.trim()),
        None => text.to_owned(),
    }
}

/// The head without its brackets, and the text. The head is empty where there is none.
fn split(line: &str) -> (&str, &str) {
    let headed = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match headed.filter(|(head, _)| is_head(head)) {
        Some((head, text)) => (head, text.trim_start()),
        None => ("", line),
    }
}

/// `DATE TIME SPEAKER PID`, where the speaker may be two words.
fn is_head(head: &str) -> bool {
    let words: Vec<&str> = head.split_whitespace().collect();
    words.len() >= 4 && words[words.len() - 1].bytes().all(|byte| byte.is_ascii_digit())
}

fn event(text: &str) -> Option<Event> {
    started(text).or_else(|| ended(text)).or_else(|| queued(text))
}

fn started(text: &str) -> Option<Event> {
    if let Some(rest) = text.strip_prefix("Starting new server ") {
        let (pid, uid) = rest.split_once(" for user ")?;
        return Some(Event::ServerStarting {
            pid: number(pid)?,
            uid: number(uid)?,
        });
    }
    if let Some(rest) = text.strip_prefix("NEW SERVER ") {
        let pid = number(rest.strip_suffix(": Ready")?)?;
        return Some(Event::ServerReady { pid });
    }
    let rest = text.strip_prefix("Failed to start server using uid ")?;
    let (uid, error) = rest.split_once(", error: ")?;
    Some(Event::ServerNotStarted {
        uid: number(uid)?,
        error: error.to_owned(),
    })
}

fn ended(text: &str) -> Option<Event> {
    if text.contains("encountered a fatal exception") {
        return Some(Event::ServerFault);
    }
    if let Some(pid) = text.strip_prefix("Force shutting down server ") {
        return Some(Event::ServerForcedOut { pid: number(pid)? });
    }
    if let Some(status) = text.strip_prefix("Exit with status ") {
        let status = number(status)?;
        return Some(Event::DaemonLeaves { status });
    }
    let rest = text.strip_prefix("Server ")?;
    let (pid, status) = rest.split_once(" exited with status ")?;
    Some(Event::ServerExited {
        pid: number(pid)?,
        status: number(status)?,
    })
}

fn queued(text: &str) -> Option<Event> {
    let rest = text.strip_prefix("NEW CLIENT ")?;
    let (client, why) = rest.split_once(": ")?;
    if !why.contains("pending list") {
        return None;
    }
    let (pid, uid) = client.split_once(" from user ")?;
    Some(Event::ClientQueued {
        pid: number(pid)?,
        uid: number(uid)?,
    })
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.trim().trim_end_matches('.').parse().ok()
}

fn weight_of(event: &Event) -> Weight {
    match event {
        Event::ServerFault | Event::ServerNotStarted { .. } | Event::ServerForcedOut { .. } => {
            Weight::Trouble
        }
        // A second user's client waits for the first one's, which may be for ever.
        Event::ServerExited { .. } | Event::ClientQueued { .. } => Weight::Trouble,
        _ => Weight::Notable,
    }
}

/// Questions are noise; who changes something leaves a trace.
fn weight_of_command(command: &str) -> Weight {
    let changes = [
        "set_",
        "start_server",
        "shutdown_server",
        "terminate_client",
        "quit",
    ];
    if changes.iter().any(|change| command.starts_with(change)) {
        Weight::Notable
    } else {
        Weight::Noise
    }
}

/// What every call of the control program leaves beside the question and its answer.
const AROUND_QUESTIONS: [&str; 3] = ["NEW UI", "UI closed", "Accepting connection"];

/// What says nothing, or precedes every client that connects well.
const NOISE: [&str; 3] = [
    "User did not send valid credentials",
    "Removed Shm file at",
    "To connect CUDA applications to this daemon",
];

const DETAIL: [&str; 6] = [
    "NEW CLIENT ",
    "Received new client request",
    "Client {",
    "Creating worker thread",
    "Destroy worker",
    "Client process disconnected",
];

const TROUBLE: [&str; 6] = [
    "Insufficient privileges",
    "Not enough privilege",
    "Invalid ",
    "Failed to ",
    "Warning",
    "Receive command failed",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &str) -> String {
        format!("[2026-11-26 12:32:15.073 Control  6861] {text}")
    }

    fn meant(text: &str) -> Option<Event> {
        LogReader::default().read(&control(text)).unwrap().event
    }

    fn read(line: &str) -> Option<Meaning> {
        LogReader::default().read(line)
    }

    #[test]
    fn what_happens_to_servers_is_an_event() {
        let cases = [
            (
                "Starting new server 7638 for user 1000",
                Event::ServerStarting { pid: 7638, uid: 1000 },
            ),
            ("NEW SERVER 7638: Ready", Event::ServerReady { pid: 7638 }),
            (
                "Server 7638 exited with status 0",
                Event::ServerExited { pid: 7638, status: 0 },
            ),
            (
                "Server 7638 exited with status -11",
                Event::ServerExited {
                    pid: 7638,
                    status: -11,
                },
            ),
            (
                "Server encountered a fatal exception. Shutting down",
                Event::ServerFault,
            ),
            (
                "Force shutting down server 7638",
                Event::ServerForcedOut { pid: 7638 },
            ),
            ("Exit with status 1", Event::DaemonLeaves { status: 1 }),
        ];
        for (text, event) in cases {
            assert_eq!(meant(text), Some(event), "{text}");
        }
        let error = "Out of memory: again".to_owned();
        assert_eq!(
            meant("Failed to start server using uid 33, error: Out of memory: again"),
            Some(Event::ServerNotStarted { uid: 33, error })
        );
    }

    #[test]
    fn a_client_that_waits_is_an_event_and_one_that_is_served_is_not() {
        assert_eq!(
            meant("NEW CLIENT 4267 from user 1000: Server is not ready, push client to pending list"),
            Some(Event::ClientQueued { pid: 4267, uid: 1000 })
        );
        let served = read(&control("NEW CLIENT 0 from user 1000: Server already exists")).unwrap();
        assert_eq!((served.weight, served.event), (Weight::Detail, None));
    }

    #[test]
    fn m21_questions_and_answers_are_noise_and_changes_leave_a_trace() {
        // As driver 550 writes it, and the table of `ps` without heads.
        let noise = [
            "Accepting connection...",
            "NEW UI",
            "Cmd:get_server_list",
            "6877",
            "Cmd:get_server_status 6877",
            "INITIALIZING",
            "Cmd:get_client_list 6877",
            "Server 6877 is <busy>",
            "Cmd:ps",
            "Server not found",
            "Cmd:gpushare-1",
            "Unknown command \"gpushare-1\"",
            "Cmd:get_default_device_pinned_mem_limit 0",
            "No default pinned memory limit set for the device!",
            "UI closed",
            "User did not send valid credentials",
        ];
        let mut reader = LogReader::default();
        let mut weight = |line: &str| reader.read(line).unwrap().weight;
        for text in noise {
            assert_eq!(weight(&control(text)), Weight::Noise, "{text}");
        }
        assert_eq!(weight(&control("6877")), Weight::Notable, "nobody has asked");
        assert_eq!(weight(&control("Cmd:ps")), Weight::Noise);
        assert_eq!(weight("PID       ID    SERVER    DEVICE"), Weight::Noise);
        assert_eq!(weight(&control("Invalid device ordinal!")), Weight::Trouble);
        assert_eq!(
            weight("[2026-11-26 12:32:15.073 Server  6877] Startup"),
            Weight::Notable
        );
        for change in [
            "set_default_active_thread_percentage 25",
            "quit -t 5",
            "start_server -uid 0",
        ] {
            assert_eq!(
                weight(&control(&format!("Cmd:{change}"))),
                Weight::Notable,
                "{change}"
            );
        }
        assert_eq!(
            weight("terminate called without an active exception"),
            Weight::Trouble
        );
    }

    #[test]
    fn what_happens_while_a_question_is_answered_is_still_heard() {
        let mut reader = LogReader::default();
        reader.read(&control("Cmd:ps"));
        let event = reader
            .read(&control("Server 7 exited with status 0"))
            .unwrap()
            .event;
        assert_eq!(event, Some(Event::ServerExited { pid: 7, status: 0 }));
    }

    #[test]
    fn refusals_faults_and_what_has_no_head_are_trouble() {
        for line in [
            control(
                "Insufficient privileges for UID 65534. Only the root user may shutdown another user's server.",
            ),
            control("Invalid percentage, expected between (0.0, 100.0]"),
            control("Server encountered a fatal exception. Shutting down"),
            "An instance of this daemon is already running".into(),
            "[not a head] Cmd:get_server_list".into(),
        ] {
            assert_eq!(read(&line).unwrap().weight, Weight::Trouble, "{line}");
        }
    }

    #[test]
    fn lines_that_say_nothing_or_lie_are_no_events() {
        assert_eq!(read(""), None);
        assert_eq!(read(&control("")), None);
        for text in [
            "Starting new server x for user 0",
            "Starting new server 99999999999 for user 0",
            "NEW SERVER 12",
            "Server 12 exited with status",
            "NEW CLIENT -1 from user 0: push client to pending list",
            "Device pinned memory limit for device 0 set to 0xzz bytes",
            "the text says: Server 12 exited with status 0",
        ] {
            assert_eq!(meant(text), None, "{text}");
        }
    }

    #[test]
    fn a_log_with_its_own_time_gets_the_line_without() {
        assert_eq!(without_time(&control("NEW UI")), "Control  6861: NEW UI");
        let legacy = "[2026-11-26 12:32:15.073 Legacy Server     7] Startup";
        assert_eq!(without_time(legacy), "Legacy Server     7: Startup");
        assert_eq!(without_time("An instance"), "An instance");
    }
}
