//! `publish.target = "stdout"`: one JSON line per batch, in the shape of the AWS API, so that any line can be given
//! to `aws cloudwatch put-metric-data --cli-input-json`.
//!
//! Standard output may be a pipe whose reader has stopped; a write to it blocks. It happens on a thread of its
//! own, so that the agent goes on sampling and can still be stopped.

use std::io::{self, Write};
use std::sync::mpsc as std_mpsc;

use tokio::sync::oneshot;

use super::fate::Fate;
use super::{Answer, Batch, Publisher, Traffic};

/// Why a batch could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum StdoutError {
    /// Nobody reads, or the disk behind it is full.
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
    /// The thread is gone.
    #[error("the thread that prints has ended")]
    ThreadEnded,
}

type Job = (String, oneshot::Sender<io::Result<()>>);

/// Prints batches.
#[derive(Debug)]
pub struct StdoutPublisher {
    jobs: std_mpsc::SyncSender<Job>,
}

impl StdoutPublisher {
    /// Starts the printing thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = std_mpsc::sync_channel::<Job>(1);
        std::thread::Builder::new()
            .name("gpushare-stdout".into())
            .spawn(move || {
                for (line, done) in queue {
                    let mut stdout = io::stdout().lock();
                    let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
                    let _ = done.send(written);
                }
            })?;
        Ok(Self { jobs })
    }
}

impl Publisher for StdoutPublisher {
    type Error = StdoutError;

    async fn publish(&mut self, batch: &Batch) -> Result<Answer, StdoutError> {
        let mut line = serde_json::to_string(batch).map_err(|error| StdoutError::Write(error.into()))?;
        line.push('\n');
        let bytes = line.len() as u64;
        let (done, written) = oneshot::channel();
        // One batch is under way at a time, so there is always room for this one.
        self.jobs
            .try_send((line, done))
            .map_err(|_| StdoutError::ThreadEnded)?;
        written
            .await
            .map_err(|_| StdoutError::ThreadEnded)?
            .map_err(StdoutError::Write)?;
        Ok(Answer {
            fate: Fate::Accepted,
            traffic: Traffic {
                requests: 1,
                bytes,
                wire_bytes: bytes,
            },
            clock_skew_seconds: None,
        })
    }
}
