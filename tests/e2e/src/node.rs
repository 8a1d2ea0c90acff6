//! A booted node.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cache::tail;
use crate::family::Family;
use crate::holder::{Holder, Said};
use crate::inside::{self, Ran, Running};
use crate::spec::File;
use crate::{Cache, Error, Spec};

/// The longest any state may take to come about; a loaded machine is slow, a broken node never gets there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The holder's namespace of processes is one below the test's, the node's two.
const HOLDER_DEPTH: usize = 1;
const NODE_DEPTH: usize = 2;
/// The exit status of systemd-nspawn after a reboot, as its manual has it for a keeper that starts it again.
const REBOOTED: i32 = 133;
/// What of the journal stands in a failure.
const JOURNAL_LINES: usize = 80;

/// A booted node. It and all that it ran are gone when it is dropped.
pub struct Node {
    name: String,
    holder: Holder,
    /// Its PID 1, in this machine's numbers; none while it is switched off.
    leader: Option<u32>,
}

impl Node {
    /// Boots a node and waits until all its units have started, or failed.
    ///
    /// # Panics
    /// When it cannot; the message says why, and what this machine lacks.
    #[must_use]
    #[track_caller]
    pub fn boot(spec: &Spec) -> Self {
        Self::try_boot(spec).unwrap_or_else(|error| {
            panic!(
                "no node for this test: {}\n`cargo xtask test --only e2e` prepares this machine",
                error.chain()
            )
        })
    }

    /// As [`Self::boot`], for those who can do without a node.
    pub fn try_boot(spec: &Spec) -> Result<Self, Error> {
        let holder = Holder::start(&Cache::of_this_build()?, spec)?;
        let mut node = Self {
            name: spec.name.clone(),
            holder,
            leader: None,
        };
        node.write(&spec.files)
            .map_err(Error::io("put files on a node"))?;
        node.start()?;
        Ok(node)
    }

    fn write(&self, files: &[File]) -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let disk = self.disk();
        for file in files {
            let path = below(&disk, &file.path);
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            fs_err::write(&path, &file.bytes)?;
            fs_err::set_permissions(&path, PermissionsExt::from_mode(file.mode))?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Error> {
        self.holder.boot();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            self.leader = Family::of(self.holder.pid()).first(NODE_DEPTH);
            if matches!(self.state().as_deref(), Some("running" | "degraded")) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(Error::NoState {
            node: self.name.clone(),
            wanted: "up",
            limit: PATIENCE,
            console: tail(&self.holder.console(), 20),
        })
    }

    /// What `systemctl is-system-running` says: "running", or "degraded" when a unit has failed.
    ///
    /// `None` while nothing answers.
    #[must_use]
    pub fn state(&self) -> Option<String> {
        let command = inside::command(self.leader?, &["systemctl", "is-system-running"]);
        let said = Running::start(command).wait(PATIENCE)?.stdout;
        let word = said.trim();
        (!word.is_empty()).then(|| word.to_owned())
    }

    /// Runs a command in the node to its end.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    #[must_use]
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let ran = self.spawn(arguments).wait(PATIENCE);
        ran.unwrap_or_else(|| self.fail(&format!("{arguments:?} does not end")))
    }

    /// Runs a command in the node and returns its standard output.
    ///
    /// # Panics
    /// When it fails, or does not end within [`PATIENCE`].
    #[expect(clippy::must_use_candidate, reason = "most commands are run for their effect")]
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        if ran.code != 0 {
            self.fail(&format!("{arguments:?}: {ran:#?}"));
        }
        ran.stdout
    }

    /// Starts a program in the node.
    ///
    /// It has the node's namespaces but not its control groups: for systemd it belongs to no unit.
    ///
    /// # Panics
    /// When the node is switched off.
    #[must_use]
    #[track_caller]
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        let Some(leader) = self.leader else {
            self.fail("the node is switched off");
        };
        Running::start(inside::command(leader, arguments))
    }

    /// Starts a program of this machine beside the node: it has this machine's files and the node's network, so that
    /// 127.0.0.1 is the node's, and ends at the latest when the node is gone.
    ///
    /// Of the command count program, arguments, environment (which is otherwise that of a login) and folder.
    ///
    /// # Panics
    /// When the node is switched off.
    #[must_use]
    #[track_caller]
    pub fn beside(&self, command: &Command) -> Running {
        let (Some(leader), Some(keeper)) = (self.leader, self.keeper()) else {
            self.fail("the node is switched off");
        };
        Running::start(inside::beside(keeper, leader, command))
    }

    /// Everything that a unit wrote, over all boots, one message a line.
    #[must_use]
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.succeed(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// A property of a unit, as `systemctl show` has it: `ActiveState`, `MainPID`, `NRestarts`, `StatusText`…
    #[must_use]
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.succeed(&["systemctl", "show", "--value", "--property", name, "--", unit]);
        shown.trim_end().to_owned()
    }

    /// A file of the node, as this machine sees it: its disk, and its `/run` and other mounts while it is up.
    ///
    /// A symbolic link in the node that points to an absolute path leads out of it.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = self.leader.map_or_else(
            || self.disk(),
            |leader| PathBuf::from("/proc").join(leader.to_string()).join("root"),
        );
        below(&root, path.as_ref())
    }

    /// The id on this machine of a process that has this id in the node.
    #[must_use]
    pub fn host_pid(&self, pid: u32) -> Option<u32> {
        Family::of(self.holder.pid()).named(pid, NODE_DEPTH)
    }

    /// Reboots it as an operator does, and waits until it is up again. Its disk stays.
    ///
    /// # Panics
    /// When it does not go down or come up in time.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.go_down("reboot", REBOOTED);
        self.switch_on();
    }

    /// Switches it off as an operator does. Its disk stays: [`Self::path`] reads it, [`Self::switch_on`] boots it.
    ///
    /// # Panics
    /// When it does not go down in time.
    #[track_caller]
    pub fn poweroff(&mut self) {
        self.go_down("poweroff", 0);
    }

    /// Boots it again after [`Self::poweroff`].
    ///
    /// # Panics
    /// When it does not come up in time.
    #[track_caller]
    pub fn switch_on(&mut self) {
        if let Err(error) = self.start() {
            self.fail(&error.chain());
        }
    }

    #[track_caller]
    fn go_down(&mut self, verb: &str, wanted: i32) {
        // systemd may close the connection before it has answered, so that the client says it failed.
        let _ = self.run(&["systemctl", verb]);
        match self.holder.answer(Instant::now() + PATIENCE) {
            Some(Said::Ended(status)) if status == wanted => self.leader = None,
            other => self.fail(&format!(
                "systemctl {verb}: the node should end with {wanted}, but {other:?}"
            )),
        }
    }

    /// Waits until `look` sees what it looks for.
    ///
    /// # Panics
    /// After `limit`, with the journal.
    #[track_caller]
    pub fn wait_until<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            if begun.elapsed() > limit {
                self.fail(&format!("never came within {} s: {what}", limit.as_secs_f64()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the test with this reason, the end of the journal and of the console.
    ///
    /// # Panics
    /// Always.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        let mut text = format!("node {}: {why}\n", self.name);
        if let Some(leader) = self.leader {
            let lines = format!("--lines={JOURNAL_LINES}");
            let arguments = ["journalctl", "--no-pager", "--output=short-precise", &lines];
            let ran = Running::start(inside::command(leader, &arguments)).wait(PATIENCE);
            let journal = ran.map_or_else(|| "it cannot be read".to_owned(), |ran| ran.stdout);
            let _ = writeln!(text, "-- its journal:\n{journal}");
        }
        panic!("{text}-- its console:\n{}", tail(&self.holder.console(), 20));
    }

    /// The node's disk, mounted for the holder alone.
    fn disk(&self) -> PathBuf {
        let keeper = self.keeper();
        let keeper = keeper.unwrap_or_else(|| panic!("the holder of node {} is gone", self.name));
        self.holder.disk_through(keeper)
    }

    /// The PID 1 that the node hangs on, in this machine's numbers.
    fn keeper(&self) -> Option<u32> {
        Family::of(self.holder.pid()).first(HOLDER_DEPTH)
    }
}

/// `path`, absolute in the node, below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
