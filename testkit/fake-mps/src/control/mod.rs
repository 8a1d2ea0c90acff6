//! `nvidia-cuda-mps-control`: the daemon (`-f`, `-d`) and the command line that talks to it.

mod ask;
mod clients;
mod commands;
mod daemon;
mod lists;
mod servers;
mod settings;
mod start;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use crate::script::{Script, Watched, complain};

pub(crate) use servers::launch;
pub(crate) use settings::limit as pinned_limit;

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// `-f`.
    Foreground,
    /// `-d`.
    Background,
    /// `-v`.
    Version,
    /// `--help`.
    Help,
    /// Commands from stdin.
    Ask,
    /// Commands as arguments (595).
    AskOnce(String),
    /// 580 takes arguments that it does not know for nothing at all.
    Nothing,
}

/// The arguments, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    mode: Mode,
    multi_user: bool,
    protocol_3: bool,
}

impl Options {
    fn parse(args: &[String], script: &Script, protocol: Option<&str>) -> Self {
        let version = script.version;
        let mut options = Self {
            mode: Mode::Ask,
            multi_user: false,
            protocol_3: false,
        };
        let mut unknown = Vec::new();
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "-f" => options.mode = Mode::Foreground,
                "-d" => options.mode = Mode::Background,
                "--help" => options.mode = Mode::Help,
                "-v" if version.is_cuda_13() => options.mode = Mode::Version,
                "-M" | "-multiuser-server" | "--multiuser-server" if version.is_cuda_13() => {
                    options.multi_user = true;
                }
                "-m" | "--multiuser" if version.has_protocol_3() => options.multi_user = true,
                "-p" if version.has_protocol_3() => options.protocol_3 = args.next() == Some("3"),
                _ => unknown.push(arg),
            }
        }
        // The environment wins over the flag.
        if let Some(protocol) = protocol.filter(|_| version.has_protocol_3()) {
            options.protocol_3 = protocol == "3";
        }
        options.with_unknown(&unknown, script)
    }

    /// 535 and 550 are a command line for whatever arguments they do not know, `-f` beside them included.
    fn with_unknown(mut self, unknown: &[&str], script: &Script) -> Self {
        if unknown.is_empty() {
            return self;
        }
        if script.version.has_partitions() {
            self.mode = Mode::AskOnce(unknown.join(" "));
        } else if script.version.is_cuda_13() {
            self.mode = Mode::Nothing;
        } else {
            self.mode = Mode::Ask;
        }
        self
    }
}

pub(crate) fn main(args: &[String]) -> ExitCode {
    let mut script = match Watched::from_env() {
        Ok(script) => script,
        Err(error) => {
            complain(&error);
            return ExitCode::from(64);
        }
    };
    let protocol = std::env::var("CUDA_MPS_PROTOCOL_VERSION").ok();
    let options = Options::parse(args, script.get(), protocol.as_deref());
    match &options.mode {
        Mode::Foreground => start::foreground(script, &options, args),
        Mode::Background => start::background(script, &options, args),
        Mode::Version => version(script.get()),
        Mode::Help => say("CUDA MPS Control for Linux/Unix.\n"),
        Mode::Ask => ask::from_stdin(),
        Mode::AskOnce(command) => ask::once(command),
        Mode::Nothing => ExitCode::SUCCESS,
    }
}

fn version(script: &Script) -> ExitCode {
    let binary = script.version.binary().unwrap_or_default();
    say(&format!(
        "CUDA MPS Control for Linux/Unix/QNX. Binary version: {binary}\n"
    ))
}

fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(version: u16, line: &str, protocol: Option<&str>) -> Options {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let script = Script {
            version: version.try_into().unwrap(),
            ..Script::default()
        };
        Options::parse(&args, &script, protocol)
    }

    #[test]
    fn arguments_mean_what_the_version_knows() {
        assert_eq!(parse(550, "-f", None).mode, Mode::Foreground);
        assert_eq!(parse(550, "-f -multiuser-server", None).mode, Mode::Ask);
        assert_eq!(parse(550, "-v", None).mode, Mode::Ask);
        assert!(parse(580, "-f -M", None).multi_user && parse(580, "-multiuser-server -f", None).multi_user);
        assert_eq!(parse(580, "get_server_list", None).mode, Mode::Nothing);
        assert_eq!(
            parse(595, "ps -p 7", None).mode,
            Mode::AskOnce("ps -p 7".to_owned())
        );
    }

    #[test]
    fn the_environment_wins_over_the_protocol_flag() {
        assert!(parse(615, "-f -p 3", None).protocol_3);
        assert!(!parse(615, "-f -p 3", Some("2")).protocol_3);
        assert!(parse(615, "-f", Some("3")).protocol_3);
        assert!(!parse(595, "-f", Some("3")).protocol_3);
    }
}
