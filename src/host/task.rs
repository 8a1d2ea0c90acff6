//! The host thread: takes a sample when asked, so that a slow `/proc` or disk holds up nobody else.

use std::io;
use std::sync::mpsc as std_mpsc;

use tokio::sync::mpsc;

use super::{HostSample, HostSource};

/// The asynchronous end of the host thread.
#[derive(Debug)]
pub struct HostThread {
    asks: std_mpsc::SyncSender<()>,
    samples: mpsc::Receiver<HostSample>,
}

impl HostThread {
    /// Starts the thread. It ends when this end is dropped, at the latest after the sample it is taking.
    pub fn start(mut source: impl HostSource) -> io::Result<Self> {
        // Room for one: a second ask while the first is worked on waits, so that a sample that is a little late is
        // not a sample less. The third is refused, which is how lateness is noticed.
        let (asks, asked) = std_mpsc::sync_channel::<()>(1);
        let (sender, samples) = mpsc::channel(4);
        std::thread::Builder::new()
            .name("gpushare-host".into())
            .spawn(move || {
                while asked.recv().is_ok() {
                    if sender.blocking_send(source.sample()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { asks, samples })
    }

    /// Asks for a sample; false when the thread is busy with one and another waits already.
    #[must_use]
    pub fn ask(&self) -> bool {
        self.asks.try_send(()).is_ok()
    }

    /// The next sample that was asked for. Cancel-safe.
    pub async fn next(&mut self) -> Option<HostSample> {
        self.samples.recv().await
    }

    /// A sample that is there already.
    pub fn try_next(&mut self) -> Option<HostSample> {
        self.samples.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(f64);

    impl HostSource for Counting {
        fn sample(&mut self) -> HostSample {
            self.0 += 1.0;
            HostSample {
                cpu_usage_active: Some(self.0),
                ..HostSample::default()
            }
        }
    }

    /// A source that is stuck until the test lets it go.
    struct Stuck(std_mpsc::Receiver<()>);

    impl HostSource for Stuck {
        fn sample(&mut self) -> HostSample {
            let _ = self.0.recv();
            HostSample::default()
        }
    }

    #[tokio::test]
    async fn every_ask_is_answered_once() {
        let mut host = HostThread::start(Counting(0.0)).unwrap();
        for expected in [1.0, 2.0] {
            assert!(host.ask());
            assert_eq!(host.next().await.unwrap().cpu_usage_active, Some(expected));
        }
        assert_eq!(host.try_next(), None);
    }

    #[tokio::test]
    async fn a_stuck_source_holds_up_nobody_and_is_noticed() {
        let (release, stuck) = std_mpsc::channel();
        let mut host = HostThread::start(Stuck(stuck)).unwrap();
        // One is being worked on, one waits, the third is refused.
        let mut accepted = 0;
        while host.ask() {
            accepted += 1;
            std::thread::yield_now();
        }
        assert!((1..=2).contains(&accepted));
        assert_eq!(host.try_next(), None);
        drop(release);
        assert_eq!(host.next().await, Some(HostSample::default()));
    }
}
