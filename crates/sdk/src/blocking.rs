//! A node on threads of its own, for programs without a runtime.
//!
//! Two threads: one runs the node, the other calls the program's function for each event, one after the other.
//! That function may take its time; the node does not wait for it. No call here waits for the network or for a
//! command: [`Node::check`], [`Node::consent`] and [`Node::forgive`] write one small file; [`Node::take`],
//! [`Node::confirm`] and [`Node::roll_back`] are done after they returned, and what goes wrong then is an
//! [`Event::CallFailed`]. Only [`Node::shutdown`] waits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, ThreadId},
};

use ioex::{config::NodeConfig, node::ChannelFiles};
use ioex_api::{ApiError, ErrorCode, OtaReason as Reason, OtaState};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{Answer, Call, Error, Event, event::Told, node};

/// Events that wait for a program that is behind, before the node's own queue fills.
const EVENTS_QUEUED: usize = 64;
/// Threads for reading and writing files: a device has little memory.
const FILE_THREADS_MAX: usize = 4;

/// Where the node is in its life.
enum Life {
    Starting,
    Running { node: Arc<crate::Node>, runtime: Handle, tell: mpsc::Sender<Telling> },
    Over,
}

type Shared = Arc<Mutex<Life>>;

/// An event on its way to the program's function, and what is to be done when that has returned.
type Telling = (Event, Option<Told>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked left a whole value: there is only one assignment under each lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device's node. It stops when this is dropped; [`shutdown`](Self::shutdown) also waits for it.
pub struct Node {
    life: Shared,
    stop: CancellationToken,
    teller: ThreadId,
    /// The process that has its threads. After `fork` the other one has the memory alone.
    process: u32,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Starts it and returns at once: [`Event::Started`] says when it runs, [`Event::Stopped`] why it does not.
    /// `on_event` is called on a thread of the SDK.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Start`] when the system gives no thread.
    pub fn start(config: NodeConfig, on_event: impl FnMut(Event) + Send + 'static) -> Result<Self, Error> {
        node::check(&config)?;
        let start = |e: std::io::Error| Error::Start(e.to_string());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(FILE_THREADS_MAX)
            .build()
            .map_err(start)?;
        let life: Shared = Arc::new(Mutex::new(Life::Starting));
        let stop = CancellationToken::new();
        let (tell, told) = mpsc::channel(EVENTS_QUEUED);
        // Some connections are written to in a way that also raises a signal when they broke. Programs in Rust ignore it;
        // another would end by it.
        let pipe = SigSet::from(Signal::SIGPIPE);
        let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|e| start(e.into()))?;
        let teller = thread::Builder::new().name("ioex-events".to_owned());
        let teller = teller.spawn(move || pass_on(told, on_event));
        let (own, ends) = (life.clone(), stop.clone());
        let runner = thread::Builder::new().name("ioex-node".to_owned());
        let runner = runner.spawn(move || {
            let problem = runtime.block_on(run(config, &own, &tell, &ends));
            // What still runs in it has nobody to tell anything; its writes are waited for.
            drop(runtime);
            // Nobody listens when the program's function panicked.
            let _ = tell.blocking_send((Event::Stopped { problem }, None));
        });
        // The SDK's threads have it from here; this one is the program's.
        before.thread_set_mask().map_err(|e| start(e.into()))?;
        let (runner, teller) = (runner.map_err(start)?, teller.map_err(start)?);
        let (id, process) = (teller.thread().id(), std::process::id());
        Ok(Self { life, stop, teller: id, process, threads: Mutex::new(vec![runner, teller]) })
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&Arc<crate::Node>, &Handle, &mpsc::Sender<Telling>) -> T,
    ) -> Result<T, Error> {
        let (node, runtime, tell) = match &*lock(&self.life) {
            Life::Starting => return Err(Error::NotReady),
            Life::Over => return Err(Error::Stopped),
            Life::Running { node, runtime, tell } => (node.clone(), runtime.clone(), tell.clone()),
        };
        Ok(call(&node, &runtime, &tell))
    }

    /// Has the node do it, and tells the program when that fails.
    fn later(&self, call: Call, work: impl FnOnce(&crate::Node) -> Work) -> Result<(), Error> {
        self.with(|node, runtime, tell| {
            let (work, tell) = (work(node), tell.clone());
            runtime.spawn(async move {
                if let Err(e) = work.await {
                    let (code, reason) = (why(call, e.code), e.message);
                    // Nobody listens any more when the node is over.
                    let _ = tell.send((Event::CallFailed { call, code, reason }, None)).await;
                }
            });
        })
    }

    /// How things stand.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`].
    pub fn state(&self) -> Result<OtaState, Error> {
        self.with(|node, _, _| node.state())
    }

    /// As [`crate::Node::check`].
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`], [`Error::Io`].
    pub fn check(&self) -> Result<(), Error> {
        self.with(|node, _, _| node.updates().check())?.map_err(Error::from)
    }

    /// As [`crate::Node::take`], but returns at once.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`]. That the files do not hold is an [`Event::CallFailed`].
    pub fn take(&self, files: ChannelFiles) -> Result<(), Error> {
        self.later(Call::Take, |node| Box::pin(node.updates().bring(files)))
    }

    /// As [`crate::Node::consent`].
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`], [`Error::NothingOffered`], [`Error::Outdated`], [`Error::Argument`],
    /// [`Error::Io`].
    pub fn consent(&self, answer: &Answer) -> Result<(), Error> {
        self.with(|node, _, _| node.updates().consent(answer))?.map_err(Error::from)
    }

    /// As [`crate::Node::confirm`], but returns at once; then comes [`Event::Confirmed`].
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`]. That nothing is on trial is an [`Event::CallFailed`].
    pub fn confirm(&self) -> Result<(), Error> {
        self.later(Call::Confirm, |node| {
            let updates = node.updates().clone();
            Box::pin(async move { updates.confirm().await })
        })
    }

    /// As [`crate::Node::roll_back`], but returns at once; then comes [`Event::Failed`].
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`]. That nothing is on trial is an [`Event::CallFailed`].
    pub fn roll_back(&self, why: &str) -> Result<(), Error> {
        let why = why.to_owned();
        self.later(Call::RollBack, |node| {
            let updates = node.updates().clone();
            Box::pin(async move { updates.roll_back(&why).await })
        })
    }

    /// As [`crate::Node::forgive`].
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Stopped`], [`Error::Io`].
    pub fn forgive(&self) -> Result<(), Error> {
        self.with(|node, _, _| node.updates().forgive())?.map_err(Error::from)
    }

    /// Tells the node to end, and returns at once; then comes [`Event::Stopped`].
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// Ends the node and waits until its threads have ended, the function for events included. As a rule that
    /// takes less than a second; a package that is just being written is waited for.
    ///
    /// # Errors
    /// [`Error::InCallback`] when it is called from the function for events: nothing happens then.
    pub fn shutdown(&self) -> Result<(), Error> {
        if thread::current().id() == self.teller {
            return Err(Error::InCallback);
        }
        if self.is_forked() {
            return Ok(());
        }
        self.stop.cancel();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A panic was told on stderr when it happened.
            let _ = thread.join();
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_forked() {
            // No thread is there to be let go.
            std::mem::forget(std::mem::take(&mut *lock(&self.threads)));
            return;
        }
        self.stop.cancel();
    }
}

/// Why a call could not be done, for programs.
fn why(call: Call, code: ErrorCode) -> Reason {
    match (call, code) {
        (_, ErrorCode::Refused) => Reason::Refused,
        (Call::Take, ErrorCode::NotFound) => Reason::Superseded,
        (Call::Confirm | Call::RollBack, ErrorCode::NotFound) => Reason::NotOnTrial,
        (_, ErrorCode::Io) => Reason::Disk,
        _ => Reason::Other,
    }
}

/// What a call leaves to be done.
type Work = std::pin::Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send>>;

/// Calls the program's function until the node is over.
fn pass_on(mut told: mpsc::Receiver<Telling>, mut on_event: impl FnMut(Event)) {
    while let Some((event, told)) = told.blocking_recv() {
        on_event(event);
        if let Some(told) = told {
            told.heard();
        }
    }
}

/// The node's life. Returns why it ended when nobody told it to.
async fn run(
    config: NodeConfig,
    life: &Shared,
    tell: &mpsc::Sender<Telling>,
    stop: &CancellationToken,
) -> Option<String> {
    let node = match crate::Node::start(config).await {
        Ok(node) => Arc::new(node),
        Err(e) => {
            *lock(life) = Life::Over;
            return Some(e.to_string());
        }
    };
    let mut events = node.events();
    *lock(life) = Life::Running { node: node.clone(), runtime: Handle::current(), tell: tell.clone() };
    let mut next = Some((Event::Started { uid: node.uid() }, None));
    let mut left = None;
    while let Some(event) = next {
        // A program that is stuck in its function can still be stopped by another thread of it.
        let room = tokio::select! {
            () = stop.cancelled() => None,
            room = tell.reserve() => room.ok(),
        };
        let Some(room) = room else {
            left = Some(event);
            break;
        };
        room.send(event);
        next = tokio::select! {
            () = stop.cancelled() => break,
            event = events.take() => event,
        };
    }
    *lock(life) = Life::Over;
    let problem = node.end().await;
    // What came to its end meanwhile, or was not told yet.
    while let Some(event) = left.take().or_else(|| events.rest()) {
        if tell.send(event).await.is_err() {
            break;
        }
    }
    problem
}
