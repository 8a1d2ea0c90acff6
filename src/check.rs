//! `gpushare check`: what is wrong with this node, and how to mend it, before anything runs.
//!
//! It changes nothing. NVML is asked by a child process, as the agent does it, so that a driver that hangs is a
//! finding and not a hang.

mod mps;
mod nvml;

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use bytesize::ByteSize;
use rustix::fs::{FsWord, PROC_SUPER_MAGIC};
use serde::Serialize;

use crate::cli::Global;
use crate::commands::{Failure, load_config, print};
use crate::config::{Config, Spool, Target};
use crate::status::client;

/// `SYSFS_MAGIC` of linux/magic.h, which rustix does not have.
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// At least one finding is an error.
#[derive(Debug, thiserror::Error)]
#[error("{errors} of {checks} checks failed")]
pub struct ChecksFailed {
    errors: usize,
    checks: usize,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The agent runs, but something is missing.
    Warning,
    /// The agent does not start, or does not do its job.
    Error,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was checked: a configuration key or a part of the node.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// How to mend it; empty when there is nothing to mend.
    pub mend: String,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            subject,
            found: found.into(),
            mend: String::new(),
        }
    }

    fn error(subject: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            subject,
            found: found.into(),
            mend: mend.into(),
        }
    }

    fn warning(subject: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            ..Self::error(subject, found, mend)
        }
    }
}

/// Checks everything and prints the findings.
pub fn command(global: &Global, json: bool) -> Result<(), Failure> {
    let config = load_config(global)?;
    let findings = findings(&config);
    let text = if json {
        as_json(&findings)
    } else {
        as_text(&findings)
    };
    // What was found counts, whether somebody reads it to the end or not.
    let _ = print(&text)?;
    let errors = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    if errors == 0 {
        Ok(())
    } else {
        Err(ChecksFailed {
            errors,
            checks: findings.len(),
        }
        .into())
    }
}

fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        Finding::ok("configuration", "valid"),
        target(config),
        groups(config),
        socket(config),
        directory("node.state_dir", &config.node.state_dir),
        spool(&config.spool),
        host(&config.host.root_dir),
    ];
    let asked = config.gpu.enabled.then(|| nvml::ask(config, config.mps.enabled));
    if let Some(asked) = &asked {
        findings.push(nvml::finding(&asked.first));
        findings.push(kernel_log(&config.gpu.kmsg));
    } else {
        findings.push(Finding::ok("gpu.enabled", "off: no GPU is read"));
    }
    findings.extend(mps::findings(config, asked.as_ref()));
    findings
}

fn target(config: &Config) -> Finding {
    match config.publish.target {
        Target::Stdout => Finding::ok("publish.target", "batches are printed to standard output"),
        Target::Cloudwatch => Finding::ok(
            "publish.target",
            "batches are sent to Amazon CloudWatch (region, credentials and network are not tried)",
        ),
    }
}

fn groups(config: &Config) -> Finding {
    let groups: Vec<&str> = config.publish.groups.iter().map(|group| group.as_str()).collect();
    if groups.is_empty() {
        return Finding::warning(
            "publish.groups",
            "empty: nothing will be published",
            "name the groups to publish, such as publish.groups = [\"host\", \"gpu\"]",
        );
    }
    Finding::ok("publish.groups", groups.join(", "))
}

/// Whether the kernel's figures are where the agent will look for them.
fn host(root_dir: &Path) -> Finding {
    let unreadable = ["proc/stat", "proc/self/mountinfo"]
        .into_iter()
        .find_map(|file| fs_err::File::open(root_dir.join(file)).err());
    match unreadable {
        None => Finding::ok(
            "host.root_dir",
            format!("the host can be read below {}", root_dir.display()),
        ),
        Some(error) => Finding::error(
            "host.root_dir",
            format!("the host cannot be read: {error}"),
            "set host.root_dir to where the host's root is mounted; it holds proc and sys",
        ),
    }
}

fn socket(config: &Config) -> Finding {
    let socket = &config.status.socket;
    match client::request(socket, "status") {
        Ok(_) => Finding::ok(
            "status.socket",
            format!("an agent answers on {}", socket.display()),
        ),
        Err(_) if is_occupied(socket) => Finding::error(
            "status.socket",
            format!("{} exists and is not a socket", socket.display()),
            "move it away, or set status.socket to another path",
        ),
        Err(_) => directory("status.socket", socket.parent().unwrap_or(Path::new("/"))),
    }
}

/// Whether something is there that no agent has left.
fn is_occupied(socket: &Path) -> bool {
    fs_err::symlink_metadata(socket).is_ok_and(|found| !found.file_type().is_socket())
}

/// Whether the agent could write to a directory, or make it.
fn directory(key: &'static str, wanted: &Path) -> Finding {
    let existing = wanted
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let shown = wanted.display();
    if is_of_the_kernel(existing) {
        return Finding::error(
            key,
            format!("{shown} is in a file system of the kernel, where nothing can be made"),
            format!("set {key} to a place on a disk"),
        );
    }
    let access = rustix::fs::access(
        existing,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    );
    match access {
        Ok(()) if existing == wanted => Finding::ok(key, format!("{shown} can be written to")),
        Ok(()) if existing.is_dir() => Finding::ok(key, format!("{shown} will be made")),
        Ok(()) => Finding::error(
            key,
            format!("{} is not a directory", existing.display()),
            format!("set {key}"),
        ),
        Err(error) => Finding::error(
            key,
            format!(
                "{} cannot be written to: {}",
                existing.display(),
                io::Error::from(error)
            ),
            format!("run as root, or set {key} to a place you may write to"),
        ),
    }
}

/// Whether windows could be written to the spool.
fn spool(spool: &Spool) -> Finding {
    let found = directory("spool.dir", &spool.dir);
    if found.level != Level::Ok {
        let mend = format!(
            "{}; else windows wait in memory and are lost if the agent ends",
            found.mend
        );
        return Finding { mend, ..found };
    }
    let existing = spool.dir.ancestors().find(|path| path.exists());
    let space = rustix::fs::statvfs(existing.unwrap_or(Path::new("/")));
    let free = space.map(|space| space.f_bavail.saturating_mul(space.f_frsize));
    let least = spool.min_free_bytes;
    let dir = spool.dir.display();
    match free {
        Ok(free) if free <= least => Finding::error(
            "spool.dir",
            format!(
                "{} are free on the file system of {dir}, and spool.min_free_bytes is {}: windows wait in memory",
                ByteSize(free),
                ByteSize(least)
            ),
            "free space there, or lower spool.min_free_bytes",
        ),
        Ok(free) if free - least < spool.max_bytes => Finding::warning(
            "spool.dir",
            format!(
                "{} are free on the file system of {dir}: less than spool.max_bytes and spool.min_free_bytes together",
                ByteSize(free)
            ),
            "free space there, or lower either, for outages as long as they are meant for",
        ),
        Ok(free) => Finding::ok(
            "spool.dir",
            format!("{}; {} are free", found.found, ByteSize(free)),
        ),
        Err(error) => Finding::error(
            "spool.dir",
            format!(
                "the file system of {dir} cannot be asked: {}",
                io::Error::from(error)
            ),
            "mend the mount, or set spool.dir to another directory",
        ),
    }
}

/// Whether a path is in procfs or sysfs. access(2) tells root that it may write there, but mkdir(2) fails.
fn is_of_the_kernel(path: &Path) -> bool {
    let kind = rustix::fs::statfs(path).map(|found| found.f_type);
    kind.is_ok_and(|kind| kind == PROC_SUPER_MAGIC || kind == SYSFS_MAGIC)
}

fn kernel_log(path: &Path) -> Finding {
    match fs_err::File::open(path) {
        Ok(_) => Finding::ok(
            "gpu.kmsg",
            format!("{} can be read: XIDs will be seen", path.display()),
        ),
        Err(error) => Finding::warning(
            "gpu.kmsg",
            format!("XIDs will not be seen: {error}"),
            "give the agent CAP_SYSLOG, or point gpu.kmsg at a log it may read",
        ),
    }
}

fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Error => "ERROR  ",
        };
        let _ = writeln!(text, "{level}  {:18}  {}", finding.subject, finding.found);
        if !finding.mend.is_empty() {
            let _ = writeln!(text, "{:29}mend: {}", "", finding.mend);
        }
    }
    text
}

fn as_json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).expect("findings are strings") + "\n"
}
