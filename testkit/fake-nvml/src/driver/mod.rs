//! The process-wide state behind the C functions, and the way of one call through it.
//!
//! A call reads the scenario as it is now, hangs if it must, is refused if the library is not initialised, the driver
//! gone, the GPU faulty or the code ordered, and otherwise gets its answer; then it is logged. The lock is never held
//! while a call hangs or waits, so that one stuck call holds up no other. A panic becomes `UNKNOWN` (999).

mod compute_modes;
mod privilege;
mod source;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::answers::{GpuAt, Moment};
use crate::calllog::{CALL_LOG, CallLog, Outcome};
use crate::code::{Answer, Code};
use crate::events::Heard;
use crate::scenario::{FaultKind, List, Span};
use source::Loaded;
use state::State;

/// How often a wait for an event looks whether there is one.
const EVENT_POLL: Duration = Duration::from_millis(5);

struct Driver {
    state: Mutex<State>,
    log: Option<CallLog>,
}

/// A call that concerns no GPU.
pub(crate) fn system(function: &'static str, answer: impl FnOnce(&Moment<'_>) -> Answer<()>) -> u32 {
    driver().play(function, None, |loaded| {
        driver().admit(loaded)?;
        let moment = loaded.now();
        moment.refusal(function).map_or(Ok(()), Err)?;
        answer(&moment)
    })
}

/// A call on the GPU of a handle.
pub(crate) fn device(
    function: &'static str,
    handle: usize,
    answer: impl FnOnce(&GpuAt<'_>) -> Answer<()>,
) -> u32 {
    // Handles are indices plus one: null stays invalid.
    let index = handle.checked_sub(1);
    driver().play(function, index, |loaded| {
        driver().admit(loaded)?;
        let moment = loaded.now();
        let gpu = moment.gpu(index.ok_or(Code::INVALID_ARGUMENT)?)?;
        gpu.refusal(function).map_or(Ok(()), Err)?;
        answer(&gpu)
    })
}

/// `nvmlInit`: counted, and from the first one on the library works.
pub(crate) fn init(function: &'static str) -> u32 {
    driver().play(function, None, |loaded| {
        let init = &loaded.scenario.init;
        let is_troubled = loaded.now().within(0, init.until_ms);
        match init.hang_ms {
            Some(span) if is_troubled => driver().hang(function, None, span),
            _ => {}
        }
        // Asked again: a hang may have outlasted what was ordered.
        let moment = loaded.now();
        let error = init.error.filter(|_| moment.within(0, init.until_ms)).map(Code);
        let gone = moment
            .scenario
            .driver_gone
            .iter()
            .find(|gone| moment.within(gone.at_ms, gone.clears_ms));
        let refusal = error
            .or(gone.map(|gone| Code(gone.init_error)))
            .or_else(|| moment.refusal(function));
        refusal.map_or(Ok(()), Err)?;
        driver().state().initialise(moment.now_us);
        Ok(())
    })
}

/// `nvmlShutdown`: works with or without a driver, as often as `nvmlInit` did.
pub(crate) fn shutdown(function: &'static str) -> u32 {
    driver().play(function, None, |loaded| {
        loaded.now().refusal(function).map_or(Ok(()), Err)?;
        driver().state().shut_down()
    })
}

/// By how many processes the list has grown since its size was last asked.
pub(crate) fn grown(gpu: usize, list: List) -> u32 {
    driver().state().grown(gpu, list)
}

/// The list grows by `by` processes, or with 0 is as it was.
pub(crate) fn grow(gpu: usize, list: List, by: u32) {
    driver().state().grow(gpu, list, by);
}

/// Refuses a change of a setting that the scenario allows administrators only.
pub(crate) fn admit_changes(moment: &Moment<'_>) -> Answer<()> {
    if moment.scenario.needs_admin && !privilege::is_admin() {
        return Err(Code::NO_PERMISSION);
    }
    Ok(())
}

/// The compute mode of a GPU, whichever process has set it.
pub(crate) fn compute_mode(at: &GpuAt<'_>) -> Answer<u32> {
    let changed = compute_modes::read(&at.gpu.uuid, &at.moment).map_err(|error| {
        source::complain(&error);
        Code::UNKNOWN
    })?;
    Ok(changed.unwrap_or_else(|| at.gpu.compute_mode.number()))
}

/// Sets it for all processes that play this scenario.
pub(crate) fn set_compute_mode(at: &GpuAt<'_>, mode: u32) -> Answer<()> {
    compute_modes::write(&at.gpu.uuid, mode, at.moment.now_us).map_err(|error| {
        source::complain(&error);
        Code::UNKNOWN
    })
}

/// A new, empty event set; its number is above 0.
pub(crate) fn create_event_set() -> usize {
    driver().state().create_event_set()
}

/// Frees an event set.
pub(crate) fn free_event_set(set: usize) -> Answer<()> {
    driver().state().free_event_set(set)
}

/// The set hears of XIDs on this GPU from now on.
pub(crate) fn register_events(set: usize, gpu: &GpuAt<'_>) -> Answer<()> {
    driver()
        .state()
        .event_set(set)?
        .register(gpu.index, gpu.moment.now_us);
    Ok(())
}

/// Blocks until the set has an event, a GPU of it is lost, the driver goes, or the time is up.
pub(crate) fn wait_for_event(set: usize, timeout_ms: u32) -> Answer<Heard> {
    let end = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let loaded = driver().loaded().ok_or(Code::UNINITIALIZED)?;
        driver().admit(&loaded)?;
        let moment = loaded.now();
        {
            let mut state = driver().state();
            let set = state.event_set(set)?;
            if let Some(heard) = set.next(&moment) {
                return Ok(heard);
            }
            if set
                .gpus()
                .any(|index| moment.gpu(index).is_ok_and(|gpu| gpu.suffers(FaultKind::Lost)))
            {
                return Err(Code::GPU_IS_LOST);
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Code::TIMEOUT);
        }
        thread::sleep(left.min(EVENT_POLL));
    }
}

impl Driver {
    fn start() -> Self {
        let log = std::env::var_os(CALL_LOG).map(|path| CallLog::new(path.into()));
        Self {
            state: Mutex::default(),
            log,
        }
    }

    /// One call from beginning to end: scenario, hang, answer, log.
    fn play(
        &self,
        function: &'static str,
        gpu: Option<usize>,
        answer: impl FnOnce(&Loaded) -> Answer<()>,
    ) -> u32 {
        let answer = contained(|| {
            let before = self.loaded();
            let span = before
                .as_ref()
                .and_then(|loaded| self.state().hang(loaded, function, gpu));
            if let Some(span) = span {
                self.hang(function, gpu, span);
            }
            // Read again: the scenario may have changed during the hang.
            let loaded = self.loaded();
            let is_init = function.starts_with("nvmlInit");
            match loaded {
                Some(_) if is_init && self.state().is_broken() => Err(Code::UNKNOWN),
                Some(loaded) => answer(&loaded),
                None if is_init => Err(Code::UNKNOWN),
                None => Err(Code::UNINITIALIZED),
            }
        });
        let code = Code::of(&answer);
        self.write_log(function, gpu, Outcome::Returned(code));
        code
    }

    fn hang(&self, function: &'static str, gpu: Option<usize>, span: Span) {
        self.write_log(function, gpu, Outcome::Entered);
        match span {
            Span::Ms(ms) => thread::sleep(Duration::from_millis(ms)),
            Span::Forever => loop {
                thread::park();
            },
        }
    }

    fn write_log(&self, function: &'static str, gpu: Option<usize>, outcome: Outcome) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.write(function, gpu, outcome)) {
            source::complain(&error);
        }
    }

    fn loaded(&self) -> Option<Arc<Loaded>> {
        self.state().loaded()
    }

    /// Refuses a call of a library that is not initialised, or whose driver went after it was.
    fn admit(&self, loaded: &Loaded) -> Answer<()> {
        let since_us = self.state().initialised_us().ok_or(Code::UNINITIALIZED)?;
        let moment = loaded.now();
        let gone = moment.scenario.driver_gone.iter().find(|gone| {
            let at_us = moment.epoch_us.saturating_add(gone.at_ms.saturating_mul(1000));
            since_us < at_us && at_us <= moment.now_us
        });
        gone.map_or(Ok(()), |gone| Err(Code(gone.error)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in an answer leaves plain numbers behind, all of them valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of `call`; if it panics, `UNKNOWN`.
fn contained(call: impl FnOnce() -> Answer<()>) -> Answer<()> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Code::UNKNOWN))
}

fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(Driver::start)
}

#[cfg(test)]
mod tests {
    use super::contained;
    use crate::code::Code;

    #[test]
    fn panic_becomes_unknown() {
        assert_eq!(contained(|| panic!("on purpose")), Err(Code::UNKNOWN));
        assert_eq!(contained(|| Ok(())), Ok(()));
    }
}
