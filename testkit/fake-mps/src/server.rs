//! `nvidia-cuda-mps-server`: a process that comes up, serves clients, and fails as the script says.
//!
//! It outlives its control daemon. The real server was never measured: its log lines are taken from logs that users
//! published, what it does when its daemon is gone is the worst case.

mod session;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::calls::{self, Event};
use crate::log::{Recorder, Speaker};
use crate::pipe_dir::PipeDir;
use crate::script::{Watched, complain};
use crate::version::Version;
use crate::wire;

/// How often the script is looked at while it starts.
const LOOK: Duration = Duration::from_millis(5);

/// What control tells a new server.
#[derive(Debug, Clone, Default, PartialEq)]
struct Defaults {
    percentage: f64,
    priority: u8,
    limits: BTreeMap<u32, u64>,
    devices: Vec<String>,
}

impl Defaults {
    /// `DEFAULTS percentage priority`, then a line for each limit (`ordinal bytes`) and device (`device ordinal name`).
    fn parse(message: &str) -> Option<Self> {
        let mut lines = message.lines();
        let mut head = lines.next()?.strip_prefix("DEFAULTS ")?.split(' ');
        let mut defaults = Self {
            percentage: head.next()?.parse().ok()?,
            priority: head.next()?.parse().ok()?,
            ..Self::default()
        };
        for line in lines {
            let (first, rest) = line.split_once(' ')?;
            if first == "device" {
                defaults.devices.push(rest.split_once(' ')?.1.to_owned());
            } else {
                defaults.limits.insert(first.parse().ok()?, rest.parse().ok()?);
            }
        }
        Some(defaults)
    }
}

pub(crate) fn main(args: &[String]) -> ExitCode {
    calls::note(&Event::Server(args.join(" ")));
    match Watched::from_env() {
        Ok(script) => start(script).map_or(ExitCode::FAILURE, session::Session::run),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The start of a server; an error is the end of one.
fn start(mut script: Watched) -> Result<session::Session, ()> {
    let dir = PipeDir::from_env();
    let recorder = Recorder::open(&dir.fifo());
    recorder.write(Speaker::Other, "Startup");
    let socket = dir.control();
    recorder.write(
        Speaker::Other,
        &format!("Connecting to control daemon on socket: {}", socket.display()),
    );
    let control = wire::connect(&socket).map_err(drop)?;
    wire::send(&control, "SERVER").map_err(drop)?;
    let (message, _) = wire::receive(&control).map_err(drop)?.ok_or(())?;
    let defaults = Defaults::parse(&message).ok_or(())?;
    recorder.write(Speaker::Other, "Initializing server process");
    initialize(&mut script, &recorder, &control, &defaults)?;
    say_settings(&recorder, script.get().version, &defaults);
    // A daemon that is gone by now does not end it either.
    let _ = wire::send(&control, "READY");
    Ok(session::Session::new(script, recorder, control, defaults))
}

fn initialize(
    script: &mut Watched,
    recorder: &Recorder,
    control: &OwnedFd,
    defaults: &Defaults,
) -> Result<(), ()> {
    let begin = Instant::now();
    if let Some(code) = script.get().server.exit_at_start {
        recorder.write(Speaker::LegacyServer, "Failed to start : invalid argument");
        let _ = wire::send(control, "FATAL");
        leave(code);
    }
    while begin.elapsed() < script.get().server.init() {
        thread::sleep(LOOK);
    }
    for (ordinal, name) in defaults.devices.iter().enumerate() {
        recorder.write(
            Speaker::Server,
            &format!("Creating server context on device {ordinal} ({name})"),
        );
    }
    if script.get().server.gpu_busy || defaults.devices.is_empty() {
        let reason = if defaults.devices.is_empty() {
            "no CUDA-capable device is detected"
        } else {
            "all CUDA-capable devices are busy or unavailable"
        };
        recorder.write(Speaker::Server, &format!("Failed to start : {reason}"));
        let _ = wire::send(control, "FATAL");
        return Err(());
    }
    Ok(())
}

fn say_settings(recorder: &Recorder, version: Version, defaults: &Defaults) {
    let say = |text: &str| recorder.write(Speaker::Server, text);
    say(&format!(
        "Created anonymous shared memory region mps.shm.0.{}",
        std::process::id()
    ));
    if let Some(binary) = version.binary() {
        say(&format!(
            "CUDA MPS Server for Linux/Unix. Binary version: {binary}"
        ));
        say(&format!("Display Driver version: {}", version.driver()));
    }
    say(&format!(
        "Active Threads Percentage set to {:.1}",
        defaults.percentage
    ));
    for (ordinal, bytes) in &defaults.limits {
        say(&format!(
            "Device pinned memory limit for device {ordinal} set to {bytes:#x} bytes"
        ));
    }
    say(&format!("Server Priority set to {}", defaults.priority));
    say("Server has started");
}

/// Ends the process with a code of the script's choice.
fn leave(code: u8) -> ! {
    #[expect(
        clippy::exit,
        reason = "the script chooses the code, whatever is on the stack"
    )]
    std::process::exit(code.into());
}
