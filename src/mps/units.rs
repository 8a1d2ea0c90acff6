//! One systemd unit per GPU, over D-Bus: `gpushare-mps@<uuid>.service`. The only file that names `zbus`.
//!
//! systemd starts a daemon again when it crashes and reaps the servers that it leaves behind; the agent starts what is
//! not running and what ended for good. The agent needs no capability for it, and its own end touches no unit.
//!
//! Every call is bounded by `CALL_LIMIT`. A connection that breaks is made anew with the next call.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::{Duration, Instant};

use zbus::export::futures_core::Stream;
use zbus::message::{Message, Type};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

use super::backend::{Backend, BackendError, Ended, Unit};
use crate::gpu::GpuUuid;
use crate::log;

/// systemd answers within milliseconds, and within seconds while it loads its units anew.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// How long a bus that does not work is left alone: with many GPUs each would wait for it in turn.
const SILENCE: Duration = Duration::from_secs(1);

/// Signals that may wait to be looked at: those of all services of a busy node for a few seconds.
const QUEUED: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Objects of our units: systemd writes every byte but letters and digits as `_` and two hex digits.
const OUR_OBJECTS: &str = "/org/freedesktop/systemd1/unit/gpushare_2dmps_40";

/// `CLD_EXITED` of `sigaction(2)`: the process ended by itself.
const EXITED: i32 = 1;

/// What [`ListUnitsByPatterns`](https://www.freedesktop.org/software/systemd/man/org.freedesktop.systemd1.html) says of
/// a unit: its name first.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// The unit of this GPU's daemon.
#[must_use]
pub fn unit_name(gpu: &GpuUuid) -> String {
    format!("gpushare-mps@{gpu}.service")
}

/// systemd.
#[derive(Debug, Default)]
pub struct Units {
    bus: Option<Bus>,
    /// Main processes that were asked to end, so that systemd starts others.
    asked: BTreeMap<GpuUuid, u32>,
    /// Until when a bus that has timed out is not asked again, and what it said.
    silent: Option<(Instant, BackendError)>,
}

#[derive(Debug)]
struct Bus {
    connection: Connection,
    signals: MessageStream,
    /// The objects of units that were asked for.
    objects: BTreeMap<String, OwnedObjectPath>,
}

impl Units {
    /// Connects with the first call.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does something on the bus, and gives the connection up if that fails for want of it.
    async fn on_bus<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Bus) -> Result<T, zbus::Error>,
    ) -> Result<T, BackendError> {
        if let Some((until, error)) = &self.silent
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        self.silent = None;
        let outcome = tokio::time::timeout(CALL_LIMIT, async {
            if self.bus.is_none() {
                self.bus = Some(Bus::connect().await?);
            }
            work(self.bus.as_mut().expect("it was just made")).await
        })
        .await
        .unwrap_or_else(|_| Err(zbus::Error::from(io::Error::from(io::ErrorKind::TimedOut))));
        outcome.map_err(|error| {
            let refusal = refused(&error);
            if is_of_the_connection(&error) {
                self.bus = None;
                self.silent = Some((Instant::now() + SILENCE, refusal.clone()));
            }
            refusal
        })
    }

    async fn order(&mut self, method: &'static str, gpu: &GpuUuid) -> Result<(), BackendError> {
        let name = unit_name(gpu);
        self.on_bus(async |bus| {
            // A unit that has failed for good may be started again only after that.
            if method == "StartUnit" {
                let _ = bus.manager("ResetFailedUnit", &(name.as_str(),)).await;
            }
            bus.manager(method, &(name.as_str(), "replace")).await.map(drop)
        })
        .await
    }
}

impl Bus {
    async fn connect() -> Result<Self, zbus::Error> {
        let connection = zbus::connection::Builder::system()
            .method_timeout(CALL_LIMIT)
            .build()
            .await?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SYSTEMD)
            .interface(PROPERTIES)
            .member("PropertiesChanged")
            .path_namespace("/org/freedesktop/systemd1/unit")
            .arg(0, SERVICE)
            .build()?;
        let signals = MessageStream::for_match_rule(rule, &connection, Some(QUEUED)).await?;
        let bus = Self {
            connection,
            signals,
            objects: BTreeMap::new(),
        };
        // Without a subscriber systemd sends no signals of units.
        bus.manager("Subscribe", &()).await?;
        Ok(bus)
    }

    async fn manager<B>(&self, method: &'static str, body: &B) -> Result<Message, zbus::Error>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection
            .call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body)
            .await
    }

    async fn object(&mut self, name: &str) -> Result<OwnedObjectPath, zbus::Error> {
        if let Some(object) = self.objects.get(name) {
            return Ok(object.clone());
        }
        let answer = self.manager("LoadUnit", &(name,)).await?;
        let object: OwnedObjectPath = answer.body().deserialize()?;
        self.objects.insert(name.to_owned(), object.clone());
        Ok(object)
    }

    async fn property<T>(
        &self,
        object: &OwnedObjectPath,
        interface: &'static str,
        name: &'static str,
    ) -> Result<T, zbus::Error>
    where
        T: TryFrom<OwnedVariant, Error = zbus::Error>,
    {
        let answer = self
            .connection
            .call_method(Some(SYSTEMD), object, Some(PROPERTIES), "Get", &(interface, name))
            .await?;
        answer.body().deserialize::<OwnedVariant>()?.try_into()
    }

    async fn unit(&mut self, name: &str) -> Result<Result<Unit, BackendError>, zbus::Error> {
        let object = self.object(name).await?;
        let active: String = self.property(&object, UNIT, "ActiveState").await?;
        // What runs goes on although its file was removed or masked; it could not be started again.
        if matches!(active.as_str(), "inactive" | "failed") {
            let load: String = self.property(&object, UNIT, "LoadState").await?;
            if load != "loaded" {
                return Ok(Err(not_loaded(name, &load)));
            }
        }
        Ok(Ok(match active.as_str() {
            "active" | "reloading" | "refreshing" => Unit::Running {
                pid: self.property(&object, SERVICE, "MainPID").await?,
            },
            "activating" => Unit::Starting,
            "deactivating" => Unit::Stopping,
            "failed" => Unit::Failed(self.ended(&object).await?),
            _ => Unit::Inactive,
        }))
    }

    async fn ended(&self, object: &OwnedObjectPath) -> Result<Ended, zbus::Error> {
        let how: i32 = self.property(object, SERVICE, "ExecMainCode").await?;
        let status: i32 = self.property(object, SERVICE, "ExecMainStatus").await?;
        Ok(Ended {
            code: (how == EXITED).then_some(status),
            result: self.property(object, SERVICE, "Result").await?,
        })
    }

    async fn known(&self) -> Result<Vec<GpuUuid>, zbus::Error> {
        let any: [&str; 0] = [];
        let patterns = [unit_name(&GpuUuid::from("*"))];
        let answer = self
            .manager("ListUnitsByPatterns", &(&any[..], &patterns[..]))
            .await?;
        let listed: Vec<Listed> = answer.body().deserialize()?;
        let is_alive = |state: &str| !matches!(state, "inactive" | "failed");
        Ok(listed
            .iter()
            .filter(|unit| is_alive(&unit.3))
            .filter_map(|unit| {
                let uuid = unit.0.strip_prefix("gpushare-mps@")?.strip_suffix(".service")?;
                Some(GpuUuid::from(uuid))
            })
            .collect())
    }
}

impl Backend for Units {
    async fn unit(&mut self, gpu: &GpuUuid) -> Result<Unit, BackendError> {
        let name = unit_name(gpu);
        self.on_bus(async |bus| bus.unit(&name).await).await?
    }

    async fn start(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("StartUnit", gpu).await
    }

    async fn stop(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("StopUnit", gpu).await
    }

    /// The main process is asked to end, and `Restart=always` brings another one: with `RestartUnit` systemd would run
    /// `ExecStop=` first, which restores the compute mode and lets programs past MPS until the new daemon is there. Only
    /// a process that was asked before and has not ended is left to `RestartUnit`, which kills in the end.
    async fn restart(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        let running = match self.unit(gpu).await? {
            Unit::Running { pid } => Some(pid),
            _ => None,
        };
        let was_asked = self.asked.remove(gpu);
        let Some(pid) = running.filter(|pid| was_asked != Some(*pid)) else {
            return self.order("RestartUnit", gpu).await;
        };
        let name = unit_name(gpu);
        self.on_bus(async |bus| {
            let body = (name.as_str(), "main", rustix::process::Signal::TERM.as_raw());
            bus.manager("KillUnit", &body).await.map(drop)
        })
        .await?;
        self.asked.insert(gpu.clone(), pid);
        Ok(())
    }

    async fn reload(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        self.order("ReloadUnit", gpu).await
    }

    async fn forget(&mut self, gpu: &GpuUuid) -> Result<(), BackendError> {
        let name = unit_name(gpu);
        self.on_bus(async |bus| bus.manager("ResetFailedUnit", &(name.as_str(),)).await.map(drop))
            .await
    }

    async fn known(&mut self) -> Result<Vec<GpuUuid>, BackendError> {
        self.on_bus(async |bus| bus.known().await).await
    }

    async fn changed(&mut self) {
        let Some(bus) = &mut self.bus else {
            return std::future::pending().await;
        };
        loop {
            match next(&mut bus.signals).await {
                Some(Ok(signal)) if !is_ours(&signal) => {}
                Some(Ok(_)) => return,
                // The connection is gone; the next call makes another one.
                Some(Err(_)) | None => break,
            }
        }
        self.bus = None;
    }
}

fn next(signals: &mut MessageStream) -> impl Future<Output = Option<Result<Message, zbus::Error>>> + '_ {
    poll_fn(|context| Pin::new(&mut *signals).poll_next(context))
}

fn is_ours(signal: &Message) -> bool {
    let header = signal.header();
    header
        .path()
        .is_some_and(|path| path.as_str().starts_with(OUR_OBJECTS))
}

fn is_of_the_connection(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(..) => false,
        zbus::Error::FDO(error) => matches!(
            **error,
            zbus::fdo::Error::Disconnected(_) | zbus::fdo::Error::NoReply(_) | zbus::fdo::Error::Timeout(_)
        ),
        _ => true,
    }
}

fn refused(error: &zbus::Error) -> BackendError {
    let mend = match error {
        zbus::Error::MethodError(name, ..) if name.as_str().ends_with(".NoSuchUnit") => {
            "install the package, or set mps.backend = \"process\" on a host without systemd"
        }
        zbus::Error::MethodError(..) => "look at: systemctl status 'gpushare-mps@*'",
        zbus::Error::FDO(error) if matches!(**error, zbus::fdo::Error::AccessDenied(_)) => {
            "run the agent as root: systemd lets nobody else start units"
        }
        _ => "look at: systemctl status dbus; set mps.backend = \"process\" on a host without systemd",
    };
    BackendError {
        what: format!("systemd cannot be told to run MPS: {}", log::chain(error)),
        mend: mend.into(),
    }
}

fn not_loaded(name: &str, load: &str) -> BackendError {
    let (what, mend) = match load {
        "not-found" => (
            format!("systemd has no unit {name}"),
            "install gpushare-mps@.service with the package, or set mps.backend = \"process\" on a host without systemd"
                .to_owned(),
        ),
        "masked" => (
            format!("the unit {name} is masked"),
            format!("systemctl unmask {name}, or set mps.enabled = false"),
        ),
        _ => (
            format!("systemd cannot load the unit {name} ({load})"),
            format!("look at: systemctl status {name}"),
        ),
    };
    BackendError { what, mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_the_raw_uuid_in_its_name() {
        let gpu = GpuUuid::from("GPU-480d6b9e-f5c1-5e7a-86d3-a2b7f10c945e");
        assert_eq!(
            unit_name(&gpu),
            "gpushare-mps@GPU-480d6b9e-f5c1-5e7a-86d3-a2b7f10c945e.service"
        );
    }

    #[test]
    fn a_unit_that_is_not_there_or_may_not_run_says_what_to_do() {
        let name = "gpushare-mps@GPU-1.service";
        for (load, mend) in [
            ("not-found", "install"),
            ("masked", "systemctl unmask gpushare-mps@GPU-1.service"),
            ("bad-setting", "systemctl status gpushare-mps@GPU-1.service"),
        ] {
            let error = not_loaded(name, load);
            assert!(
                error.what.contains(name) && error.mend.contains(mend),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_host_without_a_bus_is_told_of_the_other_backend() {
        let timeout = zbus::Error::from(io::Error::from(io::ErrorKind::TimedOut));
        assert!(is_of_the_connection(&timeout));
        assert!(refused(&timeout).mend.contains("mps.backend = \"process\""));
    }
}
