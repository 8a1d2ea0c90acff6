//! What goes into the next request: a window, a part of one, or several of the backlog.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Sending;
use crate::publish::bundle::{Bundle, Gathering};
use crate::publish::store::{Next, Waiting, WindowId};
use crate::publish::{Batch, Publisher, limits};

/// A request of the backlog waits so long for more windows from the disk.
const GATHERING: Duration = Duration::from_secs(1);

/// What is sent at once.
pub(super) enum Request {
    /// A window, or a part of it.
    One(Waiting, Batch),
    /// Several windows.
    Many(Bundle),
}

impl Request {
    pub(super) fn batch(&self) -> &Batch {
        match self {
            Self::One(_, batch) => batch,
            Self::Many(bundle) => bundle.batch(),
        }
    }
}

impl<P: Publisher> Sending<P> {
    /// The next request, beginning with a window. More windows join it until `hurry` ends. `None`: nothing of the window
    /// can be sent, and it is out of the store.
    pub(super) async fn request(
        &mut self,
        waiting: Waiting,
        hurry: impl Future<Output = ()>,
    ) -> Option<Request> {
        if self.may_share(&waiting)
            && let Some(plan) = self.progress.whole(&waiting)
        {
            let gathering = self.gather(Gathering::new(waiting.clone(), plan), hurry).await;
            match gathering.bundle() {
                Ok(bundle) => return Some(Request::Many(bundle)),
                Err(plan) => self.progress.keep(waiting.id, plan),
            }
        }
        let batch = self
            .progress
            .next_batch(&waiting, self.report.known_server_now())?;
        Some(Request::One(waiting, batch))
    }

    async fn gather(&mut self, mut gathering: Gathering, hurry: impl Future<Output = ()>) -> Gathering {
        let most_bytes = self.sharing.most_bytes();
        let limit = Instant::now() + GATHERING;
        let mut except: BTreeSet<WindowId> = self.order.back().clone();
        except.extend(gathering.ids());
        tokio::pin!(hurry);
        while gathering.has_room(most_bytes) {
            let waiting = match self.store.newest(&except) {
                Next::Ready(waiting) => waiting,
                Next::Empty => break,
                Next::Loading => {
                    // Both branches are cancel-safe.
                    tokio::select! {
                        () = &mut hurry => break,
                        loaded = timeout_at(limit, self.store.changed()) => match loaded {
                            Ok(()) => continue,
                            Err(_) => break,
                        },
                    }
                }
            };
            if !self.may_share(&waiting) {
                break;
            }
            let Some(plan) = self.progress.whole(&waiting) else {
                break;
            };
            let id = waiting.id;
            if let Err(plan) = gathering.add(waiting, plan, most_bytes) {
                self.progress.keep(id, plan);
                break;
            }
            except.insert(id);
        }
        gathering
    }

    /// The live window goes alone: nothing in the backlog holds it up.
    fn may_share(&self, waiting: &Waiting) -> bool {
        let start = waiting.window.start;
        let is_taken = |now| !limits::is_too_old(start, now) && !limits::is_too_new(start, now);
        self.pacing.live_first
            && self.live.is_some_and(|live| waiting.id < live)
            && self.sharing.allows(waiting.id)
            && self.report.known_server_now().is_none_or(is_taken)
    }
}
