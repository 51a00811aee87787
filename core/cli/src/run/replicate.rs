//! `replicate replicate`: the engine until a signal, and a diary of what it does.
//!
//! Signals and events come from threads of their own and meet in one channel, so that an idle database
//! wakes nothing up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use replicate::{Cancel, Error, ErrorKind, Event, Events, Handle, State, StopReport};
use serde_json::{Value, json};

use crate::args::Replicate;
use crate::exit::{self, Failure};
use crate::output::Diary;
use crate::signal;

enum Message {
    Signal,
    Event(Event),
    /// The replicator has ended by itself.
    Ended,
}

/// Replicates until a signal comes or the engine gives up.
pub(super) fn run(request: Replicate) -> Result<(), Failure> {
    let (to_main, messages) = channel();
    let from_signals: Sender<Message> = to_main.clone();
    let (cancel, signalled) = (Cancel::new(), Arc::new(AtomicI32::new(0)));
    let (cancelled, number) = (cancel.clone(), Arc::clone(&signalled));
    signal::on_first(move |signal| {
        number.store(signal, Ordering::Relaxed);
        // Before there is a replicator to stop.
        cancelled.cancel();
        // A receiver that is gone means the process is ending already.
        drop(from_signals.send(Message::Signal));
    })?;

    let database = request.database.display().to_string();
    let replica = request.config.location.as_ref().map(ToString::to_string);
    let handle = match Handle::start_with(&request.database, request.config, &cancel) {
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            return Err(Failure::Signal(signalled.load(Ordering::Relaxed)));
        }
        other => other?,
    };
    let events = handle.events();
    let status = handle.sync_status()?;
    let diary = Diary::new(request.json)?;
    diary.write(
        "started",
        &[
            ("db", database.into()),
            ("replica", replica.into()),
            ("state", status.state.name().into()),
            ("version", env!("CARGO_PKG_VERSION").into()),
        ],
    );
    let mut follower =
        Follower { diary: &diary, handle: &handle, verbose: request.verbose, state: status.state, told: None };
    listen(events, to_main)?;
    let ended = follower.follow(&messages);
    let state = follower.state;
    let report = handle.stop(request.stop_timeout)?;
    tell_stop(&diary, &report);
    diary.finish();
    ended.map_or_else(|| outcome(&report, &state), |error| Err(error.into()))
}

/// Takes the events in a thread of its own until there are no more.
fn listen(events: Events, to_main: Sender<Message>) -> Result<(), Error> {
    let taking = move || {
        loop {
            let message = match events.next(Duration::from_secs(3600)) {
                Some(event) => Message::Event(event),
                None if events.is_finished() => Message::Ended,
                None => continue,
            };
            let last = matches!(message, Message::Ended);
            if to_main.send(message).is_err() || last {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("events".into()).spawn(taking);
    started.map(drop).map_err(|e| Error::new(ErrorKind::Internal, format!("start a thread: {e}")))
}

/// What is known while the engine runs.
struct Follower<'a> {
    diary: &'a Diary,
    handle: &'a Handle,
    verbose: bool,
    state: State,
    /// The failure that was told last, so that a long outage is one line, not one for each try.
    told: Option<String>,
}

impl Follower<'_> {
    /// Returns at a signal (`None`) or when the engine has given up (why).
    fn follow(&mut self, messages: &Receiver<Message>) -> Option<Error> {
        loop {
            match messages.recv() {
                Ok(Message::Event(event)) => self.tell(event),
                Ok(Message::Signal) | Err(_) => return None,
                Ok(Message::Ended) => return Some(self.last_error().unwrap_or_else(ended_by_itself)),
            }
            if matches!(self.state, State::Failed | State::Fenced) {
                return Some(self.last_error().unwrap_or_else(ended_by_itself));
            }
        }
    }

    fn last_error(&self) -> Option<Error> {
        self.handle.sync_status().ok().and_then(|status| status.last_error)
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::State { from, to } => self.change(from, to),
            Event::Restored { txid } => self.diary.write("restored", &[("txid", txid.to_string().into())]),
            Event::Retrying { error, after_ms } => self.retrying(&error, after_ms),
            Event::Dropped { count } => self.diary.write("dropped", &[("count", count.into())]),
            Event::Captured { txid, pages, bytes, rebase } if self.verbose || rebase.is_some() => self.diary.write(
                "captured",
                &[
                    ("txid", txid.to_string().into()),
                    ("pages", pages.into()),
                    ("bytes", bytes.into()),
                    ("rebase", rebase.map(|reason| reason.name()).into()),
                ],
            ),
            Event::Shipped { txid, bytes } => {
                self.told = None;
                if self.verbose {
                    self.diary.write("shipped", &[("txid", txid.to_string().into()), ("bytes", bytes.into())]);
                }
            }
            Event::Checkpointed { frames, copied } if self.verbose => {
                self.diary.write("checkpointed", &[("frames", frames.into()), ("copied", copied.into())]);
            }
            _ => {}
        }
    }

    fn change(&mut self, from: State, to: State) {
        if self.state == to {
            return;
        }
        let troubled = matches!(to, State::Stalled | State::Fenced | State::Failed);
        let error = if troubled { self.last_error() } else { None };
        let fields = [("from", from.name().into()), ("to", to.name().into()), ("error", described(error.as_ref()))];
        self.diary.write("state", &fields);
        self.state = to;
    }

    fn retrying(&mut self, error: &Error, after_ms: u64) {
        let text = error.to_string();
        if !self.verbose && self.told.as_ref() == Some(&text) {
            return;
        }
        self.told = Some(text);
        self.diary.write("retrying", &[("error", described(Some(error))), ("after_ms", after_ms.into())]);
    }
}

fn described(error: Option<&Error>) -> Value {
    error.map_or(Value::Null, exit::describe)
}

fn ended_by_itself() -> Error {
    Error::new(ErrorKind::Closed, "replication has ended")
}

fn tell_stop(diary: &Diary, report: &StopReport) {
    diary.write(
        "stopped",
        &[
            ("flushed", report.flushed.into()),
            ("local_txid", json!(report.local_txid.to_string())),
            ("remote_txid", json!(report.remote_txid.to_string())),
            ("error", described(report.error.as_ref())),
        ],
    );
}

/// Whether the end was a good one. In standby another process ships what there is.
fn outcome(report: &StopReport, state: &State) -> Result<(), Failure> {
    if report.flushed || *state == State::Standby {
        return Ok(());
    }
    let unknown = || Error::new(ErrorKind::Timeout, "not everything was shipped before the time ran out");
    Err(report.error.clone().unwrap_or_else(unknown).into())
}
